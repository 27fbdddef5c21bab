"""What a client is told, and whose word it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from smtpproxy.events import Side
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream import BROKEN_REPLY, Broken, ChunkRefused, EarlyReply, InDoubt


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reply for the client, who says so, and for the log why, where the reply does not tell.

    `in_doubt`: the final dot was sent, and its answer never came.  `theirs`: the reply is in the
    upstream's own words, which nobody is to change.
    """

    reply: Reply
    by: Side
    error: str = ""
    in_doubt: bool = False
    theirs: bool = field(default=False, compare=False)

    @classmethod
    def of_upstream(cls, reply: Reply) -> Verdict:
        """The upstream's own words, unchanged."""
        return cls(reply, Side.NONE if reply.positive else Side.UPSTREAM, theirs=True)

    @classmethod
    def of_broken(cls, error: Broken) -> Verdict:
        """What is told of an upstream that is gone.

        A permanent refusal that came before the end of data is one all the same; any other early
        reply means nothing, least of all a success.
        """
        if isinstance(error, ChunkRefused):
            return cls.of_upstream(error.reply)
        if isinstance(error, EarlyReply) and error.reply.permanent:
            return cls.of_upstream(error.reply)
        return cls(BROKEN_REPLY, Side.UPSTREAM, str(error), in_doubt=isinstance(error, InDoubt))

    def told_as(self, reply: Reply) -> Verdict:
        """The same, but for what the client is told (see `Guard`)."""
        if reply is self.reply:
            return self
        error = f"5xx guard: it said {self.reply}"
        return replace(self, reply=reply, error=error, theirs=False)

    def of_one(self) -> Verdict:
        """The same of one upstream among several: a 421 would end the session of them all."""
        if self.reply.code != 421:
            return self
        return replace(self, reply=replace(self.reply, code=451))
