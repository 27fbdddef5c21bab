"""What a client has said, for the log, and how much of it, for the limits."""

from __future__ import annotations

from smtpproxy.smtp.commands import MAX_COMMAND_LINE, Bdat, Command, Introduction, Rcpt, Verb
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Refusal
from smtpproxy.values import value

TOO_MANY_ERRORS = Reply.of(421, "4.7.0", "Too many errors")
TOO_MANY_COMMANDS = Reply.of(421, "4.7.0", "Too many commands")
EXCESS = {"errors": TOO_MANY_ERRORS, "commands": TOO_MANY_COMMANDS}
MANY_MESSAGES = Reply.of(421, "4.7.0", "Too many messages in one session; connect again")
MANY_RECIPIENTS = Reply.of(421, "4.7.0", "Too many recipients in one session; connect again")

_WORDS = {verb: verb.value for verb in Verb}  # an enum takes long to say its members' values
_JUNK = frozenset({Verb.NOOP, Verb.RSET, Verb.HELP, Verb.VRFY, Verb.EXPN})
_JUNK |= {Verb.EHLO, Verb.HELO, Verb.LHLO, Verb.XCLIENT, Verb.XFORWARD}

_NONE = 0, 0


@value
class SessionLimits:
    """The most that one session may have.

    Each command of `junk`, which do nothing, is an error beyond so many of them between two
    messages.  `command_bytes` are octets of a line with its CRLF, without what the parameters of
    extensions add; `data_rate` is the least octets of content a second, 0 for any (see
    `Patience`).
    """

    errors: int = 20
    junk: int = 100
    commands: int = 100_000
    messages: int = 1000
    recipients: int = 50_000
    command_bytes: int = MAX_COMMAND_LINE
    data_rate: int = 500


class Tally:
    """Counts of one session.

    `last` is the verb said last, or CONNECT.  `excess` is what there was too much of, "errors" or
    "commands", "" while there was not.
    """

    __slots__ = ("_commands", "_counts", "_errors", "_junk", "_limits", "excess", "last")

    def __init__(self, limits: SessionLimits) -> None:
        self.last = "CONNECT"
        self.excess = ""
        self._limits = limits
        self._errors = 0
        self._commands = 0
        self._junk = 0  # since the last message
        self._counts: dict[str, tuple[int, int]] = {}  # by verb: how many were taken, and all

    def command(self, event: Command | Introduction | Refusal, reply: Reply) -> None:
        """A command was answered."""
        if isinstance(event, Refusal):
            self._begin(event.verb or "UNKNOWN", False)
            self._count_error()
            return
        self._begin(_WORDS[event.verb], reply.positive)
        # Unknown recipients, as bad commands: what people look for who guess addresses.
        if isinstance(event, Rcpt) and reply.permanent:
            self._count_error()
        elif event.verb in _JUNK:
            self._count_junk()

    def chunk(self, bdat: Bdat) -> None:
        """A chunk begins; it is answered at its end."""
        self._begin("BDAT", False)
        if not bdat.size:
            self._count_junk()

    def content(self, reply: Reply) -> None:
        """The end of a message, or of a chunk, was answered."""
        if self.last == "BDAT":
            taken, said = self._counts[self.last]
            self._counts[self.last] = taken + reply.success, said

    def message(self) -> None:
        """A message was judged: who sends mail may do other things, too."""
        self._junk = 0

    def full(self) -> Reply | None:
        """Why no other message may begin, if so: those that have begun come to their end."""
        if self._said("MAIL") >= self._limits.messages:
            return MANY_MESSAGES
        if self._said("RCPT") >= self._limits.recipients:
            return MANY_RECIPIENTS
        return None

    def commands(self) -> dict[str, tuple[int, int]]:
        """By verb: how many were taken, and all."""
        return dict(self._counts)

    def _said(self, verb: str) -> int:
        return self._counts.get(verb, _NONE)[1]

    def _begin(self, verb: str, positive: bool) -> None:
        self.last = verb
        taken, said = self._counts.get(verb, _NONE)
        self._counts[verb] = taken + positive, said + 1
        self._commands += 1
        if self._commands >= self._limits.commands:
            self.excess = self.excess or "commands"

    def _count_junk(self) -> None:
        self._junk += 1
        if self._junk > self._limits.junk:
            self._count_error()

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= self._limits.errors:
            self.excess = "errors"
