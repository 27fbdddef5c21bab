"""What a session says to its client: the one place where replies are written."""

from __future__ import annotations

from dataclasses import replace

from smtpproxy.listener.profile import Profile
from smtpproxy.relay import Verdict
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import ServerConnection
from smtpproxy.smtp.states import State
from smtpproxy.stream import Stream
from smtpproxy.tap import Said, Tap, lines_of

_ENDED = State.ENDED  # see `smtp.client`
BYE = Reply.of(221, "2.0.0", "Bye")


class Voice:
    """Writes replies in the order in which it is given them, and knows our own words."""

    __slots__ = ("_core", "_profile", "_session", "_stream", "_tap")

    def __init__(
        self, session: str, profile: Profile, core: ServerConnection, stream: Stream, tap: Tap
    ) -> None:
        """`session` is its name; `tap` is told what is said."""
        self._session = session
        self._profile = profile
        self._core = core
        self._stream = stream
        self._tap = tap

    def say(self, reply: Reply) -> None:
        """The reply to what the client said last; nothing where the session has ended."""
        if self._core.state is not _ENDED:
            self._write(self._core.reply(reply))

    def say_interim(self, reply: Reply) -> None:
        """One of several replies to the end of a message, but for the last one."""
        self._write(self._core.interim(reply))

    def greeting(self) -> Reply:
        """The first words, also those after XCLIENT."""
        protocol = "LMTP" if self._profile.lmtp else "ESMTP"
        text = f"{self._profile.domain} {protocol} smtpproxy"
        if self._profile.signs:
            return Reply(220, (f"{text} {self._session}".encode(),))
        return Reply.of(220, "", text)

    def stopping(self) -> Reply:
        """The last words of a program that stops."""
        return Reply.of(421, "4.3.2", f"{self._profile.domain} is shutting down")

    def signed(self, verdict: Verdict) -> Reply:
        """The reply, with the session's name where it is a refusal in our words, and signed."""
        reply = verdict.reply
        if not self._profile.signs or reply.positive or verdict.theirs:
            return reply
        *front, last = reply.lines
        return replace(reply, lines=(*front, b"%b (session %b)" % (last, self._session.encode())))

    def _write(self, said: bytes) -> None:
        if self._tap.watch is not None:
            self._tap.watch(Said(self._session, "S", lines_of(said)))
        self._stream.write(said)
