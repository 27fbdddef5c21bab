"""Counting what happens in sessions: an observer of all of them.

The counters are our own.  The library `prometheus_client` was measured first: five counters and
five histograms, as for one message, take it 4.8 µs, and 12.4 µs where processes share files, which
is its only way for several.  Ours take 0.6 µs, since nothing here runs in threads and nothing is
locked; and a snapshot is merged like any other answer of a worker, without files that stay behind.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from smtpproxy.events import (
    Connected,
    Disconnected,
    Event,
    NotIntroduced,
    Refused,
    Side,
    TransactionEnded,
    UpstreamFailed,
)
from smtpproxy.listener.fronted import FULL
from smtpproxy.listener.tally import EXCESS
from smtpproxy.metrics import families
from smtpproxy.metrics.families import PHASE_SECONDS, SESSION_SECONDS
from smtpproxy.metrics.limits import LIMITS, MOST_CONNECTIONS
from smtpproxy.metrics.snapshot import Sheet
from smtpproxy.smtp.replies import Reply

MOST_NAMES = 1000  # upstreams by name; all others are one
OTHER = "other"
LONGEST = 200  # characters of a name
NONE = "none"  # no upstream, or no TLS

PHASES = ("lookup", "connect", "envelope", "content", "final")
OF_UPSTREAM = frozenset({"connect", "envelope", "final"})

# What a session's end is called, by how the reason begins; whatever else there is, is our fault.
ENDS = {
    "": "closed",
    "lost connection": "lost",
    "timeout": "timeout",
    "stopped": "stopped",
    **{f"too many {what}": "limit" for what in EXCESS},
}

_WEIGHTS = re.compile(r"\*\d+(?=,|$)")


class Names:
    """Label values that come from outside: the first so many, without weights; then `OTHER`."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        return self._known.get(name) or self._new(name)

    def _new(self, name: str) -> str:
        if len(self._known) >= self._most:
            return OTHER
        label = self._known[name] = _WEIGHTS.sub("", name)[:LONGEST] or NONE
        return label


