"""One message on its way: from MAIL to the reply to its end of data.

A transaction binds to an upstream only once that one has accepted a recipient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from twisted.internet.defer import CancelledError

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.events import Side
from smtpproxy.mail import Client
from smtpproxy.relay.delivery import Delivery, DeliveryTimes
from smtpproxy.relay.outlet import Outlet
from smtpproxy.relay.shadow import Shadow, Shadows
from smtpproxy.relay.verdict import Verdict
from smtpproxy.routing import (
    Answer,
    Identity,
    NoRoute,
    Refused,
    Router,
    Server,
    TryAgain,
    Upstream,
)
from smtpproxy.smtp.commands import Mail, Rcpt
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Content, EndOfContent
from smtpproxy.upstream import (
    BROKEN_REPLY,
    Broken,
    Connection,
    EarlyReply,
    InDoubt,
    Unreachable,
    UpstreamError,
)

NO_ROUTE = Reply.of(550, "5.7.1", "Relay access denied")
LOOKUP_FAILED = Reply.of(451, "4.3.0", "The look-up of this recipient failed; try again later")
OTHER_UPSTREAM = Reply.of(
    452,
    "4.5.3",
    "This recipient's server is another one; send the message to it separately",
)
TOO_MANY_RECIPIENTS = Reply.of(452, "4.5.3", "Too many recipients")
TOO_BIG = Reply.of(552, "5.3.4", "The message is too big")
BARE_NEWLINE = Reply.of(550, "5.6.11", "The message has a bare CR or LF")
NOT_8BIT = Reply.of(554, "5.6.3", "The recipient's server does not take 8-bit content")


@dataclass(frozen=True, slots=True)
class Relaying:
    """What every transaction of a listener is given: who is asked, and the limits.

    `recipient_time` is in seconds, all that the first RCPT may take; `max_message_bytes` in
    octets.  `reject_bare_newline`: refuse what would otherwise be made CRLF.
    """

    router: Router
    shadows: Shadows
    deadlines: Deadlines
    times: DeliveryTimes
    recipient_time: float
    max_message_bytes: int
    max_recipients: int
    reject_bare_newline: bool


class SessionView(Protocol):
    """The session, as its transactions know it."""

    @property
    def client(self) -> Client:
        """Who the client is, as far as that is known by now."""

    def received(self, transaction: str) -> bytes:
        """The `Received:` line for a transaction's message."""

    def upstream_failed(self, server: Server, address: str, reason: str) -> None:
        """An upstream's address was no use."""

    def shadow_answered(
        self, recipient: str, shadow: Upstream, reply: Reply, shadows: Reply
    ) -> None:
        """A shadow has said something of a recipient, beside the reply to the client."""


