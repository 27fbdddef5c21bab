"""One upstream's share of a transaction: MAIL and RCPT replayed, the content carried.

**The final dot is sent by `end` alone, and only for content that its sender ended.**
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpproxy.smtp.commands import Mail, Plain, Rcpt, Verb
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.states import State
from smtpproxy.upstream import Connection


@dataclass(frozen=True, slots=True)
class DeliveryTimes:
    """Deadlines, in seconds, of what an upstream may take."""

    reply: float
    final: float


class Delivery:
    """The part of a message that one upstream takes.

    Methods that wait raise `Broken` when the upstream is gone or does not answer.
    """

    def __init__(
        self, connection: Connection, mail: Mail, times: DeliveryTimes, preface: bytes = b""
    ) -> None:
        """`preface` is sent in front of the content: whole lines of its header."""
        self.connection = connection
        self._preface = preface
        self._mail = _adapted(mail, connection.extensions)
        self._times = times
        # Without 8BITMIME there, 8-bit content may not pass as what it was declared (RFC 6152).
        self.ascii_only = mail.parameters.get("BODY") != self._mail.parameters.get("BODY")

    async def begin(self, rcpt: Rcpt) -> tuple[Reply, Reply | None]:
        """The replies to MAIL and to the first RCPT; None for the latter where MAIL was refused.

        One flight where the upstream takes PIPELINING: a round trip less (RFC 2920).
        """
        connection, seconds = self.connection, self._times.reply
        if connection.state is not State.READY:  # its MAIL stands, the RCPT before was refused
            raise AssertionError(f"MAIL {connection.state.value}")
        connection.transactions += 1
        if "PIPELINING" not in connection.extensions:
            mail_reply = await connection.ask(self._mail, seconds)
            if not mail_reply.success:
                return mail_reply, None
            return mail_reply, await connection.ask(rcpt, seconds)
        connection.send(self._mail, rcpt)
        mail_reply = await connection.reply(seconds)
        if mail_reply.code == 421:  # it closes, and answers nothing more
            return mail_reply, None
        rcpt_reply = await connection.reply(seconds)
        return mail_reply, rcpt_reply if mail_reply.success else None

    async def recipient(self, rcpt: Rcpt) -> Reply:
        """The reply to a further RCPT."""
        return await self.connection.ask(rcpt, self._times.reply)

    async def data(self) -> Reply:
        """The reply to DATA: after a 354, content is to follow."""
        reply = await self.connection.ask(Plain(Verb.DATA), self._times.reply)
        if reply.code == 354 and self._preface:
            await self.content(self._preface)
        return reply

    async def content(self, data: bytes) -> None:
        """Send a part of the content, as slowly as the upstream takes it."""
        await self.connection.content(data, self._times.reply)

    async def end(self) -> Reply:
        """Send the final dot: what the upstream says of the message; may raise `InDoubt`."""
        return await self.connection.end_content(self._times.final)

    def abort(self) -> None:
        """Drop the upstream: what it has of the message never gets its final dot."""
        self.connection.abort()


def _adapted(mail: Mail, extensions: Extensions) -> Mail:
    """`mail` with those parameters alone that the upstream takes."""
    needed = {"SIZE": "SIZE", "BODY": "8BITMIME"}
    return Mail(
        mail.sender,
        {
            keyword: value
            for keyword, value in mail.parameters.items()
            if needed[keyword] in extensions
        },
    )