class Histogram:
    """How often a value was within each bucket, and the sum of all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class _Listener:
    """The sessions of one listener."""

    __slots__ = ("begun", "ended", "seconds")

    def __init__(self) -> None:
        self.begun = 0
        self.ended: defaultdict[str, int] = defaultdict(int)
        self.seconds = Histogram(SESSION_SECONDS)


class _Share:
    """The messages of one listener to one upstream that ended the same way."""

    __slots__ = ("octets", "recipients", "transactions")

    def __init__(self) -> None:
        self.transactions = self.recipients = self.octets = 0


class Counts:
    """What was counted since the process began; an `Observer`."""

    def __init__(self) -> None:
        self.names = Names()
        self.in_doubt = 0
        self.duplicates = 0
        self._listeners: defaultdict[str, _Listener] = defaultdict(_Listener)
        self._shares: defaultdict[tuple[str, str, str], _Share] = defaultdict(_Share)
        self._phases = defaultdict(
            lambda: Histogram(PHASE_SECONDS), {each: Histogram(PHASE_SECONDS) for each in PHASES}
        )
        self._upstream_seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        # A `Counter` would do, too, but its `+= 1` costs twice as much.
        self._tls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._refusals: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self._limits: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._no_header: defaultdict[str, int] = defaultdict(int)
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._counting: dict[type[Event], Callable[[Any], None]] = {
            Connected: self._connected,
            NotIntroduced: self._not_introduced,
            Refused: self._refused,
            UpstreamFailed: self._upstream_failed,
            TransactionEnded: self._transaction_ended,
            Disconnected: self._disconnected,
        }

    def __call__(self, event: Event) -> None:
        count = self._counting.get(type(event))
        if count is not None:
            count(event)

    def _connected(self, event: Connected) -> None:
        self._listeners[event.client.peer.listener].begun += 1

    def _not_introduced(self, event: NotIntroduced) -> None:
        if event.reason == FULL:
            self._limits[event.peer.listener, MOST_CONNECTIONS] += 1
        elif not event.silent:
            self._no_header[event.peer.listener] += 1

    def _refused(self, event: Refused) -> None:
        listener, reply = event.client.peer.listener, event.reply
        self._refusals[listener, event.stage, event.by.value, f"{reply.code // 100}xx"] += 1
        if event.stage == "RCPT":
            outcome = "refused" if reply.permanent else "deferred"
            self._shares[listener, self.names.of(event.server), outcome].recipients += 1
        if event.by is Side.PROXY:
            self._met(listener, reply)

    def _upstream_failed(self, event: UpstreamFailed) -> None:
        self._failures[self.names.of(event.server)] += 1

    def _transaction_ended(self, event: TransactionEnded) -> None:
        listener, upstream = event.client.peer.listener, self.names.of(event.server)
        outcome = outcome_of(event)
        share = self._shares[listener, upstream, outcome]
        share.transactions += 1
        share.recipients += len(event.recipients)
        share.octets += event.size
        for phase, seconds in event.phases.items():
            self._phases[phase].add(seconds)
            if phase in OF_UPSTREAM:
                self._upstream_seconds[upstream, phase] += seconds
        ours, theirs = event.client_tls, event.upstream_tls
        self._tls["client", ours.version if ours else NONE] += 1
        self._tls["upstream", theirs.version if theirs else NONE] += 1
        self.in_doubt += event.in_doubt
        self.duplicates += event.duplicate
        if event.by is Side.PROXY:
            self._met(listener, event.reply)

    def _disconnected(self, event: Disconnected) -> None:
        listener = self._listeners[event.client.peer.listener]
        reason = event.reason.partition(":")[0]
        listener.ended[ENDS.get(reason, "fault")] += 1
        listener.seconds.add(event.seconds)
        excess = EXCESS.get(reason.removeprefix("too many "))
        if excess is not None:
            self._met(event.client.peer.listener, excess)

    def _met(self, listener: str, reply: Reply) -> None:
        limit = LIMITS.get(reply)
        if limit is not None:
            self._limits[listener, limit] += 1

    def tell(self, sheet: Sheet, listeners: Iterable[str]) -> None:
        """All of it; `listeners` are those that there are now.

        What alerts look at is there with 0 before it happens: a series that begins with 1 has
        not grown.
        """
        for name in listeners:
            self._listeners[name].ended["closed"] += 0
        for name, each in self._listeners.items():
            ended = sum(each.ended.values())
            sheet.add(families.SESSIONS, each.begun, name)
            sheet.add(families.SESSIONS_LIVE, each.begun - ended, name)
            sheet.distribution(families.SESSION_TIME, each.seconds.counts, each.seconds.total, name)
            for outcome, number in each.ended.items():
                sheet.add(families.SESSIONS_ENDED, number, name, outcome)
            for limit in LIMITS.values():
                sheet.add(families.LIMITS_HIT, 0, name, limit)
        for labels, share in self._shares.items():
            sheet.add(families.RECIPIENTS, share.recipients, *labels)
            if share.transactions:
                sheet.add(families.TRANSACTIONS, share.transactions, *labels)
                sheet.add(families.MESSAGE_BYTES, share.octets, *labels)
        for phase, spent in self._phases.items():
            sheet.distribution(families.PHASE_TIME, spent.counts, spent.total, phase)
        for at, seconds in self._upstream_seconds.items():
            sheet.add(families.UPSTREAM_TIME, seconds, *at)
        sheet.add(families.IN_DOUBT, self.in_doubt)
        sheet.add(families.DUPLICATES, self.duplicates)
        for family, counter in (
            (families.MESSAGES_BY_TLS, self._tls),
            (families.REFUSED, self._refusals),
            (families.LIMITS_HIT, self._limits),
        ):
            for several, number in counter.items():
                sheet.add(family, number, *several)
        for name, number in self._no_header.items():
            sheet.add(families.NO_HEADER, number, name)
        for name, number in self._failures.items():
            sheet.add(families.UPSTREAM_FAILURES, number, name)


def outcome_of(event: TransactionEnded) -> str:
    """In a word, what became of a message; the first that fits counts."""
    if event.in_doubt:
        return "in_doubt"
    if event.reply.success and not event.error:
        return "delivered"
    if event.by is Side.CLIENT:
        return "abandoned"
    return "refused" if event.reply.permanent else "deferred"
