"""`smtpproxy diff`: what a new CSV file would change."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice

from smtpproxy.cli.wording import row_words
from smtpproxy.faults import Fault, Faults
from smtpproxy.routing import CsvTable

EQUAL, DIFFERENT = 0, 1

KINDS = ("added", "removed", "moved")


def run(options: Namespace) -> int:
    """0 where both files say the same, 1 where they do not; `Faults` where one of them is wrong."""
    faults: list[Fault] = []
    tables: list[CsvTable] = []
    for file in (options.old, options.new):
        try:
            tables.append(CsvTable.load(file, str(file)))
        except Faults as error:
            faults += error.faults
    if faults:
        raise Faults(faults)
    rows = differences(*tables)
    width = len(str(max(map(len, rows))))
    for kind, found in zip(KINDS, rows, strict=True):
        print(f"{kind:7}  {len(found):{width}}")
    for kind, found in zip(KINDS, rows, strict=True):
        for line in _lines(kind, found, options.most):
            print(line)
    return DIFFERENT if any(rows) else EQUAL


def differences(old: CsvTable, new: CsvTable) -> tuple[list[str], list[str], list[str]]:
    """The rows that are added, those that are removed, and those that say something else."""
    before = {key: (line, row) for key, line, row in old.rows()}
    added, moved = [], []
    for key, line, row in new.rows():
        if key not in before:
            added.append(f"{new.name}:{line}: {key}: {row_words(row)}")
        elif (was := before.pop(key)[1]) != row:
            moved.append(f"{new.name}:{line}: {key}: {row_words(was)} -> {row_words(row)}")
    removed = [f"{old.name}:{line}: {key}: {row_words(row)}" for key, (line, row) in before.items()]
    return added, removed, moved


def _lines(kind: str, rows: Sequence[str], most: int) -> Iterator[str]:
    if not rows:
        return
    yield f"\n{kind}"
    yield from (f"  {row}" for row in islice(rows, most))
    if len(rows) > most:
        yield f"  and {len(rows) - most} more: see --most"
