"""A part of a processor for a process, by control groups of the kernel, old or new (cgroups(7))."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PERIOD = 20_000  # microseconds that a quota is of; of long ones, the ends of a round tell more

_FIRST = Path("/sys/fs/cgroup/cpu")  # version 1
_SECOND = Path("/sys/fs/cgroup")


def missing() -> str:
    """Why there are no quotas to be had here; "" where there are."""
    quota = Quota(1.0)
    try:
        quota.add("try")
    except OSError as error:
        return f"no quota of a processor can be set: {error.strerror or error}"
    finally:
        quota.end()
    return ""


class Quota:
    """Processes that get at most a `share` of one processor each, until `end`."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._groups: list[Path] = []

    def limit(self, pids: Iterable[int]) -> None:
        """Raises OSError where the kernel's groups are not ours to make."""
        for pid in pids:
            (self.add(str(pid)) / "cgroup.procs").write_text(str(pid))

    def add(self, name: str) -> Path:
        """Make one group, with nothing in it."""
        quota = round(self._share * PERIOD)
        root = _FIRST if _FIRST.is_dir() else _SECOND
        group = root / f"smtpproxy-bench-{name}"
        group.mkdir()
        self._groups.append(group)
        if root is _FIRST:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD}")
        return group

    def end(self) -> None:
        """To be called when the processes have ended."""
        for group in self._groups:
            with suppress(OSError):
                group.rmdir()
        self._groups.clear()
