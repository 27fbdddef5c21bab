"""The log: an observer of sessions, and of Twisted's own events."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from smtpproxy.events import Event
from smtpproxy.logs.json_lines import JsonShape
from smtpproxy.logs.levels import Level, level_of
from smtpproxy.logs.text import TextShape
from smtpproxy.logs.writer import STDOUT, Schedule, Writer


class Shape(Protocol):
    """Makes whole lines, line ends included."""

    def event(self, level: Level, event: Event) -> str: ...

    def note(self, level: Level, text: str, source: str = "") -> str: ...


class Log:
    """Writes lines that matter at least as much as `level`; an `Observer`."""

    def __init__(self, shape: Shape, writer: Writer, level: Level) -> None:
        self._shape = shape
        self._writer = writer
        self._level = level

    def __call__(self, event: Event) -> None:
        level = level_of(event)
        if level <= self._level:
            self._writer.write(self._shape.event(level, event))

    def note(self, level: Level, text: str, source: str = "") -> None:
        """A line that belongs to no session; `source` says which part speaks."""
        if level <= self._level:
            self._writer.write(self._shape.note(level, text, source))

    @property
    def losses(self) -> int:
        """Lines that could not be written, since the start."""
        return self._writer.losses

    def reopen(self) -> None:
        """Go on in a new file of the same name, after the old one was moved away."""
        try:
            self._writer.reopen()
        except OSError as fault:
            self.note(Level.ERROR, f"cannot reopen the log, going on in the old one: {fault}")

    def become(self, other: Log) -> None:
        """Write as `other` does, and where it does; what waits goes there, too."""
        other._writer.take_over(self._writer)
        self._shape, self._writer, self._level = other._shape, other._writer, other._level

    def close(self) -> None:
        """It is not needed after all."""
        self._writer.close()

    def flush(self) -> None:
        """Write now what is waiting."""
        self._writer.flush()

    def stop(self) -> None:
        """Write what is waiting, and later lines at once."""
        self._writer.stop()


def open_log(
    form: str,
    level: str,
    file: str,
    schedule: Schedule,
    now: Callable[[], float] = time.time,
    environ: Mapping[str, str] = os.environ,
) -> Log:
    """The log of the settings `log.format`, `log.level` and `log.file` ("" = standard output).

    `schedule` is the reactor's `callLater`; `now` gives seconds since 1970.  Raises OSError
    when the file cannot be opened, or standard output was closed from the start.
    """
    if not file and sys.__stdout__ is None:  # its number may by now be that of any socket
        raise OSError(errno.EBADF, "it was closed when the program began")
    journal = not file and is_journal(STDOUT, environ)
    shape: Shape
    if form == "json":
        shape = JsonShape(now, journal)
    else:
        shape = TextShape(now, socket.gethostname(), os.getpid, journal)

    def lost(count: int, why: str) -> str:
        lines = "1 log line was" if count == 1 else f"{count} log lines were"
        return shape.note(Level.WARNING, f"{lines} lost: {why}")

    return Log(shape, Writer(schedule, lost, file), Level[level.upper()])


def is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether `fd` leads to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


_LEVELS = {
    LogLevel.debug: Level.DEBUG,
    LogLevel.info: Level.INFO,
    LogLevel.warn: Level.WARNING,
    LogLevel.error: Level.ERROR,
    LogLevel.critical: Level.ERROR,
}


@implementer(ILogObserver)
class TwistedLog:
    """Sends events of `twisted.logger`, Twisted's own among them, to `log`.

    Twisted's own information (a port opened, a factory started) counts as debug.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, event: LogEvent) -> None:
        source = str(event.get("log_namespace") or "")
        level = _LEVELS.get(event.get("log_level"), Level.INFO)
        if source.partition(".")[0] == "smtpproxy":
            source = ""
        elif level is Level.INFO:
            level = Level.DEBUG
        text = formatEvent(event)
        failure = event.get("log_failure")
        if failure is not None:
            text = f"{text}\n{failure.getTraceback()}"
        self._log.note(level, folded(text), source)


def folded(text: str) -> str:
    """The lines of `text` on one, blanks around each left out."""
    return " | ".join(filter(None, map(str.strip, text.splitlines())))
