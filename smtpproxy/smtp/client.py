"""The client's end of a connection: commands and content out, an upstream's replies in.

No I/O: `send` gives the bytes of a command where the state allows it, `next_reply` the reply to
the oldest command under way.  Commands may be sent before the replies to those ahead of them
came, where RFC 2920 allows it and the server announced PIPELINING: that is the caller's to
know.
"""

from __future__ import annotations

from collections import deque

from smtpproxy.smtp.commands import Command, Verb
from smtpproxy.smtp.errors import LocalProtocolError, ProtocolError
from smtpproxy.smtp.replies import Reply, ReplyReader
from smtpproxy.smtp.states import CLIENT, PIPELINED, State


class ClientConnection:
    """One connection to an upstream, seen from us."""

    def __init__(self) -> None:
        self.state = State.NEW
        self._reader = ReplyReader()
        # What a reply is owed for: a verb; None for the greeting and for the end of data.
        self._under_way: deque[Verb | None] = deque([None])

    @property
    def quiet(self) -> bool:
        """Every reply came, and nothing besides."""
        return not self._under_way and self._reader.empty

    def send(self, command: Command) -> bytes:
        """The bytes of `command`.

        Raises `LocalProtocolError` where it may not be said, `ProtocolError` where the server
        spoke unasked before.
        """
        return self.send_verb(command.verb, command.encode())

    def send_verb(self, verb: Verb, line: bytes) -> bytes:
        """As `send`, for a command line that was encoded elsewhere (XCLIENT)."""
        self._check_quiet()
        state = self.state
        for sent in self._under_way:
            if sent not in PIPELINED:
                raise LocalProtocolError(f"{verb.value} before the reply to {sent}")
            state = CLIENT[state].get(sent, state)
        if verb not in CLIENT[state]:
            raise LocalProtocolError(f"{verb.value} {state.value}")
        self._under_way.append(verb)
        return line

    def send_content(self, data: bytes) -> bytes:
        """The bytes of a part of the message, as `DataReader` gives them."""
        if self.state is not State.CONTENT or self._under_way:
            raise LocalProtocolError(f"content {self.state.value}")
        self._check_quiet()
        return data

    def check_early(self) -> None:
        """Raise `ProtocolError` where the server spoke inside the content.

        It is an `UnexpectedReply` where that is a whole reply.
        """
        self.next_reply()
        self._check_quiet()

    def end_content(self) -> bytes:
        """The final dot.  Only for a message that its sender ended."""
        self.send_content(b"")
        self._under_way.append(None)
        return b".\r\n"

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
        verb = self._under_way.popleft()
        if reply.code == 421 or self.state is State.ENDED:
            self.state = State.ENDED  # and nothing brings it back, a 354 behind it neither
        elif self.state is State.NEW:
            self.state = State.GREETED if reply.success else State.ENDED
        elif verb is None:  # the end of data
            if 300 <= reply.code < 400:
                raise ProtocolError(f"the end of data answered by {reply.code}")
            self.state = State.READY
        elif verb is Verb.DATA:
            if reply.code == 354:
                self.state = State.CONTENT
            elif reply.positive:
                raise ProtocolError(f"DATA answered by {reply.code}")
        elif reply.success:
            self.state = CLIENT[self.state].get(verb, self.state)
        elif reply.positive:
            raise ProtocolError(f"{verb.value} answered by {reply.code}")
        if verb is Verb.STARTTLS and reply.success and self._reader.clear():
            # RFC 3207 section 4.2; what came in plaintext is nobody's word.
            raise ProtocolError("plaintext after the reply to STARTTLS")
        return reply

    def _check_quiet(self) -> None:
        """What came before we said something answers nothing (a 421 before a close, or worse)."""
        if not self._under_way and not self._reader.empty:
            raise ProtocolError("a reply that no command asked for")


class UnexpectedReply(ProtocolError):
    """A reply that no command asked for, as a server sends that is about to close (421)."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"an unexpected reply: {reply}")
        self.reply = reply
