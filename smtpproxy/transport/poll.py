"""What is ready: an epoll of our own behind the reactor's.

The reactor sees one descriptor, and is told of it once for all the sockets that are ready.  It
would otherwise make a log context for each event of each socket, and a system call for each
socket that is about to be closed, which epoll forgets by itself (epoll(7)).
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLIN, epoll
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

MOST = 128  # events in one go
ROUNDS = 4  # of them, before the reactor has its turn

log = Logger()


class Descriptor(Protocol):
    """Something with a socket."""

    def ready(self, events: int) -> None:
        """Of `events`, some of EPOLLIN and the like, some may have been dealt with already."""

    def failed(self) -> None:
        """`ready` raised what nobody caught."""


@implementer(IReadDescriptor)
class Poll:
    """The sockets of one process, which does not fork once there are any.

    The reactor knows of it while there are any.  None that is forgotten may be duplicated: epoll
    forgets a socket only with the last descriptor of it.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._epoll: Any = None  # made when there is something to watch: behind a daemon's fork
        self._watched: dict[int, Descriptor] = {}
        self._new: set[int] = set()  # since the events at hand were asked for
        self._later: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._call: IDelayedCall | None = None
        self._busy = False

    def __repr__(self) -> str:
        return f"<Poll: {len(self._watched)} sockets>"

    def watch(self, fd: int, descriptor: Descriptor, events: int = EPOLLIN) -> None:
        """Have `descriptor` told when one of `events` comes, an error, or the end of both ways.

        It takes the place of the one that was told before, where there is one.
        """
        if fd in self._watched:
            self._epoll.modify(fd, events)
        else:
            self.open()
            self._epoll.register(fd, events)
            self._new.add(fd)
            if not self._watched:
                self.reactor.addReader(self)
        self._watched[fd] = descriptor

    def forget(self, fd: int) -> None:
        """The socket is closed next: nothing more of it."""
        del self._watched[fd]
        if not self._watched:
            self.reactor.removeReader(self)

    def leave(self, fd: int) -> None:
        """The same, of a socket that others may have open, too."""
        self._epoll.unregister(fd)
        self.forget(fd)

    def soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call it once whoever is at work now is done, and not from within."""
        self._later.append((call, arguments))
        if not self._busy and self._call is None:
            self._call = self.reactor.callLater(0, self._overdue)

    def open(self) -> None:
        """Get ready; the first socket that is watched does it, too."""
        if self._epoll is None:
            self._epoll = epoll()

    # What the reactor calls.

    def fileno(self) -> int:
        return int(self._epoll.fileno())

    def doRead(self) -> None:
        # Who was answered may have said more by now: asking costs less than the reactor's turn.
        for _ in range(ROUNDS):
            if not self.serve():
                return

    def serve(self) -> bool:
        """Tell those that are ready now; whether there are any."""
        self._busy = True
        self._new.clear()
        watched, new = self._watched, self._new
        ready = self._epoll.poll(0, MOST)
        for fd, events in ready:
            descriptor = watched.get(fd)
            # One that is new has the number of one that was closed, which the event is about.
            if descriptor is None or fd in new:
                continue
            try:
                descriptor.ready(events)
            except Exception:
                log.failure("a connection failed")
                self._give_up(descriptor)
        self._busy = False
        if self._later:
            self._run_later()
        return bool(ready)

    def _give_up(self, descriptor: Descriptor) -> None:
        try:
            descriptor.failed()
        except Exception:  # the reactor would drop all sockets for one
            log.failure("a connection cannot be given up")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has ended."""

    def logPrefix(self) -> str:
        return "-"

    def _overdue(self) -> None:
        self._call = None
        self._run_later()

    def _run_later(self) -> None:
        later, self._later = self._later, []
        for call, arguments in later:
            try:
                call(*arguments)
            except Exception:
                log.failure("the end of a connection failed")
