"""Opening a connection to one port of one address, or to a Unix socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.protocol import Factory

from smtpproxy.stream import Disconnected, Stream


@dataclass(frozen=True, slots=True)
class ReactorDial:
    """A `Dial`; `make` gives the stream for each connection that is made."""

    reactor: Any
    make: Callable[[], Stream]

    async def __call__(self, address: str, port: int, seconds: float) -> Stream:
        factory: Factory[Any] = Factory.forProtocol(self.make)
        factory.noisy = False
        connecting: Any = self._endpoint(address, port, seconds).connect(factory)
        try:
            stream: Stream = await connecting
        except ConnectingCancelledError as error:
            raise CancelledError from error
        except ConnectError as error:
            raise Disconnected(str(error)) from error
        return stream

    def _endpoint(self, address: str, port: int, seconds: float) -> Any:
        if address.startswith("/"):
            return UNIXClientEndpoint(  # type: ignore[no-untyped-call]
                self.reactor, address, timeout=seconds
            )
        tcp = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        return tcp(self.reactor, address, port, timeout=seconds)
