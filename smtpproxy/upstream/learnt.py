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
from smtpproxy.smtp.keywords import ASSUMED, CARRIED, offered
from smtpproxy.upstream.agreement import Agreement, Said, agree
from smtpproxy.values import value

DAY = 86400.0  # seconds: what was not heard for so long, while its upstream was, is forgotten
STEADY = 3600.0  # seconds without a lapse until a keyword that was taken back counts again
GRACE = 30.0  # seconds that the first answer of a new upstream is waited for
SETTLED = 1.0  # seconds after a change until it counts, so that many cost no more than one
MOST_UNLISTED = 1000  # upstreams that no mapping lists
MOST_ADDRESSES = 64  # of one upstream, each of them with and without a client

Place = tuple[str, int, str]  # host, port and address


@value
class Heard:
    """What one address of an upstream announced last, after STARTTLS, at `at` on the clock.

    `by_mail`: to a client that had mail for it, which XCLIENT may have named; else to us.
    """

    server: Server
    address: str
    by_mail: bool
    extensions: Extensions
    at: float


@value
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
    lapses: dict[str, float] = field(default_factory=dict)  # keywords it once had: last not there
    failures: dict[Place, Failure] = field(default_factory=dict)
    asked_at: float | None = None  # when this was begun last
    asking: bool = False  # it goes on
    new_until: float | None = None  # None once it was asked, or where it never was new
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

    def said(self, upstream: Upstream, now: float) -> Said:
        """What counts of it."""
        if self.heard:
            return Said(upstream, [each.extensions for each in self.heard.values()], self.lapses)
        new = self.new_until is not None and now < self.new_until
        reason = list(self.failures.values())[-1].reason if self.failures else ""
        return Said(upstream, new=new, reason=reason)


class Learnt:
    """Remembers, of each upstream, what its addresses have announced."""

    def __init__(
        self, deadlines: Deadlines, changed: Callable[[Agreement], object] = lambda _: None
    ) -> None:
        """`changed` is given what the upstreams agree on, each time that this is another."""
        self.changed = changed
        self._deadlines = deadlines
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
        # What comes with the very first is not waited for: nothing is announced as yet.
        until = self._deadlines.seconds() + GRACE if known else None
        self._listed = {
            each: known.pop(each) if each in known else Known(new_until=until)
            for each in listing.upstreams
        }
        self._unlisted = listing.unlisted
        self._others = OrderedDict((each, it) for each, it in known.items() if it.heard)
        self._bound()
        self._settle()
        if self.agreement.new:
            self._deadlines.add(GRACE, self._settle)

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
        before = known.heard.get((place, by_mail))
        other = before is None or before.extensions != extensions
        if other or known.lapses:
            _note_lapses(known, place, extensions, now)
        known.heard.pop((place, by_mail), None)
        known.heard[place, by_mail] = Heard(server, address, by_mail, extensions, now)
        known.failures.pop(place, None)
        forgotten = _forget(known, now)
        if before is not None and other:
            known.changed_at = now
        if other or forgotten:
            self._soon()

    def asking(self, upstream: Upstream) -> None:
        """Take note that its addresses are being asked from now on."""
        if known := self._listed.get(upstream):
            known.asked_at = self._deadlines.seconds()
            known.asking = True

    def asked(self, upstream: Upstream, all_of_it: bool) -> None:
        """Take note that this is over, for `all_of_it` or not: then what failed before is over."""
        known = self._listed.get(upstream) or self._others.get(upstream)
        if known is None:
            return
        known.asking = False
        known.new_until = None
        if all_of_it and known.asked_at is not None:
            began = known.asked_at
            known.failures = {at: each for at, each in known.failures.items() if each.at >= began}
        if not known.heard:
            self._soon()

    def failed(self, upstream: Upstream, server: Server, address: str, reason: str) -> None:
        """Take note of why an address, or with "" a server, could not be asked."""
        known = self._listed.get(upstream)
        if known is None:
            return
        place = server.host, server.port, address
        known.failures.pop(place, None)
        if len(known.failures) < MOST_ADDRESSES:
            known.failures[place] = Failure(server, address, reason, self._deadlines.seconds())

    def servers(self, upstream: Upstream) -> set[Server]:
        """Those of it that were heard, with the hosts of its MX records."""
        known = self._listed.get(upstream) or self._others.get(upstream)
        return {each.server for each in known.heard.values()} if known else set()

    def is_failing(self, upstream: Upstream) -> bool:
        """Whether some address of it could not be asked the last time."""
        known = self._listed.get(upstream)
        return known is not None and bool(known.failures)

    def due(self, every: float) -> list[Upstream]:
        """Those listed that are to be asked if nothing is to be older than `every` seconds.

        Those that were never asked come first, and those that failed the last time come last.
        """
        now = self._deadlines.seconds()
        due = [(each, known) for each, known in self._listed.items() if known.is_due(now, every)]
        due.sort(key=lambda it: (bool(it[1].failures), it[1].asked_at is not None))
        return [upstream for upstream, _ in due]

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
        now = self._deadlines.seconds()
        heard = (known.said(upstream, now) for upstream, known in self.all())
        agreement = agree(heard, self._unlisted)
        if agreement != self.agreement:
            self.agreement = agreement
            self.changed(agreement)


def _note_lapses(known: Known, place: Place, extensions: Extensions, now: float) -> None:
    """Take note of what an address offered before, to a client or to us, and now does not."""
    before = [
        known.heard[key].extensions for key in ((place, False), (place, True)) if key in known.heard
    ]
    for keyword in (*ASSUMED, *CARRIED):
        if offered(keyword, extensions) is None and (
            keyword in known.lapses or any(offered(keyword, each) is not None for each in before)
        ):
            known.lapses[keyword] = now


def _forget(known: Known, now: float) -> bool:
    """Forget what is too old, and what is too much; whether there was any."""
    steady = [keyword for keyword, at in known.lapses.items() if now - at >= STEADY]
    for keyword in steady:
        del known.lapses[keyword]
    forgotten = bool(steady)
    while True:
        key, oldest = next(iter(known.heard.items()))
        if now - oldest.at < DAY and len(known.heard) <= 2 * MOST_ADDRESSES:
            return forgotten
        del known.heard[key]
        forgotten = True
