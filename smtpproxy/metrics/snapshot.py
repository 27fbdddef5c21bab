"""What the metrics say at one moment, as plain values that JSON can carry.

A snapshot is `{"process": "...", "metrics": [...]}`.  Each metric says of itself what it is (see
`Family`) and has its `samples`: `[[label value, ...], number]`, where a histogram has instead of
the number `[[count of each bucket, ...], sum]`.  So whoever merges or shows it needs no table, and
an older command can show what a newer program says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smtpproxy.metrics.families import FAMILIES, Family

Snapshot = Mapping[str, Any]
Number = int | float
Distribution = tuple[list[int], float]
Values = dict[Family, dict[tuple[str, ...], Number | Distribution]]


class Sheet:
    """Samples as they are collected; `add` sums up those of the same labels."""

    def __init__(self) -> None:
        self._values: Values = {}

    def add(self, family: Family, value: Number, *labels: str) -> None:
        """To a counter or a gauge, `labels` in the order of the family's."""
        samples = self._values.setdefault(family, {})
        samples[labels] = samples.get(labels, 0) + value  # type: ignore[operator]

    def put(self, family: Family, value: Number, *labels: str) -> None:
        """The same, but what these labels had before is no more."""
        self._values.setdefault(family, {})[labels] = value

    def distribution(self, family: Family, counts: list[int], total: float, *labels: str) -> None:
        """A histogram's: how many were within each bucket alone, and the sum of all."""
        self._values.setdefault(family, {})[labels] = (list(counts), total)

    def snapshot(self, process: str) -> Snapshot:
        """`process` names the process that says so, and is never used again."""
        return {"process": process, "metrics": [_metric(*each) for each in self._ordered()]}

    def _ordered(self) -> Iterable[tuple[Family, Any]]:
        return ((each, self._values[each]) for each in FAMILIES.values() if each in self._values)


def _metric(family: Family, samples: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    return {
        "name": family.name,
        "kind": family.kind,
        "help": family.help,
        "labels": list(family.labels),
        "merge": family.merge,
        "bounds": list(family.bounds),
        "samples": [[list(labels), value] for labels, value in samples.items()],
    }
