"""TLS on a socket: OpenSSL reads and writes it; its answers are told as a socket's would be."""

from __future__ import annotations

import os
from collections.abc import Callable
from socket import SO_ERROR, SOL_SOCKET

from OpenSSL import SSL
from OpenSSL._util import lib
from twisted.internet.error import ConnectionLost

RECORD = 16 * 1024  # octets; no record brings more (RFC 8446 section 5.1)


class Lost(ConnectionLost):
    """The connection did not end in an orderly way; the text says how."""

    def __str__(self) -> str:
        return str(self.args[0])


class Secured:
    """Sends and receives by TLS, with the exceptions of a socket, and `Lost`."""

    __slots__ = ("_needs_room", "_socket_error", "connection", "held_up")

    def __init__(self, connection: SSL.Connection, needs_room: Callable[[], object]) -> None:
        """`needs_room` is called when reading has to wait until the socket takes more.

        That is a peer's wish for new keys, which has to be answered (RFC 8446 section 4.6.3).
        """
        # As pyOpenSSL has it, one call reads on as long as a peer sends nothing but new keys, and
        # everybody else would wait.  There is no other way to its switch.
        lib.SSL_clear_mode(connection._ssl, lib.SSL_MODE_AUTO_RETRY)
        self.connection = connection
        self.held_up = False  # sending, until the peer has said the rest of what it began
        self._needs_room = needs_room
        self._socket_error = connection.getsockopt  # which OpenSSL's connection has from its socket

    def shake_hands(self) -> bool:
        """Go on with the handshake: True once it is done, BlockingIOError where there is no room.

        False means that the peer has to say something first.
        """
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.WantWriteError:
            raise BlockingIOError from None
        except SSL.Error as error:
            raise Lost(words(error)) from None
        return True

    def recv(self, size: int) -> bytes:
        """What one record holds, at most `size` octets, which is more than any; b"" at the end.

        The rest waits in the socket, never in here.
        """
        try:
            return self.connection.recv(RECORD)
        except SSL.WantReadError:
            raise BlockingIOError from None
        except SSL.WantWriteError:
            self._needs_room()
            raise BlockingIOError from None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise Lost(words(error)) from None

    def send(self, data: bytes | memoryview) -> int:
        """How much of `data` was taken.  After BlockingIOError, come with the same again.

        `held_up` tells then that it is not for want of room: half a message about keys has come,
        and OpenSSL says nothing before the other half.
        """
        sent, size = 0, len(data)
        try:
            if size <= RECORD:
                return self._write(data)
            with memoryview(data) as rest:  # OpenSSL takes one record at a time
                while sent < size:
                    sent += self._write(rest[sent : sent + RECORD])
        except (SSL.WantWriteError, SSL.WantReadError) as wanted:
            self.held_up = isinstance(wanted, SSL.WantReadError)
            if not sent:
                raise BlockingIOError from None
        except SSL.Error as error:
            raise Lost(words(error)) from None
        return sent

    def _write(self, data: bytes | memoryview) -> int:
        # To OpenSSL, a write that fails ends reading too: what the peer said last would be lost.
        if number := self._socket_error(SOL_SOCKET, SO_ERROR):
            raise Lost(os.strerror(number))
        return self.connection.send(data)

    def finish(self) -> None:
        """Tell that nothing more is sent; the peer's own end is not waited for."""
        try:
            self.connection.shutdown()
        except SSL.WantWriteError:
            raise BlockingIOError from None
        except SSL.Error as error:
            raise Lost(words(error)) from None


def words(error: SSL.Error) -> str:
    """What OpenSSL says: a list of (library, function, reason), or an error of the socket's."""
    if isinstance(error, SSL.SysCallError):
        number = error.args[0]
        return os.strerror(number) if number > 0 else "closed without TLS's own end"
    if error.args and isinstance(error.args[0], list):
        return "; ".join(filter(None, (reason for *_, reason in error.args[0]))) or "TLS failed"
    return str(error) or "TLS failed"
