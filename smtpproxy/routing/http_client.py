"""Gets answers from one web service, and trusts it with as little as possible.

Twisted's agent speaks HTTP; connections are kept and used again, and one that the service
has closed meanwhile costs nothing but another try.  What the agent leaves open is closed
here: an answer has a greatest size, with its headers; the certificate is verified before
a request goes out; a connection that is given up is gone at once.  Redirects are answers
like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet import error as network
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from smtpproxy.routing.http_url import Url
from smtpproxy.tls import ClientTls, verify
from smtpproxy.values import value

MAX_BODY = 65536
"""Octets of an answer's body."""

MAX_ANSWER = MAX_BODY + 16384
"""Octets of an answer, with all that HTTP puts around the body."""

_KEPT = 60  # seconds for which an idle connection is kept
_PLAIN = (network.ConnectError, network.ConnectionClosed, OSError)  # their words are good enough


class BadService(Exception):
    """There is no answer; the text says why, for the log, in one line."""


@value
class Response:
    """What a service answered, with the names of its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class WebService:
    """The service at `url`, asked over `connections` connections at most.

    `context`, of `tls.client_context`, is for https.  `reactor` must have sockets and a
    resolver; `timeout` is in seconds, and for connecting alone.
    """

    def __init__(
        self, url: Url, reactor: Any, context: SSL.Context | None, timeout: float, connections: int
    ) -> None:
        self._url = url
        self._free = DeferredSemaphore(connections)
        self._pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = _KEPT
        only = _OneEndpoint(_Endpoint(_tcp_or_tls(url, reactor, context, timeout), url.host))
        self._agent = Agent.usingEndpointFactory(reactor, only, self._pool)  # type: ignore[no-untyped-call]

    async def get(self, parameters: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """The answer to a GET; raises `BadService`.  To be cancelled if it takes too long."""
        await self._free.acquire()
        try:
            raw = Headers({name: [value] for name, value in headers.items()})
            url = self._url.with_query(parameters)
            response = await _or_cancelled(self._agent.request(b"GET", url, raw))
            body = await _Body.of(response)
        except CancelledError:
            raise
        except Exception as error:
            raise BadService(_words(error)) from error
        finally:
            self._free.release()
        named = {
            name.decode("latin-1").lower(): values[-1].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return Response(response.code, named, body)

    def close(self) -> Deferred[None]:
        """Close the connections that nothing is asked over; fires once they are closed."""
        closed: Deferred[None] = self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
        return closed


class _Body(Protocol):
    """Collects the body of a response."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._leave())
        self._data = bytearray()
        self._over = False

    @classmethod
    def of(cls, response: IResponse) -> Deferred[bytes]:
        body = cls()
        response.deliverBody(body)  # type: ignore[no-untyped-call]
        return body.done

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_BODY and not self._over:
            self._leave()
            self.done.errback(BadService(f"its answer is longer than {MAX_BODY} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._over:
            return
        self._over = True
        # without a length the body ends where the connection does (HTTP/1.0)
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self.done.callback(bytes(self._data))
        else:
            self.done.errback(reason)

    def _leave(self) -> None:
        self._over = True
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IHandshakeListener)
class _Connection(ProtocolWrapper):
    """A connection to the service, given up where the service is not to be trusted."""

    transport: Any
    factory: _Connections

    _received = 0  # octets since a request was sent
    _fault: BadService | None = None

    def handshakeCompleted(self) -> None:
        """TLS is there, and nothing has been sent over it yet."""
        if fault := verify(self.transport.getHandle(), self.factory.host):
            self._give_up(fault)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send a request."""
        self._received = 0
        self.transport.writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_ANSWER:
            self._give_up(f"its answer is longer than {MAX_ANSWER} octets")
        else:
            self.wrappedProtocol.dataReceived(data)

    def loseConnection(self) -> None:
        """At once: TLS would wait until the service says goodbye as well."""
        self.disconnecting = 1
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._fault:
            reason = Failure(self._fault)  # type: ignore[no-untyped-call]
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def _give_up(self, why: str) -> None:
        self._fault = self._fault or BadService(why)
        self.loseConnection()


class _Connections(WrappingFactory[_Connection]):
    protocol = _Connection
    noisy = False

    def __init__(self, wrapped: IProtocolFactory, host: str) -> None:
        super().__init__(wrapped)  # type: ignore[no-untyped-call]
        self.host = host


@implementer(IStreamClientEndpoint)
@dataclass(frozen=True)
class _Endpoint:
    """Makes a `_Connection` of each connection, which the agent does not see."""

    endpoint: IStreamClientEndpoint
    host: str

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connected: Deferred[Any] = self.endpoint.connect(_Connections(protocolFactory, self.host))
        return connected.addCallback(lambda connection: connection.wrappedProtocol)


@implementer(IAgentEndpointFactory)
@dataclass(frozen=True)
class _OneEndpoint:
    """The agent asks for one by URL, and there is but one."""

    endpoint: IStreamClientEndpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self.endpoint


def _tcp_or_tls(url: Url, reactor: Any, context: SSL.Context | None, timeout: float) -> Any:
    # the host as octets: Twisted takes underscores in them
    endpoint: Any = HostnameEndpoint(reactor, url.host.encode("ascii"), url.port, timeout)
    if url.scheme != "https":
        return endpoint
    if context is None:
        raise ValueError("https needs a TLS context")
    return wrapClientTLS(ClientTls(context, url.host), endpoint, reactor)


def _or_cancelled(work: Deferred[IResponse]) -> Deferred[IResponse]:
    """The same, but once cancelled it says so, and not what that looks like to the agent."""
    cancelled = False

    def cancel(_: object) -> None:
        nonlocal cancelled
        cancelled = True
        work.cancel()

    result: Deferred[IResponse] = Deferred(cancel)
    work.addBoth(lambda outcome: None if cancelled else result.callback(outcome))
    return result


def _words(error: BaseException) -> str:
    while reasons := getattr(error, "reasons", None):  # the agent's errors hold each other
        error = reasons[0].value
    if isinstance(error, SSL.Error):
        return f"TLS fails: {error}"
    if isinstance(error, (BadService, *_PLAIN)):
        return str(error)
    return f"its answer is not HTTP ({type(error).__name__})"
