"""Open files: each connection is one, and a process may have only so many (RLIMIT_NOFILE)."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

EACH = 2  # for one session: the client's connection, and the upstream's
_FOLDER = "/proc/self/fd"

MOST = 1 << 20  # nobody needs more, and some systems allow a thousand times that


def allow() -> int:
    """Have this process open as many as it may, and tell how many that is."""
    soft, hard = (MOST if each < 0 else min(each, MOST) for each in _limits())
    if soft < hard:
        with suppress(OSError, ValueError):  # a container may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, _limits()[1]))
            return hard
    return soft


def sessions(wanted: int) -> int:
    """How many of the sessions that are `wanted` there is room for."""
    return min(wanted, allow() // EACH)


def shortage(wanted: int) -> str:
    """What to tell the administrator where that is not all; "" where it is."""
    most = sessions(wanted)
    if most == wanted:
        return ""
    return (
        f"limits.max_connections is {wanted}, but this process may open {allow()} files only: no "
        f"more than {most} clients are taken at once. Allow more (LimitNOFILE= of systemd, "
        "ulimit -n), or lower limits.max_connections"
    )


def in_use() -> int:
    """How many this process has open; 0 where the system does not say."""
    with suppress(OSError):
        # Linux 6.2 and later has the number here; counting 20,000 names takes 10 ms.
        return os.stat(_FOLDER).st_size or len(os.listdir(_FOLDER)) - 1
    return 0


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
