"""Telling systemd how the program is (sd_notify(3)); without systemd, nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress


class Notify:
    """Sends datagrams to $NOTIFY_SOCKET, and waits for nothing."""

    def __init__(
        self, environ: Mapping[str, str] = os.environ, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`clock` is CLOCK_MONOTONIC in nanoseconds."""
        self._path = environ.get("NOTIFY_SOCKET", "")
        self._clock = clock
        for_us = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        microseconds = environ.get("WATCHDOG_USEC", "") if for_us and self._path else ""
        self.every = int(microseconds) / 2e6 if microseconds.isdigit() else 0.0
        """Seconds after which to say that all is well, half of what systemd waits; 0 = never."""

    def ready(self, status: str = "") -> None:
        """Started, or reloaded, well or not."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock() // 1000}")

    def stopping(self) -> None:
        """No new sessions from now on."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """For the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._path:
            return
        # An abstract name begins with @ in the variable, and with NUL for the kernel.
        path = f"\0{self._path[1:]}" if self._path.startswith("@") else self._path
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), path)
