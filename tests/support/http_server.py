"""Web services on loopback: one that answers as a test tells it to, and one that misbehaves."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from smtpproxy.tls import ServerTls, server_context
from tests.support.certificates import Certificate


class HttpServer:
    """Answers every GET with `status`, `headers` and `body`; with `hold`, not before `release`.

    `requests` are those that came, `connections` the ports of the clients they came from.
    """

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b"{}"
        self.hold = False
        self.requests: list[Any] = []
        self.connections: list[int] = []
        self._waiting: list[Any] = []
        self._expected: list[Deferred[None]] = []
        site = Site(_Everything(self))
        site.noisy = False
        self._server = _Listening(site, certificate)
        self.port = self._server.port

    def url(self, target: str = "/route", scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{target}"

    def parameters(self) -> dict[str, str]:
        """Those of the last request, each of which it has once."""
        return {name.decode(): value.decode() for name, [value] in self.requests[-1].args.items()}

    def header(self, name: str) -> str | None:
        """That of the last request."""
        value = self.requests[-1].getHeader(name)
        return None if value is None else str(value)

    def next_request(self) -> Deferred[None]:
        """Fires once another request has come."""
        self._expected.append(Deferred())
        return self._expected[-1]

    def release(self) -> None:
        """Answer those that wait."""
        self.hold = False
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._answer(request)
            request.finish()

    def drop(self) -> Deferred[Any]:
        """Close all connections, as a service does that is started anew."""
        return self._server.drop()

    def stop(self) -> Deferred[Any]:
        return self._server.stop()

    def came(self, request: Any) -> Any:
        request.notifyFinish().addErrback(lambda _: None)
        self.requests.append(request)
        self.connections.append(request.getClientAddress().port)
        expected, self._expected = self._expected, []
        for deferred in expected:
            deferred.callback(None)
        if self.hold:
            self._waiting.append(request)
            return NOT_DONE_YET
        return self._answer(request, write=False)

    def _answer(self, request: Any, write: bool = True) -> bytes:
        request.setResponseCode(self.status)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        if write:
            request.write(self.body)
        return self.body


class RawServer:
    """Sends `chunks` to each client that has asked, then `endless` for ever, or hangs up.

    `greeting` it sends without being asked.  With neither `endless` nor `hangs_up` it falls
    silent.  `asked` fires once a request is there, `lost` once the client is gone.
    """

    def __init__(
        self,
        *chunks: bytes,
        greeting: bytes = b"",
        endless: bytes = b"",
        hangs_up: bool = False,
        certificate: Certificate | None = None,
    ) -> None:
        self.chunks = chunks
        self.greeting = greeting
        self.endless = endless
        self.hangs_up = hangs_up
        self.received = b""
        self.asked: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: _Raw(self)
        self._server = _Listening(factory, certificate)
        self.port = self._server.port

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}/"

    def stop(self) -> Deferred[Any]:
        return self._server.stop()


class _Listening:
    """A port, and the connections made to it."""

    def __init__(self, factory: Any, certificate: Certificate | None) -> None:
        if certificate is not None:
            context = server_context(certificate.chain, certificate.key)
            factory = TLSMemoryBIOFactory(ServerTls(context), False, factory)
        wrapping: Any = WrappingFactory(factory)
        self._open = wrapping
        self._open.protocol = _Known
        self._open.noisy = factory.noisy = False
        self._port: Any = reactor.listenTCP(0, self._open, interface="127.0.0.1")
        self.port = self._port.getHost().port

    def drop(self) -> Deferred[Any]:
        known = list(self._open.protocols)
        for protocol in known:
            protocol.transport.abortConnection()
        return DeferredList([protocol.gone for protocol in known])

    def stop(self) -> Deferred[Any]:
        return DeferredList([maybeDeferred(self._port.stopListening), self.drop()])


class _Known(ProtocolWrapper):
    def makeConnection(self, transport: Any) -> None:
        self.gone: Deferred[None] = Deferred()
        super().makeConnection(transport)

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.gone.callback(None)


class _Everything(Resource):
    """Each path is the same."""

    isLeaf = True

    def __init__(self, server: HttpServer) -> None:
        super().__init__()
        self._server = server

    def render_GET(self, request: Any) -> Any:
        return self._server.came(request)


class _Raw(Protocol):
    def __init__(self, server: RawServer) -> None:
        self._server = server

    def connectionMade(self) -> None:
        self.transport.write(self._server.greeting)

    def dataReceived(self, data: bytes) -> None:
        self._server.received += data
        if b"\r\n\r\n" not in self._server.received or self._server.asked.called:
            return
        self._server.asked.callback(None)
        for chunk in self._server.chunks:
            self.transport.write(chunk)
        if self._server.endless:
            self.transport.registerProducer(self, True)
            self.resumeProducing()
        elif self._server.hangs_up:
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self._paused = True
        if not self._server.lost.called:
            self._server.lost.callback(None)

    # a producer, for what has no end

    _paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._produce()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True

    def _produce(self) -> None:
        if not self._paused:
            self.transport.write(self._server.endless)
            reactor.callLater(0, self._produce)
