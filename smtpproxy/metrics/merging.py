"""What several processes count, together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from smtpproxy.metrics.snapshot import Snapshot

MOST_GONE = 50  # processes that no longer answer, each by itself; of older ones, the sum

_OF: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda one, other: one + other,
    "max": max,
    "min": min,
}


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of several: counters and histograms are summed, gauges as each wants it.

    Nothing of `snapshots` is changed.
    """
    metrics: dict[str, dict[str, Any]] = {}
    samples: dict[str, dict[tuple[str, ...], Any]] = {}
    processes = []
    for snapshot in snapshots:
        processes.append(snapshot["process"])
        for metric in snapshot["metrics"]:
            name = metric["name"]
            metrics.setdefault(name, metric)
            together = samples.setdefault(name, {})
            merge = _distributions if metric["kind"] == "histogram" else _OF[metric["merge"]]
            for labels, value in metric["samples"]:
                key = tuple(labels)
                together[key] = merge(together[key], value) if key in together else value
    return {
        "process": " ".join(processes),
        "metrics": [
            {**metric, "samples": [[list(key), value] for key, value in samples[name].items()]}
            for name, metric in metrics.items()
        ],
    }


def _distributions(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    counts = [mine + its for mine, its in zip(one[0], other[0], strict=True)]
    return [counts, one[1] + other[1]]


class Together:
    """Merges what the processes say each time, and what those had counted that are gone.

    A sum that became smaller when a process ended would look to Prometheus as if everything
    had been counted anew.  What a process had counted since it was asked last goes with it.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[str, Snapshot] = OrderedDict()  # who answered last, at the end
        self._past: Snapshot | None = None

    def merged(self, snapshots: Sequence[Snapshot]) -> Snapshot:
        """All of it, by what each process says now that answers."""
        for snapshot in snapshots:
            self._last[snapshot["process"]] = snapshot
            self._last.move_to_end(snapshot["process"])
        while len(self._last) > len(snapshots) + MOST_GONE:
            _, oldest = self._last.popitem(last=False)
            self._past = merged([*filter(None, [self._past]), _counted(oldest)])
        here = {each["process"] for each in snapshots}
        gone = (_counted(each) for name, each in self._last.items() if name not in here)
        return merged([*snapshots, *gone, *filter(None, [self._past])])


def _counted(snapshot: Snapshot) -> Snapshot:
    """What stays true when a process is gone."""
    metrics = [each for each in snapshot["metrics"] if each["kind"] != "gauge"]
    return {**snapshot, "metrics": metrics}
