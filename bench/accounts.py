"""What processes take of processor and memory, by the kernel's account."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def held(pid: int | None = None) -> tuple[int, int]:
    """Octets of memory in use now, and at most since the start (or since `forget_peaks`)."""
    lines = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    now, most = (int(sizes[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def members(session: int) -> list[int]:
    """The processes of a session (setsid(2)): its leader and all that they started."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(ValueError, OSError):
            pid = int(folder.name)
            if int(_stat(pid)[3]) == session:
                found.append(pid)
    return found


def children(pid: int) -> list[int]:
    """The processes that this one has started, and that have not ended."""
    with suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def cpu(pids: Iterable[int]) -> float:
    """Seconds of processor time, of user and system, of all threads and of ended children.

    The clock of a process (clock_getcpuclockid(3)) counts nanoseconds; only what its ended
    children took is in ticks.
    """
    seconds = 0.0
    for pid in pids:
        stat = _stat(pid)
        seconds += time.clock_gettime((~pid << 3) | 2)
        seconds += (int(stat[13]) + int(stat[14])) / _TICKS
    return seconds


def memory(pids: Iterable[int]) -> tuple[int, int]:
    """Octets that all of them hold now, and the sum of what each held at most."""
    sizes = [held(pid) for pid in pids]
    return sum(now for now, _ in sizes), sum(most for _, most in sizes)


def forget_peaks(pids: Iterable[int]) -> None:
    """Count the peaks of memory from now on (proc(5), clear_refs)."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def waiting(port: int) -> int:
    """Connections to this port in TIME_WAIT at the side that connected: it closed first.

    Each of them keeps one of some 28,000 ports from being used again to that address for a minute.
    """
    return Path("/proc/net/tcp").read_bytes().count(b":%04X 06 " % port)  # remote port, state


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may have blanks: state, ppid, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
