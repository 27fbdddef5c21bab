"""An answer that goes on, of all workers: the lines of each, as they come, in one feed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from smtpproxy.feed import Feed, Line
from smtpproxy.request import ControlError
from smtpproxy.workers.asking import Asker
from smtpproxy.workers.child import Child

LONGEST = 1 << 20  # octets of a line


class Following:
    """Somebody who follows; workers that begin later can `join`."""

    def __init__(self, asker: Asker, request: Mapping[str, Any]) -> None:
        self.feed = Feed()
        self.feed.ended = self._leave
        self.ended: Callable[[], object] = lambda: None
        self._asker = asker
        self._request = request
        self._connections: set[_Lines] = set()
        self._over = False

    async def join(self, child: Child) -> None:
        """Have its lines, too; raises `ControlError` where it refuses, or does not answer."""
        lines = _Lines(self.feed.put, self._connections.discard)
        self._connections.add(lines)
        try:
            first = await self._asker.begin(child, self._request, lines, lines.first)
        except BaseException:
            self._connections.discard(lines)
            lines.end()
            raise
        if not first["ok"]:
            raise ControlError(first["error"])
        if self._over:
            lines.end()

    def end(self) -> None:
        """No more lines come."""
        self._leave()
        self.feed.end()

    def _leave(self) -> None:
        self._over = True
        for each in tuple(self._connections):
            each.end()
        self.ended()


class _Lines(LineOnlyReceiver):
    """`first` is the first line, all others are `put`."""

    delimiter = b"\n"
    MAX_LENGTH = LONGEST

    def __init__(self, put: Callable[[Line], object], over: Callable[[_Lines], object]) -> None:
        self.first: Deferred[dict[str, Any]] = Deferred()
        self._put = put
        self._over = over

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def lineReceived(self, line: bytes) -> None:
        said = json.loads(line)
        if self.first.called:
            self._put(said)
        else:
            self.first.callback(said)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._over(self)
        if not self.first.called:
            self.first.errback(ValueError("no answer"))
