"""One client's session, from greeting to close: `run` is the whole conversation.

It answers what can be answered before an upstream is known, hands the rest to the
transaction, and writes every reply in one place, in the order of the commands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import takewhile

from twisted.internet.defer import CancelledError

from smtpproxy import tls
from smtpproxy.deadlines import TimedOut
from smtpproxy.events import (
    Connected,
    Disconnected,
    Introduced,
    Observer,
    Refused,
    ShadowAnswered,
    Side,
    Tls,
    TlsStarted,
    UpstreamFailed,
)
from smtpproxy.listener.acquaintance import Acquaintance
from smtpproxy.listener.endings import About, endings
from smtpproxy.listener.heard import heard
from smtpproxy.listener.patience import Patience
from smtpproxy.listener.profile import Profile
from smtpproxy.listener.replies import (
    ABANDONED,
    CHUNK_OK,
    CROWDED,
    INTERNAL_ERROR,
    NEEDS_BDAT,
    NO_TLS,
    NOT_ASCII,
    OK,
    OURS,
    PRDR,
    PRDR_OK,
    SENDER_OK,
    TIMEOUT,
    TLS_ACTIVE,
    TLS_READY,
    TLS_TOO_LATE,
)
from smtpproxy.listener.tally import EXCESS, Tally
from smtpproxy.listener.trusted import announced, trust
from smtpproxy.listener.view import View
from smtpproxy.listener.visitors import Visitor
from smtpproxy.listener.voice import BYE, Voice
from smtpproxy.mail import Client, Peer
from smtpproxy.relay import TOO_BIG, Outlet, Transaction, Verdict, received_line
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.commands import (
    Bdat,
    Command,
    Hello,
    Introduction,
    Mail,
    Plain,
    Rcpt,
    Verb,
)
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.keywords import octets_added
from smtpproxy.smtp.parameters import check_mail, check_rcpt
from smtpproxy.smtp.paths import Path
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
from smtpproxy.smtp.xclient import NOTHING, Attributes
from smtpproxy.stream import CLOSE_TIME, Stream
from smtpproxy.stream import Disconnected as Gone
from smtpproxy.tap import Said, Tap
from smtpproxy.upstream import Caller
from smtpproxy.values import value

_CONTENT, _ENDED = State.CONTENT, State.ENDED  # see `smtp.client`
_NOTHING_ACCEPTED = frozenset({State.NEW, State.GREETED, State.READY, State.SENDER})
TURN = 50  # commands after which the other sessions have their turn


class Stopping(Exception):
    """The program stops: sessions between transactions end at once."""


class TooMany(Exception):
    """Bad commands and unknown recipients, or commands of any kind; the text says which."""


@value
class _End:
    """How a session ended: why, "" where the client said QUIT, and what is still to be said."""

    reason: str = ""
    reply: Reply | None = None


_LEFT = _End()  # as the client wants it
_NO_EXTENSIONS = Extensions()


Admit = Callable[["Session", str], Awaitable[Reply | None]]


class Session:
    """One client's connection; `run` it once."""

    __slots__ = (
        "_admit",
        "_announced",
        "_deadlines",
        "_forwarded",
        "_observe",
        "_outlet",
        "_patience",
        "_profile",
        "_stopping",
        "_stream",
        "_tally",
        "_tls_too_late",
        "_transaction",
        "_transactions",
        "_voice",
        "_who",
        "core",
        "name",
        "since",
        "tap",
        "tls",
        "visitor",
    )

    def __init__(
        self,
        name: str,
        peer: Peer,
        stream: Stream,
        profile: Profile,
        observe: Observer,
        visitor: Visitor,
        tap: Tap,
        admit: Admit,
    ) -> None:
        """`name` is the session's id; `tap` is told what is said.

        `admit` gives the refusal where it may not be that of a client of another address.
        """
        self.name = name
        self._who = Acquaintance(peer, profile.reverse_name)
        self.visitor = visitor
        self.tls: Tls | None = None
        self.tap = tap
        self.core = ServerConnection(profile.lmtp)
        self._voice = Voice(name, profile, self.core, stream, tap)
        self.core.trust = trust(profile, peer.address)
        self._admit = admit
        self._forwarded: Attributes = NOTHING  # what XFORWARD said of the next transaction
        self._announced = _NO_EXTENSIONS  # to the client, as long as its EHLO counts
        self._stream = stream
        self._profile = profile
        self._deadlines = profile.relaying.deadlines
        self._observe = observe
        self._outlet = Outlet(profile.pool, self._caller(peer), profile.relaying.times.reply)
        self._transaction: Transaction | None = None
        self._transactions = 0
        self._tally = Tally(profile.limits)
        self._patience = Patience(profile, self._deadlines.seconds)
        self._stopping = False
        self.since = self._deadlines.seconds()
        self._tls_too_late = False  # XCLIENT came in clear

    @property
    def client(self) -> Client:
        """Who it is, as far as that is known by now."""
        return self._who.client

    # What the shell calls.

    async def run(self) -> None:
        """The conversation, until all of it has left us; raises only what is a fault of ours."""
        end = _LEFT
        try:
            self._observe(Connected(self.name, self.client))
            await self._converse()
        except Gone as error:
            end = _End(f"lost connection: {error}")
        except TimedOut as error:
            end = _End(f"timeout: {error}", TIMEOUT)
        except TooMany as error:
            end = _End(f"too many {error}", EXCESS[str(error)])
        except Stopping:
            end = _End("", self._goodbye())
        except CancelledError:
            # The client is gone, or we stop and the time for that is over.
            end = _End("stopped", self._goodbye()) if self._stopping else _End("lost connection")
        except BaseException:
            end = _End("internal error", INTERNAL_ERROR)
            raise
        finally:
            self._finish(end)
        with suppress(TimedOut, CancelledError):
            await self._stream.gone(2 * CLOSE_TIME)

    def never_begins(self) -> None:
        """There is no conversation: nobody needs what was begun for it."""
        self._who.leaves()

    def may_be_dropped(self) -> bool:
        """May whatever `run` waits for be given up, now that the client is gone?

        Not the answer to a final dot: the upstream may have taken the message.
        """
        return self._transaction is None or not self._transaction.message.finishing

    def view(self) -> View:
        """What there is to see of it now."""
        return View(
            self.name,
            self.client,
            self.tls,
            self._stage(),
            self._deadlines.seconds() - self.since,
            self._transactions,
            self._outlet.servers,
        )

    def _stage(self) -> str:
        if self._transaction is not None and self._transaction.message.finishing:
            return "the message awaits its answer"
        verb = self.core.unanswered
        return f"{verb.value} is being answered" if verb else self.core.state.value

    def stop(self) -> None:
        """End the session as soon as no transaction is under way."""
        self._stopping = True
        if self._nothing_accepted:
            self._stream.interrupt(Stopping())

    # The conversation.

    def _finish(self, end: _End) -> None:
        """Let go of everything, then tell of it."""
        if end.reply is not None:
            self._voice.say(self._voice.signed(Verdict(end.reply, Side.PROXY)))
        self._outlet.leave()
        self._who.leaves()
        self._stream.close(linger=end.reply is not None)
        by = Side.CLIENT if end.reply is None else Side.PROXY
        self._end_transaction(Verdict(end.reply or ABANDONED, by, end.reason or "the client left"))
        after = self._tally.last if end.reason else ""
        seconds = self._deadlines.seconds() - self.since
        said = self._tally.commands()
        self._observe(Disconnected(self.name, self.client, seconds, said, after, end.reason))

    async def _converse(self) -> None:
        core = self.core
        said = 0
        self._voice.say(self._voice.greeting())
        while core.state is not _ENDED:
            said += 1
            if said % TURN == 0:  # the others have waited while this one had much to say
                self._stream.hold()
                await self._deadlines.turn()
            if self._stopping and self._nothing_accepted:
                raise Stopping
            event = core.next_event()
            if event is None:
                event = await self._patience.next_event(core, self._stream)
            if self.tap.watch is not None and (lines := heard(event)):
                self.tap.watch(Said(self.name, "C", lines))
            reply = await self._answer(event)
            if reply is None:
                continue
            if isinstance(event, (Content, EndOfChunk, EndOfContent)):
                self._tally.content(reply)
            else:
                self._tally.command(event, reply)
            self._voice.say(reply)
            if reply is TLS_READY:
                await self._start_tls()
            elif self._tally.excess and core.state not in (_CONTENT, _ENDED):
                raise TooMany(self._tally.excess)
            if self._stream.choked:
                await self._stream.drain(self._profile.command_time)

    async def _answer(self, event: Event) -> Reply | None:
        match event:
            case Content():
                assert self._transaction is not None
                self._transaction.message.content(event)
                if self._transaction.message.choked:
                    self._stream.hold()  # what the upstream does not take stays with the client
                    await self._transaction.message.drained()
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
                return self._refused("MAIL", Verdict(reply, Side.PROXY), event.sender)
            case Rcpt():
                return await self._rcpt(event)
            case Plain(Verb.DATA):
                return await self._data()
            case Plain(Verb.STARTTLS):
                return self._starttls()
            case Plain():
                return await self._carry(event)
            case Introduction():
                return await self._introduction(event)
        raise AssertionError(event)

    async def _hello(self, hello: Hello) -> Reply:
        self._abandon_transaction("EHLO")
        if self._who.greets(hello):
            await self._outlet.reset()
        else:  # whom an upstream knows by another name is another client to it
            self._outlet.leave()
        secured = self.tls is not None
        self._announced = self._profile.offer(secured) if hello.esmtp else _NO_EXTENSIONS
        self.core.chunking = "CHUNKING" in self._announced
        longest = self._profile.limits.command_bytes
        self.core.max_line = longest + octets_added(self._announced.keywords)
        lines = self._announced.lines()
        if self.core.trust or self._tls_too_late:
            lines = announced(lines, self.core.trust, self._tls_too_late)
        return Reply.of(250, "", self._profile.domain, *lines)

    def _mail(self, mail: Mail) -> Reply:
        refusal = check_mail(mail.parameters, self._announced)
        if refusal is not None:
            return refusal
        if not mail.sender.ascii and "SMTPUTF8" not in mail.parameters:
            return NOT_ASCII
        if int(mail.parameters.get("SIZE", 0)) > self._profile.relaying.max_message_bytes:
            return TOO_BIG
        refusal = self._tally.full() or self.visitor.sends()
        if refusal is not None:
            return refusal
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
            verdict = await self._offer(rcpt, transaction)
        return self._refused("RCPT", verdict, transaction.mail.sender, rcpt.recipient)

    async def _offer(self, rcpt: Rcpt, transaction: Transaction) -> Verdict:
        """Have the transaction take a recipient, unless too many sessions wait for that."""
        self.visitor.names_recipient()
        visitors = self.visitor.visitors
        if visitors.crowded and not transaction.begun:
            waiting = f"{visitors.waiting} sessions wait for an upstream"
            return Verdict(CROWDED, Side.PROXY, waiting)
        visitors.waiting += 1
        try:
            return await transaction.rcpt(rcpt, self._ahead)
        finally:
            visitors.waiting -= 1

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
        return self._voice.signed(verdict)

    def _end_of_chunk(self) -> Reply:
        assert self._transaction is not None
        verdict = self._transaction.message.failure
        if verdict is None:
            return CHUNK_OK
        self._end_transaction(verdict)
        return self._voice.signed(verdict)

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
            return self._voice.signed(verdicts[0])  # they are all of one upstream
        if not self._profile.lmtp:
            self._voice.say_interim(PRDR)
        replies = []
        reads = True  # the client, what we say
        for each in accepted:
            reply = self._voice.signed(await transaction.message.outcome(each))
            replies.append(reply)
            if not self._profile.lmtp or len(replies) < len(accepted):
                self._voice.say_interim(reply)
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
            return OURS[command.verb]  # to the upstream, nothing but chunks may be said
        if command.verb is Verb.QUIT:  # nothing more is at stake: the client need not wait
            self._abandon_transaction("QUIT")
            self._outlet.leave()
            return self._goodbye()
        reply = await self._outlet.carry(command)
        return reply or OURS[command.verb]

    def _starttls(self) -> Reply:
        if self.tls is not None:
            return TLS_ACTIVE
        if self._tls_too_late:
            return TLS_TOO_LATE
        return TLS_READY if "STARTTLS" in self._profile.offer(False) else NO_TLS

    async def _start_tls(self) -> None:
        context = self._profile.tls_context
        assert context is not None
        self._outlet.leave()
        connection = await self._stream.start_tls(tls.ServerTls(context), self._profile.tls_time)
        self.tls = tls.describe(connection)
        self._who.begins_anew()
        self._forwarded = NOTHING
        self._observe(TlsStarted(self.name, self.client, self.tls))

    # Who the client is.

    async def _introduction(self, introduction: Introduction) -> Reply:
        """XFORWARD: what the log is to tell of the next transaction.  XCLIENT: a new client."""
        said = introduction.said
        if introduction.verb is Verb.XFORWARD:
            self._forwarded = {**self._forwarded, **said}
            return OK
        client = self._who.would_be(said)
        if client.peer.address != self.client.peer.address:
            refusal = await self._admit(self, client.peer.address)
            if refusal is not None:
                return self._refused("XCLIENT", Verdict(refusal, Side.PROXY))
        self._who.introduces(said)
        self._tls_too_late = self.tls is None
        self._outlet.leave()
        self._outlet.caller = self._caller(client.peer)
        self._announced, self.core.chunking = _NO_EXTENSIONS, False
        self.core.trust = trust(self._profile, client.peer.address)
        self._observe(Introduced(self.name, client))
        return self._voice.greeting()

    def _caller(self, peer: Peer) -> Caller:
        return Caller(peer, self._who.identify, self.name, self.tap)

    # Replies, and what is told of them.

    def _goodbye(self) -> Reply:
        return self._voice.stopping() if self._stopping else BYE

    @property
    def _nothing_accepted(self) -> bool:
        """Nobody has taken on a recipient of the transaction under way, if there is one."""
        return self.core.state in _NOTHING_ACCEPTED

    def _refused(
        self,
        stage: str,
        verdict: Verdict,
        sender: Path | None = None,
        recipient: Path | None = None,
    ) -> Reply:
        """The reply, which is told of where it refuses a command."""
        if not verdict.reply.positive:
            event = Refused(
                self.name,
                self.client,
                stage,
                verdict.reply,
                verdict.by,
                None if sender is None else str(sender),
                None if recipient is None else str(recipient),
                verdict.error,
                *verdict.place,
            )
            self._observe(event)
        return self._voice.signed(verdict)

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
        forwarded, self._forwarded = self._forwarded, NOTHING
        if transaction is None:
            return
        transaction.over()
        about = About(self.name, self._who.client, self.tls, forwarded)
        for event in endings(transaction, about, abandoned, self._stream.lost is None):
            self._observe(event)
