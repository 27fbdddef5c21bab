"""Our own transports on real sockets, with a reactor that turns only when a test says so."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpproxy.transport import Poll, Transport


class StillReactor(Clock):
    """A clock, and the descriptors that a reactor would watch."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()

    def addReader(self, reader: object) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.discard(reader)


class Turning:
    """A `Poll` and its reactor.  `turn` does what there is to do, and nothing waits."""

    def __init__(self) -> None:
        self.reactor = StillReactor()
        self.poll = Poll(self.reactor)
        self.poll.open()

    @property
    def idle(self) -> bool:
        """Nothing is ready."""
        return not select.select([self.poll.fileno()], [], [], 0)[0]

    def turn(self) -> None:
        """All that is ready now, and what comes of it."""
        for _ in range(10_000):
            self.reactor.advance(0)
            if self.idle:
                return
            assert self.poll in self.reactor.readers
            self.poll.doRead()
        raise AssertionError("it never comes to rest")

    def until(self, happened: Callable[[], object]) -> None:
        """Turn, waiting for the kernel where it has to be, until `happened` is true."""
        for _ in range(10_000):
            self.turn()
            if happened():
                return
            select.select([self.poll.fileno()], [], [], 0.01)
        raise AssertionError("it does not happen")


class Recorder(Protocol):
    """Keeps what it is told."""

    def __init__(self, said: bytes = b"") -> None:
        self.said = said  # as it connects
        self.received = bytearray()
        self.ends: list[Failure] = []
        self.pauses: list[bool] = []  # of writing: began, ended
        self.secured = False
        self.on_data: Callable[[], object] = lambda: None
        self.busy = False  # in a call to the transport, from within which nothing may come back

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        if self.said:
            self.transport.write(self.said)

    def dataReceived(self, data: bytes) -> None:
        assert not self.busy
        assert not self.ends, "behind the end"
        self.received += data
        self.on_data()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert not self.busy
        self.ends.append(reason)

    def handshakeCompleted(self) -> None:
        assert not self.busy
        self.secured = True

    def pauseProducing(self) -> None:
        self.pauses.append(True)

    def resumeProducing(self) -> None:
        assert not self.busy
        self.pauses.append(False)

    def stopProducing(self) -> None:
        pass

    def do(self, method: str, *arguments: object) -> None:
        """Call a method of the transport, from within which nothing may come back."""
        self.busy = True
        try:
            getattr(self.transport, method)(*arguments)
        finally:
            self.busy = False

    @property
    def end(self) -> str:
        """Why the connection ended; it must have, once."""
        (reason,) = self.ends
        return reason.getErrorMessage()


@implementer(IHalfCloseableProtocol)
class Listening(Recorder):
    """One that may still speak where the other end has said all."""

    input_ended = False

    def readConnectionLost(self) -> None:
        assert not self.busy
        assert not self.input_ended
        self.input_ended = True

    def writeConnectionLost(self) -> None:
        raise AssertionError("nobody asked for it")


def pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, of "tcp" or "unix", that do not block."""
    if kind == "unix":
        ends = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            there = socket.create_connection(server.getsockname())
            ends = server.accept()[0], there
    for end in ends:
        end.setblocking(False)
    return ends


def transport(socket: socket.socket, protocol: Recorder, poll: Poll) -> Transport:
    """A transport with its protocol."""
    made = Transport(socket, "", protocol, poll)
    protocol.makeConnection(made)
    return made


def received(socket: socket.socket) -> bytes:
    """What has come so far; b"" also for the end."""
    data = bytearray()
    while True:
        try:
            piece = socket.recv(1 << 20)
        except BlockingIOError:
            return bytes(data)
        if not piece:
            return bytes(data)
        data += piece
