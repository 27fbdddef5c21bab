"""An answer that goes on: lines for somebody who may read slower than they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

MOST = 2000  # lines that wait to be read

Line = Mapping[str, Any]


@implementer(IPushProducer)
class Feed:
    """Lines, each a JSON object; where its reader is too slow, some are lost, and it is told so.

    Who makes the lines calls `put` and `end`, and is told by `ended` that nobody reads any more.
    """

    def __init__(self) -> None:
        self.ended: Callable[[], object] = lambda: None
        self._write: Callable[[Line], object] = lambda line: None
        self._close: Callable[[], object] = lambda: None
        self._waiting: deque[Line] = deque()
        self._lost = 0
        self._paused = True
        self._over = False

    def put(self, line: Line) -> None:
        """One more line; never waits."""
        if self._over:
            return
        if not self._paused:
            self._write(line)
        elif len(self._waiting) < MOST:
            self._waiting.append(line)
        else:
            self._lost += 1

    def end(self) -> None:
        """No more lines come."""
        if not self._over:
            self._over = True
            self._waiting.clear()
            self._close()

    # For who sends them.

    def begin(self, write: Callable[[Line], object], close: Callable[[], object]) -> None:
        """Have `write` called with each line, and `close` at the end."""
        self._write, self._close = write, close
        if self._over:
            close()
        else:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._waiting and not self._paused:
            self._write(self._waiting.popleft())
        if self._lost and not self._paused:
            lost, self._lost = self._lost, 0
            self._write({"lost": lost})

    def stopProducing(self) -> None:
        """Nobody reads any more."""
        if not self._over:
            self._over = True
            self._waiting.clear()
            self.ended()
