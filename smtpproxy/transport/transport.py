"""One connection, plain and with TLS from `startTLS` on."""

from __future__ import annotations

import os
import socket as sockets
import struct
from collections.abc import Iterable
from contextlib import suppress
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IOpenSSLClientConnectionCreator,
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpproxy.transport.poll import Poll
from smtpproxy.transport.secured import RECORD, Lost, Secured

READ_SIZE = 96 * 1024  # octets read at once; a session holds as many where nobody takes them
ROUNDS = 4  # of reading in one go, where there is so much
LAST_READS = 16  # of what a peer has said, at the end

_ABORTED = Failure(ConnectionAborted())  # type: ignore[no-untyped-call]
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time at all; the peer gets RST


class _Way(Protocol):
    """A socket, or what does as one."""

    def recv(self, size: int, /) -> bytes: ...

    def send(self, data: bytes | memoryview, /) -> int: ...


class _NotYet:
    """While hands are shaken."""

    def recv(self, size: int) -> bytes:
        raise BlockingIOError

    def send(self, data: bytes | memoryview) -> int:
        raise BlockingIOError


_NOT_YET = _NotYet()


@implementer(ITransport, IPushProducer)
class Transport:
    """What a protocol writes to, and what reads for it, until `connectionLost`.

    That comes exactly once, and never from within one of these methods.
    """

    __slots__ = (
        "_closing",
        "_events",
        "_fd",
        "_full",
        "_lingering",
        "_open",
        "_paused",
        "_peer",
        "_poll",
        "_producer",
        "_producer_paused",
        "_protocol",
        "_reading",
        "_secured",
        "_shaking",
        "_socket",
        "_taking",
        "_unsent",
        "_waiting",
        "_way",
    )

    def __init__(self, socket: sockets.socket, peer: Any, protocol: Any, poll: Poll) -> None:
        """Reads `socket`, which is connected and does not block, for `protocol` from now on.

        `peer` is the address of the other end, as `accept` gives it.
        """
        self._socket = socket
        self._fd = socket.fileno()
        self._peer = peer
        self._protocol = protocol
        self._poll = poll
        self._way: _Way = socket  # what is sent and received by
        self._secured: Secured | None = None
        self._shaking = False  # hands, for TLS
        self._full = READ_SIZE  # octets that tell that more may have come
        self._unsent: list[bytes | memoryview] = []  # pieces as they were written, not copies
        self._waiting = 0  # octets in them
        self._producer: Any = None
        self._producer_paused = False
        self._open = True
        self._taking = True  # what is written
        self._reading = True  # until the input has ended
        self._paused = False  # reading
        self._closing = False
        self._lingering = False  # until the peer closes, too
        self._events = EPOLLIN
        poll.watch(self._fd, self, EPOLLIN)

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<Transport {self._fd}, {state}, {self._waiting} octets to send>"

    # ITransport, and what else Twisted's transports of sockets have.

    def write(self, data: bytes) -> None:
        """Send `data`, now, or as soon as the socket takes it; after the end it is dropped."""
        if not self._taking or not data:
            return
        if self._unsent:
            self._unsent.append(data)
            self._waiting += len(data)
        else:
            try:
                sent = self._way.send(data)
            except BlockingIOError:
                sent = 0
            except (OSError, Lost) as error:
                self._cannot_write(error)
                return
            if sent == len(data):
                return
            self._unsent.append(memoryview(data)[sent:])
            self._waiting = len(data) - sent
            self._wait_to_send()
        # At once: the kernel holds enough, and a piece of which little waits is held whole.
        self._pause_producer()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send what was written, then close; what still comes in is not read."""
        if self._lingering and self._closing and not self._unsent:
            self._close(connectionDone)  # it has had its time
        if self._closing or not self._open:
            return
        self._closing, self._taking, self._reading = True, False, False
        if self._unsent and not self._shaking:
            self._watch(EPOLLOUT)
        else:
            self._finish()

    def loseWriteConnection(self) -> None:
        """As `loseConnection`, but close only when the peer does: what it still sends is dropped.

        The kernel answers what comes to a closed socket by a reset, which may overtake what was
        sent last.
        """
        if not self._closing:
            self._lingering = True
            self.loseConnection()

    def abortConnection(self) -> None:
        """Reset the connection; what is not sent yet is dropped."""
        if self._open:
            self._socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _RESET)
            self._close(_ABORTED)

    def getHost(self) -> IAddress:
        """The address of this end."""
        return address_of(self._socket.family, self._socket.getsockname())

    def getPeer(self) -> IAddress:
        """The address of the other end."""
        return address_of(self._socket.family, self._peer)

    def getHandle(self) -> sockets.socket | SSL.Connection:
        """The socket, or OpenSSL's connection on it."""
        return self._secured.connection if self._secured else self._socket

    # The part of a consumer, and that of a producer.

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Have `producer` pause while too much waits to be sent."""
        if not streaming:
            raise NotImplementedError("a producer that has to be asked for every piece")
        self._producer, self._producer_paused = producer, False
        if self._unsent:
            self._pause_producer()

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        # epoll need not know until something comes; mostly reading goes on before that.
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._reading and self._open:
            self._watch(self._events | EPOLLIN)

    def stopProducing(self) -> None:
        self.loseConnection()

    # TLS

    def startTLS(self, creator: Any) -> None:
        """Shake hands; `creator.connection(socket)` makes OpenSSL's connection.

        `protocol.handshakeCompleted` is called once it is done.  What is written before that waits
        for it; nothing more leaves in clear.
        """
        if not self._taking:
            return
        if self._unsent:  # it would have to go in clear first, to a peer that does not read
            self._cannot_write(Lost("TLS was to begin, and what was written before did not leave"))
            return
        self._secured = Secured(creator.connection(self._socket), self._needs_room)
        self._way, self._shaking = _NOT_YET, True
        self._watch(EPOLLIN)
        # The client has the first word.  A quick server may have the last one before it has
        # been spoken, so it is not spoken from within here.
        if IOpenSSLClientConnectionCreator.providedBy(creator):
            self._poll.soon(self._shake_hands)

    def _shake_hands(self) -> None:
        secured = self._secured
        if not self._open or not self._shaking or secured is None:
            return
        try:
            done = secured.shake_hands()
        except BlockingIOError:
            self._watch(EPOLLOUT)
            return
        except Lost as error:
            self._discard()  # and the peer gets OpenSSL's alert
            self._lose(error)
            return
        self._watch(EPOLLIN)
        if done:
            self._shaking, self._full = False, RECORD
            self._way = secured
            if self._unsent:
                self._flush()
            self._protocol.handshakeCompleted()

    def _needs_room(self) -> None:
        self._watch(self._events | EPOLLOUT)

    # What the poll calls.

    def ready(self, events: int) -> None:
        if self._shaking:
            self._shake_hands()
            return
        if events & ~EPOLLOUT:
            if self._reading and not self._paused:
                self._read()
            elif self._lingering and self._closing and not self._unsent:
                if self._discard():
                    self._close(connectionDone)
            elif events & (EPOLLERR | EPOLLHUP):
                self._lose(_error_of(self._socket))
            elif not self._held_up:
                self._watch(self._events & ~EPOLLIN)
        if (events & EPOLLOUT or self._held_up) and self._open:
            self._flush()
            if self._secured and self._reading and not self._paused:
                self._read()  # which may have waited for room to go on

    def failed(self) -> None:
        self.abortConnection()

    def _read(self) -> None:
        for _ in range(ROUNDS):
            try:
                data = self._way.recv(READ_SIZE)
            except BlockingIOError:
                return
            except (OSError, Lost) as error:
                self._lose(error)
                return
            if not data:
                self._input_ended()
                return
            self._protocol.dataReceived(data)
            if len(data) < self._full or self._paused or not self._reading or not self._open:
                return

    def _input_ended(self) -> None:
        self._reading = False
        if IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.readConnectionLost()
        else:
            if self._secured is not None:
                # A TLS session that was left without a word is never resumed by OpenSSL.
                with suppress(BlockingIOError, Lost):
                    self._secured.finish()
            self._close(connectionDone)

    def _flush(self) -> None:
        if self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent = [data]  # the same again, where TLS takes none
            try:
                sent = self._way.send(data)
            except BlockingIOError:
                self._wait_to_send()
                return
            except (OSError, Lost) as error:
                self._cannot_write(error)
                return
            self._waiting -= sent
            if self._waiting:
                self._unsent = [memoryview(data)[sent:]]
                self._wait_to_send()
                return
            self._unsent = []
        self._watch(self._events & ~EPOLLOUT)
        if self._closing:
            self._finish()
        elif self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()

    # The end

    def _finish(self) -> None:
        """Close, where all that was written is sent."""
        if self._secured is not None and not self._shaking:
            try:
                self._secured.finish()
            except BlockingIOError:
                self._watch(EPOLLOUT)
                return
            except Lost:
                pass
        ended = self._discard()
        if ended or not self._lingering:
            self._close(connectionDone)
            return
        with suppress(OSError):
            self._socket.shutdown(sockets.SHUT_WR)
        self._watch(EPOLLIN)

    def _cannot_write(self, error: Exception) -> None:
        """The peer is gone, but what it said before, and why, can mostly still be read."""
        self._taking = False
        self._unsent, self._waiting = [], 0
        if self._closing:
            self._lose(error)
        else:
            self._poll.soon(self._hear_last, error)

    def _hear_last(self, error: Exception) -> None:
        for _ in range(LAST_READS):
            if not self._open or not self._reading or self._paused or self._shaking:
                break
            try:
                data = self._way.recv(READ_SIZE)
            except (OSError, Lost):
                break
            if not data:
                break
            self._protocol.dataReceived(data)
        self._lose(error)

    def _discard(self) -> bool:
        """Take what has come and is not read; tell whether the peer has ended.

        It would make the kernel reset the connection, and a reset may overtake the last reply.
        """
        try:
            for _ in range(LAST_READS):
                if not self._socket.recv(READ_SIZE):
                    return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    def _lose(self, error: Exception) -> None:
        if isinstance(error, OSError):
            error = Lost(os.strerror(error.errno) if error.errno else str(error))
        self._close(Failure(error))  # type: ignore[no-untyped-call]

    def _close(self, reason: Failure) -> None:
        """Close the socket now, and have the protocol told as soon as nobody is at work."""
        if self._open:
            self._open = self._taking = self._reading = False
            self._poll.forget(self._fd)
            self._socket.close()
            self._unsent, self._waiting = [], 0
            self._poll.soon(self._tell, reason)

    def _tell(self, reason: Failure) -> None:
        protocol, self._protocol = self._protocol, None
        producer, self._producer = self._producer, None
        # TLS holds us as we hold it, and only the garbage collector would free both.
        self._secured, self._way = None, self._socket
        if producer is not None:
            producer.stopProducing()
        protocol.connectionLost(reason)

    @property
    def _held_up(self) -> bool:
        """What is to be sent waits for what the peer says next."""
        return bool(self._unsent) and self._secured is not None and self._secured.held_up

    def _wait_to_send(self) -> None:
        if self._held_up:  # there may be room all the time
            self._watch(self._events & ~EPOLLOUT | EPOLLIN)
        else:
            self._watch(self._events | EPOLLOUT)

    def _watch(self, events: int) -> None:
        if events != self._events and self._open:
            self._events = events
            self._poll.watch(self._fd, self, events)

    def _pause_producer(self) -> None:
        if self._producer is not None and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()


def _error_of(socket: sockets.socket) -> OSError:
    """What the kernel knows of a connection that is gone."""
    number = socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
    return OSError(number, os.strerror(number)) if number else OSError("closed by the peer")


def address_of(family: int, name: Any) -> IAddress:
    if family == sockets.AF_INET:
        return IPv4Address("TCP", *name)
    if family == sockets.AF_INET6:
        return IPv6Address("TCP", *name)
    return UNIXAddress(name or None)
