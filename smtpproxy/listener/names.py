"""Session ids."""

from __future__ import annotations

from collections.abc import Callable


def session_names(now: Callable[[], float]) -> Callable[[], str]:
    """A source of ids: twelve hexadecimal digits, in the order of time, none given twice.

    They are microseconds since 1970, cut to 48 bits: the same one may come again after
    nine years.  `now` gives seconds since 1970; where the clock is set back, they go on.
    """
    last = 0

    def name() -> str:
        nonlocal last
        last = max(last + 1, int(now() * 1e6))
        return f"{last & 0xFFFFFFFFFFFF:012X}"

    return name
