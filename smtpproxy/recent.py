"""What happened lately: the last refusals, the rates of the last hour, how servers answered.

An observer that only counts and keeps; what it makes of that is made when somebody asks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smtpproxy.events import Connected, Event, Refused, Tls, TransactionEnded
from smtpproxy.logs.fields import fields
from smtpproxy.logs.words import tls

MINUTE = 60.0  # seconds
MINUTES = 60
MOST_REFUSALS = 100
MOST_SERVERS = 1000
RECENT = 1 / 16  # what the latest message counts in the mean
LONGEST = 400  # characters of a reply, of an error

COUNTED = ("sessions", "messages", "bytes", "refused_4xx", "refused_5xx")
SESSIONS, MESSAGES, BYTES, LATER, NEVER = range(len(COUNTED))


@dataclass(slots=True)
class Served:
    """How one server did with messages; `final` and `connect` are means, in seconds.

    Exponentially weighted: what came last counts most.  `connect` is 0.0 where a connection was
    there already.
    """

    messages: int = 0
    final: float = 0.0
    connect: float = 0.0
    tls: Tls | None = None
    at: float = 0.0  # on the clock, the latest


class Recent:
    """An observer.  `now` gives seconds since 1970, `seconds` those of a clock that never jumps."""

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._seconds = seconds
        self._refusals: deque[tuple[float, Refused | TransactionEnded]] = deque(
            maxlen=MOST_REFUSALS
        )
        self._minutes: deque[list[int]] = deque(maxlen=MINUTES)  # the one that goes on at the end
        self._counts: list[int] = []
        self._until = seconds()  # when it is over
        self._roll(self._until)
        self._servers: dict[str, Served] = {}

    def __call__(self, event: Event) -> None:
        kind = type(event)
        if kind is Connected:
            self._current()[SESSIONS] += 1
        elif isinstance(event, TransactionEnded):
            self._ended(event)
        elif isinstance(event, Refused):
            self._current()[NEVER if event.reply.code >= 500 else LATER] += 1
            self._refusals.append((self._now(), event))

    def rates(self) -> dict[str, list[int]]:
        """By what is counted: a number for each minute of the last hour, the latest at the end."""
        self._current()
        empty = [0] * (MINUTES - len(self._minutes))
        return {
            name: [*empty, *(minute[number] for minute in self._minutes)]
            for number, name in enumerate(COUNTED)
        }

    def refusals(self) -> list[dict[str, Any]]:
        """The last ones, the latest first: what the log has of each, and the `time`."""
        return [{"time": at, **_refusal(event)} for at, event in reversed(self._refusals)]

    def servers(self) -> dict[str, dict[str, Any]]:
        """By server: how it did.  Times are in seconds, `age` since its last message."""
        now = self._seconds()
        return {
            server: {
                "messages": each.messages,
                "final": round(each.final, 6),
                "connect": round(each.connect, 6),
                "tls": tls(each.tls),
                "age": max(0.0, now - each.at),
            }
            for server, each in self._servers.items()
        }

    def _ended(self, event: TransactionEnded) -> None:
        counts = self._current()
        if event.error or not event.reply.success:
            counts[NEVER if event.reply.code >= 500 else LATER] += 1
            self._refusals.append((self._now(), event))
            return
        counts[MESSAGES] += 1
        counts[BYTES] += event.size
        served = self._servers.get(event.server)
        if served is None:
            served = self._first(event)
        phases = event.phases
        served.messages += 1
        served.final += RECENT * (phases.get("final", 0.0) - served.final)
        served.connect += RECENT * (phases.get("connect", 0.0) - served.connect)
        served.tls = event.upstream_tls
        served.at = self._seconds()

    def _first(self, event: TransactionEnded) -> Served:
        if len(self._servers) >= MOST_SERVERS:
            del self._servers[min(self._servers, key=lambda name: self._servers[name].at)]
        phases = event.phases
        served = Served(0, phases.get("final", 0.0), phases.get("connect", 0.0))
        self._servers[event.server] = served
        return served

    def _current(self) -> list[int]:
        """The counts of this minute."""
        now = self._seconds()
        if now >= self._until:
            self._roll(now)
        return self._counts

    def _roll(self, now: float) -> None:
        passed = min(MINUTES, int((now - self._until) // MINUTE) + 1)
        for _ in range(passed):
            self._minutes.append([0] * len(COUNTED))
        self._counts = self._minutes[-1]
        self._until += MINUTE * (int((now - self._until) // MINUTE) + 1)


def _refusal(event: Refused | TransactionEnded) -> dict[str, Any]:
    found: dict[str, Any] = dict(fields(event))
    shown = {name: value for name, value in found.items() if name in _SHOWN}
    shown["stage"] = shown.get("stage", "message")
    shown["to"] = list(shown.get("to", ()))[:10]
    for name in ("reply", "error"):
        if name in shown:
            shown[name] = shown[name][:LONGEST]
    return shown


_SHOWN = frozenset({"session", "transaction", "client", "helo", "stage", "from", "to", "upstream"})
_SHOWN |= {"reply", "by", "error"}
