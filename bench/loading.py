"""A CSV mapping: the time to load it, its memory, and look-ups in it.

`python -m bench.loading ROWS` does it once and says the figures as JSON.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path as FilePath
from typing import Any

from bench import rows
from bench.accounts import held
from bench.figures import Figure, say
from smtpproxy.routing import Answer, CsvTable, Found, KeyedMapping, NoRoute, Router
from smtpproxy.smtp.paths import Path

LOOKUPS = 20_000
GOAL = 140.0  # octets for a row


def measure(count: int) -> list[Figure]:
    """Load `count` rows and look some up."""
    with tempfile.TemporaryDirectory() as folder:
        file = FilePath(folder, "mapping.csv")
        rows.write(file, count)
        before, _ = held()
        start = time.perf_counter()
        table = CsvTable.load(file, "mapping.csv")
        seconds = time.perf_counter() - start
        after, peak = held()
    router = Router([KeyedMapping("csv mapping.csv", table)], "+", "mx.example.net")
    return [
        Figure("csv: loading, with nothing else to do", "s", (seconds,)),
        Figure("csv: memory of a row", "octets", ((after - before) / count,), GOAL),
        Figure("csv: the same, at most while loading", "octets", ((peak - before) / count,)),
        *_lookups(router, count),
    ]


def _lookups(router: Router, count: int) -> list[Figure]:
    step = max(count // LOOKUPS, 1) | 1
    known = [number for number in range(0, count, step) if number % rows.PER_DOMAIN]
    addresses = [Path(*rows.pattern(number).split("@")) for number in known]
    cases = {
        "csv: look-up of an address with a row": (addresses, Found),
        "csv: look-up by its domain": ([Path("x" + p.local, p.domain) for p in addresses], Found),
        "csv: look-up of one with none": (
            [Path(p.local, "x" + p.domain) for p in addresses],
            NoRoute,
        ),
    }
    return [
        Figure(name, "\u00b5s", (_time(router, recipients, kind),))
        for name, (recipients, kind) in cases.items()
    ]


def _time(router: Router, recipients: Sequence[Path], kind: type[Any]) -> float:
    """Microseconds for one of them."""
    start = time.perf_counter()
    answers = [_answer(router.route(recipient)) for recipient in recipients]
    seconds = time.perf_counter() - start
    assert all(isinstance(answer, kind) for answer in answers)
    return seconds / len(recipients) * 1e6


def _answer(lookup: Coroutine[Any, Any, Answer]) -> Answer:
    """What a look-up gives that waits for nothing."""
    try:
        lookup.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("it waits")


if __name__ == "__main__":
    say(measure(int(sys.argv[1])))
