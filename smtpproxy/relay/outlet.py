"""A session's way to upstreams: one connection at a time, kept between transactions.

It carries this client's identity and never serves another session.
"""

from __future__ import annotations

from smtpproxy.routing import Upstream
from smtpproxy.smtp.commands import Command, Verb
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream import Broken, Caller, Connection, Connector
from smtpproxy.upstream.connector import Failed


class Outlet:
    """The connection in use, if any, and how to get another."""

    def __init__(self, connector: Connector, caller: Caller, reply_time: float) -> None:
        self._connector = connector
        self.caller = caller
        self._reply_time = reply_time
        self._connection: Connection | None = None
        self._departing: Connection | None = None

    def _usable(self) -> Connection | None:
        """The connection, if it is still of use; else it is given up."""
        if self._connection is not None and not self._connection.idle:
            self.cut()
        return self._connection

    async def to(self, upstream: Upstream, seconds: float, failed: Failed) -> Connection:
        """A connection to `upstream`: the one that is kept, or a new one in its stead.

        Raises `UpstreamError`.
        """
        kept = self._usable()
        if kept is None or kept.upstream != upstream:
            self.leave()
            kept = await self._connector.connect(upstream, self.caller, seconds, failed)
            self._connection = kept
        return kept

    async def carry(self, command: Command) -> Reply | None:
        """The upstream's reply to a command that is not about mail.

        None where there is no upstream, or it did not answer, or answered that it
        closes: then the answer is ours to give.
        """
        connection = self._usable()
        if connection is None:
            return None
        try:
            if command.verb is Verb.QUIT:
                self._connection = None
                return await connection.quit()
            reply = await connection.ask(command, self._reply_time)
        except Broken:
            return None
        return reply if reply.code != 421 else None

    def leave(self) -> None:
        """Part from the upstream politely, without waiting."""
        if self._connection is not None:
            if self._departing is not None:  # one that takes its time is enough
                self._departing.abort()
            self._departing = self._connection
            self._departing.leave()
            self._connection = None

    def cut(self) -> None:
        """Part from the upstream at once, whatever is under way."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
