"""What the logs say: messages in doubt, and what no log may hold."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from soak.ledger import Ledger, parts

# In any log.  A traceback of the proxy's is on one line.
_TROUBLE = re.compile(r"Traceback|FAULT|panic:|Internal error|unhandled", re.IGNORECASE)
_SHOWN = 1_500  # characters of a line


def doubts(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number and mailbox of each message for one recipient that the proxy logged as in doubt."""
    for line in lines:
        if '"in_doubt"' not in line:
            continue
        record = json.loads(line)
        for recipient in record["to"]:
            mailbox, number = parts(recipient)
            if record["in_doubt"] and number is not None:
                yield number, mailbox


def troubles(lines: Iterable[str]) -> Iterator[str]:
    """The lines that tell of a fault in a program."""
    for line in lines:
        if _TROUBLE.search(line):
            yield line.strip()[:_SHOWN]


def read(proxy: Path, others: Iterable[Path], ledger: Ledger) -> None:
    """Put all of that down."""
    with proxy.open(errors="replace") as lines:
        for number, mailbox in doubts(lines):
            ledger.doubt(number, mailbox)
    for log in (proxy, *others):
        with log.open(errors="replace") as lines:
            for line in troubles(lines):
                ledger.violation("trouble in a log", f"{log}: {line}")


def left(folder: Path) -> list[str]:
    """The processes that still have to do with `folder`, as `PID COMMAND`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            places = [command, *(str((entry / each).readlink()) for each in ("cwd", "root"))]
        except OSError:  # it is gone, or was never reaped
            continue
        if any(str(folder) in place for place in places):
            found.append(f"{entry.name} {command}".strip())
    return found
