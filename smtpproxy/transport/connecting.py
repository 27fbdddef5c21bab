"""Making connections."""

from __future__ import annotations

import errno
import os
import socket as sockets
from collections.abc import Callable
from select import EPOLLOUT
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from smtpproxy.deadlines import Deadlines, TimedOut
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
            attempt = _Attempt(socket, poll)
            deadline = deadlines.add(seconds, lambda: attempt.end(TimedOut(seconds)))
            try:
                await attempt.done
            finally:
                deadline.cancel()
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

    def __init__(self, socket: sockets.socket, poll: Poll) -> None:
        self._socket = socket
        self._poll = poll
        self.done: Deferred[None] = Deferred(lambda _: self._forget())
        poll.watch(socket.fileno(), self, EPOLLOUT)

    def ready(self, events: int) -> None:
        number = self._socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
        self.end(OSError(number, os.strerror(number)) if number else None)

    def failed(self) -> None:
        """`ready` raises nothing."""

    def end(self, error: Exception | None) -> None:
        if self.done.called:
            return
        if error is None:
            self.done.callback(None)
        else:
            self._forget()
            self.done.errback(error)

    def _forget(self) -> None:
        self._poll.forget(self._socket.fileno())


def _target(address: str, port: int) -> tuple[int, Any]:
    if address.startswith("/"):
        return sockets.AF_UNIX, address
    return (sockets.AF_INET6 if ":" in address else sockets.AF_INET), (address, port)
