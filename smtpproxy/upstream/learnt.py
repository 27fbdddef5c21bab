"""What upstreams were heard to offer, and what they therefore can keep together.

Nothing of it outlives the program, and nothing needs it: what is not known is not announced.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from smtpproxy.deadlines import Deadline, Deadlines
from smtpproxy.routing import Listing, Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.upstream.agreement import Agreement, agree

DAY = 86400.0  # seconds: what was not heard for so long, while its upstream was, is forgotten
SETTLED = 1.0  # seconds after a change until it counts, so that many cost no more than one
MOST_UNLISTED = 1000  # upstreams that no mapping lists
MOST_ADDRESSES = 64  # of one upstream, each of them with and without a client

Place = tuple[str, int, str]  # host, port and address


@dataclass(frozen=True, slots=True)
class Heard:
    """What one address of an upstream announced last, after STARTTLS, at `at` on the clock.

    `by_mail`: to a client that had mail for it, which XCLIENT may have named; else to us.
    """

    server: Server
    address: str
    by_mail: bool
    extensions: Extensions
    at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an address, or with "" as that a server, could not be asked."""

    server: Server
    address: str
    reason: str
    at: float


@dataclass(slots=True)
class Known:
    """What is known of one upstream; times are those of the clock."""

    heard: dict[tuple[Place, bool], Heard] = field(default_factory=dict)  # the latest at the end
    failures: dict[Place, Failure] = field(default_factory=dict)
    asked_at: float | None = None
    changed_at: float | None = None  # when an address said what it had not said before

    @property
    def last(self) -> float | None:
        """When it was heard last."""
        return next((each.at for each in reversed(self.heard.values())), None)

    def is_due(self, now: float, every: float) -> bool:
        """Whether to ask it: some address was not heard for `every` seconds, or has changed."""
        if self.asked_at is not None and now - self.asked_at < every:
            return False
        latest = {place: each.at for (place, _), each in self.heard.items()}
        if self.failures or not latest or now - min(latest.values()) >= every:
            return True
        return self.changed_at is not None and self.changed_at >= (self.asked_at or 0.0)


class Learnt:
    """Remembers, of each upstream, what its addresses have announced."""

    def __init__(self, deadlines: Deadlines, changed: Callable[[Agreement], object]) -> None:
        """`changed` is given what the upstreams agree on, each time that this is another."""
        self._deadlines = deadlines
        self._changed = changed
        self._listed: dict[Upstream, Known] = {}
        self._others: OrderedDict[Upstream, Known] = OrderedDict()  # heard last, at the end
        self._unlisted: tuple[str, ...] = ()
        self._settling: Deadline | None = None
        self.agreement = Agreement()

    def __repr__(self) -> str:
        return f"<Learnt of {len(self._listed)} listed upstreams and {len(self._others)} others>"

    def follow(self, listing: Listing) -> None:
        """Mail may go to these upstreams from now on."""
        known = {**self._others, **self._listed}
        self._listed = {each: known.pop(each, Known()) for each in listing.upstreams}
        self._unlisted = listing.unlisted
        self._others = OrderedDict((each, it) for each, it in known.items() if it.heard)
        self._bound()
        self._settle()

    def heard(
        self,
        upstream: Upstream,
        server: Server,
        address: str,
        extensions: Extensions,
        by_mail: bool = True,
    ) -> None:
        """Take note of what an address has announced."""
        now = self._deadlines.seconds()
        known = self._of(upstream)
        place = server.host, server.port, address
        before = known.heard.pop((place, by_mail), None)
        known.heard[place, by_mail] = Heard(server, address, by_mail, extensions, now)
        known.failures.pop(place, None)
        forgotten = _forget(known, now)
        if before is not None and before.extensions != extensions:
            known.changed_at = now
        if before is None or before.extensions != extensions or forgotten:
            self._soon()

    def asking(self, upstream: Upstream) -> None:
        """Take note that each of its addresses is being asked: what failed before is over."""
        if known := self._listed.get(upstream):
            known.asked_at = self._deadlines.seconds()
            known.failures.clear()

    def failed(self, upstream: Upstream, server: Server, address: str, reason: str) -> None:
        """Take note of why an address, or with "" a server, could not be asked."""
        known = self._listed.get(upstream)
        if known and len(known.failures) < MOST_ADDRESSES:
            place = server.host, server.port, address
            known.failures[place] = Failure(server, address, reason, self._deadlines.seconds())

    def due(self, every: float) -> list[Upstream]:
        """Those listed that are to be asked if nothing is to be older than `every` seconds."""
        now = self._deadlines.seconds()
        return [upstream for upstream, known in self._listed.items() if known.is_due(now, every)]

    def all(self) -> Iterator[tuple[Upstream, Known]]:
        """Those that count: all listed, and others only where some mapping cannot list its own."""
        yield from self._listed.items()
        if self._unlisted:
            yield from self._others.items()

    def _of(self, upstream: Upstream) -> Known:
        known = self._listed.get(upstream)
        if known is None:
            known = self._others.setdefault(upstream, Known())
            self._others.move_to_end(upstream)
            self._bound()
        return known

    def _bound(self) -> None:
        """Forget those others that were not heard for a day, and those that are too many."""
        now = self._deadlines.seconds()
        while self._others:
            upstream, known = next(iter(self._others.items()))
            recent = known.last is None or now - known.last < DAY
            if recent and len(self._others) <= MOST_UNLISTED:
                return
            del self._others[upstream]

    def _soon(self) -> None:
        if self._settling is None or not self._settling.active:
            self._settling = self._deadlines.add(SETTLED, self._settle)

    def _settle(self) -> None:
        heard = (
            (upstream, [each.extensions for each in known.heard.values()])
            for upstream, known in self.all()
        )
        agreement = agree(heard, self._unlisted)
        if agreement != self.agreement:
            self.agreement = agreement
            self._changed(agreement)


def _forget(known: Known, now: float) -> bool:
    """Forget what is too old, and what is too much; whether there was any."""
    forgotten = False
    while True:
        key, oldest = next(iter(known.heard.items()))
        if now - oldest.at < DAY and len(known.heard) <= 2 * MOST_ADDRESSES:
            return forgotten
        del known.heard[key]
        forgotten = True
