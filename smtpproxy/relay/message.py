"""The content of a message on its way to the upstreams that accepted recipients of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from smtpproxy.events import Side
from smtpproxy.relay.carried import NOT_8BIT, NOT_UTF8, TOO_BIG
from smtpproxy.relay.delivery import Delivery
from smtpproxy.relay.doubt import HEAD, essence
from smtpproxy.relay.relaying import Phases, Relaying
from smtpproxy.relay.verdict import Verdict
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Content, EndOfContent
from smtpproxy.upstream import BROKEN_REPLY, Broken

_PROXY = Side.PROXY  # see `smtp.client`

HEADER_TOO_BIG = Reply.of(552, "5.3.4", "The header of the message is too big")
BARE_NEWLINE = Reply.of(550, "5.6.11", "The message has a bare CR or LF")
STOPPED = Verdict(
    BROKEN_REPLY, Side.PROXY, "stopped while the upstream's answer was awaited", in_doubt=True
)


@dataclass(slots=True)
class Accepted:
    """A recipient that an upstream has accepted; `verdict` is the last word on its message."""

    recipient: str
    delivery: Delivery
    verdict: Verdict | None = None


class Message:
    """The content, the same for each upstream, and what becomes of it."""

    def __init__(
        self,
        accepted: Sequence[Accepted],
        relaying: Relaying,
        phases: Phases,
        address: str,
        each: bool,
    ) -> None:
        """`accepted` grows until `data` is called.  `each`: every recipient has its own answer.

        `address` is the client's.
        """
        self.size = 0  # octets so far
        self.head = b""  # the first octets (see `Doubts`), or the essence of them
        self._head_whole = False
        self.verdict: Verdict | None = None  # on all of it, where there is one
        self.finishing = False  # its end is on its way: wait for the answers, come what may
        self._accepted = accepted
        self._relaying = relaying
        self._now = relaying.deadlines.seconds
        self._phases = phases
        self._address = address
        self._each = each
        self._live: dict[Delivery, int] = {}  # those that take the content: so many octets at most
        self._until = 0.0  # when the last answers must be there

    @property
    def failure(self) -> Verdict | None:
        """Why nobody gets it any more, if so."""
        deliveries = self._deliveries()
        failures = [each.failure for each in deliveries if each.failure]
        return _gentlest(failures) if failures and len(failures) == len(deliveries) else None

    async def data(self) -> Verdict:
        """What the client is told of DATA: a 354 only from a live upstream."""
        verdicts = await self._ask(stuffed=True)
        if not any(it.reply.positive for it in verdicts.values()):  # the client may try again
            self.verdict = _gentlest(verdicts.values())
            return self.verdict
        self.verdict = None
        self._begin(verdicts)
        return verdicts[next(iter(self._live))]

    async def chunk(self) -> None:
        """The client begins a chunk of the message."""
        if self.failure is None and not self._live:
            self.verdict = None
            self._begin(await self._ask(stuffed=False))

    async def _ask(self, stuffed: bool) -> dict[Delivery, Verdict]:
        """Have the upstreams get ready: `stuffed` for content as after DATA, not as after BDAT."""
        bound = self._deliveries()
        verdicts: dict[Delivery, Verdict] = {}
        began = self._now()
        until = began + self._relaying.times.reply
        try:
            for delivery in bound:
                try:
                    delivery.ask_data(stuffed)
                except Broken as error:
                    verdicts[delivery] = Verdict.of_broken(error)
            for delivery in bound:
                if delivery not in verdicts:
                    try:
                        reply = await delivery.data(until - self._now())
                        verdicts[delivery] = Verdict.of_upstream(reply)
                    except Broken as error:
                        verdicts[delivery] = Verdict.of_broken(error)
        finally:
            self._phases.spent("envelope", began)
        return {each: self._told(each, verdicts[each]) for each in bound}

    def _begin(self, verdicts: Mapping[Delivery, Verdict]) -> None:
        """The content goes to those that are ready for it."""
        for delivery, verdict in verdicts.items():
            if not verdict.reply.positive:
                delivery.failure = verdict
        self._live = {each: self._most_bytes(each) for each in verdicts if each.failure is None}

    def content(self, part: Content) -> None:
        """Carry a part of the message on; where that failed, the rest is only taken in."""
        self.size = part.size
        if not self._head_whole:
            self.head += part.data[:HEAD]
            self._head_whole = len(self.head) >= HEAD
        for delivery, most in tuple(self._live.items()):
            if part.size > most:
                self._fail(delivery, Verdict(TOO_BIG, Side.PROXY))
                continue
            try:
                delivery.content(part.data, part.last)
            except Broken as error:
                self._fail(delivery, Verdict.of_broken(error))
        if not part.last:  # which goes with the end
            self._phases.seconds.setdefault("content", 0.0)

    @property
    def choked(self) -> bool:
        """An upstream has to take some of the content before it gets more: `drained` waits."""
        return any(each.choked for each in self._live)

    async def drained(self) -> None:
        """Wait, within the time for a reply, while an upstream takes no content."""
        if self._head_whole:  # so that less is held meanwhile
            self.head = essence(self.head)
        began = self._now()
        until = began + self._relaying.times.reply
        try:
            for delivery in tuple(self._live):
                try:
                    await delivery.drained(until - self._now())
                except Broken as error:
                    self._fail(delivery, Verdict.of_broken(error))
        finally:
            self._phases.spent("content", began)

    def end(self, end: EndOfContent) -> None:
        """The client's message is whole: have the upstreams take it."""
        self.size = end.size
        self._until = self._now() + self._relaying.times.final
        self.finishing = True
        for delivery in tuple(self._live):
            flaw = self._flaw(delivery, end)
            if flaw is not None:
                self._fail(delivery, Verdict(flaw, Side.PROXY))
                continue
            try:
                delivery.end()
            except Broken as error:
                self._fail(delivery, Verdict.of_broken(error))

    async def outcome(self, accepted: Accepted) -> Verdict:
        """What becomes of the message for one recipient: a 2xx only where its upstream said so.

        To be asked of each, in their order.
        """
        delivery = accepted.delivery
        began = self._now()
        try:
            if delivery.failure is None:
                reply = await delivery.outcome(self._until - began)
                accepted.verdict = self._told(delivery, Verdict.of_upstream(reply))
        except Broken as error:
            delivery.failure = self._told(delivery, Verdict.of_broken(error))
        finally:
            self._phases.spent("final", began)
        accepted.verdict = accepted.verdict or delivery.failure
        assert accepted.verdict is not None
        if accepted is self._accepted[-1]:
            self.finishing = False
        return accepted.verdict

    def last_word(self, accepted: Accepted, abandoned: Verdict) -> Verdict:
        """What became of the message for a recipient; `abandoned` where nobody judged it."""
        if accepted.verdict or self.verdict or accepted.delivery.failure:
            return accepted.verdict or self.verdict or accepted.delivery.failure or abandoned
        return STOPPED if self.finishing else abandoned

    def _flaw(self, delivery: Delivery, end: EndOfContent) -> Reply | None:
        """Why an upstream cannot be given a message that is known to its end."""
        if end.size > self._live[delivery]:
            return TOO_BIG
        if end.header_size > self._relaying.max_header_bytes:
            return HEADER_TOO_BIG
        if end.bare and self._relaying.reject_bare_newline:
            return BARE_NEWLINE
        if delivery.carried.ascii_only and not end.ascii:
            return NOT_8BIT
        if delivery.carried.ascii_header and not end.header_ascii:
            return NOT_UTF8
        return None

    def _most_bytes(self, delivery: Delivery) -> int:
        ours = self._relaying.max_message_bytes
        return min(ours, delivery.size_limit or ours)

    def _fail(self, delivery: Delivery, verdict: Verdict) -> None:
        """An upstream does not get the message."""
        delivery.fail(self._told(delivery, verdict))
        del self._live[delivery]

    def _told(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """What the client is told of what one upstream says."""
        guard = self._relaying.guard
        if guard is not None and verdict.by is not _PROXY:
            upstream, reply = delivery.connection.upstream, verdict.reply
            verdict = verdict.told_as(guard.messages.told(upstream, self._address, reply))
        return verdict.of_one() if self._each else verdict

    def _deliveries(self) -> list[Delivery]:
        return list(dict.fromkeys([each.delivery for each in self._accepted]))


def _gentlest(verdicts: Iterable[Verdict]) -> Verdict:
    """The one to tell where only one can be: where one may pass, the client is to try again."""
    return min(verdicts, key=lambda verdict: verdict.reply.permanent)
