"""Finding out a client's name, from the moment it connects."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.mail import TEMPUNAVAIL
from smtpproxy.tasks import Routine

log = Logger()

ReverseName = Callable[[str], Coroutine[Any, Any, str]]


class Naming(Routine):
    """The look-up of one client's name, to `begin`; it has a deadline of its own."""

    __slots__ = ("_asking", "_found")

    def __init__(
        self, address: str, reverse_name: ReverseName, found: Callable[[str], object]
    ) -> None:
        """`found` is told the confirmed name, or one of the two words that stand for none."""
        super().__init__(reverse_name(address))
        self._found = found
        self._asking: list[Deferred[None]] = []

    async def done(self) -> None:
        """Wait until `found` was told; to be asked before that."""
        named: Deferred[None] = Deferred()
        self._asking.append(named)
        try:
            await named
        finally:
            self._asking.remove(named)

    def ended(self, result: str | Failure) -> None:
        if isinstance(result, Failure):
            if result.type is not CancelledError:  # by which nobody needs the name any more
                log.failure("finding a client's name failed", failure=result)
            result = TEMPUNAVAIL
        self._found(result)
        for named in tuple(self._asking):
            named.callback(None)
