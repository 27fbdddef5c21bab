"""The server's end of a connection: a client's bytes in, commands and content out.

No I/O: `receive` takes what came, `next_event` gives what it means, `reply` gives the bytes
of an answer and moves the state.  A command is given only when the one before it was
answered, so replies leave in the order of the commands, whatever takes long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from smtpproxy.smtp.chunks import ChunkReader, ChunkSkipper
from smtpproxy.smtp.commands import (
    MAX_COMMAND_LINE,
    BadCommand,
    Bdat,
    Command,
    Introduction,
    Mail,
    Plain,
    Rcpt,
    Verb,
    parse_command,
)
from smtpproxy.smtp.content import DataReader
from smtpproxy.smtp.errors import LocalProtocolError
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.states import SERVER, State
from smtpproxy.values import value


@value
class Refusal:
    """A command that is refused whoever asks, and the reply: for bad syntax or bad sequence.

    `verb` is "" where the line holds no known command.  `said` is the line, or what it means.
    """

    verb: str
    reply: Reply
    said: bytes | Command | Introduction = field(default=b"", compare=False)


@value
class Content:
    """A part of the message, safe to send on as it is, and the octets so far.

    `last`: the end of the message is given out next.  After DATA it is dot-stuffed (see
    `DataReader`), after BDAT it is not (see `ChunkReader`).
    """

    data: bytes
    size: int
    last: bool = False


@value
class EndOfChunk:
    """The end of a BDAT chunk that is not the last; a reply is owed for it."""


@value
class EndOfContent:
    """The end of the message was met: `size` in octets (RFC 1870), whether all of them, and all
    of its header, had the eighth bit clear, whether a bare CR or LF was met, and the octets of the
    header."""

    size: int
    ascii: bool
    bare: bool
    header_ascii: bool = True
    header_size: int = 0


Event = Command | Introduction | Refusal | Content | EndOfChunk | EndOfContent

# Commands looked at ahead: each is looked at again for every one before it.
MOST_AHEAD = 100

_NEW, _GREETED, _READY, _SENDER = State.NEW, State.GREETED, State.READY, State.SENDER
_CONTENT, _CHUNKS, _ENDED = State.CONTENT, State.CHUNKS, State.ENDED  # see `smtp.client`
_RCPT, _DATA, _BDAT, _STARTTLS = Verb.RCPT, Verb.DATA, Verb.BDAT, Verb.STARTTLS
_PLAIN_DATA = Plain(Verb.DATA)
_HELLOS = frozenset({Verb.EHLO, Verb.HELO})
_LMTP_HELLOS = frozenset({Verb.LHLO})
_WRONG_HELLO = Reply.of(500, "5.5.1", "This is an SMTP server; send EHLO")
_WRONG_LMTP_HELLO = Reply.of(500, "5.5.1", "This is an LMTP server; send LHLO")
_NO_CHUNKING = Reply.of(502, "5.5.1", "CHUNKING is not offered")
_NOT_IMPLEMENTED = Reply.of(502, "5.5.1", "Command not implemented")
_NOT_TRUSTED = Reply.of(550, "5.7.0", "Insufficient authorization")
TOO_LONG = Reply.of(500, "5.5.2", "Line too long")
_NO_LMTP_RECIPIENTS = Reply.of(503, "5.5.1", "No valid recipients")  # RFC 2033 section 4.2


def _refusal(line: bytes, verb: str, reply: Reply) -> Refusal:
    """What is said of a line that is no command.

    Behind one that looks like BDAT a chunk follows, and where it ends nobody knows: it must not
    run as commands.
    """
    if line[:4].upper() == b"BDAT":
        return Refusal("BDAT", Reply.of(421, "4.5.4", "Syntax: BDAT size [LAST]"), line)
    return Refusal(verb, reply, line)


class ServerConnection:
    """One client's connection, seen from the server.

    `chunking` tells whether BDAT is taken (RFC 3030), `trust` whether XCLIENT and XFORWARD are, of
    this client, and by leaving them out that they are of nobody.  `max_line` is the length of the
    longest command line in octets, CRLF included.
    """

    def __init__(self, lmtp: bool = False) -> None:
        self.state = _NEW
        self.chunking = False
        self.max_line = MAX_COMMAND_LINE
        self.trust: Mapping[Verb, bool] = {}
        self._lmtp = lmtp
        self._buffer = b""
        self._start = 0  # what stands before it in the buffer was given out
        self._searched = 0  # there is no line end between them
        self._overlong = b""  # how a line begins that is too long
        self._ahead: list[tuple[int, Command]] = []  # read already, with their octets
        self._reader: DataReader | ChunkReader | None = None  # while inside content
        self._chunks: ChunkReader | None = None  # of the message under way
        self._binary = False
        self._last_chunk = True
        self._skipper: ChunkSkipper | None = None
        self._unanswered: Verb | None = None
        self._following = _NEW  # the state that it leads to once it is taken
        self._pending: Event | None = None  # given out next, once a chunk before it is skipped

    def receive(self, data: bytes) -> None:
        self._keep_the_rest()
        self._buffer += data  # which is not copied where nothing was left, as mostly

    @property
    def buffered(self) -> int:
        """Octets received and not yet given out."""
        return len(self._buffer) - self._start

    @property
    def unanswered(self) -> Verb | None:
        """The command that was given out, and has no answer yet."""
        return self._unanswered

    @property
    def inside_content(self) -> bool:
        """What comes next is content, be it of a chunk that is refused."""
        return self.state is _CONTENT or self._skipper is not None

    def next_event(self) -> Event | None:
        """The next thing the client said; None when more bytes, or first an answer, are needed."""
        if self.state is _ENDED:
            return None
        if self._reader is not None:
            return self._next_content(self._reader)
        if self._skipper is not None and not self._skip(self._skipper):
            return None
        if self._pending is not None:
            event, self._pending = self._pending, None
            return event
        if self._unanswered is not None or self.state not in SERVER:
            return None
        command = self._next_command()
        if command is None or isinstance(command, Refusal):
            return command
        answer = self._answer(command)
        if isinstance(answer, State):
            self._unanswered, self._following = command.verb, answer
            if isinstance(command, Mail):
                self._binary = command.parameters.get("BODY", "").upper() == "BINARYMIME"
            elif isinstance(command, Bdat):
                self._begin_chunk(command)
            return command
        refusal = Refusal(command.verb.value, answer, command)
        if isinstance(command, Bdat):
            # The chunk follows whatever we say (RFC 3030 section 2), and never runs as commands.
            self._skipper, self._pending = ChunkSkipper(command.size), refusal
            return self.next_event()
        return refusal

    def ahead(self) -> list[Command]:
        """The RCPTs behind the RCPT given out last, and a DATA behind them (RFC 2920).

        They have arrived, and will be given out next, one by one, the DATA unless no recipient is
        accepted.  Before the answer to any other command there are none: what follows may yet be
        content.
        """
        if self._unanswered is not _RCPT:
            return []
        place = self._start + sum(octets for octets, _ in self._ahead)
        while len(self._ahead) < MOST_AHEAD and (
            not self._ahead or isinstance(self._ahead[-1][1], Rcpt)
        ):
            end = self._buffer.find(b"\r\n", place, place + self.max_line)
            if end < 0:
                break
            try:
                command = parse_command(self._buffer[place:end])
            except BadCommand:
                break
            if not (isinstance(command, Rcpt) or command == _PLAIN_DATA):
                break
            self._ahead.append((end + 2 - place, command))
            place = end + 2
        return [command for _, command in self._ahead]

    def reply(self, reply: Reply) -> bytes:
        """The bytes of `reply` to what was given out last, or of the greeting; moves the state.

        Refusals change nothing.  A 421 ends the connection (RFC 5321 3.8), as a refused greeting
        does; a 220 to STARTTLS throws away what the client sent behind it (RFC 3207 section 4.2).
        A chunk that is refused ends the transaction (RFC 3030 section 2).
        """
        verb, self._unanswered = self._unanswered, None
        if self.state is _NEW:
            self.state = _GREETED if reply.success else _ENDED
        elif reply.code == 421:
            self.state = _ENDED
        elif self.state is _CONTENT:
            self._check_content_ended()
            more = reply.success and not self._last_chunk
            self.state = _CHUNKS if more else _READY
        elif verb is _DATA:
            if reply.code == 354:
                self.state = _CONTENT
                self._reader = DataReader()
                self._last_chunk = True
        elif verb is not None and reply.success:
            self.state = self._following
            if verb is _STARTTLS:
                self._take()
        if self.state is not _CHUNKS:
            self._chunks = None
        return reply.encode()

    def interim(self, reply: Reply) -> bytes:
        """The bytes of one of several replies to the end of a message, but for the last one."""
        self._check_content_ended()
        return reply.encode()

    def _check_content_ended(self) -> None:
        if self.state is not _CONTENT or self._reader is not None or self._pending is not None:
            raise LocalProtocolError("a reply before the end of data")

    def _next_command(self) -> Command | Introduction | Refusal | None:
        if self._ahead:
            octets, command = self._ahead.pop(0)
            self._start += octets
            self._searched = self._start
            return command
        line = self._next_line()
        if line is None or isinstance(line, Refusal):
            return line
        try:
            return parse_command(line)
        except BadCommand as bad:
            return _refusal(line, bad.verb, bad.reply)

    def _answer(self, command: Command | Introduction) -> State | Reply:
        """The state that the command leads to, or the reply that refuses it."""
        verb = command.verb
        if self._lmtp and verb in _HELLOS:
            return _WRONG_LMTP_HELLO
        if not self._lmtp and verb in _LMTP_HELLOS:
            return _WRONG_HELLO
        if verb is _BDAT and not self.chunking:
            return _NO_CHUNKING
        if self._lmtp and verb in (_DATA, _BDAT) and self.state is _SENDER:
            return _NO_LMTP_RECIPIENTS
        if isinstance(command, Introduction):
            return self._answer_introduction(command)
        return SERVER[self.state][verb]

    def _answer_introduction(self, command: Introduction) -> State | Reply:
        """In Postfix's order: the place, who may say it, and then what is said."""
        trusted = self.trust.get(command.verb)
        answer = SERVER[self.state][command.verb]
        if trusted is None:
            return _NOT_IMPLEMENTED
        if isinstance(answer, Reply):
            return answer
        if not trusted:
            return _NOT_TRUSTED
        return command.flaw or answer

    def _begin_chunk(self, command: Bdat) -> None:
        if self._chunks is None:
            self._chunks = ChunkReader(self._binary)
        self._chunks.begin(command.size, command.last)
        self._reader = self._chunks
        self._last_chunk = command.last
        self.state = _CONTENT

    def _next_line(self) -> bytes | Refusal | None:
        """The next command line without its CRLF.

        A line that ends in a bare LF is refused as such: the client, likely a person with a
        terminal, would wait for ever otherwise.
        """
        buffer, start = self._buffer, self._start
        end = buffer.find(b"\n", self._searched)
        if end < 0:
            if len(buffer) - start > self.max_line or self._overlong:
                self._overlong = self._overlong or buffer[start : start + self.max_line]
                self._take()
            self._searched = len(self._buffer)
            self._keep_the_rest()
            return None
        line = buffer[start:end]
        self._start = self._searched = end + 1
        if self._overlong or len(line) >= self.max_line:
            line, self._overlong = self._overlong or line, b""
            return _refusal(line, "", TOO_LONG)
        if not line.endswith(b"\r"):
            return _refusal(line, "", Reply.of(500, "5.5.2", "Lines end in CR LF"))
        return line[:-1]

    def _keep_the_rest(self) -> None:
        """Hold no more of the buffer than was not given out."""
        if self._start:
            self._buffer = self._buffer[self._start :]
            self._searched -= self._start
            self._start = 0

    def _take(self) -> bytes:
        """All that was received and not given out, which counts as given out now."""
        data = self._buffer[self._start :]
        self._buffer, self._start, self._searched = b"", 0, 0
        return data

    def _next_content(
        self, reader: DataReader | ChunkReader
    ) -> Content | EndOfChunk | EndOfContent | None:
        received = self._take()
        if not received and isinstance(reader, DataReader):  # a chunk may be empty
            return None
        data, rest = reader.feed(received)
        if rest is None:
            return Content(data, reader.size) if data else None
        self._buffer = rest
        self._reader = None
        end: EndOfChunk | EndOfContent = EndOfChunk()
        if self._last_chunk:
            end = EndOfContent(
                reader.size, reader.ascii, reader.bare, reader.header_ascii, reader.header_size
            )
        if not data:
            return end
        self._pending = end
        return Content(data, reader.size, last=self._last_chunk)

    def _skip(self, skipper: ChunkSkipper) -> bool:
        rest = skipper.feed(self._take())
        if rest is None:
            return False
        self._buffer = rest
        self._skipper = None
        return True
