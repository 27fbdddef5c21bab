"""A byte stream over a Twisted transport, to be awaited: the only shell there is.

It moves bytes and knows nothing of SMTP.  Reading pauses when what was received is not
taken, writing tells when the other side does not take it, so that memory is bounded
whatever the speed of either side.  Every wait has a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum, auto
from types import coroutine as awaitable
from typing import Any

from OpenSSL.SSL import Connection as TlsConnection
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpproxy.deadlines import Deadline, Deadlines, Waiter

HIGH_WATER = 64 * 1024  # octets received and not taken at which reading pauses
CLOSE_TIME = 10.0  # seconds for the last bytes to leave, then the connection is reset
LINGER_TIME = 2.0  # seconds for the peer to close as well


class Disconnected(Exception):
    """The connection is gone; the text says how."""


class NoRoom(Disconnected):
    """There is no connection, since this system has nothing left to make one of."""


class _Awaited(Enum):
    """What the task that has to do with a connection waits for."""

    DATA = auto()
    ROOM = auto()  # for what is written
    HANDSHAKE = auto()
    END = auto()


_DATA, _ROOM, _HANDSHAKE, _END = _Awaited  # see `smtp.client`


def _nothing(*_: object) -> None:
    """Nobody wants to be told."""


@implementer(IPushProducer, IHandshakeListener)
class Stream(Protocol):
    """One connection.  At most one task waits for it, whatever for."""

    transport: Any  # of TCP or a Unix socket; TLS from `start_tls` on

    def __init__(
        self, deadlines: Deadlines, on_connected: Callable[[Stream], object] = _nothing
    ) -> None:
        self._deadlines = deadlines
        self.seconds = deadlines.seconds  # the time, for who gives several waits one deadline
        self._on_connected = on_connected
        self._received = b""
        self._reading_paused = False
        self._writing_paused = False
        self._waiter = Waiter(deadlines)
        self._closing: Deadline | None = None
        self._input_ended = False
        self.lost: Disconnected | None = None
        self.on_lost: Callable[[], object] = _nothing

    # What the rest of the program calls.

    @property
    def unread(self) -> int:
        """Octets received that nobody took yet."""
        return len(self._received)

    def ends(self) -> tuple[IAddress, IAddress]:
        """The addresses of this end and of the other."""
        return self.transport.getHost(), self.transport.getPeer()

    @property
    def choked(self) -> bool:
        """What was written waits for the other side, or never leaves: `drain` tells."""
        return self._writing_paused or self.lost is not None

    @awaitable
    def receive(self, seconds: float) -> Generator[None, None, bytes]:
        """What was received, at least one octet.

        Raises `TimedOut` when nothing comes within `seconds`, `Disconnected` at the end.
        """
        if not self._received:
            if self.lost:
                raise self._end()
            if self._input_ended:
                raise Disconnected("the peer sends no more")
            if self._reading_paused:
                self._go_on_reading()
            # As `wait` does it: most of what there is to wait for is waited for here.
            self._waiter.begin(seconds, _DATA)
            try:
                yield
            finally:
                self._waiter.end()
        return self.take()

    def take(self) -> bytes:
        """What was received, without waiting."""
        data, self._received = self._received, b""
        if self._reading_paused:
            self._go_on_reading()
        return data

    def hold(self) -> None:
        """Read nothing more until it is waited for: what was read before is still on its way."""
        if not self._reading_paused and not self.lost:
            self._reading_paused = True
            self.transport.pauseProducing()

    def _go_on_reading(self) -> None:
        if not self.lost:
            self._reading_paused = False
            self.transport.resumeProducing()

    def give_back(self, data: bytes) -> None:
        """What was received and belongs to who receives next."""
        self._received = data + self._received

    def interrupt(self, reason: Exception) -> None:
        """Have who waits in `receive`, if anyone does, get `reason`."""
        self._waiter.fire(_DATA, reason)

    def write(self, data: bytes) -> None:
        """Send `data`, without waiting; after the end it is dropped."""
        if not self.lost and not self._closing:
            self.transport.write(data)

    async def drain(self, seconds: float) -> None:
        """Wait until the other side has taken most of what was written.

        Raises `TimedOut` when it does not within `seconds`, `Disconnected` at the end.
        """
        if self.lost:
            raise self._end()
        if self._writing_paused:
            await self._waiter.wait(seconds, _ROOM)

    async def start_tls(self, creator: object, seconds: float) -> TlsConnection:
        """Have the TLS handshake done; `creator` makes the connection object, client's or server's.

        What was received before is thrown away (RFC 3207).  Raises `TimedOut` when it takes
        more than `seconds`, `Disconnected` where it fails.
        """
        if self.lost:
            raise self._end()
        self._received = b""
        self.transport.startTLS(creator)
        if self.lost:
            raise self._end()
        if self._reading_paused:
            self._go_on_reading()
        await self._waiter.wait(seconds, _HANDSHAKE)
        connection: TlsConnection = self.transport.getHandle()
        return connection

    def close(self, linger: bool = False) -> None:
        """Send what was written, then close.

        With `linger`, the peer is to close first: it may be sending still, and what comes to a
        closed socket may cost it our last words.
        """
        if self.lost or self._closing:
            return
        self.transport.unregisterProducer()
        if linger and not self._writing_paused:
            self._closing = self._deadlines.add(LINGER_TIME, self._let_go)
            self.transport.loseWriteConnection()
        else:
            self._let_go()

    def let_close(self, seconds: float) -> None:
        """The peer is to close, and we do where it has not within `seconds`.

        Who closes first keeps the port in TIME_WAIT.
        """
        if not self.lost and not self._closing:
            self.transport.unregisterProducer()
            self._closing = self._deadlines.add(seconds, self._let_go)
            if self._reading_paused:
                self._go_on_reading()

    def _let_go(self) -> None:
        self._closing = self._deadlines.add(CLOSE_TIME, self.abort)
        self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once; what is not sent yet is dropped."""
        if not self.lost:
            self.transport.abortConnection()

    def _end(self) -> Disconnected:
        """To be raised: the one that is kept would keep its traceback, too, and that keeps us."""
        return Disconnected(str(self.lost))

    async def gone(self, seconds: float) -> None:
        """Wait until the connection is closed for good; raises `TimedOut`."""
        if not self.lost:
            await self._waiter.wait(seconds, _END)

    # What Twisted calls.

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._on_connected(self)

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._received = self._received + data if self._received else data
        self._waiter.fire(_DATA)
        if len(self._received) >= HIGH_WATER:  # which nobody waited for
            self.hold()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = Disconnected(reason.getErrorMessage())
        if self._closing:
            self._closing.cancel()
            self._closing = None
        end = self._end()
        for awaited in (_DATA, _ROOM, _HANDSHAKE):
            self._waiter.fire(awaited, end)
        self._waiter.fire(_END)
        on_lost, self.on_lost = self.on_lost, _nothing  # it may hold us
        on_lost()

    def handshakeCompleted(self) -> None:
        self._waiter.fire(_HANDSHAKE)

    def pauseProducing(self) -> None:
        self._writing_paused = True

    def resumeProducing(self) -> None:
        self._writing_paused = False
        self._waiter.fire(_ROOM)

    def stopProducing(self) -> None:
        pass  # connectionLost follows


@implementer(IHalfCloseableProtocol)
class ClientStream(Stream):
    """A client's connection: one that has said all it has to say may still hear the answers."""

    def readConnectionLost(self) -> None:
        self._input_ended = True
        self._waiter.fire(_DATA, Disconnected("the peer sends no more"))

    def writeConnectionLost(self) -> None:
        pass  # we never close one half
