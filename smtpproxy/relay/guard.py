"""The 5xx guard: an upstream that suddenly refuses nearly everything is not believed at once.

A directory that was restored empty, or an upstream that has blocked this proxy, would bounce all
mail.  So where one took most and now refuses nearly all, its 5xx are told as 451 for some time.

Networks of clients are counted, not recipients, and each once in a while: who guesses addresses,
however many, is one among many.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import lru_cache

from smtpproxy.routing import Upstream
from smtpproxy.smtp.replies import Reply

RECENT = 20  # networks that came last
NEARLY_ALL = 19  # of them, refused: then something is wrong
FAIR = 10  # of them, refused, at most: then all is well again
ENOUGH = 50  # networks before those, to know what the upstream usually does
MOST = 1000  # networks that what it usually does is known from; then half of them are forgotten
MOST_UPSTREAMS = 5000  # those met first are forgotten first

Tell = Callable[[bool, str], object]


class Guard:
    """What upstreams take and refuse; for all sessions, and across configurations."""

    def __init__(self, seconds: float, now: Callable[[], float], tell: Tell) -> None:
        """Refusals are turned for at most `seconds`.  `tell` hears whether it is well, and why."""
        self.recipients = Watch("recipients", seconds, now, tell)
        self.messages = Watch("messages", seconds, now, tell)

    def limit(self, seconds: float) -> None:
        """Turn refusals for at most so long, from the next time on."""
        self.recipients.seconds = self.messages.seconds = seconds


class Watch:
    """One kind of refusals: of recipients (MAIL, RCPT), or of messages (DATA, end of data).

    `trips` counts how often an upstream was found to refuse nearly everything, `turned` the
    replies that were turned.
    """

    def __init__(self, what: str, seconds: float, now: Callable[[], float], tell: Tell) -> None:
        self.seconds = seconds
        self.trips = 0
        self.turned = 0
        self._what = what
        self._now = now
        self._tell = tell
        self._records: dict[Upstream, _Record] = {}

    @property
    def tripped(self) -> list[Upstream]:
        """The upstreams whose refusals are turned now."""
        now = self._now()
        return [each for each, it in self._records.items() if it.tripped and now < it.until]

    def told(self, upstream: Upstream, address: str, reply: Reply) -> Reply:
        """What the client at `address` is told where the upstream said `reply`: that, or a 451."""
        code = reply.code
        if 300 <= code < 500:  # says nothing of what it takes
            return reply
        record = self._records.get(upstream)
        if record is None:
            record = self._begin(upstream)
        taken = code < 300
        changed = record.count(_network(address), taken)
        if taken:
            if changed and record.tripped and record.refused <= FAIR:
                self._end(upstream, record)
            return reply
        if not record.tripped:
            if not (changed and record.suspicious):
                return reply
            self._trip(upstream, record, reply)
        elif self._now() >= record.until:
            self._give_in(upstream, record)
            return reply
        record.turned += 1
        self.turned += 1
        return turned(reply)

    def _begin(self, upstream: Upstream) -> _Record:
        if len(self._records) >= MOST_UPSTREAMS:
            del self._records[next(iter(self._records))]
        record = self._records[upstream] = _Record()
        return record

    def _trip(self, upstream: Upstream, record: _Record, reply: Reply) -> None:
        record.tripped = True
        record.turned = 0
        record.until = self._now() + self.seconds
        self.trips += 1
        share = 100 * record.taken_before // record.before
        self._tell(
            False,
            f"5xx guard: {upstream} suddenly refuses {self._what}: of the last {RECENT} networks "
            f"it refused {record.refused}, of those before it took {share} %. Look there: for at "
            f"most {self.seconds:g} s clients are told 451 in place of its 5xx. It said: {reply}",
        )

    def _end(self, upstream: Upstream, record: _Record) -> None:
        record.tripped = False
        text = f"5xx guard: {upstream} takes {self._what} again"
        self._tell(True, f"{text}; {record.turned} refusals were told as 451")

    def _give_in(self, upstream: Upstream, record: _Record) -> None:
        """The time is over, and it refuses still: it knows best.  What was before is forgotten."""
        self._records[upstream] = _Record()
        text = f"5xx guard: {upstream} still refuses {self._what} after {self.seconds:g} s"
        told = f"{record.turned} refusals were told as 451"
        self._tell(False, f"{text}; {told}, from now on clients are told what it says")


class _Record:
    """What one upstream said to the networks that came last, and how it was before."""

    __slots__ = ("_recent", "before", "refused", "taken_before", "tripped", "turned", "until")

    def __init__(self) -> None:
        self._recent: dict[str | bytes, bool] = {}  # taken, by network; who came first is first
        self.refused = 0  # of the recent ones
        self.before = 0  # networks that were recent once
        self.taken_before = 0
        self.tripped = False
        self.until = 0.0
        self.turned = 0

    @property
    def suspicious(self) -> bool:
        """It took most, and now takes next to nothing."""
        usual = self.before >= ENOUGH and 2 * self.taken_before >= self.before
        return usual and self.refused >= NEARLY_ALL

    def count(self, network: str | bytes, taken: bool) -> bool:
        """The network's last answer; tells whether that changes anything."""
        recent = self._recent
        last = recent.get(network)
        if last is taken:
            return False
        recent[network] = taken
        if last is not None:
            self.refused += -1 if taken else 1
            return True
        self.refused += not taken
        if len(recent) > RECENT:
            oldest = recent.pop(next(iter(recent)))
            self.refused -= not oldest
            if not self.tripped:  # what it does now is not what it usually does
                self._remember(oldest)
        return True

    def _remember(self, taken: bool) -> None:
        self.before += 1
        self.taken_before += taken
        if self.before > MOST:
            self.before //= 2
            self.taken_before //= 2


@lru_cache(1024)
def _network(address: str) -> str | bytes:
    """The /24 of an IPv4 address, the /48 of an IPv6 one: what one hand can have many of."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)[:6]
    return address.rpartition(".")[0]


def turned(theirs: Reply) -> Reply:
    """What a client is told in place of a 5xx."""
    text = f"The server of this recipient suddenly refuses nearly all mail; try later: {theirs}"
    return Reply.of(451, "4.3.0", text[:400])
