"""What a client is told, and whose word it is."""

from __future__ import annotations

from dataclasses import dataclass

from smtpproxy.events import Side
from smtpproxy.smtp.replies import Reply


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reply for the client, who says so, and for the log why, where the reply does not tell.

    `in_doubt`: the final dot was sent, and its answer never came.
    """

    reply: Reply
    by: Side
    error: str = ""
    in_doubt: bool = False

    @classmethod
    def of_upstream(cls, reply: Reply) -> Verdict:
        """The upstream's own words, unchanged."""
        return cls(reply, Side.NONE if reply.positive else Side.UPSTREAM)
