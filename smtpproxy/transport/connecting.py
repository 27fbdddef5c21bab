"""Making connections."""

from __future__ import annotations

import errno
import os
import socket as sockets
from collections.abc import Callable
from select import EPOLLOUT
from typing import Any, TypeVar

from twisted.internet.protocol import Protocol

from smtpproxy.deadlines import Deadlines, TimedOut, Waiter
from smtpproxy.transport.poll import Poll
from smtpproxy.transport.transport import Transport

AGAIN = 0.1  # seconds between two attempts where a queue is full

P = TypeVar("P", bound=Protocol)


async def connect(
    poll: Poll,
    deadlines: Deadlines,
    address: str,
    port: int,
    seconds: float,
    make: Callable[[], P],
) -> P:
    """The protocol from `make`, connected to a port of an address within `seconds`.

    An `address` that begins with a slash is the path of a Unix socket.  Raises OSError, and
    `TimedOut`.
    """
    family, target = _target(address, port)
    socket = sockets.socket(family, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK)
    try:
        if family != sockets.AF_UNIX:
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        number = socket.connect_ex(target)
        if family == sockets.AF_UNIX and number == errno.EAGAIN:
            number = await _again(socket, target, deadlines, seconds)
        if number == errno.EINPROGRESS:
            await _Attempt(socket, poll, deadlines).succeeds(seconds)
        elif number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        socket.close()
        raise
    protocol = make()
    protocol.makeConnection(Transport(socket, target, protocol, poll))  # type: ignore[no-untyped-call]
    return protocol


async def _again(socket: sockets.socket, target: Any, deadlines: Deadlines, seconds: float) -> int:
    """A Unix socket whose queue was full (unix(7)): try until there is room, as TCP does."""
    until = deadlines.seconds() + seconds
    number = errno.EAGAIN
    while number == errno.EAGAIN:
        if deadlines.seconds() >= until:
            raise TimedOut(seconds)
        await deadlines.sleep(AGAIN)
        number = socket.connect_ex(target)
    return number


class _Attempt:
    """A connection that is on its way."""

    __slots__ = ("_poll", "_socket", "_waiter")

    def __init__(self, socket: sockets.socket, poll: Poll, deadlines: Deadlines) -> None:
        self._socket = socket
        self._poll = poll
        self._waiter = Waiter(deadlines)

    async def succeeds(self, seconds: float) -> None:
        """Wait for it; raises OSError, and `TimedOut`."""
        number = self._socket.fileno()
        self._poll.watch(number, self, EPOLLOUT)
        try:
            await self._waiter.wait(seconds)
        except BaseException:
            self._poll.forget(number)
            raise

    # What the poll calls.

    def ready(self, events: int) -> None:
        number = self._socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
        self._waiter.fire(error=OSError(number, os.strerror(number)) if number else None)

    def failed(self) -> None:
        """`ready` raises nothing."""


def _target(address: str, port: int) -> tuple[int, Any]:
    if address.startswith("/"):
        return sockets.AF_UNIX, address
    return (sockets.AF_INET6 if ":" in address else sockets.AF_INET), (address, port)
