"""A client that talks to the proxy without a pause, and takes the time of every reply."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import BinaryIO, Self

NOOPS = (b"NOOP\r\n",) * 50
"""So many are no abuse."""


def mail_to(recipient: str) -> tuple[bytes, ...]:
    """What a client says to send one small mail."""
    return (
        b"MAIL FROM:<sender@example.net>\r\n",
        b"RCPT TO:<%s>\r\n" % recipient.encode(),
        b"DATA\r\n",
        b"Subject: bench\r\n\r\nHello\r\n.\r\n",
    )


class Client:
    """Holds one session after the other, in a thread of its own.

    In each it says `commands`, between EHLO and QUIT.  `waits` has when each reply came, by
    `time.monotonic`, and how long it took, in seconds.
    """

    def __init__(self, port: int, commands: Sequence[bytes]) -> None:
        self.waits: list[tuple[float, float]] = []
        self._port = port
        self._commands = (b"", b"EHLO client.example.net\r\n", *commands, b"QUIT\r\n")
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(60)
        self._check()

    def worst(self, start: float, end: float) -> float:
        """The longest wait for a reply, of those that ended between the two."""
        self._check()
        return max(wait for at, wait in self.waits if start <= at <= end)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._session()
        except Exception as error:
            self._error = error

    def _session(self) -> None:
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection.makefile("rb") as replies:
                for command in self._commands:
                    connection.sendall(command)
                    _expect_yes(replies, command)
                    now = time.monotonic()
                    self.waits.append((now, now - start))
                    start = now


def _expect_yes(replies: BinaryIO, command: bytes) -> None:
    for line in replies:
        if line[:1] not in (b"2", b"3"):
            raise AssertionError(f"{command!r} was answered {line!r}")
        if line[3:4] != b"-":
            return
    raise AssertionError(f"{command!r} was not answered")
