"""A clock that nobody sets.

Twisted's reactor goes by the time of day.  If that is set back an hour, all deadlines are an hour
late, and nothing is accepted or tried again meanwhile; if it is set forward, all come at once.
"""

from __future__ import annotations

import time
from typing import Any

seconds = time.monotonic


def make_steady(reactor: Any) -> None:
    """Have `reactor` go by a clock that only goes forward, also with what it is to call already."""
    if reactor.seconds is seconds:
        return
    later = seconds() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        call.time += later
        call.seconds = seconds
    reactor.seconds = seconds
