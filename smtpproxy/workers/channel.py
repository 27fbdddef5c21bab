"""What a parent and its worker say to each other: one pair of sockets for each worker.

A datagram is a JSON object, and descriptors may go with it (SCM_RIGHTS).  The end of the channel
is the end of the other side.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

MOST = 64 * 1024  # octets of a datagram
MOST_DESCRIPTORS = 253  # with one (unix(7), SCM_MAX_FD)

Heard = Callable[[bytes, list[int]], object]


def pair() -> tuple[socket.socket, socket.socket]:
    """The parent's end, which does not block, and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """The next datagram and its descriptors, b"" at the end; raises BlockingIOError."""
    try:
        data, descriptors, _, _ = socket.recv_fds(
            end, MOST, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        raise
    except ConnectionResetError:  # it ended before it read all: what it said is there still
        return receive(end)
    except OSError:
        return b"", []
    return data, descriptors


@implementer(IReadDescriptor)
class Channel:
    """One end: `heard` is called with each datagram and its descriptors, `ended` at the end."""

    def __init__(
        self, end: socket.socket, reactor: Any, heard: Heard, ended: Callable[[], object]
    ) -> None:
        self._end = end
        self._reactor = reactor
        self._heard = heard
        self._ended = ended
        end.setblocking(False)
        reactor.addReader(self)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Nothing is said to one that has ended; raises BlockingIOError where it does not read."""
        if self._end.fileno() >= 0:
            with suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._end, [data], descriptors)

    def close(self) -> None:
        """Neither `heard` nor `ended` is called any more."""
        if self._end.fileno() >= 0:
            self._reactor.removeReader(self)
            self._end.close()

    # What the reactor calls.

    def fileno(self) -> int:
        return self._end.fileno()

    def doRead(self) -> None:
        """All that is there: what is asked by the control socket counts on what was said before."""
        while self._end.fileno() >= 0:
            try:
                data, descriptors = receive(self._end)
            except BlockingIOError:
                return
            if data:
                self._heard(data, descriptors)
            else:
                self.close()
                self._ended()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has ended."""

    def logPrefix(self) -> str:
        return "-"
