"""Figures, and the table that they are read from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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
        goal = "" if each.goal is None else f"{_short(each.goal)} {each.unit}"
        missed = "" if each.reached else " (missed)"
        cells = (f"{_short(value)} {each.unit}" for value in (each.median, each.worst))
        lines.append(f"| {' | '.join((each.name, *cells))} | {goal}{missed} |")
    return "\n".join(lines) + "\n"


def write(file: Path, figures: Iterable[Figure], **about: Any) -> None:
    """All values, with what was asked for (`about`)."""
    text = json.dumps({**about, "figures": [asdict(each) for each in figures]}, indent=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def say(figures: Iterable[Figure]) -> None:
    """Hand the figures of this process to the one that started it."""
    json.dump([asdict(each) for each in figures], sys.stdout)


def heard(text: str) -> list[Figure]:
    """What a process said."""
    return [Figure(**{**each, "values": tuple(each["values"])}) for each in json.loads(text)]


def _short(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
