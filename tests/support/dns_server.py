"""A DNS server on loopback, that says what a test tells it to, and when."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.names import dns

SILENCE = None
"""Among the answers: the query is never answered."""

HOSTILE = [
    b"mx.example.com\r\nMAIL FROM:<>",
    b"mx.example.com NAME=x",
    b"mx\0.example.com",
    b"m\xc3\xbcx.example.com",
    b"[127.0.0.1]",
    b"mx+2b.example.com",
    b"",
    b"192.0.2.1",
    b".".join([b"a" * 60] * 4) + b".example.com",
]
"""Names of no host, as a server may say them all the same."""

Answer = list[Any] | int | None


class DnsServer:
    """Answers over UDP, and over TCP at the same port what UDP is too small for.

    `answers` holds, by name and type, records, or a response code, or SILENCE; for a name
    that it does not hold the response is NXDOMAIN.  `queries` are those that came.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], Answer] = {}
        self.queries: list[tuple[str, int, str]] = []
        self._expected: list[Deferred[None]] = []
        self._held: list[Any] | None = None
        self._open: list[Any] = []
        factory: Any = ServerFactory()
        factory.buildProtocol = lambda address: dns.DNSProtocol(self)
        while True:
            self._udp = reactor.listenUDP(0, dns.DNSDatagramProtocol(self), "127.0.0.1")
            port = self._udp.getHost().port
            try:
                self._tcp = reactor.listenTCP(port, factory, interface="127.0.0.1")
                break
            except CannotListenError:
                self._udp.stopListening()
        self.address = f"127.0.0.1:{port}"

    def stop(self) -> Deferred[Any]:
        for protocol in self._open:
            protocol.transport.abortConnection()
        return DeferredList([maybeDeferred(port.stopListening) for port in (self._udp, self._tcp)])

    def pointers(self, address: str, *names: bytes | str, ttl: int = 300) -> None:
        """`address` has these names; bytes may hold anything."""
        records = [_pointer(name, ttl) for name in names]
        self.answers[ip_address(address).reverse_pointer, dns.PTR] = records

    def addresses(self, name: str, *addresses: str, ttl: int = 300) -> None:
        """`name` has these addresses, and no others."""
        for kind in (dns.A, dns.AAAA):
            self.answers[name, kind] = []
        for address in addresses:
            kind, record = (
                (dns.AAAA, dns.Record_AAAA(address, ttl))
                if ":" in address
                else (dns.A, dns.Record_A(address, ttl))
            )
            self.answers[name, kind].append(record)

    def mail_hosts(self, domain: str, *hosts: tuple[int, bytes | str], ttl: int = 300) -> None:
        """`domain` has MX records of these preferences and names, or none."""
        records = [_mail_host(preference, name, ttl) for preference, name in hosts]
        self.answers[domain, dns.MX] = records

    def fails(self, name: str, kind: int, answer: Answer = dns.ESERVER) -> None:
        self.answers[name, kind] = answer

    def asked(self, kind: int | None = None) -> list[str]:
        """The names asked for, of this type or of all."""
        return [name for name, asked, _ in self.queries if kind in (None, asked)]

    def next_query(self) -> Deferred[None]:
        """Fires once another query has come."""
        self._expected.append(Deferred())
        return self._expected[-1]

    def hold(self) -> None:
        """Keep the answers from now on until `release`."""
        self._held = []

    def release(self) -> None:
        held, self._held = self._held or [], None
        for message, protocol, address in held:
            self._answer(message, protocol, address)

    # what twisted.names calls

    def messageReceived(self, message: Any, protocol: Any, address: Any = None) -> None:
        [query] = message.queries
        name = query.name.name.decode().lower()
        self.queries.append((name, query.type, "udp" if address else "tcp"))
        if self._held is not None:
            self._held.append((message, protocol, address))
        else:
            self._answer(message, protocol, address)
        expected, self._expected = self._expected, []
        for deferred in expected:
            deferred.callback(None)

    def connectionMade(self, protocol: Any) -> None:
        self._open.append(protocol)

    def connectionLost(self, protocol: Any) -> None:
        self._open.remove(protocol)

    def _answer(self, message: Any, protocol: Any, address: Any) -> None:
        [query] = message.queries
        answer = self.answers.get((query.name.name.decode().lower(), query.type), dns.ENAME)
        if answer is SILENCE:
            return
        message.answer = 1
        if isinstance(answer, int):
            message.rCode = answer
        else:
            message.answers = [
                dns.RRHeader(query.name.name, record.TYPE, dns.IN, record.ttl, record)
                for record in answer
            ]
        # twisted.names cuts to this size, and says so in the message; 0 is for any
        message.maxSize = 512 if address else 0
        protocol.writeMessage(message, *([address] if address else []))


def _pointer(name: bytes | str, ttl: int) -> Any:
    record = dns.Record_PTR(b"x", ttl)
    record.name.name = name.encode() if isinstance(name, str) else name
    return record


def _mail_host(preference: int, name: bytes | str, ttl: int) -> Any:
    record = dns.Record_MX(preference, b"x", ttl)
    record.name.name = name.encode() if isinstance(name, str) else name
    return record


class ClockedReactor(Clock):
    """Real sockets and threads, but a clock that only the test moves."""

    listenUDP = staticmethod(reactor.listenUDP)
    connectTCP = staticmethod(reactor.connectTCP)
    callFromThread = staticmethod(reactor.callFromThread)
