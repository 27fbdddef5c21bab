"""Finding out a client's name, from the moment it connects."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from smtpproxy.mail import TEMPUNAVAIL, UNAVAILABLE
from smtpproxy.tasks import start

ReverseName = Callable[[str], Coroutine[Any, Any, str]]


class Naming:
    """The look-up of one client's name; it has a deadline of its own."""

    def __init__(
        self, address: str, reverse_name: ReverseName, found: Callable[[str], object]
    ) -> None:
        """`found` is told the confirmed name, or one of the two words that stand for none."""
        self._found = found
        self._waiting: list[Deferred[None]] = []
        self._finding = start(self._find(address, reverse_name))
        self._finding.addErrback(_cancelled)

    async def done(self) -> None:
        """Wait until `found` was told."""
        if not self._finding.called:
            named: Deferred[None] = Deferred()
            self._waiting.append(named)
            try:
                await named
            finally:
                self._waiting.remove(named)

    def cancel(self) -> None:
        """Nobody needs it any more."""
        self._finding.cancel()

    async def _find(self, address: str, reverse_name: ReverseName) -> None:
        name = TEMPUNAVAIL
        try:
            name = await reverse_name(address) if address else UNAVAILABLE
        finally:
            self._found(name)
            for named in tuple(self._waiting):
                named.callback(None)


def _cancelled(failure: Failure) -> None:
    """Being cancelled is how a look-up ends that nobody needs any more."""
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]
