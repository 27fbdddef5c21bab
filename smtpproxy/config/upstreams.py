"""The settings of what is done with all upstreams."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from smtpproxy.config.table import Table, setting
from smtpproxy.config.types import Count, CountOrZero, Duration, DurationOrZero


class Upstreams(Table):
    """How upstreams are got to know, and spoken to."""

    ask_every: DurationOrZero = setting(
        "How often each upstream that the mappings can list is asked what it offers, unless mail "
        'has gone there; "0s" = not.',
        "10m",
    )
    check_every: Duration = setting(
        "The longest between two checks of an address of an upstream that failed; the first comes "
        "after 5 seconds, each further one after twice as long.",
        "1m",
    )
    chunking: Literal["as_received", "preferred"] = setting(
        'When a message is sent by BDAT to an upstream that takes it: "as_received" (where it came '
        'by BDAT) or "preferred" (always).',
        "as_received",
    )
    keep_idle: DurationOrZero = setting(
        "How long a connection to an upstream is kept after a session, for the next that may use "
        'it; "0s" = not at all.',
        "2s",
    )
    keep_age: Duration = setting("How old a connection may be that is kept.", "5m")
    keep_uses: Count = setting("How many messages one connection may carry that is kept.", 100)
    keep_connections: Count = setting("The most connections kept for one upstream.", 20)
    ready_connections: CountOrZero = setting(
        "How many connections are made ahead for each upstream that is in use, so that clients "
        "need not wait for them.",
        0,
    )
    max_connections: CountOrZero = setting(
        "The most connections to one upstream, in use and kept; who needs one more waits for it; "
        "0 = any number.",
        0,
    )
    guard_time: DurationOrZero = setting(
        "How long an upstream that took most mail and suddenly refuses nearly all of it has its "
        '5xx told as 451, so that nothing bounces; "0s" = not at all.',
        "30m",
    )

    @field_validator("ready_connections")
    @classmethod
    def _ready_ones_are_kept(cls, ready: int, info: ValidationInfo) -> int:
        idle, most = info.data.get("keep_idle"), info.data.get("keep_connections")
        if ready and idle == 0:
            raise ValueError('none is kept: set keep_idle, such as "2s", or leave this at 0')
        if most is not None and ready > most:
            raise ValueError(f"is more than keep_connections ({most}): raise that one, too")
        return ready
