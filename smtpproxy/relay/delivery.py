"""One upstream's share of a transaction: MAIL and RCPT replayed, the content carried.

**The end of the message is sent by `end` alone, and only for content that its sender ended.**
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from smtpproxy.relay.carried import carried_mail, carried_rcpt
from smtpproxy.relay.verdict import Verdict
from smtpproxy.smtp.chunks import Stuffer, Unstuffer
from smtpproxy.smtp.commands import Command, Mail, Plain, Rcpt, Verb
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.states import State
from smtpproxy.upstream import Broken, Connection
from smtpproxy.values import value

MOST_HELD = 32 * 1024  # octets that wait to be sent as a chunk

_DATA = Plain(Verb.DATA)
_READY = State.READY  # see `smtp.client`
_USABLE = State.SENDER, State.RECIPIENTS
_GO_AHEAD = Reply.of(354, "", "Go ahead")


@value
class DeliveryTimes:
    """Deadlines, in seconds, of what an upstream may take."""

    reply: float
    final: float


class Delivery:
    """The part of a message that one upstream takes.

    Commands go in one flight where the upstream takes PIPELINING (RFC 2920), else one by one.
    Methods that wait raise `Broken` when the upstream is gone or does not answer.
    """

    def __init__(
        self,
        connection: Connection,
        mail: Mail,
        times: DeliveryTimes,
        *,
        each: bool = False,
        preface: bytes = b"",
        prefer_chunks: bool = False,
    ) -> None:
        """`preface` is sent in front of the content: whole lines of its header.

        `each`: the client can be told of each recipient by itself.  `prefer_chunks`: send content
        by BDAT where the upstream takes it, also where it came by DATA.  Raises `NotCarried`.
        """
        tls = connection.tls
        verified = tls is not None and tls.verified
        self.connection = connection
        # LMTP answers for each recipient by itself, and has no use for PRDR.
        prdr = each and not connection.server.lmtp
        self.carried = carried_mail(mail, connection.extensions, verified, prdr)
        self.pipelining = "PIPELINING" in connection.extensions
        self.size_limit = connection.extensions.size_limit
        self.recipients: list[Rcpt] = []  # accepted
        self.failure: Verdict | None = None  # why none of them gets the message
        self._times = times
        self._preface = preface
        self._prefer_chunks = prefer_chunks
        self._unsent: list[Command] = []
        self._offered: list[Rcpt] = []  # no reply came as yet
        self._data_asked = False
        self.chunked = False
        self._held = b""
        self._convert: Callable[[bytes], bytes] = _as_it_is
        self._stuffer: Stuffer | None = None
        self._final: list[Reply] = []  # for the recipients that no outcome was asked for

    @property
    def usable(self) -> bool:
        """Recipients may be offered."""
        return self.connection.state in _USABLE and not self.connection.broken

    @property
    def offered(self) -> Rcpt | None:
        """The recipient whose reply comes next, if one was offered ahead."""
        return self._offered[0] if self._offered else None

    def has_room(self, ahead: Sequence[Rcpt]) -> bool:
        """Does the upstream take one more, were those `ahead`, the last of them the one, accepted?

        RFC 9422 section 4: no more than it said.
        """
        limits = self.connection.extensions.limits
        if not limits:
            return True
        taken = [rcpt.recipient for rcpt in (*self.recipients, *ahead)]
        domains = {path.domain.lower() for path in taken}
        return len(taken) <= limits.get("RCPTMAX", len(taken)) and len(domains) <= limits.get(
            "RCPTDOMAINMAX", len(domains)
        )

    async def begin(self, rcpts: Sequence[Rcpt], data: bool = False) -> Reply:
        """Say MAIL and offer the first recipients: the reply to MAIL.

        Where it refuses, no reply to the others is to come.
        """
        if self.connection.state is not _READY:
            raise AssertionError(f"MAIL {self.connection.state.value}")
        self.connection.transactions += 1
        self._send(self.carried.mail, *self._flight(rcpts, data))
        reply = await self._reply()
        if not reply.success:
            behind = 0 if self._unsent else len(self._offered) + self._data_asked
            self._unsent.clear()
            self._offered.clear()
            self._data_asked = False
            if reply.code != 421:  # where it closes, it answers nothing more
                with suppress(Broken):  # what it said of MAIL stands
                    for _ in range(behind):
                        await self._reply()
        return reply

    def offer(self, rcpts: Sequence[Rcpt], data: bool = False) -> None:
        """Offer further recipients, and ask for DATA behind them."""
        self._send(*self._flight(rcpts, data))

    async def recipient(self) -> Reply:
        """The reply to the recipient that was offered first of those without one."""
        rcpt = self._offered.pop(0)
        reply = await self._reply()
        if reply.success:
            self.recipients.append(rcpt)
        if self._data_asked and not self._offered and not self.recipients:
            self._data_asked = False
            with suppress(Broken):  # what it said of the recipient stands
                # Nobody is to get what it waits for after a 354.
                if reply.code != 421 and (await self._reply()).code == 354:
                    self.abort()
        return reply

    def ask_data(self, stuffed: bool) -> None:
        """Have the upstream get ready for content: `stuffed` where it comes as after DATA."""
        chunking = "CHUNKING" in self.connection.extensions
        self.chunked = chunking and not self._data_asked and (self._prefer_chunks or not stuffed)
        if self.chunked:
            if self.connection.broken:
                raise Broken(self.connection.broken)
            self._convert = Unstuffer().feed if stuffed else _as_it_is
            return
        if not stuffed:
            self._stuffer = Stuffer()
            self._convert = self._stuffer.feed
        if not self._data_asked:
            self._data_asked = True
            self._send(_DATA)

    async def data(self, seconds: float) -> Reply:
        """The reply to DATA, within `seconds`: after a 354, content is to follow."""
        reply = _GO_AHEAD if self.chunked else await self._reply(seconds)
        self._data_asked = False
        if reply.code == 354 and self._preface:
            self._write(self._preface)
        return reply

    def content(self, data: bytes, last: bool = False) -> None:
        """Send a part of the content; `drained` waits where the upstream takes none.

        The last one waits for `end`, which sends it with what ends the message.
        """
        data = self._convert(data)
        if last and not self.chunked:
            self._held = data
        elif not self.chunked:
            self._write(data)
        elif len(self._held) + len(data) <= MOST_HELD:
            self._held += data
        else:
            data, self._held = self._held, data
            self._write(data)

    @property
    def choked(self) -> bool:
        """The upstream may have to be waited for: `drained` tells."""
        return self.chunked or self.connection.choked

    def drained(self, seconds: float) -> Awaitable[None]:
        """Wait, at most `seconds`, while the upstream takes no content."""
        return self.connection.drained(seconds)

    def end(self) -> None:
        """Send the end of the message: `outcome` gives what the upstream says of it."""
        prdr = "PRDR" in self.carried.mail.parameters
        each = prdr or self.connection.server.lmtp
        replies = len(self.recipients) if each else 1
        if self.chunked:
            self.connection.end_chunks(self._held, replies, prdr)
            return
        rest = self._stuffer.end() if self._stuffer is not None else b""
        self.connection.end_content(self._held + rest, replies, prdr)

    async def outcome(self, seconds: float) -> Reply:
        """What the upstream says of the message for its next recipient.

        Waits at most `seconds`; may raise `InDoubt`.
        """
        if not self._final:
            connection = self.connection
            until = connection.seconds() + seconds
            reply = await connection.final_reply(seconds)
            if reply.code == 353:
                await self._hear_each(until)
            elif connection.server.lmtp:
                self._final.append(reply)
            else:
                self._final += [reply] * len(self.recipients)
        return self._final.pop(0)

    async def _hear_each(self, until: float) -> None:
        """With PRDR: a reply for each recipient, and one for all."""
        connection = self.connection
        replies = [
            await connection.final_reply(until - connection.seconds()) for _ in self.recipients
        ]
        overall = await connection.final_reply(until - connection.seconds())
        # A success is one only where the reply for all of the message is one, too.
        self._final += [
            each if overall.success or not each.success else overall for each in replies
        ]

    def abort(self) -> None:
        """Drop the upstream: what it has of the message never gets its end."""
        self.connection.abort()

    def fail(self, verdict: Verdict) -> None:
        """The message is lost to the upstream; the first reason is the one that is told."""
        if self.failure is None:
            self.failure = verdict
            self.abort()

    def _flight(self, rcpts: Sequence[Rcpt], data: bool) -> list[Command]:
        self._offered += rcpts
        self._data_asked = data
        commands = [carried_rcpt(rcpt, self.connection.extensions) for rcpt in rcpts]
        return [*commands, _DATA] if data else [*commands]

    def _send(self, *commands: Command) -> None:
        if self.pipelining:
            self.connection.send(*commands)
        else:
            self._unsent += commands

    def _reply(self, seconds: float | None = None) -> Awaitable[Reply]:
        if self._unsent:
            self.connection.send(self._unsent.pop(0))
        return self.connection.reply(self._times.reply if seconds is None else seconds)

    def _write(self, data: bytes) -> None:
        if data:
            send = self.connection.send_chunk if self.chunked else self.connection.send_content
            send(data)


def _as_it_is(data: bytes) -> bytes:
    return data
