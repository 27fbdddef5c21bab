"""Where lines go: collected, and written once per turn of the reactor.

A log that cannot be written never stops the mail.  What does not go out is kept, up to
`BACKLOG` octets, and tried again each second; lines beyond that are lost, and counted,
and a line says how many as soon as writing works again.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from typing import Protocol

BACKLOG = 1 << 20  # octets
RETRY = 1.0  # seconds

STDOUT = 1


class Call(Protocol):
    """A call to come, as `callLater` gives it."""

    def cancel(self) -> None: ...


Schedule = Callable[[float, Callable[[], None]], Call]  # a reactor's callLater


class Writer:
    """Writes to the file `path`, or to the descriptor `fd` where `path` is "".

    `lost` makes the line that tells how many lines
    were lost, and why.  Raises OSError when the file cannot be opened.  `losses` counts all that
    were lost since the start.
    """

    def __init__(
        self,
        schedule: Schedule,
        lost: Callable[[int, str], str],
        path: str = "",
        fd: int = STDOUT,
    ) -> None:
        self._schedule = schedule
        self._lost = lost
        self._path = path
        self._fd = _open(path) if path else fd
        self._is_file = _is_file(self._fd)
        self._fresh: list[str] = []
        self._buffer = bytearray()
        self._size = 0  # of both, about
        self._torn = False  # the last octet written was no line end
        self._failing = False
        self._why = ""
        self._losses = 0  # of them, those that no line has told of
        self.losses = 0
        self._call: Call | None = None
        self._stopped = False

    def write(self, lines: str) -> None:
        """Write `lines`, each with its line end, at the end of this turn."""
        if self._size > BACKLOG:
            if not self._failing or self._stopped:
                self.flush()
            if self._size > BACKLOG:
                self._lose(lines.count("\n"))
                return
        self._fresh.append(lines)
        self._size += len(lines)
        if self._stopped:
            self.flush()
        elif self._call is None:
            self._call = self._schedule(0, self._due)

    def flush(self) -> None:
        """Write now what is waiting; what cannot be written stays."""
        self._take_fresh()
        self._drain()
        if self._losses and not self._buffer:
            self._buffer += self._lost(self._losses, self._why).encode("utf-8", "backslashreplace")
            self._losses = 0
            self._drain()
        self._size = len(self._buffer)

    def reopen(self) -> None:
        """Go on in a new file of the same name; raises OSError, and goes on in the old one."""
        self.flush()
        if not self._path:
            return
        old, self._fd = self._fd, _open(self._path)
        os.close(old)
        self._is_file = _is_file(self._fd)
        if self._torn:  # its beginning is in the old file
            del self._buffer[: self._buffer.find(b"\n") + 1]
            self._lose(1)
            self._torn = False
        self.flush()

    def take_over(self, other: Writer) -> None:
        """Begin with what `other` has not written, which is closed."""
        other.flush()
        if other._torn:  # its beginning is written
            del other._buffer[: other._buffer.find(b"\n") + 1]
            other._lose(1)
        self._buffer[:0] = other._buffer
        self._losses, self._why = self._losses + other._losses, other._why
        self.losses += other.losses
        other._buffer.clear()
        other._losses = 0
        other.close()
        self._due()

    def close(self) -> None:
        """Write no more; what is still waiting is lost."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._path:
            os.close(self._fd)

    def stop(self) -> None:
        """Flush; from now on each line is written at once, since no reactor will call."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.flush()

    def _lose(self, lines: int) -> None:
        self._losses += lines
        self.losses += lines

    def _due(self) -> None:
        self._call = None
        self.flush()
        if self._buffer:
            self._call = self._schedule(RETRY, self._due)

    def _take_fresh(self) -> None:
        if self._fresh:
            self._buffer += "".join(self._fresh).encode("utf-8", "backslashreplace")
            self._fresh.clear()

    def _drain(self) -> None:
        try:
            while self._buffer:
                written = os.write(self._fd, self._portion())
                self._torn = self._buffer[written - 1] != 0x0A
                del self._buffer[:written]
            self._failing = False
        except OSError as fault:  # no space, no reader, a full pipe
            self._failing, self._why = True, fault.strerror or str(fault)

    def _portion(self) -> bytes | bytearray:
        """As much as can be written without waiting; raises BlockingIOError for nothing.

        The descriptor may be shared with other programs, so it stays as it is, blocking or not:
        what is no file is asked first, and takes PIPE_BUF at least once it says it is ready.
        """
        if self._is_file:
            return self._buffer
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, "nobody reads it")
        return self._buffer[: select.PIPE_BUF]


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:  # closed: writing will tell
        return False
