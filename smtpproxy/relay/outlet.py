"""A session's way to upstreams: one connection to each, kept between transactions."""

from __future__ import annotations

from collections.abc import Collection

from smtpproxy.routing import Upstream
from smtpproxy.smtp.commands import Command, Plain, Verb
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.states import State
from smtpproxy.upstream import Broken, Caller, Connection, Pool
from smtpproxy.upstream.connector import Failed

_READY = State.READY  # see `smtp.client`
MOST_CONNECTIONS = 20


class Outlet:
    """The connections in use, and how to get another."""

    def __init__(self, pool: Pool, caller: Caller, reply_time: float) -> None:
        self._pool = pool
        self.caller = caller
        self._reply_time = reply_time
        self._connections: dict[Upstream, Connection] = {}
        self._departing: list[Connection] = []

    @property
    def servers(self) -> tuple[str, ...]:
        """Those that are connected to, each with its address where that says more."""
        return tuple(each.place for each in self._connections.values())

    async def to(self, upstream: Upstream, seconds: float, failed: Failed) -> Connection:
        """A connection to `upstream` that may be told MAIL: the one that is kept, or a new one.

        Raises `UpstreamError`.
        """
        kept = None
        if self._connections:
            self._drop_useless()
            kept = self._connections.get(upstream)
        if kept is not None and (kept.state is not _READY or kept.used_up):
            self.leave([upstream])
            kept = None
        if kept is None:
            self._make_room()
            kept = await self._pool.connect(upstream, self.caller, seconds, failed)
            self._connections[upstream] = kept
        return kept

    async def carry(self, command: Command) -> Reply | None:
        """The upstream's reply to a command that is not about mail.

        None where there is no upstream, or more than one, or it did not answer, or answered
        that it closes: then the answer is ours to give.
        """
        self._drop_useless()
        if len(self._connections) != 1:
            return None
        (connection,) = self._connections.values()
        if connection.state in (State.CONTENT, State.CHUNKS):  # the client is between two chunks
            return None
        try:
            reply = await connection.ask(command, self._reply_time)
        except Broken:
            return None
        return reply if reply.code != 421 else None

    async def reset(self) -> Reply | None:
        """Have the upstreams forget what they have of a transaction.

        The reply of the only one, as with `carry`; those that do not take RSET are parted from.
        """
        if len(self._connections) > 1:
            self.leave()
        reply = await self.carry(Plain(Verb.RSET))
        if reply is None or not reply.success:
            self.leave()
            return None
        return reply

    def leave(self, upstreams: Collection[Upstream] | None = None) -> None:
        """Part from these upstreams, or from all, without waiting: politely, or for others' use."""
        if not self._connections:
            return
        leaving = tuple(self._connections) if upstreams is None else upstreams
        connections = [self._connections.pop(each) for each in leaving if each in self._connections]
        useless = [each for each in connections if not self._pool.keep(each)]
        if not useless:
            return
        for each in self._departing:  # those that take their time for it are enough
            each.abort()
        self._departing = useless
        for each in useless:
            each.leave()

    def leave_all_but(self, upstreams: Collection[Upstream]) -> None:
        """Part politely from all upstreams but these."""
        if self._connections:
            self.leave([each for each in self._connections if each not in upstreams])

    def cut(self, upstream: Upstream) -> Connection | None:
        """Part from an upstream at once, whatever is under way; gives the connection, if any."""
        connection = self._connections.pop(upstream, None)
        if connection is not None:
            connection.abort()
        return connection

    def distrust(self, upstream: Upstream) -> None:
        """The connection fell silent: neither it nor those that others have left count any more."""
        self.cut(upstream)
        self._pool.give_up(upstream)

    def _make_room(self) -> None:
        """Part from the upstream that was in use longest ago, where there are many."""
        if len(self._connections) >= MOST_CONNECTIONS:
            idle = [each for each, it in self._connections.items() if it.state is _READY]
            self.leave(idle[:1])

    def _drop_useless(self) -> None:
        """Cut the connections that are of no use any more."""
        for upstream in [each for each, it in self._connections.items() if not it.idle]:
            self.cut(upstream)
