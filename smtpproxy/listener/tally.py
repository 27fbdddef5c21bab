"""What a client has said, for the log, and how much of it was bad, for the limit."""

from __future__ import annotations

from collections import defaultdict

from smtpproxy.smtp.commands import Bdat, Command, Rcpt, Verb
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Refusal

MAX_JUNK = 100  # commands between two messages that do nothing; each further one is an error
_JUNK = frozenset({Verb.NOOP, Verb.RSET, Verb.HELP, Verb.VRFY, Verb.EXPN})
_JUNK |= {Verb.EHLO, Verb.HELO, Verb.LHLO}


class Tally:
    """Counts of one session; `last` is the verb said last, or CONNECT."""

    def __init__(self) -> None:
        self.last = "CONNECT"
        self.errors = 0
        self._junk = 0  # since the last message
        self._said: defaultdict[str, int] = defaultdict(int)
        self._taken: defaultdict[str, int] = defaultdict(int)

    def command(self, event: Command | Refusal, reply: Reply) -> None:
        """A command was answered."""
        self.last = (event.verb if isinstance(event, Refusal) else event.verb.value) or "UNKNOWN"
        self._said[self.last] += 1
        self._taken[self.last] += reply.positive
        # Bad commands and unknown recipients: what people look for who guess addresses.
        if isinstance(event, Refusal) or (isinstance(event, Rcpt) and reply.permanent):
            self.errors += 1
        elif event.verb in _JUNK:
            self._count_junk()

    def chunk(self, bdat: Bdat) -> None:
        """A chunk begins; it is answered at its end."""
        self.last = bdat.verb.value
        self._said[self.last] += 1
        if not bdat.size:
            self._count_junk()

    def content(self, reply: Reply) -> None:
        """The end of a message, or of a chunk, was answered."""
        if self.last == Verb.BDAT.value:
            self._taken[self.last] += reply.success

    def message(self) -> None:
        """A message was judged: who sends mail may do other things, too."""
        self._junk = 0

    def commands(self) -> dict[str, tuple[int, int]]:
        """By verb: how many were taken, and all."""
        return {verb: (self._taken[verb], number) for verb, number in self._said.items()}

    def _count_junk(self) -> None:
        self._junk += 1
        self.errors += self._junk > MAX_JUNK
