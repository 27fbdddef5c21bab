"""The text that Prometheus reads: https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from smtpproxy.metrics.snapshot import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(snapshot: Snapshot) -> bytes:
    """All of a snapshot, in UTF-8."""
    return "".join(line for metric in snapshot["metrics"] for line in _metric(metric)).encode(
        "utf-8", "backslashreplace"
    )


def _metric(metric: dict[str, Any]) -> Iterator[str]:
    name, labels = metric["name"], metric["labels"]
    yield f"# HELP {name} {metric['help']}\n# TYPE {name} {metric['kind']}\n"
    for values, value in metric["samples"]:
        pairs = [f'{label}="{_escaped(it)}"' for label, it in zip(labels, values, strict=True)]
        if metric["kind"] == "histogram":
            yield from _histogram(name, pairs, metric["bounds"], *value)
        else:
            yield f"{name}{_braces(pairs)} {value}\n"


def _histogram(
    name: str, pairs: list[str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> Iterator[str]:
    """Each bucket counts all up to its bound."""
    ends = [*map(str, bounds), "+Inf"]
    for end, count in zip(ends, accumulate(counts), strict=True):
        bucket = [*pairs, f'le="{end}"']
        yield f"{name}_bucket{_braces(bucket)} {count}\n"
    yield f"{name}_sum{_braces(pairs)} {total}\n"
    yield f"{name}_count{_braces(pairs)} {sum(counts)}\n"


def _braces(pairs: Sequence[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
