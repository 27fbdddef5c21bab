"""A client's connection: it sends, reads replies, and leaves after so many octets."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import dataclass

PATIENCE = 100.0  # seconds until an answer must have come
_BLOCK = 1 << 16
_SMALL = 64  # octets that a slow client sends at a time
_LINGER = struct.pack("ii", 1, 0)  # close with a reset


class Left(Exception):
    """The client has left, as it was to."""


class HungUp(Exception):
    """The proxy has ended the connection."""


class NoAnswer(Exception):
    """None came within `PATIENCE`."""


@dataclass(frozen=True, slots=True)
class Reply:
    code: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.code} {' / '.join(self.lines)}"


def context() -> ssl.SSLContext:
    """TLS that verifies nothing."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


class Wire:
    """`sent`: octets so far, or at least on their way.  `limit`: when to leave, None: not."""

    def __init__(
        self,
        port: int,
        source: str,
        limit: int | None,
        leaving: str,
        pause: float,
        host: str = "127.0.0.1",
    ) -> None:
        self.sent = 0
        self.limit = limit
        self._leaving = leaving
        self._pause = pause
        try:
            self._socket = socket.create_connection(
                (host, port), timeout=PATIENCE, source_address=(source, 0)
            )
        except OSError as error:
            raise HungUp(f"no connection: {error}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")

    def close(self) -> None:
        with suppress(OSError):
            self._lines.close()
        with suppress(OSError):
            self._socket.close()

    def start_tls(self, tls: ssl.SSLContext) -> None:
        try:
            self._lines.close()
            self._socket = tls.wrap_socket(self._socket, server_hostname="mx.example.net")
            self._lines = self._socket.makefile("rb")
        except TimeoutError:
            raise NoAnswer("a handshake without an end") from None
        except OSError as error:
            raise HungUp(f"in the handshake: {error}") from None

    def send(self, data: bytes) -> None:
        """Send it, or leave in the middle."""
        leave = self.limit is not None and self.sent + len(data) >= self.limit
        if leave:
            data = data[: max(self.limit - self.sent, 0)] if self.limit is not None else data
        view = memoryview(data)
        size = _SMALL if self._pause and len(data) < 100 * _SMALL else _BLOCK
        try:
            while view:
                self.sent += len(view[:size])
                self._socket.sendall(view[:size])
                view = view[size:]
                if self._pause:
                    time.sleep(self._pause)
        except TimeoutError:
            raise NoAnswer("the proxy takes nothing more") from None
        except OSError as error:
            raise HungUp(f"while sending: {error}") from None
        if leave:
            self._leave()

    def reply(self) -> Reply:
        """The next one."""
        lines: list[str] = []
        while True:
            try:
                line = self._lines.readline(10_000)
            except TimeoutError:
                raise NoAnswer("no answer") from None
            except (OSError, ValueError) as error:
                raise HungUp(f"while waiting: {error}") from None
            if not line.endswith(b"\n"):
                raise HungUp(f"the connection ended{' inside a reply' if line else ''}")
            lines.append(line[4:].decode("utf-8", "replace").rstrip("\r\n"))
            if line[3:4] != b"-":
                return Reply(int(line[:3]), tuple(lines))

    def rest(self, seconds: float) -> bytes:
        """All that still comes within this time."""
        said = b""
        until = time.monotonic() + seconds
        with suppress(OSError):
            while (left := until - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not (block := self._lines.read1(_BLOCK)):
                    break
                said += block
        return said

    def _leave(self) -> None:
        with suppress(OSError):
            if self._leaving == "reset":
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            elif self._leaving == "half close":
                self._socket.shutdown(socket.SHUT_WR)
                self.rest(5.0)
        self.close()
        raise Left
