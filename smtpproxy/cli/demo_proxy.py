"""The proxy of the demo: the real one, as a child process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import IO, Self

TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")

_START = 20.0  # seconds for the proxy to listen
_STOP = 5.0  # seconds for it to end
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


class DidNotStart(Exception):
    """The proxy does not listen; the text is what it said."""


class Proxy:
    """`twistd -n --pidfile= smtpproxy --config FILE`; inside, it listens on `port`.

    Whatever happens in there, it is ended.  It does not take part in a Ctrl-C: who started it
    ends it.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self._said: list[str] = []
        self._lines: SimpleQueue[str | None] = SimpleQueue()  # None at the end

    def __enter__(self) -> Self:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child inherits it
        try:
            self._child = subprocess.Popen(  # noqa: S603  # our own words
                [*TWISTD, "-n", "--pidfile=", "smtpproxy", "--config", self._config],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._config.parent,
                # Settings from where the demo runs are no part of it.
                env={k: v for k, v in os.environ.items() if not k.startswith("SMTPPROXY_")},
            )
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            assert self._child.stdout is not None
            Thread(target=self._read, args=[self._child.stdout], daemon=True).start()
            self.port = self._listening()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, gently if it lets us."""
        try:
            self._child.terminate()
            self._child.wait(_STOP)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._child.kill()  # nothing, if it has ended

    def log(self) -> Iterator[str]:
        """Its lines, from the first, until it ends."""
        yield from self._said
        while True:
            # A signal that comes just before the wait does not end it: look again every second.
            try:
                line = self._lines.get(timeout=1.0)
            except Empty:
                continue
            if line is None:
                return
            yield line

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self._lines.put(line.decode(errors="backslashreplace").rstrip("\n"))
        self._lines.put(None)

    def _listening(self) -> int:
        """The port, which the system chose; it stands in the log."""
        try:
            while (line := self._lines.get(timeout=_START)) is not None:
                self._said.append(line)
                if match := _LISTENING.search(line):
                    return int(match[1])
        except Empty:
            pass
        raise DidNotStart("\n".join(["the proxy did not start:", *self._said]))
