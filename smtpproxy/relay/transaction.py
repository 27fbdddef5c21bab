"""One message on its way: from MAIL to the reply to its end of data.

A transaction binds to an upstream only once that one has accepted a recipient.  It has one
`Delivery`, or where the client can be told of each recipient by itself (LMTP, PRDR) one for
each upstream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smtpproxy.deadlines import TimedOut
from smtpproxy.events import Side
from smtpproxy.relay.carried import NotCarried, carried_rcpt
from smtpproxy.relay.delivery import Delivery
from smtpproxy.relay.message import Accepted, Message
from smtpproxy.relay.outlet import Outlet
from smtpproxy.relay.relaying import Phases, Relaying, SessionView
from smtpproxy.relay.shadow import Shadow
from smtpproxy.relay.verdict import Verdict
from smtpproxy.routing import (
    Answer,
    Found,
    Identity,
    NoRoute,
    Refused,
    Route,
    TryAgain,
    Upstream,
)
from smtpproxy.smtp.commands import Command, Mail, Rcpt
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream import Broken, ClientRefused, Connection, Unreachable, UpstreamError

NO_ROUTE = Reply.of(550, "5.7.1", "Relay access denied")
LOOKUP_FAILED = Reply.of(451, "4.3.0", "The look-up of this recipient failed; try again later")
OTHER_UPSTREAM = Reply.of(
    452,
    "4.5.3",
    "This recipient's server is another one; send the message to it separately",
)
LMTP_UPSTREAM = Reply.of(
    452,
    "4.5.3",
    "This recipient's server answers each recipient; send the message to it separately",
)
TOO_MANY_RECIPIENTS = Reply.of(452, "4.5.3", "Too many recipients")

_PROXY, _RECEIVED = Side.PROXY, Identity.RECEIVED  # see `smtp.client`

Ahead = Callable[[], Sequence[Command]]

AHEAD_TIME = 0.5  # seconds that looking recipients up ahead may take: the first one waits for it
MOST_UPSTREAMS = 20  # of one transaction


class Transaction:
    """The envelope so far, and the upstreams that have a part in it."""

    def __init__(
        self,
        name: str,
        mail: Mail,
        relaying: Relaying,
        outlet: Outlet,
        session: SessionView,
        each: bool = False,
    ) -> None:
        """`name` is its id.  `each`: the client can be told of each recipient by itself."""
        self.name = name
        self.mail = mail
        self.each = each
        self.accepted: list[Accepted] = []
        self._now = relaying.deadlines.seconds
        self._phases = Phases(self._now)
        self.message = Message(
            self.accepted, relaying, self._phases, session.client.peer.address, each
        )
        self._relaying = relaying
        self._outlet = outlet
        self._session = session
        self._shadow: Shadow | None = None
        self._deliveries: dict[Upstream, Delivery] = {}  # those that took the MAIL
        self._refused: dict[Upstream, Verdict] = {}  # those that did not
        self._foreseen: list[tuple[Rcpt, Answer]] = []  # looked up ahead
        self._closed: Verdict | None = None  # a recipient was sent away: so are all further ones

    @property
    def bound(self) -> bool:
        """An upstream has accepted a recipient."""
        return bool(self.accepted)

    @property
    def begun(self) -> bool:
        """An upstream has been given the sender, and may have been given recipients ahead."""
        return bool(self._deliveries)

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds that were spent, by what they were spent on."""
        return self._phases.seconds

    def over(self) -> None:
        """No more recipients come: nothing is to be asked of the shadow any more."""
        if self._shadow is not None:
            self._shadow.end()

    def came_again(self, verdict: Verdict, recipients: Sequence[str], heard: bool) -> bool:
        """Is this message most likely a duplicate of one that was in doubt?  See `Doubts`.

        `verdict` is the last one on it, for `recipients`; `heard`: the client is there to hear it.
        """
        doubts = self._relaying.doubts
        taken = verdict.reply.success and not verdict.error
        if doubts is None or not (taken or verdict.in_doubt):
            return False
        sender, head = str(self.mail.sender), self.message.head
        again = doubts.settle(sender, recipients, head)
        if verdict.in_doubt or not heard:
            doubts.remember(sender, recipients, head)
        return again

    async def rcpt(self, rcpt: Rcpt, ahead: Ahead = tuple) -> Verdict:
        """What the client is told of a recipient.

        `ahead` gives the RCPTs, and a DATA, that are sure to follow: they are sent along with it
        where that saves a round trip.
        """
        # Some senders lose mail when a 250 follows a 452 in one pipeline.
        if self._closed is not None:
            return self._closed
        if len(self.accepted) >= self._relaying.max_recipients:
            return Verdict(TOO_MANY_RECIPIENTS, Side.PROXY)
        seconds = self._relaying.recipient_time
        until = self._now() + seconds
        answer = self._known(rcpt) or await self._look_up(rcpt, seconds)
        if not isinstance(answer, Found):
            return await self._unrouted(answer, until)
        verdict = await self._to(answer.route.upstream, rcpt, ahead, until)
        if verdict.by is not _PROXY:
            verdict = self._judged(verdict, rcpt, answer.route)
        if verdict.reply.code == 421:  # it ends the session, and with it the transaction
            self.message.verdict = verdict
        return verdict

    async def _unrouted(self, answer: Answer | None, until: float) -> Verdict:
        """What is told of a recipient for which the mappings have no upstream, or no answer."""
        if isinstance(answer, NoRoute):
            return Verdict(NO_ROUTE, Side.PROXY)
        if isinstance(answer, Refused):
            await self._relaying.deadlines.sleep(min(answer.wait, until - self._now()))
            return Verdict(answer.reply, Side.PROXY)
        reason = f"look-up not done within {self._relaying.recipient_time:g} s"
        if isinstance(answer, TryAgain):
            reason = answer.reason
        return Verdict(LOOKUP_FAILED, Side.PROXY, reason)

    def _judged(self, verdict: Verdict, rcpt: Rcpt, route: Route) -> Verdict:
        """What is told of what an upstream says of a recipient; its shadow is asked, too."""
        guard = self._relaying.guard
        if guard is not None:
            address = self._session.client.peer.address
            verdict = verdict.told_as(guard.recipients.told(route.upstream, address, verdict.reply))
        if route.row.shadow is not None and not verdict.error:
            self._overshadow(route.row.shadow, rcpt, verdict.reply)
        return verdict

    def _known(self, rcpt: Rcpt) -> Answer | None:
        """What the mappings have said of a recipient already."""
        if self._foreseen and self._foreseen[0][0] is rcpt:
            return self._foreseen.pop(0)[1]
        return None

    async def _look_up(self, rcpt: Rcpt, seconds: float) -> Answer | None:
        """What the mappings say of a recipient; None where they do not within `seconds`."""
        looking = self._relaying.router.route(
            rcpt.recipient, self.mail.sender, self._session.client
        )
        began = self._now()
        try:
            return await self._relaying.deadlines.limit(looking, seconds)
        except TimedOut:
            return None
        finally:
            self._phases.spent("lookup", began)

    async def _to(self, upstream: Upstream, rcpt: Rcpt, ahead: Ahead, until: float) -> Verdict:
        """Offer a recipient to its upstream, unless the transaction may not go there."""
        if self._refused and upstream in self._refused:
            return self._refused[upstream]
        delivery = self._deliveries.get(upstream)
        if delivery is None or not (delivery.usable or delivery.recipients):
            if self.bound and not self.each:
                return self._close(OTHER_UPSTREAM)
            if len(self._deliveries) >= MOST_UPSTREAMS:
                return self._close(TOO_MANY_RECIPIENTS)
            return await self._offer(upstream, rcpt, ahead, until)
        began = self._now()
        try:
            if delivery.offered is not rcpt:
                if (full := self._full(delivery, [rcpt])) is not None:
                    return self._close(full)
                delivery.offer(*await self._flight(delivery, rcpt, ahead))
            return await self._answered(delivery)
        except NotCarried as lack:
            return Verdict(lack.reply, Side.PROXY)
        except Broken as error:
            return Verdict.of_broken(error, delivery.connection)
        finally:
            self._phases.spent("envelope", began)

    async def _offer(self, upstream: Upstream, rcpt: Rcpt, ahead: Ahead, until: float) -> Verdict:
        """Offer a recipient to an upstream that has no part in the transaction as yet."""
        seconds = until - self._now()
        try:
            return await self._relaying.deadlines.limit(
                self._connect(upstream, rcpt, ahead, until), seconds
            )
        except TimedOut:
            reason = f"not done within {self._relaying.recipient_time:g} s"
            connection = self._outlet.cut(upstream)
            if connection is None:
                self._session.upstream_failed(upstream.servers[0], "", f"no connection: {reason}")
            else:
                reason = f"no answer to MAIL or RCPT: {reason}"
                self._session.upstream_failed(connection.server, connection.address, reason)
            whose = connection or upstream
            return Verdict(Unreachable(reason).reply, Side.UPSTREAM, reason, whose=whose)

    async def _connect(self, upstream: Upstream, rcpt: Rcpt, ahead: Ahead, until: float) -> Verdict:
        if not self.each:  # it goes to one alone
            self._deliveries.clear()
            self._outlet.leave_all_but([upstream])
        while True:
            began = self._now()
            try:
                connection = await self._outlet.to(
                    upstream, until - began, self._session.upstream_failed
                )
            except UpstreamError as error:
                theirs = isinstance(error, ClientRefused)
                whose = error.connection if isinstance(error, ClientRefused) else upstream
                return Verdict(error.reply, error.by, str(error), theirs=theirs, whose=whose)
            finally:
                self._phases.spent("connect", began)
            reused = connection.may_be_stale
            replay = self._replay(connection, rcpt, ahead)
            try:
                if reused:
                    # One that fell silent must leave time for a fresh one, elsewhere maybe.
                    left = until - self._now()
                    verdict = await self._relaying.deadlines.limit(replay, left / 2)
                else:
                    verdict = await replay
            except NotCarried as lack:
                return Verdict(lack.reply, Side.PROXY)
            except TimedOut:
                self._outlet.distrust(upstream)
                continue
            except Broken as error:
                verdict = Verdict.of_broken(error, connection)
            # One that was used before may break as it is used again, left idle for too long, say.
            # Nothing of this mail was accepted there: a fresh one may do better.
            if not (reused and connection.broken) or verdict.reply.success:
                return verdict
            self._refused.pop(upstream, None)

    async def _replay(self, connection: Connection, rcpt: Rcpt, ahead: Ahead) -> Verdict:
        """MAIL to an upstream, and the recipient with it."""
        preface = b""
        if connection.upstream.identity is _RECEIVED:
            preface = self._session.received(self.name)
        delivery = Delivery(
            connection,
            self.mail,
            self._relaying.times,
            each=self.each,
            preface=preface,
            prefer_chunks=self._relaying.prefer_chunks,
        )
        flight = await self._flight(delivery, rcpt, ahead)
        began = self._now()
        try:
            reply = await delivery.begin(*flight)
            if reply.success:
                self._deliveries[connection.upstream] = delivery
                return await self._answered(delivery)
        finally:
            self._phases.spent("envelope", began)
        # The session may have other mail.
        verdict = Verdict.of_upstream(reply, connection).of_one()
        self._refused[connection.upstream] = verdict
        return verdict

    async def _flight(
        self, delivery: Delivery, rcpt: Rcpt, ahead: Ahead
    ) -> tuple[list[Rcpt], bool]:
        """The recipients that go to the upstream at once, `rcpt` first, and whether DATA does, too.

        Raises `NotCarried` where not even `rcpt` can go there.
        """
        offered = delivery.connection.extensions
        carried_rcpt(rcpt, offered)
        flight = [rcpt]
        if not delivery.pipelining:
            return flight, False
        data = False
        until = self._now() + AHEAD_TIME
        foreseen: list[tuple[Rcpt, Answer]] = []
        for command in ahead():
            if not isinstance(command, Rcpt):
                data = not self.each and not delivery.carried.binary
                break
            if len(self.accepted) + len(flight) >= self._relaying.max_recipients:
                break
            answer = await self._foresee(command, until)
            if answer is None:
                break
            foreseen.append((command, answer))
            if not self._goes_with(delivery, flight, command, answer):
                break
            flight.append(command)
        self._foreseen[:0] = foreseen
        return flight, data

    async def _foresee(self, rcpt: Rcpt, until: float) -> Answer | None:
        """What is known of a recipient ahead of its turn, or can be by then."""
        answer = self._known(rcpt)
        if answer is None and self._now() < until:
            answer = await self._look_up(rcpt, until - self._now())
        return answer

    def _goes_with(
        self, delivery: Delivery, flight: Sequence[Rcpt], rcpt: Rcpt, answer: Answer
    ) -> bool:
        """May a recipient be offered before the replies to those in `flight` came?"""
        if not isinstance(answer, Found) or answer.route.upstream != delivery.connection.upstream:
            return False
        try:
            carried_rcpt(rcpt, delivery.connection.extensions)
        except NotCarried:
            return False
        return self._full(delivery, [*flight, rcpt]) is None

    def _full(self, delivery: Delivery, rcpts: Sequence[Rcpt]) -> Reply | None:
        """What is told of the last of `rcpts` where the upstream does not take as many."""
        together = len(delivery.recipients) + len(rcpts)
        if together > 1 and delivery.connection.server.lmtp and not self.each:
            return LMTP_UPSTREAM  # one reply cannot tell the truth of several mailboxes
        return None if delivery.has_room(rcpts) else TOO_MANY_RECIPIENTS

    def _close(self, reply: Reply) -> Verdict:
        self._closed = Verdict(reply, Side.PROXY)
        return self._closed

    async def _answered(self, delivery: Delivery) -> Verdict:
        """What an upstream says of the recipient that it was offered."""
        rcpt = delivery.offered
        assert rcpt is not None
        reply = await delivery.recipient()
        if reply.success:
            self.accepted.append(Accepted(str(rcpt.recipient), delivery))
        verdict = Verdict.of_upstream(reply, delivery.connection)
        return verdict.of_one() if self.each else verdict

    def _overshadow(self, shadow: Upstream, rcpt: Rcpt, reply: Reply) -> None:
        """Ask a shadow of the recipient, too; one for a transaction."""
        if self._shadow is None:
            caller = self._outlet.caller.as_it_is(self._session.client)
            self._shadow = self._relaying.shadows.begin(
                shadow, self.mail, caller, self._session.shadow_answered
            )
        if self._shadow is not None and self._shadow.upstream == shadow:
            self._shadow.ask(rcpt, reply)
