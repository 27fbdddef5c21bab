"""How many connections each upstream has, and who waits for one when it has as many as it may.

A slot is taken before a connection is made, and given back when its socket is closed, or when
none came of it.  Who waits is served in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.routing import Upstream
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.errors import Busy


@dataclass(slots=True)
class _Slots:
    """Those of one upstream: `taken` counts connections, and those being made."""

    taken: int = 0
    most: int = 0
    connections: set[Connection] = field(default_factory=set)
    waiting: dict[Deferred[None], None] = field(default_factory=dict)  # in order
    giving: bool = False


class Slots:
    """The slots of all upstreams; `made` counts connections, `reused` how often one served anew."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.made = 0
        self.reused = 0
        self._deadlines = deadlines
        self._slots: dict[Upstream, _Slots] = {}

    def __len__(self) -> int:
        return sum(each.taken for each in self._slots.values())

    def of_all(self) -> Iterator[tuple[Upstream, int, int]]:
        """Each upstream that has any, with those taken and how many wait for one."""
        return ((each, its.taken, len(its.waiting)) for each, its in self._slots.items())

    def taken(self, upstream: Upstream) -> int:
        """Its connections, with those that are being made."""
        slots = self._slots.get(upstream)
        return slots.taken if slots else 0

    def waiting(self, upstream: Upstream) -> int:
        """How many wait for one."""
        slots = self._slots.get(upstream)
        return len(slots.waiting) if slots else 0

    def connections(self) -> Iterator[Connection]:
        """All that are there."""
        return iter([each for slots in self._slots.values() for each in slots.connections])

    def take(self, upstream: Upstream, most: int) -> bool:
        """Take a slot, of at most `most` (0: any number); False where it is not to be had now."""
        slots = self._slots.get(upstream)
        if slots is None:
            slots = self._slots[upstream] = _Slots()
        slots.most = most
        if most and slots.taken >= most:
            return False
        slots.taken += 1
        return True

    async def wait(self, upstream: Upstream, seconds: float) -> None:
        """Take the next that is given back to whoever is first in line; raises `Busy`."""
        slots = self._slots[upstream]
        waiter: Deferred[None] = Deferred()
        slots.waiting[waiter] = None
        try:
            await self._deadlines.limit(waiter, seconds)
        except TimedOut:
            raise Busy(slots.most) from None
        finally:
            slots.waiting.pop(waiter, None)  # who is served stands there no more

    def hold(self, connection: Connection) -> None:
        """A connection came of a slot that was taken; `gone` gives it back."""
        self._slots[connection.upstream].connections.add(connection)
        self.made += 1

    def gone(self, connection: Connection) -> None:
        """The socket of a connection is closed."""
        self._slots[connection.upstream].connections.remove(connection)
        self.give_back(connection.upstream)

    def give_back(self, upstream: Upstream) -> None:
        """One that was taken is free; whoever waits gets it before this returns."""
        slots = self._slots[upstream]
        slots.taken -= 1
        if slots.giving:  # by the one that was just served: the loop below goes on
            return
        slots.giving = True
        while slots.waiting and (slots.taken < slots.most or not slots.most):
            waiter = next(iter(slots.waiting))
            del slots.waiting[waiter]
            slots.taken += 1
            waiter.callback(None)
        slots.giving = False
        if not slots.taken:
            del self._slots[upstream]
