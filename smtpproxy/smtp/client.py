"""The client's end of a connection: commands and content out, an upstream's replies in.

No I/O: `send` gives the bytes of a command where the state allows it, `next_reply` the reply to
the oldest command under way.  Commands may be sent before the replies to those ahead of them
came, where RFC 2920 allows it and the server announced PIPELINING: that is the caller's to
know.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from smtpproxy.smtp.commands import Bdat, Command, Verb
from smtpproxy.smtp.errors import LocalProtocolError, ProtocolError
from smtpproxy.smtp.replies import Reply, ReplyReader
from smtpproxy.smtp.states import CLIENT, PIPELINED, State


class _Owed(Enum):
    """What a reply is owed for, besides a command."""

    GREETING = auto()
    MESSAGE = auto()  # its end: one for all recipients, or one of theirs
    PRDR = auto()  # its end, where 353 means that one for each recipient follows, and one for all

    __hash__ = object.__hash__  # as that of `Verb`


# To look a member up in its enum takes ten times as long as to compare with it.
_GREETING, _MESSAGE, _PRDR = _Owed.GREETING, _Owed.MESSAGE, _Owed.PRDR
_READY, _CONTENT, _ENDED = State.READY, State.CONTENT, State.ENDED
_DATA, _BDAT, _STARTTLS = Verb.DATA, Verb.BDAT, Verb.STARTTLS


class ClientConnection:
    """One connection to an upstream, seen from us."""

    def __init__(self) -> None:
        self.state = State.NEW
        self._reader = ReplyReader()
        self._under_way: list[Verb | _Owed] = [_GREETING]
        self._recipients = 1  # that get a reply of their own after 353

    @property
    def quiet(self) -> bool:
        """Every reply came, and nothing besides."""
        return not self._under_way and self._reader.empty

    @property
    def chunks_owed(self) -> int:
        """How many of the replies that come next are to chunks that are not the last."""
        for number, owed in enumerate(self._under_way):
            if owed is not _BDAT:
                return number
        return len(self._under_way)

    def send(self, command: Command) -> bytes:
        """The bytes of `command`.

        Raises `LocalProtocolError` where it may not be said, `ProtocolError` where the server
        spoke unasked before.
        """
        return self.send_verb(command.verb, command.encode())

    def send_verb(self, verb: Verb, line: bytes) -> bytes:
        """As `send`, for a command line that was encoded elsewhere (XCLIENT)."""
        return self.send_flight([(verb, line)])

    def send_flight(self, lines: Sequence[tuple[Verb, bytes]]) -> bytes:
        """As `send`, for several command lines, each with its verb."""
        self._check_quiet()
        under_way = self._under_way
        state = self.state
        for sent in under_way:
            if isinstance(sent, Verb):
                state = CLIENT[state].get(sent, state)
        for verb, _ in lines:
            if under_way and under_way[-1] not in PIPELINED:
                raise LocalProtocolError(f"{verb.value} before the reply to {under_way[-1]}")
            if verb not in CLIENT[state]:
                raise LocalProtocolError(f"{verb.value} {state.value}")
            under_way.append(verb)
            state = CLIENT[state][verb]
        return b"".join([line for _, line in lines])

    def send_content(self, data: bytes) -> bytes:
        """The bytes of a part of the message, as `DataReader` gives them."""
        if self.state is not _CONTENT or self._under_way:
            raise LocalProtocolError(f"content {self.state.value}")
        self._check_quiet()
        return data

    def check_early(self) -> None:
        """Raise `ProtocolError` where the server spoke inside the content.

        It is an `UnexpectedReply` where that is a whole reply.
        """
        if not self._reader.empty:
            self.next_reply()
            self._check_quiet()

    def end_content(self, recipients: int = 1, prdr: bool = False) -> bytes:
        """The final dot.  Only for a message that its sender ended.

        `recipients` is how many replies follow: 1, or with LMTP one for each recipient (RFC 2033
        section 4.2).  With `prdr` that many come behind a 353, and one more for all of them.
        """
        self.send_content(b"")
        self._owe(recipients, prdr)
        return b".\r\n"

    def send_chunk(self, data: bytes) -> bytes:
        """A part of the message behind a BDAT of its own; more of it is to follow."""
        return self.send(Bdat(len(data), last=False)) + data

    def end_chunks(self, data: bytes, recipients: int = 1, prdr: bool = False) -> bytes:
        """The last part.  Only for a message that its sender ended; otherwise as `end_content`."""
        command = self.send(Bdat(len(data), last=True))
        self._under_way.pop()
        self._owe(recipients, prdr)
        return command + data

    def _owe(self, recipients: int, prdr: bool) -> None:
        self._recipients = recipients
        self._under_way += [_PRDR] if prdr else [_MESSAGE] * recipients

    def receive(self, data: bytes) -> None:
        self._reader.feed(data)

    def next_reply(self) -> Reply | None:
        """The reply to the oldest command under way, None when more bytes are needed.

        Raises `ProtocolError` on what is no reply, and on a reply to nothing: an early or surplus
        one is never taken for the answer to a later command.
        """
        reply = self._reader.next_reply()
        if reply is None:
            return None
        if not self._under_way:
            raise UnexpectedReply(reply)
        owed = self._under_way.pop(0)
        if reply.code == 421 or self.state is _ENDED:
            self.state = _ENDED  # and nothing brings it back, a 354 behind it neither
        elif isinstance(owed, _Owed):
            self._answered(owed, reply)
        elif owed is _DATA:
            if reply.code == 354:
                self.state = _CONTENT
            elif reply.positive:
                raise ProtocolError(f"DATA answered by {reply.code}")
        elif reply.success:
            self.state = CLIENT[self.state].get(owed, self.state)
        elif reply.positive:
            raise ProtocolError(f"{owed.value} answered by {reply.code}")
        if owed is _STARTTLS and reply.success and self._reader.clear():
            # RFC 3207 section 4.2; what came in plaintext is nobody's word.
            raise ProtocolError("plaintext after the reply to STARTTLS")
        return reply

    def _answered(self, owed: _Owed, reply: Reply) -> None:
        if owed is _GREETING:
            self.state = State.GREETED if reply.success else _ENDED
        elif owed is _PRDR and reply.code == 353:
            self._under_way += [_MESSAGE] * (self._recipients + 1)
        elif 300 <= reply.code < 400:
            raise ProtocolError(f"the end of data answered by {reply.code}")
        else:
            self.state = _READY

    def _check_quiet(self) -> None:
        """What came before we said something answers nothing (a 421 before a close, or worse)."""
        if not self._under_way and not self._reader.empty:
            raise ProtocolError("a reply that no command asked for")


class UnexpectedReply(ProtocolError):
    """A reply that no command asked for, as a server sends that is about to close (421)."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"an unexpected reply: {reply}")
        self.reply = reply
