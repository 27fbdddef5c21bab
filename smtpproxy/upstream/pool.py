"""Connections to upstreams that outlive the session they were made for, or wait for one.

**One that was told of a client never carries another's mail**: it serves that client alone, unless
it takes to be told anew (XCLIENT).  One that was told of nobody serves everybody.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from smtpproxy.deadlines import Deadline, Deadlines, TimedOut
from smtpproxy.mail import Client
from smtpproxy.routing import Upstream
from smtpproxy.smtp.states import State
from smtpproxy.tasks import start
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.connector import Connector, Failed
from smtpproxy.upstream.errors import Broken, UpstreamError
from smtpproxy.upstream.handshake import Caller, wants_introduction
from smtpproxy.upstream.slots import Slots
from smtpproxy.upstream.standing import Standing, Standings
from smtpproxy.values import value

_READY = State.READY  # see `smtp.client`
MOST = 500  # connections kept, of all upstreams
REST = 30.0  # seconds without making any ahead, after one that was no use
PREPARE_TIME = 30.0  # seconds to make a connection that nobody waits for
QUEUE_TIME = 30.0  # seconds to wait for a connection less, where there are as many as may be

log = Logger()


@value
class PoolLimits:
    """How long connections are kept, and how many.

    `idle` and `age` in seconds, where an `idle` of 0 keeps none; `uses` in transactions, `each`
    for one upstream; `ready` is how many are made ahead for an upstream that is in use.  `most` are
    the connections of one upstream, kept or in use; 0 for any number.
    """

    idle: float
    age: float
    uses: int
    each: int
    ready: int = 0
    most: int = 0


class Pool:
    """Gives connections that are ready for mail, and takes back those that may serve again."""

    def __init__(
        self,
        connector: Connector,
        limits: PoolLimits,
        deadlines: Deadlines,
        slots: Slots | None = None,
        standings: Standings | None = None,
    ) -> None:
        """`slots` and `standings` are those of all pools."""
        self._connector = connector
        self._limits = limits
        self._deadlines = deadlines
        # Where there is nothing, they are false.
        self._slots = Slots(deadlines) if slots is None else slots
        self._standings = Standings() if standings is None else standings
        self._standings.watch(self._stand)
        self._idle: dict[Upstream, dict[Connection, Deadline]] = {}
        self._kept = 0
        self._resting: dict[Upstream, float] = {}  # until when none is made ahead
        self._preparing: dict[Deferred[Any], Upstream] = {}
        self._stopped = False

    def __len__(self) -> int:
        return self._kept

    async def connect(
        self, upstream: Upstream, caller: Caller, seconds: float, failed: Failed
    ) -> Connection:
        """As `Connector.connect`: one that is there and may serve the caller, or a new one."""
        until = self._deadlines.seconds() + seconds
        connection = None
        if upstream in self._idle:
            connection = await self._reused(upstream, caller, until)
        if connection is None:
            connection = await self._fresh(upstream, caller, until, failed)
        else:
            self._slots.reused += 1
        if self._limits.ready and connection.first_choice:
            self._prepare(upstream)
        return connection

    def keep(self, connection: Connection) -> bool:
        """Keep a connection that its session needs no more; False where it is of no use."""
        limits = self._limits
        if not limits.idle:
            return False
        idle = self._idle.get(connection.upstream, {})
        if (
            self._stopped
            or not connection.idle
            or connection.state is not _READY
            or connection.transactions >= limits.uses
            or connection.used_up
            or not connection.first_choice
            or self._deadlines.seconds() - connection.since >= limits.age
            or len(idle) >= limits.each
            or self._kept >= MOST
            or self._slots.waiting(connection.upstream)
            or (self._standings and self._standing(connection) is not Standing.ENABLED)
        ):
            return False
        connection.kept = True
        idle[connection] = self._deadlines.add(limits.idle, lambda: self._drop(connection))
        self._idle[connection.upstream] = idle
        self._kept += 1
        return True

    def give_up(self, upstream: Upstream) -> None:
        """Keep no connection to an upstream of which one fell silent."""
        for connection in tuple(self._idle.get(upstream, ())):
            self._forget(connection)
            connection.abort()

    def stop(self) -> None:
        """Let all of them go, and keep none any more."""
        self._stopped = True
        self._standings.unwatch(self._stand)
        for task in tuple(self._preparing):
            task.cancel()
        for connection in [each for idle in self._idle.values() for each in idle]:
            self._drop(connection)

    def kept(self, upstream: Upstream) -> int:
        """How many wait for somebody to use them."""
        return len(self._idle.get(upstream, ()))

    async def _fresh(
        self, upstream: Upstream, caller: Caller, until: float, failed: Failed
    ) -> Connection:
        """A new one, as soon as there may be one more."""
        slots, most = self._slots, self._limits.most
        if not slots.take(upstream, most):
            self._make_room(upstream)
            if not slots.take(upstream, most):
                left = until - self._deadlines.seconds()
                await slots.wait(upstream, min(left / 2, QUEUE_TIME))
        try:
            left = until - self._deadlines.seconds()
            connection = await self._connector.connect(upstream, caller, left, failed)
        except BaseException:
            slots.give_back(upstream)
            raise
        self._hold(connection)
        return connection

    def _hold(self, connection: Connection) -> None:
        """It has its slot until its socket is closed."""
        self._slots.hold(connection)
        connection.on_lost(lambda: self._gone(connection))

    def _gone(self, connection: Connection) -> None:
        self._forget(connection)
        self._slots.gone(connection)

    def _make_room(self, upstream: Upstream) -> None:
        """Part from the one kept that was used longest ago: it may not serve who asks for one."""
        for connection in tuple(self._idle.get(upstream, ()))[:1]:
            self._drop(connection)

    def _stand(self) -> None:
        """What drains, or is in maintenance, has changed: keep what may be kept."""
        for connection in [each for idle in self._idle.values() for each in idle]:
            if self._standing(connection) is not Standing.ENABLED:
                self._drop(connection)
        for connection in self._slots.connections():
            if self._standing(connection) is Standing.MAINTENANCE:
                connection.retired = True
                # Between two transactions: to its session, as if the server had closed it.
                if connection.idle and connection.state is _READY and connection.transactions:
                    connection.abort()

    def _standing(self, connection: Connection) -> Standing:
        return self._standings.of(connection.upstream, connection.server)

    async def _reused(self, upstream: Upstream, caller: Caller, until: float) -> Connection | None:
        """The one used last of those that may serve the caller, told of it where it wants to be."""
        idle = self._idle[upstream]
        for connection in reversed(tuple(idle)):
            # Only where it was told of somebody it matters who asks, and finding out may take long.
            client = None if connection.told is None else await caller.identify(True)
            if connection not in idle:
                continue
            if not connection.idle:
                self._drop(connection)
            elif client is None or may_serve(connection, client):
                self._forget(connection)
                connection.serve(caller.session, caller.tap)
                if await self._introduced(connection, caller, until):
                    return connection
        return None

    async def _introduced(self, connection: Connection, caller: Caller, until: float) -> bool:
        """Has it been told of the caller, where it wants to be?  Else it is of no use."""
        try:
            told = connection.told
            same = told is not None and told.same_as(await caller.identify(True))
            # Who is told of sessions is told of this one, too, where it still takes that.
            again = bool(connection.traced) and "XCLIENT" in connection.extensions
            if same and not again:
                return True
            introducing = self._connector.introduce(connection, caller)
            if not wants_introduction(connection):
                await introducing  # it says nothing to the upstream, and waits for nothing
                return True
            # One that fell silent must leave time for a fresh one.
            await self._deadlines.limit(introducing, (until - self._deadlines.seconds()) / 2)
        except TimedOut:
            connection.abort()
            self.give_up(connection.upstream)
            return False
        except (Broken, UpstreamError):
            connection.leave()
            return False
        except BaseException:
            connection.abort()
            raise
        return True

    def _prepare(self, upstream: Upstream) -> None:
        """Make connections ahead, for the next who ask for this upstream."""
        ready = min(self._limits.ready, self._limits.each) if self._limits.idle else 0
        now = self._deadlines.seconds()
        if self._stopped or not ready or self._resting.get(upstream, now) > now:
            return
        if upstream.identity.prefaced:
            return
        there = sum(each.told is None for each in self._idle.get(upstream, ()))
        coming = sum(each == upstream for each in self._preparing.values())
        for _ in range(ready - there - coming):
            if not self._slots.take(upstream, self._limits.most):
                return
            task = start(self._connector.connect(upstream, None, PREPARE_TIME, _unheard))
            self._preparing[task] = upstream
            task.addBoth(self._prepared, task)

    def _prepared(self, made: Any, task: Deferred[Any]) -> None:
        upstream = self._preparing.pop(task)
        if isinstance(made, Connection):
            self._hold(made)
            if self.keep(made):
                return
            made.leave()
        else:
            self._slots.give_back(upstream)
            if not made.check(UpstreamError, CancelledError):
                log.failure("making a connection ahead failed", failure=made)
        now = self._deadlines.seconds()
        self._resting = {each: until for each, until in self._resting.items() if until > now}
        self._resting[upstream] = now + REST

    def _forget(self, connection: Connection) -> None:
        """It is not idle any more."""
        idle = self._idle.get(connection.upstream, {})
        deadline = idle.pop(connection, None)
        if deadline is not None:
            deadline.cancel()
            self._kept -= 1
        if not idle:
            self._idle.pop(connection.upstream, None)

    def _drop(self, connection: Connection) -> None:
        self._forget(connection)
        connection.leave()


def may_serve(connection: Connection, client: Client) -> bool:
    """May mail of `client` go over a connection that was told of nobody, or of somebody?"""
    told = connection.told
    if told is None or told.same_as(client):
        return True
    return wants_introduction(connection) and "XCLIENT" in connection.extensions


def _unheard(*_: object) -> None:
    """What nobody waits for need not be told of: who needs the upstream next will see."""
