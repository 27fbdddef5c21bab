"""Figures, and the table that they are read from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured, once or more; more is worse.

    `goal` is what the worst value may be, None where nothing was promised.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    goal: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def worst(self) -> float:
        return max(self.values)

    @property
    def reached(self) -> bool:
        return self.goal is None or self.worst <= self.goal


def collected(runs: Iterable[Sequence[Figure]]) -> list[Figure]:
    """The figures of several runs as one of each name, in their order."""
    figures: dict[str, Figure] = {}
    for run in runs:
        for each in run:
            before = figures[each.name].values if each.name in figures else ()
            figures[each.name] = Figure(each.name, each.unit, before + each.values, each.goal)
    return list(figures.values())


def table(figures: Iterable[Figure]) -> str:
    """The figures as a table of Markdown."""
    lines = ["| | median | worst | goal |", "|---|---|---|---|"]
    for each in figures:
        goal = "" if each.goal is None else f"{short(each.goal)} {each.unit}"
        missed = "" if each.reached else " (missed)"
        cells = (f"{short(value)} {each.unit}" for value in (each.median, each.worst))
        lines.append(f"| {' | '.join((each.name, *cells))} | {goal}{missed} |")
    return "\n".join(lines) + "\n"


def say(figures: Iterable[Figure]) -> None:
    """Hand the figures of this process to the one that started it."""
    json.dump([asdict(each) for each in figures], sys.stdout)


def heard(text: str) -> list[Figure]:
    """What a process said."""
    return from_json(json.loads(text))


def from_json(kept: Iterable[Mapping[str, Any]]) -> list[Figure]:
    """Figures as `asdict` made them plain."""
    return [Figure(**{**each, "values": tuple(each["values"])}) for each in kept]


def short(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
