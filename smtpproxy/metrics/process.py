"""What a process tells of itself, a worker or the parent of several."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

from smtpproxy import __version__, descriptors
from smtpproxy.logs import Log
from smtpproxy.metrics import families
from smtpproxy.metrics.snapshot import Sheet, Snapshot

_PAGES = Path("/proc/self/statm")  # the second number: resident pages


class Process:
    """This process, since it began; `of` is how many workers there are to be."""

    def __init__(self, log: Log, of: int = 1) -> None:
        self._log = log
        self._of = of
        self._began = time.time()
        self._name = f"{os.getpid()}-{time.time_ns()}"
        self._reloads = Counter(taken=0, refused=0)
        self._taken = True  # the last of them
        self._taken_at = self._began

    def reloaded(self, taken: bool) -> None:
        """Everything was read anew, or a file of it: is it in force?"""
        self._reloads["taken" if taken else "refused"] += 1
        self._taken = taken
        if taken:
            self._taken_at = time.time()

    def tell(self, sheet: Sheet) -> None:
        """All of it."""
        sheet.add(families.WORKERS_WANTED, self._of)
        sheet.add(families.INFO, 1, __version__)
        sheet.add(families.STARTED, self._began)
        for outcome, number in self._reloads.items():
            sheet.add(families.RELOADS, number, outcome)
        sheet.add(families.RELOAD_TAKEN, int(self._taken))
        sheet.add(families.RELOADED_AT, self._taken_at)
        sheet.add(families.OPEN_FILES, descriptors.in_use())
        sheet.add(families.MOST_FILES, descriptors.allow())
        sheet.add(families.MEMORY, _resident())
        sheet.add(families.CPU_TIME, time.process_time())
        sheet.add(families.LINES_LOST, self._log.losses)

    def snapshot(self, sheet: Sheet | None = None) -> Snapshot:
        """What it tells, behind what is on the `sheet` already."""
        sheet = sheet or Sheet()
        self.tell(sheet)
        return sheet.snapshot(self._name)


def _resident() -> int:
    """Octets of memory; 0 where the system does not say."""
    try:
        return int(_PAGES.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
