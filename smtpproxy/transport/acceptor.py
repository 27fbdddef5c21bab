"""Accepting connections."""

from __future__ import annotations

import errno
import os
import resource
import socket as sockets
import sys
from collections.abc import Callable
from contextlib import suppress
from select import EPOLLIN
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol
from twisted.logger import Logger

from smtpproxy.transport.poll import Poll
from smtpproxy.transport.transport import Transport, address_of

ACCEPTS = 64  # connections in one go
SHARED_ACCEPTS = 1  # where others listen to the same socket: they are to have their share
REST = 1.0  # seconds without accepting after the system could not
RESERVE = 100  # descriptors that are left to those who were accepted, for upstreams above all

# The connection is gone, or its network: accept(2) wants these passed over.
_PASSING = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,  # a firewall's word
        errno.EPROTO,
    }
)

log = Logger()


class Acceptor:
    """Accepts connections on one socket until `stopListening`."""

    def __init__(
        self,
        socket: sockets.socket,
        make: Callable[[], IProtocol | None],
        poll: Poll,
        lent: bool = False,
    ) -> None:
        """`socket` listens and does not block; it is this object's from now on.

        `make` gives the protocol for each connection.  `lent`: others go on listening to it.
        """
        self._socket = socket
        self._lent = lent
        self._accepts = SHARED_ACCEPTS if lent else ACCEPTS
        self._make = make
        self._poll = poll
        self._resting: IDelayedCall | None = None
        self._short = False  # of descriptors or memory, and the log knows
        self._most = _most()
        if socket.family != sockets.AF_UNIX:
            # Each connection has it from here: replies are small, and nothing follows them.
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        poll.watch(socket.fileno(), self)

    def __repr__(self) -> str:
        return f"<Acceptor: {self._socket.getsockname()}>"

    def getHost(self) -> IAddress:
        """The address that is listened to."""
        return address_of(self._socket.family, self._socket.getsockname())

    def stopListening(self) -> None:
        """Accept no more, and close the socket; a Unix socket's path goes with it, unless lent."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._socket.fileno() >= 0:
            if self._socket.family == sockets.AF_UNIX and not self._lent:
                with suppress(OSError):
                    os.unlink(self._socket.getsockname())
            self._poll.leave(self._socket.fileno())
            self._socket.close()

    # What the poll calls.

    def ready(self, events: int) -> None:
        for _ in range(self._accepts):
            try:
                accepted, peer = self._socket.accept()
            except BlockingIOError:
                if self._short:
                    self._short = False
                    log.info("connections are accepted again")
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                self._rest(error.strerror)
                return
            number = accepted.fileno()
            self._begin(accepted, peer)
            if self._socket.fileno() < 0:  # whoever began has ended it
                return
            if number >= self._most:
                self._rest("too few descriptors left")
                return

    def failed(self) -> None:
        """The next event may do better."""

    def _begin(self, socket: sockets.socket, peer: Any) -> None:
        socket.setblocking(False)
        protocol: Any = self._make()
        transport = Transport(socket, peer, protocol, self._poll)
        try:
            protocol.makeConnection(transport)
        except Exception:
            log.failure("a connection failed as it began")
            transport.abortConnection()

    def _rest(self, reason: str | None) -> None:
        """No descriptor left, say: accepting on and on would only burn time.

        Who comes now waits in the kernel's queue, which is also what tells other hosts to wait.
        """
        if not self._short:
            self._short = True
            log.warn("no connections accepted for now: {reason}", reason=reason)
        self._poll.watch(self._socket.fileno(), self, 0)
        if self._resting is None:  # an error is told whatever is watched for
            self._resting = self._poll.reactor.callLater(REST, self._resume)

    def _resume(self) -> None:
        self._resting = None
        self._most = _most()
        if _next_descriptor() >= self._most:
            self._resting = self._poll.reactor.callLater(REST, self._resume)
        else:
            self._poll.watch(self._socket.fileno(), self, EPOLLIN)


def _most() -> int:
    """The first descriptor of the reserve; the system always gives the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit < 0 else limit - min(RESERVE, limit // 4)


def _next_descriptor() -> int:
    """The one that would be opened next; where there is none, more than there may be."""
    try:
        number = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:
        return sys.maxsize
    os.close(number)
    return number
