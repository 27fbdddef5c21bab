"""One client's session, from greeting to close: `run` is the whole conversation.

It answers what can be answered before an upstream is known, hands the rest to the
transaction, and writes every reply in one place, in the order of the commands.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, takewhile

from twisted.internet.defer import CancelledError

from smtpproxy import tls
from smtpproxy.deadlines import TimedOut
from smtpproxy.events import (
    Connected,
    Disconnected,
    Observer,
    Refused,
    ShadowAnswered,
    Side,
    Tls,
    TlsStarted,
    TransactionEnded,
    UpstreamFailed,
)
from smtpproxy.listener.naming import Naming, ReverseName
from smtpproxy.listener.profile import Profile
from smtpproxy.listener.tally import Tally
from smtpproxy.mail import Client, Peer
from smtpproxy.relay import TOO_BIG, Outlet, Transaction, Verdict, received_line
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.commands import Bdat, Command, Hello, Mail, Plain, Rcpt, Verb
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.parameters import check_mail, check_rcpt
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import (
    Content,
    EndOfChunk,
    EndOfContent,
    Event,
    Refusal,
    ServerConnection,
)
from smtpproxy.smtp.states import State
from smtpproxy.stream import CLOSE_TIME, Stream
from smtpproxy.stream import Disconnected as Gone
from smtpproxy.upstream import Caller, Connection, Pool

OK = Reply.of(250, "2.0.0", "Ok")
SENDER_OK = Reply.of(250, "2.1.0", "Ok")
CANNOT_VERIFY = Reply.of(252, "2.0.0", "Cannot verify; send some mail and see")
NOT_EXPANDED = Reply.of(502, "5.5.1", "Lists are not expanded here")
HELP = Reply.of(214, "2.0.0", "This server speaks SMTP (RFC 5321)")
TLS_READY = Reply.of(220, "2.0.0", "Ready to start TLS")
TLS_ACTIVE = Reply.of(503, "5.5.1", "TLS is active already")
ABANDONED = Reply.of(451, "4.4.0", "The client ended the transaction")
TOO_MANY_ERRORS = Reply.of(421, "4.7.0", "Too many errors")
TIMEOUT = Reply.of(421, "4.4.2", "Timeout, closing the connection")
INTERNAL_ERROR = Reply.of(421, "4.3.0", "Internal error, closing the connection")
NO_TLS = Reply.of(502, "5.5.1", "STARTTLS is not offered")
NOT_ASCII = Reply.of(553, "5.6.7", "The address is not ASCII; MAIL did not say SMTPUTF8")
NEEDS_BDAT = Reply.of(503, "5.5.1", "Binary content is sent with BDAT")
CHUNK_OK = Reply.of(250, "2.0.0", "Ok, go on")
PRDR = Reply.of(353, "", "A reply for each recipient follows")
PRDR_OK = Reply.of(250, "2.0.0", "Ok, as said of each recipient")

TURN = 50  # commands after which the other sessions have their turn

# What is answered to commands that no upstream answers.
_OURS = {
    Verb.RSET: OK,
    Verb.NOOP: OK,
    Verb.VRFY: CANNOT_VERIFY,
    Verb.EXPN: NOT_EXPANDED,
    Verb.HELP: HELP,
}


class Stopping(Exception):
    """The program stops: sessions between transactions end at once."""


class TooManyErrors(Exception):
    """Bad commands, unknown recipients, or far too much of what does nothing."""


@dataclass(frozen=True, slots=True)
class _End:
    """How a session ended: why, "" where the client said QUIT, and what is still to be said."""

    reason: str = ""
    reply: Reply | None = None


class Session:
    """One client's connection; `run` it once."""

    def __init__(
        self,
        name: str,
        peer: Peer,
        stream: Stream,
        profile: Profile,
        pool: Pool,
        reverse_name: ReverseName,
        observe: Observer,
    ) -> None:
        """`name` is the session's id; `reverse_name` gives the confirmed name of an address."""
        self.name = name
        self.client = Client(peer)
        self.tls: Tls | None = None
        self.core = ServerConnection(profile.lmtp)
        self._announced = Extensions()  # to the client, as long as its EHLO counts
        self._stream = stream
        self._profile = profile
        self._deadlines = profile.relaying.deadlines
        self._observe = observe
        self._outlet = Outlet(pool, Caller(peer, self._identify), profile.relaying.times.reply)
        self._transaction: Transaction | None = None
        self._transactions = 0
        self._tally = Tally()
        self._stopping = False
        self._naming = Naming(peer.address, reverse_name, self._named)

    # What the shell calls.

    async def run(self) -> None:
        """The conversation, until all of it has left us; raises only what is a fault of ours."""
        await self._run()
        with suppress(TimedOut, CancelledError):
            await self._stream.gone(2 * CLOSE_TIME)

    def may_be_dropped(self) -> bool:
        """May whatever `run` waits for be given up, now that the client is gone?

        Not the answer to a final dot: the upstream may have taken the message.
        """
        return self._transaction is None or not self._transaction.message.finishing

    def stop(self) -> None:
        """End the session as soon as no transaction is under way."""
        self._stopping = True
        if self._nothing_accepted:
            self._stream.interrupt(Stopping())

    # The conversation.

    async def _run(self) -> None:
        started = self._deadlines.seconds()
        end = _End()
        try:
            self._observe(Connected(self.name, self.client))
            await self._converse()
        except Gone as error:
            end = _End(f"lost connection: {error}")
        except TimedOut as error:
            end = _End(f"timeout: {error}", TIMEOUT)
        except TooManyErrors:
            end = _End("too many errors", TOO_MANY_ERRORS)
        except Stopping:
            end = _End("", self._goodbye())
        except CancelledError:
            # The client is gone, or we stop and the time for that is over.
            end = _End("stopped", self._goodbye()) if self._stopping else _End("lost connection")
        except BaseException:
            end = _End("internal error", INTERNAL_ERROR)
            raise
        finally:
            self._finish(end, started)

    def _finish(self, end: _End, started: float) -> None:
        """Let go of everything, then tell of it."""
        if end.reply is not None:
            self._say(end.reply)
        self._outlet.leave()
        self._naming.cancel()
        self._stream.close()
        by = Side.CLIENT if end.reply is None else Side.PROXY
        self._end_transaction(Verdict(end.reply or ABANDONED, by, end.reason or "the client left"))
        after = self._tally.last if end.reason else ""
        seconds = self._deadlines.seconds() - started
        said = self._tally.commands()
        self._observe(Disconnected(self.name, self.client, seconds, said, after, end.reason))

    async def _converse(self) -> None:
        profile = self._profile
        protocol = "LMTP" if profile.lmtp else "ESMTP"
        self._say(Reply.of(220, "", f"{profile.domain} {protocol} smtpproxy"))
        for number in count(1):
            if self._ended:
                return
            if number % TURN == 0:  # the others have waited while this one had much to say
                await self._deadlines.turn()
            event = await self._next_event()
            reply = await self._answer(event)
            if reply is None:
                continue
            if isinstance(event, (Content, EndOfChunk, EndOfContent)):
                self._tally.content(reply)
            else:
                self._tally.command(event, reply)
            self._say(reply)
            if reply is TLS_READY:
                await self._start_tls()
            elif self._tally.errors >= profile.max_errors and not self._ended:
                raise TooManyErrors
            if self._stream.choked:
                await self._stream.drain(profile.command_time)

    async def _next_event(self) -> Event:
        core, stream = self.core, self._stream
        if self._stopping and self._nothing_accepted:
            raise Stopping
        if (event := core.next_event()) is not None:
            return event
        inside = core.state is State.CONTENT
        seconds = self._profile.data_time if inside else self._profile.command_time
        until = self._deadlines.seconds() + seconds
        while event is None:
            try:
                core.receive(await stream.receive(until - self._deadlines.seconds()))
            except TimedOut:
                raise TimedOut(seconds) from None
            event = core.next_event()
        return event

    async def _answer(self, event: Event) -> Reply | None:
        match event:
            case Content():
                assert self._transaction is not None
                await self._transaction.message.content(event)
                return None
            case Bdat():
                assert self._transaction is not None
                self._tally.chunk(event)
                self._transaction.over()
                await self._transaction.message.chunk()
                return None
            case EndOfChunk():
                return self._end_of_chunk()
            case EndOfContent():
                return await self._end_of_content(event)
            case Refusal():
                return self._refused(event.verb or "UNKNOWN", Verdict(event.reply, Side.PROXY))
            case Hello():
                return await self._hello(event)
            case Mail():
                reply = self._mail(event)
                return self._refused("MAIL", Verdict(reply, Side.PROXY), str(event.sender))
            case Rcpt():
                return await self._rcpt(event)
            case Plain(Verb.DATA):
                return await self._data()
            case Plain(Verb.STARTTLS):
                return self._starttls()
            case Plain():
                return await self._carry(event)
        raise AssertionError(event)

    async def _hello(self, hello: Hello) -> Reply:
        self._abandon_transaction("EHLO")
        if (hello.name, hello.esmtp) == (self.client.helo, self.client.esmtp):
            await self._outlet.reset()
        else:  # whom an upstream knows by another name is another client to it
            self._outlet.leave()
        self.client = replace(self.client, helo=hello.name, esmtp=hello.esmtp)
        secured = self.tls is not None
        self._announced = self._profile.offer(secured) if hello.esmtp else Extensions()
        self.core.chunking = "CHUNKING" in self._announced
        return Reply.of(250, "", self._profile.domain, *self._announced.lines())

    def _mail(self, mail: Mail) -> Reply:
        refusal = check_mail(mail.parameters, self._announced)
        if refusal is not None:
            return refusal
        if not mail.sender.ascii and "SMTPUTF8" not in mail.parameters:
            return NOT_ASCII
        if int(mail.parameters.get("SIZE", 0)) > self._profile.relaying.max_message_bytes:
            return TOO_BIG
        self._transactions += 1
        self._transaction = Transaction(
            f"{self.name}{self._transactions:02X}",
            mail,
            self._profile.relaying,
            self._outlet,
            self,
            each=self._profile.lmtp or "PRDR" in mail.parameters,
        )
        return SENDER_OK

    async def _rcpt(self, rcpt: Rcpt) -> Reply:
        transaction = self._transaction
        assert transaction is not None
        refusal = self._flaw(rcpt, transaction.mail)
        if refusal is not None:
            verdict = Verdict(refusal, Side.PROXY)
        else:
            verdict = await transaction.rcpt(rcpt, self._ahead)
        sender = str(transaction.mail.sender)
        return self._refused("RCPT", verdict, sender, str(rcpt.recipient))

    def _flaw(self, rcpt: Rcpt, mail: Mail) -> Reply | None:
        """What is wrong with a recipient, wherever it may go."""
        if not rcpt.recipient.ascii and "SMTPUTF8" not in mail.parameters:
            return NOT_ASCII
        return check_rcpt(rcpt.parameters, self._announced)

    def _ahead(self) -> list[Command]:
        """What is sure to follow and to be put to the transaction."""
        transaction = self._transaction
        if transaction is None or not self.core.buffered:
            return []
        fit = takewhile(
            lambda each: not isinstance(each, Rcpt) or self._flaw(each, transaction.mail) is None,
            self.core.ahead(),
        )
        return list(fit)

    async def _data(self) -> Reply:
        assert self._transaction is not None
        if self._transaction.mail.parameters.get("BODY", "").upper() == "BINARYMIME":
            return NEEDS_BDAT  # RFC 3030 section 3
        verdict = await self._transaction.message.data()
        if verdict.reply.positive:
            self._transaction.over()
        return verdict.reply

    def _end_of_chunk(self) -> Reply:
        assert self._transaction is not None
        verdict = self._transaction.message.failure
        if verdict is None:
            return CHUNK_OK
        self._end_transaction(verdict)
        return verdict.reply

    async def _end_of_content(self, end: EndOfContent) -> Reply:
        transaction = self._transaction
        assert transaction is not None
        transaction.message.end(end)
        reply = await self._outcome(transaction)
        self._end_transaction(Verdict(ABANDONED, Side.CLIENT))
        self._tally.message()
        return reply

    async def _outcome(self, transaction: Transaction) -> Reply:
        """The reply to a message, the one for all that comes last.

        RFC 2033 section 4.2: with LMTP, each recipient has one, and there is none for all.
        """
        accepted = transaction.accepted
        if not transaction.each:
            verdicts = [await transaction.message.outcome(each) for each in accepted]
            return verdicts[0].reply  # they are all of one upstream
        if not self._profile.lmtp:
            self._say_interim(PRDR)
        replies = []
        reads = True  # the client, what we say
        for each in accepted:
            reply = (await transaction.message.outcome(each)).reply
            replies.append(reply)
            if not self._profile.lmtp or len(replies) < len(accepted):
                self._say_interim(reply)
                if reads:
                    try:
                        await self._stream.drain(self._profile.command_time)
                    except (Gone, TimedOut):  # what the upstreams say is heard all the same
                        reads = False
        if self._profile.lmtp:
            return replies[-1]
        # Exim takes a refusal here for one of all recipients, those of earlier messages included.
        return PRDR_OK

    async def _carry(self, command: Plain) -> Reply:
        """A command that is not about mail: the upstream's reply, or ours where there is none."""
        if command.verb is Verb.RSET:
            self._abandon_transaction("RSET")
            return await self._outlet.reset() or OK
        if self.core.state is State.CHUNKS and command.verb is not Verb.QUIT:
            return _OURS[command.verb]  # to the upstream, nothing but chunks may be said
        if command.verb is Verb.QUIT:  # nothing more is at stake: the client need not wait
            self._abandon_transaction("QUIT")
            self._outlet.leave()
            return self._goodbye()
        reply = await self._outlet.carry(command)
        return reply or _OURS[command.verb]

    def _starttls(self) -> Reply:
        if self.tls is not None:
            return TLS_ACTIVE
        return TLS_READY if "STARTTLS" in self._profile.offer(False) else NO_TLS

    async def _start_tls(self) -> None:
        context = self._profile.tls_context
        assert context is not None
        self._outlet.leave()
        connection = await self._stream.start_tls(tls.ServerTls(context), self._profile.tls_time)
        self.tls = tls.describe(connection)
        self.client = replace(self.client, helo="", esmtp=True)
        self._observe(TlsStarted(self.name, self.client, self.tls))

    # Who the client is.

    def _named(self, name: str) -> None:
        self.client = replace(self.client, name=name)

    async def _identify(self, with_name: bool) -> Client:
        """The client; with its name, once that is known: finding it has a deadline of its own."""
        if with_name:
            await self._naming.done()
        return self.client

    # Replies, and what is told of them.

    def _say(self, reply: Reply) -> None:
        if not self._ended:
            self._stream.write(self.core.reply(reply))

    def _say_interim(self, reply: Reply) -> None:
        self._stream.write(self.core.interim(reply))

    def _goodbye(self) -> Reply:
        if self._stopping:
            return Reply.of(421, "4.3.2", f"{self._profile.domain} is shutting down")
        return Reply.of(221, "2.0.0", "Bye")

    @property
    def _ended(self) -> bool:
        return self.core.state is State.ENDED

    @property
    def _nothing_accepted(self) -> bool:
        """Nobody has taken on a recipient of the transaction under way, if there is one."""
        return self.core.state in (State.NEW, State.GREETED, State.READY, State.SENDER)

    def _refused(
        self, stage: str, verdict: Verdict, sender: str | None = None, recipient: str | None = None
    ) -> Reply:
        """The reply, which is told of where it refuses a command."""
        if not verdict.reply.positive:
            event = Refused(
                self.name,
                self.client,
                stage,
                verdict.reply,
                verdict.by,
                sender,
                recipient,
                verdict.error,
            )
            self._observe(event)
        return verdict.reply

    # What a transaction knows of its session (`SessionView`).

    def received(self, transaction: str) -> bytes:
        return received_line(
            self.client,
            self.tls is not None,
            self._profile.domain,
            transaction,
            self._profile.now(),
        )

    def upstream_failed(self, server: Server, address: str, reason: str) -> None:
        self._observe(UpstreamFailed(self.name, str(server), address, reason))

    def shadow_answered(
        self, recipient: str, shadow: Upstream, reply: Reply, shadows: Reply
    ) -> None:
        self._observe(
            ShadowAnswered(self.name, self.client, recipient, str(shadow), reply, shadows)
        )

    def _abandon_transaction(self, why: str) -> None:
        """The client has no more to do with the transaction, if one is under way."""
        self._end_transaction(Verdict(ABANDONED, Side.CLIENT, why))

    def _end_transaction(self, abandoned: Verdict) -> None:
        """The transaction is over: tell of it, if upstreams had a part in it.

        `abandoned` counts where nobody judged the message.
        """
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            return
        transaction.over()
        shares: dict[tuple[Connection, Verdict], list[str]] = {}
        for each in transaction.accepted:
            verdict = transaction.message.last_word(each, abandoned)
            shares.setdefault((each.delivery.connection, verdict), []).append(each.recipient)
        for number, ((connection, verdict), recipients) in enumerate(shares.items()):
            self._observe(
                TransactionEnded(
                    session=self.name,
                    # Upstreams and replies that differ make several of one.
                    transaction=transaction.name + (f"{number:02X}" if number else ""),
                    client=self.client,
                    client_tls=self.tls,
                    sender=str(transaction.mail.sender),
                    recipients=tuple(recipients),
                    server=str(connection.server),
                    address=connection.address,
                    upstream_tls=connection.tls,
                    reply=verdict.reply,
                    by=verdict.by,
                    size=transaction.message.size,
                    phases=transaction.phases,
                    error=verdict.error,
                    in_doubt=verdict.in_doubt,
                )
            )