class Transaction:
    """The envelope so far, and the upstream that it is bound to."""

    def __init__(
        self,
        name: str,
        mail: Mail,
        relaying: Relaying,
        outlet: Outlet,
        session: SessionView,
    ) -> None:
        """`name` is its id."""
        self.name = name
        self.mail = mail
        self.recipients: list[str] = []
        self.size = 0  # octets of content so far
        self.phases: dict[str, float] = {}  # seconds
        self.delivery: Delivery | None = None  # the upstream that took MAIL last
        self.verdict: Verdict | None = None  # the last word on the message
        self.finishing = False  # the final dot is on its way: wait for the answer, come what may
        self._relaying = relaying
        self._outlet = outlet
        self._session = session
        self._shadow: Shadow | None = None
        self._connecting: Upstream | None = None
        self._refused: dict[Upstream, Verdict] = {}  # those that did not take the MAIL
        self._closed = False  # a recipient was sent away: so are all further ones
        self._failure: Verdict | None = None  # decided inside the content, said at its end

    @property
    def bound(self) -> Delivery | None:
        """The delivery that has accepted recipients: no other upstream takes part any more."""
        return self.delivery if self.recipients else None

    def over(self) -> None:
        """Nothing more comes of it."""
        if self._shadow is not None:
            self._shadow.end()

    async def rcpt(self, rcpt: Rcpt) -> Verdict:
        """What the client is told of a recipient."""
        # Some senders lose mail when a 250 follows a 452 in one pipeline.
        if self._closed:
            return Verdict(OTHER_UPSTREAM, Side.PROXY)
        if len(self.recipients) >= self._relaying.max_recipients:
            return Verdict(TOO_MANY_RECIPIENTS, Side.PROXY)
        verdict = await (self._route(rcpt) if self.bound else self._unbound(rcpt))
        if verdict.reply.success:
            self.recipients.append(str(rcpt.recipient))
        elif verdict.reply.code == 421:  # it ends the session, and with it the transaction
            self.verdict = verdict
        return verdict

    async def data(self) -> Verdict:
        """What the client is told of DATA: a 354 only from a live upstream."""
        assert self.delivery is not None
        with self._phase("envelope"):
            try:
                verdict = Verdict.of_upstream(await self.delivery.data())
            except Broken as error:
                verdict = _broken(error)
        self.verdict = None if verdict.reply.positive else verdict
        if verdict.reply.positive:  # no recipient comes any more: the shadow need not wait
            self.over()
        return verdict

    async def content(self, part: Content) -> None:
        """Carry a part of the message on; after a failure the rest is only taken in."""
        assert self.delivery is not None
        self.size = part.size
        if self._failure is not None:
            return
        if part.size > self._relaying.max_message_bytes:
            self._fail(Verdict(TOO_BIG, Side.PROXY))
            return
        with self._phase("content"):
            try:
                await self.delivery.content(part.data)
            except Broken as error:
                self._fail(_broken(error))

    async def end(self, end: EndOfContent) -> Verdict:
        """What the client is told of the message: a 2xx only where the upstream said so."""
        assert self.delivery is not None
        self.size = end.size
        if end.size > self._relaying.max_message_bytes:
            self._fail(Verdict(TOO_BIG, Side.PROXY))
        if end.bare and self._relaying.reject_bare_newline:
            self._fail(Verdict(BARE_NEWLINE, Side.PROXY))
        if self.delivery.ascii_only and not end.ascii:
            self._fail(Verdict(NOT_8BIT, Side.PROXY))
        self.verdict = self._failure or await self._finish(self.delivery)
        return self.verdict

    async def _finish(self, delivery: Delivery) -> Verdict:
        """Send the final dot and hear what the upstream says, even if the client is gone."""
        self.finishing = True
        try:
            with self._phase("final"):
                return Verdict.of_upstream(await delivery.end())
        except InDoubt as error:
            return Verdict(BROKEN_REPLY, Side.UPSTREAM, str(error), in_doubt=True)
        except CancelledError:
            error_text = "stopped while the upstream's answer was awaited"
            self.verdict = Verdict(BROKEN_REPLY, Side.PROXY, error_text, in_doubt=True)
            raise
        except Broken as error:
            return _broken(error)
        finally:
            self.finishing = False

    async def _unbound(self, rcpt: Rcpt) -> Verdict:
        """A recipient while no upstream is bound: all that it takes, within one deadline."""
        seconds = self._relaying.recipient_time
        try:
            return await self._relaying.deadlines.limit(self._route(rcpt), seconds)
        except TimedOut:
            reason = f"not done within {seconds:g} s"
            if self._connecting is None:
                return Verdict(LOOKUP_FAILED, Side.PROXY, f"look-up {reason}")
            self._outlet.cut()
            self._session.upstream_failed(self._connecting.servers[0], "", reason)
            return Verdict(Unreachable(reason).reply, Side.UPSTREAM, reason)

    async def _route(self, rcpt: Rcpt) -> Verdict:
        """Look the recipient up, and offer it to its upstream, if that one may have it."""
        self._connecting = None
        with self._phase("lookup"):
            answer = await self._look_up(rcpt)
        if isinstance(answer, NoRoute):
            return Verdict(NO_ROUTE, Side.PROXY)
        if isinstance(answer, TryAgain):
            return Verdict(LOOKUP_FAILED, Side.PROXY, answer.reason)
        if isinstance(answer, Refused):
            await self._relaying.deadlines.sleep(answer.wait)
            return Verdict(answer.reply, Side.PROXY)
        verdict = await self._to(answer.route.upstream, rcpt)
        if answer.route.row.shadow and not verdict.error and verdict.by is not Side.PROXY:
            self._overshadow(answer.route.row.shadow, rcpt, verdict.reply)
        return verdict

    async def _to(self, upstream: Upstream, rcpt: Rcpt) -> Verdict:
        """Offer a recipient to its upstream, unless another one has the transaction."""
        self._connecting = upstream
        if upstream in self._refused:
            return self._refused[upstream]
        if self.bound is None:
            return await self._offer(upstream, rcpt)
        if self.bound.connection.upstream != upstream:
            self._closed = True
            return Verdict(OTHER_UPSTREAM, Side.PROXY)
        with self._phase("envelope"):
            try:
                return Verdict.of_upstream(await self.bound.recipient(rcpt))
            except Broken as error:
                return _broken(error)

    async def _look_up(self, rcpt: Rcpt) -> Answer:
        """What the mappings say; a recipient after the first has no other deadline for it."""
        looking = self._relaying.router.route(
            rcpt.recipient, self.mail.sender, self._session.client
        )
        if self.bound is None:
            return await looking
        try:
            return await self._relaying.deadlines.limit(looking, self._relaying.recipient_time)
        except TimedOut as error:
            return TryAgain(f"look-up {error}")

    async def _offer(self, upstream: Upstream, rcpt: Rcpt) -> Verdict:
        """Offer a recipient to an upstream that has none yet, with MAIL before it where needed."""
        until = self._relaying.deadlines.seconds() + self._relaying.recipient_time
        while True:
            try:
                with self._phase("connect"):
                    connection = await self._outlet.to(
                        upstream,
                        until - self._relaying.deadlines.seconds(),
                        self._session.upstream_failed,
                    )
            except UpstreamError as error:
                return Verdict(error.reply, error.by, str(error))
            reused = connection.transactions > 0
            try:
                with self._phase("envelope"):
                    verdict = await self._replay(connection, rcpt)
            except Broken as error:
                verdict = _broken(error)
            # One that was used before may break as it is used again, left idle for too long, say.
            # Nothing of this mail was accepted there: a fresh one may do better.
            if not (reused and connection.broken):
                return verdict
            self._refused.pop(upstream, None)

    async def _replay(self, connection: Connection, rcpt: Rcpt) -> Verdict:
        if self.delivery is not None and self.delivery.connection is connection:
            return Verdict.of_upstream(await self.delivery.recipient(rcpt))
        preface = b""
        if connection.upstream.identity is Identity.RECEIVED:
            preface = self._session.received(self.name)
        delivery = Delivery(connection, self.mail, self._relaying.times, preface)
        mail_reply, reply = await delivery.begin(rcpt)
        if reply is None:
            if mail_reply.code == 421:  # it would end a session that may have other mail
                mail_reply = replace(mail_reply, code=451)
            verdict = self._refused[connection.upstream] = Verdict.of_upstream(mail_reply)
            return verdict
        self.delivery = delivery
        return Verdict.of_upstream(reply)

    def _overshadow(self, shadow: Upstream, rcpt: Rcpt, reply: Reply) -> None:
        """Ask a shadow of the recipient, too; one for a transaction."""
        if self._shadow is None:
            caller = self._outlet.caller.as_it_is(self._session.client)
            self._shadow = self._relaying.shadows.begin(
                shadow, self.mail, caller, self._session.shadow_answered
            )
        if self._shadow is not None and self._shadow.upstream == shadow:
            self._shadow.ask(rcpt, reply)

    def _fail(self, verdict: Verdict) -> None:
        """The message is lost to the upstream; the first reason is the one that is told."""
        if self._failure is None:
            assert self.delivery is not None
            self._failure = verdict
            self.delivery.abort()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = self._relaying.deadlines.seconds()
        try:
            yield
        finally:
            spent = self._relaying.deadlines.seconds() - started
            self.phases[name] = self.phases.get(name, 0.0) + spent


def _broken(error: Broken) -> Verdict:
    """What is told of an upstream that is gone.

    A permanent refusal that came before the end of data is one all the same; any other early
    reply means nothing, least of all a success.
    """
    if isinstance(error, EarlyReply) and error.reply.permanent:
        return Verdict.of_upstream(error.reply)
    return Verdict(BROKEN_REPLY, Side.UPSTREAM, str(error))
