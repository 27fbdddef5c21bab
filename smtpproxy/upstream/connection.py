"""A connection to an upstream: commands out, replies in, content out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from OpenSSL import SSL

from smtpproxy.deadlines import TimedOut
from smtpproxy.events import Tls
from smtpproxy.mail import Client
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.client import ClientConnection, UnexpectedReply
from smtpproxy.smtp.commands import Command, Plain, Verb
from smtpproxy.smtp.errors import ProtocolError
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.states import State
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.tap import UNHEARD, Said, Tap, content_line, lines_of
from smtpproxy.tasks import start
from smtpproxy.upstream.errors import Broken, ChunkRefused, EarlyReply, InDoubt

MOST_CHUNKS = 50  # under way without a reply
QUIT_TIME = 5.0  # seconds that an upstream has to answer QUIT

_CONTENT, _ENDED = State.CONTENT, State.ENDED  # see `smtp.client`


class Connection:
    """One connection, from its greeting on.

    Every method that waits raises `Broken` when the upstream is gone, does not answer within
    the seconds given, or sends what is not SMTP; from then on `broken` says why, and
    the socket is closed.
    """

    def __init__(self, stream: Stream, upstream: Upstream, server: Server, address: str) -> None:
        """`server` is the one of `upstream` that is at `address`, its `host` a host's name."""
        self._stream = stream
        self._core = ClientConnection()
        self.upstream = upstream
        self.server = server
        self.address = address
        self.extensions = Extensions()
        self.tls: Tls | None = None
        self.transactions = 0  # begun on it
        self.told: Client | None = None  # whose mail it is for; None where it was not told
        self.first_choice = True  # no address before it was no use
        self.since = stream.seconds()
        self.kept = False  # it has waited for somebody to use it
        self.retired = False  # no further transaction is to begin on it
        self.traced = ""  # the session that it was told of by XCLIENT
        self._broken: str = ""
        self._session, self._tap = "", UNHEARD  # whom it serves, and who may listen to that
        self._octets = 0  # of content sent, since somebody listens

    def __repr__(self) -> str:
        state = self.broken or self._core.state.value
        return f"<Connection to {self.server} at {self.address}: {state}>"

    @property
    def place(self) -> str:
        """The server, and which of its addresses."""
        return self.server.at(self.address)

    @property
    def state(self) -> State:
        return self._core.state

    @property
    def broken(self) -> str:
        """Why the connection is of no use; "" as long as it is."""
        if self._broken:
            return self._broken
        if self._stream.lost:
            return f"the upstream closed the connection: {self._stream.lost}"
        return "the upstream ended the session" if self._core.state is _ENDED else ""

    @property
    def idle(self) -> bool:
        """Usable, and nothing came that no command asked for."""
        return not self.broken and self._core.quiet and not self._stream.unread

    @property
    def may_be_stale(self) -> bool:
        """The upstream may have closed it in the meantime, without our having seen it yet."""
        return self.kept or self.transactions > 0

    @property
    def used_up(self) -> bool:
        """It has carried as many transactions as it may (RFC 9422 section 4.1)."""
        return self.retired or self.transactions >= self.extensions.limits.get(
            "MAILMAX", self.transactions + 1
        )

    def seconds(self) -> float:
        """The time, for who gives several waits one deadline."""
        return self._stream.seconds()

    def serve(self, session: str, tap: Tap) -> None:
        """It is for the session of that name from now on, and who listens to it is told."""
        self._session, self._tap = session, tap

    def preface(self, data: bytes) -> None:
        """Send what stands in front of all SMTP, as the PROXY protocol's header does."""
        if self._tap.watch is not None:
            self._tell("P", (b"<PROXY header, %d octets>" % len(data),))
        self._stream.write(data)

    def on_lost(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the socket is closed; at once where it is already."""
        if self._stream.lost:
            callback()
        else:
            self._stream.on_lost = callback

    def ask(self, command: Command, seconds: float) -> Awaitable[Reply]:
        """Send `command`, at once, and wait for its reply, at most `seconds`."""
        self.send(command)
        return self.reply(seconds)

    def send(self, *commands: Command) -> None:
        """Send commands in one flight: several only where PIPELINING is announced (RFC 2920)."""
        self.send_raw(*[(command.verb, command.encode()) for command in commands])

    def send_raw(self, *lines: tuple[Verb, bytes]) -> None:
        """As `send`, for command lines already encoded."""
        self._take_unread()
        try:
            data = self._core.send_flight(lines)
        except ProtocolError as error:
            raise self._break(str(error)) from error
        if self._tap.watch is not None:
            self._tell("P", lines_of(data))
        self._stream.write(data)

    async def reply(self, seconds: float) -> Reply:
        """The reply to the oldest command under way, or the greeting: all of it in `seconds`."""
        core, stream = self._core, self._stream
        if core.state is _ENDED:  # by a 421, say: nothing behind it counts
            raise self._break(self.broken)
        try:
            reply = core.next_reply()
            if reply is None:
                until = stream.seconds() + seconds
                while reply is None:
                    core.receive(await stream.receive(until - stream.seconds()))
                    reply = core.next_reply()
        except Disconnected as error:
            raise self._break(f"the upstream closed the connection: {error}") from error
        except TimedOut as error:
            raise self._break(f"no answer within {max(seconds, 0):.3g} s") from error
        except ProtocolError as error:
            raise self._break(str(error)) from error
        if self._tap.watch is not None:
            self._tell("U", lines_of(reply.encode()))
        return reply

    def send_content(self, data: bytes) -> None:
        """Send a part of the message; `drained` waits where the upstream takes none.

        Raises `EarlyReply` where the upstream answered before the end.
        """
        if self._stream.unread or not self._core.quiet:
            self._check_early()
        if self.broken:
            raise Broken(self.broken)
        self._stream.write(self._core.send_content(data))
        if self._tap.watch is not None:
            self._octets += len(data)

    def send_chunk(self, data: bytes) -> None:
        """As `send_content`, as a BDAT chunk of its own.

        Raises `ChunkRefused` where one before it was refused.
        """
        self._check_chunks()
        try:
            self._stream.write(self._core.send_chunk(data))
        except ProtocolError as error:
            raise self._break(str(error)) from error
        if self._tap.watch is not None:
            self._tell("P", (b"BDAT %d" % len(data), *content_line(len(data))))

    @property
    def choked(self) -> bool:
        """The upstream does not take what was sent, or never will: `drained` tells."""
        return self._stream.choked

    async def drained(self, seconds: float) -> None:
        """Wait, at most `seconds`, while the upstream takes no content; raises as it is sent."""
        chunked = self._core.state is not _CONTENT
        check = self._check_chunks if chunked else self._check_early
        until = self._stream.seconds() + seconds
        try:
            if chunked:
                # RFC 3030 section 2: without PIPELINING each waits for its reply.
                most = MOST_CHUNKS if "PIPELINING" in self.extensions else 0
                while self._core.chunks_owed > most:
                    self._check_chunk(await self.reply(until - self._stream.seconds()))
            await self._stream.drain(until - self._stream.seconds())
        except Disconnected as error:
            check()
            raise self._break(f"the upstream closed the connection: {error}") from error
        except TimedOut as error:
            check()
            raise self._break(
                f"the upstream took no content for {max(seconds, 0):.3g} s"
            ) from error
        check()

    def end_content(self, data: bytes, recipients: int = 1, prdr: bool = False) -> None:
        """Send the last part, and the final dot with it; `final_reply` gives what comes of it.

        Raises `EarlyReply` as `content`.
        """
        self._check_early()
        self._stream.write(data + self._core.end_content(recipients, prdr))
        if self._tap.watch is not None:
            self._tell("P", (*content_line(self._octets + len(data)), b"."))
        self._octets = 0

    def end_chunks(self, data: bytes, recipients: int = 1, prdr: bool = False) -> None:
        """Send the last part as the last chunk; otherwise as `end_content`."""
        self._check_chunks()
        try:
            self._stream.write(self._core.end_chunks(data, recipients, prdr))
        except ProtocolError as error:
            raise self._break(str(error)) from error
        if self._tap.watch is not None:
            self._tell("P", (b"BDAT %d LAST" % len(data), *content_line(len(data))))

    async def final_reply(self, seconds: float) -> Reply:
        """The next reply to the end of the message.

        Raises `InDoubt` where none comes, `ChunkRefused` where a chunk before it was refused.
        """
        try:
            if self._core.chunks_owed:
                until = self._stream.seconds() + seconds
                while self._core.chunks_owed:
                    self._check_chunk(await self.reply(until - self._stream.seconds()))
                seconds = until - self._stream.seconds()
            return await self.reply(seconds)
        except ChunkRefused:
            raise
        except Broken as error:
            raise InDoubt(str(error)) from error

    async def start_tls(self, creator: object, seconds: float) -> SSL.Connection:
        """The TLS handshake, after a 220 to STARTTLS; gives OpenSSL's connection object."""
        if self._stream.unread:  # RFC 3207: nobody vouches for what came in plaintext
            raise self._break("plaintext after the reply to STARTTLS")
        try:
            return await self._stream.start_tls(creator, seconds)
        except Disconnected as error:
            raise self._break(f"TLS handshake: {error}") from error
        except TimedOut as error:
            raise self._break(f"TLS handshake: not done within {seconds:g} s") from error

    async def quit(self) -> None:
        """Say QUIT where it may be said, wait for the answer, if one comes in time, and close.

        Inside a message, where QUIT would be content, the connection is cut instead.
        """
        if not self.idle or self._core.state in (State.NEW, State.CONTENT, State.CHUNKS):
            self.abort()
            return
        try:
            with suppress(Broken):
                await self.ask(Plain(Verb.QUIT), QUIT_TIME)
        finally:  # also where nobody waits for the reply any more
            self._stream.let_close(QUIT_TIME)

    def leave(self) -> None:
        """As `quit`, without waiting."""
        start(self.quit())

    def abort(self) -> None:
        """Cut the connection: what was sent of a message never gets its final dot."""
        self._break("cut off by us")

    def _take_unread(self) -> None:
        """Have the core see what came while nobody waited for it."""
        if self.broken:
            raise Broken(self.broken)
        if self._stream.unread:
            self._core.receive(self._stream.take())

    def _check_early(self) -> None:
        """Raise `EarlyReply` where the upstream spoke inside the content, even as it closed."""
        if not self._broken and self._stream.unread:
            self._core.receive(self._stream.take())
        try:
            self._core.check_early()
        except UnexpectedReply as error:
            self._break(str(error))
            raise EarlyReply(error.reply) from error
        except ProtocolError as error:
            raise self._break(str(error)) from error
        if self.broken:
            raise Broken(self.broken)

    def _check_chunks(self) -> None:
        """Raise `ChunkRefused` where the replies to chunks that have come by now refuse one."""
        if not self._broken and self._stream.unread:  # it may have refused one, and closed
            self._core.receive(self._stream.take())
        try:
            while self._core.chunks_owed and (reply := self._core.next_reply()):
                self._check_chunk(reply)
        except ProtocolError as error:
            raise self._break(str(error)) from error
        if self.broken:
            raise Broken(self.broken)

    def _check_chunk(self, reply: Reply) -> None:
        if not reply.success:
            self._break(f"it refused a part of the message: {reply}")
            raise ChunkRefused(reply)

    def _tell(self, who: str, lines: tuple[bytes, ...]) -> None:
        """Tell who listens, if the connection serves a session."""
        if self._tap.watch is not None and self._session:
            names = str(self.upstream), str(self.server), self.address
            self._tap.watch(Said(self._session, who, lines, *names))

    def _break(self, reason: str) -> Broken:
        if self._tap.watch is not None and not self._broken:
            self._tell("P", (f"<connection ended: {reason}>".encode("utf-8", "replace"),))
        self._broken = self._broken or reason
        self._stream.abort()
        return Broken(self._broken)
