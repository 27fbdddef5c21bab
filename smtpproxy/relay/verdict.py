"""What a client is told, and whose word it is."""

from __future__ import annotations

from dataclasses import field, replace

from smtpproxy.events import Side
from smtpproxy.routing import Upstream
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream import BROKEN_REPLY, Broken, ChunkRefused, Connection, EarlyReply, InDoubt
from smtpproxy.values import value

_NOBODY, _UPSTREAM = Side.NONE, Side.UPSTREAM  # see `smtp.client`


@value
class Verdict:
    """A reply for the client, who says so, and for the log why, where the reply does not tell.

    `in_doubt`: the final dot was sent, and its answer never came.  `theirs`: the reply is in the
    upstream's own words, which nobody is to change.  `whose`: the connection that it is about, or
    the upstream where there was none.
    """

    reply: Reply
    by: Side
    error: str = ""
    in_doubt: bool = False
    theirs: bool = field(default=False, compare=False)
    whose: Connection | Upstream | None = field(default=None, compare=False)

    @classmethod
    def of_upstream(cls, reply: Reply, connection: Connection | None = None) -> Verdict:
        """The upstream's own words, unchanged."""
        by = _NOBODY if reply.positive else _UPSTREAM
        return cls(reply, by, theirs=True, whose=connection)

    @classmethod
    def of_broken(cls, error: Broken, connection: Connection | None = None) -> Verdict:
        """What is told of an upstream that is gone.

        A permanent refusal that came before the end of data is one all the same; any other early
        reply means nothing, least of all a success.
        """
        if isinstance(error, ChunkRefused):
            return cls.of_upstream(error.reply, connection)
        if isinstance(error, EarlyReply) and error.reply.permanent:
            return cls.of_upstream(error.reply, connection)
        in_doubt = isinstance(error, InDoubt)
        return cls(BROKEN_REPLY, _UPSTREAM, str(error), in_doubt, whose=connection)

    @property
    def place(self) -> tuple[str, str]:
        """Server and address of the upstream whose word it is, "" for each where it is nobody's."""
        if self.by is not _UPSTREAM or self.whose is None:
            return "", ""
        if isinstance(self.whose, Upstream):
            return str(self.whose), ""
        return str(self.whose.server), self.whose.address

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
