"""Asking workers through their control sockets, without waiting in the reactor's thread."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.request import ControlError, NobodyAnswers
from smtpproxy.tasks import start
from smtpproxy.workers.child import Child

ANSWER_TIME = 5.0  # seconds; the commands wait 10 s for us

T = TypeVar("T")


class Asker:
    """Asks one worker, or several at the same time."""

    def __init__(self, reactor: Any, deadlines: Deadlines) -> None:
        self._reactor = reactor
        self._deadlines = deadlines

    async def one(
        self, child: Child, request: Mapping[str, Any], seconds: float = ANSWER_TIME
    ) -> dict[str, Any]:
        """The answer to `request`, which has the command's name and its members.

        Raises `ControlError` where it is refused, `NobodyAnswers` where there is none in time.
        """
        whole = _Whole()
        answer = await self.begin(child, request, whole, whole.said, seconds)
        if not answer.pop("ok"):
            raise ControlError(answer["error"])
        return answer

    async def all(
        self,
        children: Iterable[Child],
        request: Mapping[str, Any],
        seconds: float = ANSWER_TIME,
    ) -> list[tuple[Child, dict[str, Any] | ControlError]]:
        """What each says, or why it does not."""
        asked = [(child, start(self.one(child, request, seconds))) for child in children]
        answers: list[tuple[Child, dict[str, Any] | ControlError]] = []
        for child, answer in asked:
            try:
                answers.append((child, await answer))
            except ControlError as error:
                answers.append((child, error))
        return answers

    async def begin(
        self,
        child: Child,
        request: Mapping[str, Any],
        protocol: Protocol,
        said: Deferred[T],
        seconds: float = ANSWER_TIME,
    ) -> T:
        """Ask, with `protocol` to read what is `said`, of which a ValueError says that it ended.

        Raises `NobodyAnswers`.
        """

        async def exchange() -> T:
            endpoint = UNIXClientEndpoint(self._reactor, child.control)  # type: ignore[no-untyped-call]
            await connectProtocol(endpoint, protocol)  # type: ignore[no-untyped-call]
            protocol.transport.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            return await said

        try:
            return await self._deadlines.limit(exchange(), seconds)
        except (TimedOut, ConnectError, CancelledError):
            raise NobodyAnswers(f"{child} does not answer") from None
        except ValueError:
            raise NobodyAnswers(f"{child} ended before it answered") from None


class _Whole(Protocol):
    """All that comes until the other side closes."""

    def __init__(self) -> None:
        self.said: Deferred[dict[str, Any]] = Deferred(lambda _: self.transport.abortConnection())  # type: ignore[union-attr]
        self._parts: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.said.called:
            try:
                self.said.callback(json.loads(b"".join(self._parts)))
            except ValueError as cut_short:
                self.said.errback(cut_short)
