"""The server's end of a connection: a client's bytes in, commands and content out.

No I/O: `receive` takes what came, `next_event` gives what it means, `reply` gives the bytes
of an answer and moves the state.  A command is given only when the one before it was
answered, so replies leave in the order of the commands, whatever takes long.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpproxy.smtp.commands import (
    MAX_COMMAND_LINE,
    BadCommand,
    Bdat,
    Command,
    Verb,
    parse_command,
)
from smtpproxy.smtp.content import ChunkSkipper, DataReader
from smtpproxy.smtp.errors import LocalProtocolError
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.states import SERVER, State


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that is refused whoever asks, and the reply: for bad syntax or bad sequence.

    `verb` is "" where the line holds no known command.
    """

    verb: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Content:
    """A part of the message, safe to send on as it is (see `DataReader`), and the octets so far."""

    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class EndOfContent:
    """The end of data was met: `size` in octets (RFC 1870), whether all had the eighth bit clear,
    and whether a bare CR or LF was met."""

    size: int
    ascii: bool
    bare: bool


Event = Command | Refusal | Content | EndOfContent


class ServerConnection:
    """One client's connection, seen from the server."""

    def __init__(self) -> None:
        self.state = State.NEW
        self._buffer = bytearray()
        self._searched = 0
        self._overlong = False
        self._reader: DataReader | None = None
        self._skipper: ChunkSkipper | None = None
        self._unanswered: Verb | None = None
        self._pending: Event | None = None  # given out next, once a chunk before it is skipped

    def receive(self, data: bytes) -> None:
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Octets received and not yet given out."""
        return len(self._buffer)

    def next_event(self) -> Event | None:
        """The next thing the client said; None when more bytes, or first an answer, are needed."""
        if self.state is State.ENDED:
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
        line = self._next_line()
        if line is None or isinstance(line, Refusal):
            return line
        try:
            command = parse_command(line)
        except BadCommand as bad:
            return Refusal(bad.verb, bad.reply)
        answer = SERVER[self.state][command.verb]
        if isinstance(answer, State):
            self._unanswered = command.verb
            return command
        refusal = Refusal(command.verb.value, answer)
        if isinstance(command, Bdat):
            # The chunk follows whatever we say (RFC 3030 section 2), and never runs as commands.
            self._skipper, self._pending = ChunkSkipper(command.size), refusal
            return self.next_event()
        return refusal

    def reply(self, reply: Reply) -> bytes:
        """The bytes of `reply` to what was given out last, or of the greeting; moves the state.

        Refusals change nothing.  A 421 ends the connection (RFC 5321 3.8), as a refused greeting
        does; a 220 to STARTTLS throws away what the client sent behind it (RFC 3207 section 4.2).
        """
        verb, self._unanswered = self._unanswered, None
        if self.state is State.NEW:
            self.state = State.GREETED if reply.success else State.ENDED
        elif reply.code == 421:
            self.state = State.ENDED
        elif self.state is State.CONTENT:
            if self._reader is not None or self._pending is not None:
                raise LocalProtocolError("a reply before the end of data")
            self.state = State.READY
        elif verb is Verb.DATA:
            if reply.code == 354:
                self.state = State.CONTENT
                self._reader = DataReader()
        elif verb is not None and reply.success:
            following = SERVER[self.state][verb]
            assert isinstance(following, State)
            self.state = following
            if verb is Verb.STARTTLS:
                self._buffer.clear()
                self._searched = 0
        return reply.encode()

    def _next_line(self) -> bytes | Refusal | None:
        """The next command line without its CRLF.

        A line that ends in a bare LF is refused as such: the client, likely a person with a
        terminal, would wait for ever otherwise.
        """
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        if end < 0:
            self._overlong = self._overlong or len(buffer) > MAX_COMMAND_LINE
            if self._overlong:
                buffer.clear()
            self._searched = len(buffer)
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        self._searched = 0
        if self._overlong or len(line) >= MAX_COMMAND_LINE:
            self._overlong = False
            return Refusal("", Reply.of(500, "5.5.2", "Line too long"))
        if not line.endswith(b"\r"):
            return Refusal("", Reply.of(500, "5.5.2", "Lines end in CR LF"))
        return line[:-1]

    def _next_content(self, reader: DataReader) -> Content | EndOfContent | None:
        if not self._buffer:
            return None
        data, rest = reader.feed(bytes(self._buffer))
        self._buffer.clear()
        if rest is not None:
            self._buffer += rest
            self._reader = None
            end = EndOfContent(reader.size, reader.ascii, reader.bare)
            if not data:
                return end
            self._pending = end
        return Content(data, reader.size) if data else None

    def _skip(self, skipper: ChunkSkipper) -> bool:
        rest = skipper.feed(bytes(self._buffer))
        self._buffer.clear()
        if rest is None:
            return False
        self._buffer += rest
        self._skipper = None
        return True
