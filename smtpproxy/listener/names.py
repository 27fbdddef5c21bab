"""Session ids."""

from __future__ import annotations

from collections.abc import Callable

STEP = 64  # microseconds, and the most processes that may give ids at the same time


def session_names(now: Callable[[], float], process: int = 0) -> Callable[[], str]:
    """A source of ids: twelve hexadecimal digits, in the order of time, none given twice.

    They are microseconds since 1970, cut to 48 bits: the same one may come again after
    nine years.  `now` gives seconds since 1970; where the clock is set back, they go on.  Those of
    processes with different numbers, less than `STEP`, differ.
    """
    last = process - STEP

    def name() -> str:
        nonlocal last
        last = max(last + STEP, int(now() * 1e6) // STEP * STEP + process)
        return f"{last & 0xFFFFFFFFFFFF:012X}"

    return name
