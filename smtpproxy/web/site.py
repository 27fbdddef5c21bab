"""HTTP connections: what is bounded, and which headers each answer has."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from smtpproxy.web.style import POLICY

MOST_CONNECTIONS = 50
IDLE_TIME = 30.0  # seconds without an octet
LIFE = 60.0  # seconds of a connection, which is for one request: a drip would hold it for ever
MOST_BODY = 16 * 1024  # octets of a request

_HEADERS = {
    "cache-control": "no-store",
    "connection": "close",
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class BoundedRequest(Request):
    """A request whose body is small: one that is not is cut off as it comes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._octets = 0
        for name, value in _HEADERS.items():
            self.setHeader(name, value)  # type: ignore[no-untyped-call]

    def gotLength(self, length: int | None) -> None:
        # What is larger never goes to a file.
        super().gotLength(min(length or 0, MOST_BODY))  # type: ignore[no-untyped-call]

    def handleContentChunk(self, data: bytes) -> None:
        self._octets += len(data)
        if self._octets > MOST_BODY:
            self.channel.forceAbortClient()  # type: ignore[no-untyped-call]
            return
        super().handleContentChunk(data)  # type: ignore[no-untyped-call]


class BoundedSite(Site):
    """As many connections as may be."""

    displayTracebacks = False
    noisy = False

    def __init__(self, resource: Resource, reactor: IReactorTime) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            resource, requestFactory=BoundedRequest, reactor=reactor, timeout=IDLE_TIME
        )
        self._open = 0
        self._reactor = reactor

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self._open >= MOST_CONNECTIONS:
            return None
        channel = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        self._open += 1
        made, lost = channel.makeConnection, channel.connectionLost
        ends: list[IDelayedCall] = []

        def begun(transport: Any) -> None:
            ends.append(self._reactor.callLater(LIFE, transport.abortConnection))
            made(transport)

        def ended(reason: Any) -> None:
            self._open -= 1
            for end in ends:
                if end.active():
                    end.cancel()
            lost(reason)

        channel.makeConnection, channel.connectionLost = begun, ended
        return channel

    def startFactory(self) -> None:
        """Nothing: Twisted would set a clock going, every second, for a log that there is not."""

    def stopFactory(self) -> None:
        pass

    def log(self, request: Any) -> None:
        """What is asked is nobody's business; what is changed, the log tells by itself."""
