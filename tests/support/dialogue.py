"""A session between a client and upstreams, all in memory, played from a transcript.

    C: what the client sends           S: what the proxy must say to the client
    U1: what the first upstream sends   P1: what the proxy must say to it

Upstreams are numbered in the order in which the proxy connects to them.  A line that ends in
`...` stands for every line that begins so; `\\r\\n` is a line end inside what is sent at once.
Besides these:

    U1 connected to 192.0.2.1      the proxy must have connected there
    C gone, U1 gone                the client, the upstream closes its connection
    S closed, P1 closed            the proxy must have closed it, everything sent
    P1 cut                         the proxy must have reset it
    P1 part: text                  the proxy must say this to it, and no line end as yet
    U1 stalls, U1 takes            it takes nothing of what is written, and takes it again
    stop                           the program is told to stop
    wait 5m                        time passes

Nothing may be left that was said and not expected, at any `C:`, `U:` or `wait`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from textwrap import dedent
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from smtpproxy.config.values import parse_duration
from smtpproxy.deadlines import Deadlines
from smtpproxy.dns import NotFound
from smtpproxy.events import Event
from smtpproxy.listener import ConnectionLimits, Profile, SessionLimits, Sessions
from smtpproxy.mail import UNAVAILABLE, Peer
from smtpproxy.networks import Networks
from smtpproxy.relay import DeliveryTimes, Doubts, Guard, Relaying, Shadows
from smtpproxy.routing import (
    Answer,
    Found,
    Identity,
    NoRoute,
    Question,
    Route,
    Router,
    Row,
    Server,
    Tls,
    Upstream,
)
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.tap import Tap
from smtpproxy.tasks import start
from smtpproxy.upstream import (
    Checks,
    Connector,
    Health,
    Heard,
    Manners,
    Pool,
    PoolLimits,
    Slots,
    Standings,
)

CLIENT = Peer("192.0.2.9", 40000, "198.51.100.1", 25)
KEEPS_NONE = PoolLimits(idle=0.0, age=60.0, uses=10, each=5)
DRAIN_TIME = 30.0  # seconds that a stop may take
NOW = 1795157062.0  # seconds since 1970: what the calendar says all the time

Routes = Mapping[str, "Upstream | Row | Answer | None"]


class MemoryTransport:
    """What a `Stream` needs of Twisted's transports, ending in a buffer."""

    def __init__(self, clock: Clock, host: IPv4Address, peer: IPv4Address) -> None:
        self.said = bytearray()  # by the proxy, not yet looked at
        self.stalled = False  # the peer takes nothing: what is written waits
        self.closed = False
        self.cut = False
        self.paused = False
        self._waiting = bytearray()  # sent by the peer while reading was paused
        self._clock = clock
        self._ends = host, peer
        self._stream: Any = None
        self._producer: Any = None
        self.on_tls: Callable[[Any], object] = lambda _: None  # by default it never ends
        self.secured: Any = None  # OpenSSL's connection, once hands are shaken

    @property
    def open(self) -> bool:
        """Neither end has closed it."""
        return self._stream is not None and not (self.closed or self.cut)

    def connect(self, stream: Stream) -> None:
        self._stream = stream
        stream.makeConnection(self)

    def deliver(self, data: bytes) -> None:
        """The peer sends `data`."""
        self._waiting += data
        if self.open and not self.paused and self._waiting:
            data = bytes(self._waiting)
            self._waiting.clear()
            self._stream.dataReceived(data)

    def lose(self, error: Exception | None = None) -> None:
        """The peer is gone."""
        if self._stream is not None:
            stream, self._stream, self._producer = self._stream, None, None
            stream.connectionLost(Failure(error or ConnectionDone()))

    def drained(self) -> None:
        """The peer takes what is written again."""
        self.stalled = False
        if self._producer is not None:
            self._producer.resumeProducing()

    # ITransport, as Twisted has it

    def write(self, data: bytes) -> None:
        if self.closed or self.cut:  # too late: Twisted's transports drop it, too
            return
        self.said += data
        if self.stalled and self._producer is not None:
            self._producer.pauseProducing()

    def loseConnection(self) -> None:
        self.closed = True
        self._clock.callLater(0, self.lose)

    def loseWriteConnection(self) -> None:
        """The other side closes as soon as it has heard the end."""
        self.loseConnection()

    def abortConnection(self) -> None:
        self.cut = True
        self._clock.callLater(0, self.lose, ConnectionLost())

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self._clock.callLater(0, self.deliver, b"")

    def shake_hands(self, connection: object) -> None:
        """The handshake has ended; what is written stays in clear all the same."""
        self.secured = connection
        self._stream.handshakeCompleted()

    def half_close(self) -> None:
        """The peer sends no more; what Twisted's transports, and ours, make of it."""
        if IHalfCloseableProtocol.providedBy(self._stream):
            self._stream.readConnectionLost()
        else:
            self.lose()

    def startTLS(self, creator: object) -> None:
        self.on_tls(creator)

    def getHandle(self) -> object:
        return self.secured

    def getHost(self) -> IPv4Address:
        return self._ends[0]

    def getPeer(self) -> IPv4Address:
        return self._ends[1]


@dataclass
class Table:
    """A mapping for tests: a key's upstream, row, or whole answer, or a look-up without end."""

    routes: Routes
    name: str = "table"

    def keys(self, question: Question) -> tuple[str, ...]:
        return question.keys

    async def lookup(self, question: Question) -> Answer:
        for key in self.keys(question):
            found = self.routes.get(key, NoRoute())
            if found is None:
                await Deferred()
            if isinstance(found, Upstream):
                found = Row(found)
            if isinstance(found, Row):
                return Found(Route(found, self.name, key))
            if found is not None and not isinstance(found, NoRoute):
                return found
        return NoRoute()

    def listed(self) -> list[Row]:
        return [Row(each) for each in self.routes.values() if isinstance(each, Upstream)]

    @property
    def lists_all(self) -> bool:
        return True


@dataclass
class Settings:
    """What a test may want otherwise; times in seconds.

    `name` is the confirmed reverse name of clients, or comes later.  `peer` is the first client,
    `random` what draws servers by their weights.  `offer` is what the listener announces (see
    `announcing`), by default what is announced before anything is known of upstreams, or an `Offer`
    of it.  `heard` is told what upstreams announce.  `guard_time`: 0 is without 5xx guard.
    `checks`: upstreams' addresses that failed are asked in the background.  `signs`: our refusals
    name the session.
    """

    recipient_time: float = 240.0
    pool: PoolLimits = KEEPS_NONE
    max_message_bytes: int = 1_000_000
    max_recipients: int = 5
    max_errors: int = 4
    session: SessionLimits | None = None  # in place of max_errors
    session_time: float = 4 * 3600.0
    reject_bare_newline: bool = False
    recipient_delimiter: str = "+"
    limits: ConnectionLimits = field(default_factory=lambda: ConnectionLimits(100, 10))
    tls_context: SSL.Context | None = None
    name: str | Deferred[str] = UNAVAILABLE
    peer: Peer = CLIENT
    random: Random | None = None
    offer: Extensions | Callable[[bool], Extensions] | None = None
    heard: Heard | None = None
    lmtp: bool = False
    proxy_from: Sequence[str] = ()
    xclient_from: Sequence[str] = ()
    xforward_from: Sequence[str] = ()
    guard_time: float = 0.0
    checks: bool = False
    signs: bool = False

    def announced(self, secured: bool) -> Extensions:
        """What EHLO announces."""
        if isinstance(self.offer, Extensions):
            return self.offer
        if self.offer is not None:
            return self.offer(secured)
        starttls = ["STARTTLS"] if self.tls_context and not secured else []
        size = f"SIZE {self.max_message_bytes}"
        return announcing("PIPELINING", size, *starttls, "ENHANCEDSTATUSCODES", "8BITMIME")


class World:
    """A proxy, its clock, and everybody it talks to."""

    def __init__(
        self,
        routes: Routes | None = None,
        hosts: Mapping[str, Sequence[str]] | None = None,
        settings: Settings | None = None,
    ) -> None:
        """`hosts` gives the addresses of upstreams' hosts; without it a host is its own.

        The hosts of a domain's MX records are there under `MX` and a blank before its name.
        """
        settings = settings or Settings()
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.events: list[Event] = []
        self.tap = Tap()
        self.upstreams: list[tuple[str, MemoryTransport]] = []
        self.unreachable: set[str] = set()  # addresses that refuse connections
        self.silent: set[str] = set()  # addresses where connecting never ends
        self.ourselves: set[str] = set()
        self.name = settings.name
        self.hosts = hosts
        self.stopped: Deferred[None] | None = None  # once stopping: done when all has ended
        self.notes: list[tuple[bool, str]] = []  # of the guard, and of upstreams' health
        self.health = Health(self.clock.seconds, lambda *note: self.notes.append(note))
        self.standings = Standings()
        times = DeliveryTimes(reply=300.0, final=600.0)
        connector = Connector(
            dial=self._dial,
            resolve=self._resolve,
            mail_hosts=lambda domain: self._resolve(f"MX {domain}"),
            is_ourselves=lambda address, port: address in self.ourselves,
            manners=Manners("mx.example.net", SSL.Context(SSL.TLS_METHOD), 30.0, 300.0),
            deadlines=self.deadlines,
            random=settings.random,
            heard=settings.heard,
            health=self.health,
            standings=self.standings,
        )
        if settings.checks:
            self.checks = Checks(self.health, self.standings, self.deadlines)
            self.checks.connector = connector
        self.connector = connector
        self.slots = Slots(self.deadlines)
        self.pool = Pool(connector, settings.pool, self.deadlines, self.slots, self.standings)
        self.skipped: list[Upstream] = []  # shadows, once for each recipient not asked about
        self.shadows = Shadows(connector, self.skipped.append)
        self.guard = Guard(
            settings.guard_time, self.clock.seconds, lambda *note: self.notes.append(note)
        )
        self.doubts = Doubts(self.clock.seconds)
        relaying = Relaying(
            router=Router([Table(routes or {})], settings.recipient_delimiter, "mx.example.net"),
            shadows=self.shadows,
            deadlines=self.deadlines,
            times=times,
            recipient_time=settings.recipient_time,
            max_message_bytes=settings.max_message_bytes,
            max_recipients=settings.max_recipients,
            reject_bare_newline=settings.reject_bare_newline,
            guard=self.guard if settings.guard_time else None,
            doubts=self.doubts,
        )
        self.profile = Profile(
            domain="mx.example.net",
            tls_context=settings.tls_context,
            relaying=relaying,
            offer=settings.announced,
            command_time=300.0,
            data_time=180.0,
            session_time=settings.session_time,
            tls_time=30.0,
            limits=settings.session or SessionLimits(errors=settings.max_errors),
            pool=self.pool,
            reverse_name=self._name,
            lmtp=settings.lmtp,
            proxy_from=Networks(settings.proxy_from),
            xclient_from=Networks(settings.xclient_from),
            xforward_from=Networks(settings.xforward_from),
            signs=settings.signs,
            now=lambda: NOW,
        )
        numbers = count(1)
        self.sessions = Sessions(
            names=lambda: f"{next(numbers):012X}",
            observe=self.events.append,
            limits=settings.limits,
            deadlines=self.deadlines,
            tap=self.tap,
        )
        self.client = self.connect(settings.peer)

    def connect(self, peer: Peer = CLIENT) -> MemoryTransport:
        """One more client."""
        here = IPv4Address("TCP", peer.local_address, peer.local_port)
        transport = MemoryTransport(self.clock, here, IPv4Address("TCP", peer.address, peer.port))
        transport.connect(
            Stream(self.deadlines, lambda it: self.sessions.begin(peer, it, self.profile))
        )
        return transport

    def play(self, script: str) -> World:
        """Play a transcript; raises AssertionError at the first line that is not as it says."""
        for line in filter(None, map(str.strip, dedent(script).splitlines())):
            self._step(line)
            self.clock.advance(0)
        self.check_quiet("the end")
        return self

    def check_quiet(self, where: str) -> None:
        """Nobody was told anything that no line expects."""
        for who, transport in self._everybody().items():
            assert not transport.said, f"before {where!r}, {who}: {bytes(transport.said)!r}"

    def upstream(self, number: int) -> MemoryTransport:
        assert number <= len(self.upstreams), f"there is no connection to an upstream {number}"
        return self.upstreams[number - 1][1]

    def said(self, kind: type[Any]) -> list[Any]:
        """The events of one kind, in their order."""
        return [event for event in self.events if isinstance(event, kind)]

    def _everybody(self) -> dict[str, MemoryTransport]:
        ends = {f"P{number}": each for number, (_, each) in enumerate(self.upstreams, 1)}
        return {"S": self.client, **ends}

    def _step(self, line: str) -> None:
        for pattern, action in self._ACTIONS:
            if match := re.fullmatch(pattern, line):
                if not line.startswith(("S", "P")):
                    self.check_quiet(line)
                action(self, line, *match.groups())
                return
        raise ValueError(f"not a line of a transcript: {line}")

    def _end(self, number: str) -> MemoryTransport:
        return self.upstream(int(number)) if number else self.client

    def _sends(self, line: str, number: str, text: str) -> None:
        text = text.replace("\\r\\n", "\r\n")
        self._end(number).deliver(text.encode() + b"\r\n")

    def _expect(self, line: str, number: str, text: str) -> None:
        said = self._end(number).said
        end = said.find(b"\r\n")
        assert end >= 0, f"expected {line!r}, got {bytes(said)!r}"
        got = bytes(said[:end]).decode()
        del said[: end + 2]
        as_expected = got.startswith(text[:-3]) if text.endswith("...") else got == text
        assert as_expected, f"expected {line!r}, got {got!r}"

    def _expect_part(self, line: str, number: str, text: str) -> None:
        said = self._end(number).said
        assert said.startswith(text.encode()), f"expected {line!r}, got {bytes(said)!r}"
        del said[: len(text.encode())]

    def _gone(self, line: str, number: str) -> None:
        self._end(number).lose()

    def _closed(self, line: str, number: str) -> None:
        end = self._end(number)
        assert end.closed, f"expected {line!r}: it is open"
        assert not end.cut, f"expected {line!r}: it was cut"

    def _cut(self, line: str, number: str) -> None:
        assert self._end(number).cut, f"expected {line!r}"

    def _stalls(self, line: str, number: str, how: str) -> None:
        if how == "stalls":
            self._end(number).stalled = True
        else:
            self._end(number).drained()

    def _stop(self, line: str) -> None:
        self.stopped = start(self.sessions.stop(DRAIN_TIME))

    def _connected(self, line: str, number: str, address: str) -> None:
        assert self.upstream(int(number))
        assert self.upstreams[int(number) - 1][0] == address, self.upstreams

    def _wait(self, line: str, duration: str) -> None:
        until = self.clock.seconds() + parse_duration(duration)
        while self.clock.seconds() < until:
            self.clock.advance(0.5)

    _ACTIONS: tuple[tuple[str, Callable[..., None]], ...] = (
        (r"[CU](\d*): ?(.*)", _sends),
        (r"[SP](\d*): ?(.*)", _expect),
        (r"[SP](\d*) part: (.*)", _expect_part),
        (r"[CU](\d*) gone", _gone),
        (r"[SP](\d*) closed", _closed),
        (r"[SP](\d*) cut", _cut),
        (r"[CU](\d*) (stalls|takes)", _stalls),
        (r"U(\d+) connected to (.*)", _connected),
        (r"stop", _stop),
        (r"wait (.*)", _wait),
    )

    async def _dial(self, address: str, port: int, seconds: float) -> Stream:
        if address in self.unreachable:
            raise Disconnected("Connection refused")
        if address in self.silent:
            await self.deadlines.limit(Deferred(), seconds)
        here = IPv4Address("TCP", "198.51.100.1", 50000)
        transport = MemoryTransport(self.clock, here, IPv4Address("TCP", address, port))
        self.upstreams.append((address, transport))
        stream = Stream(self.deadlines)
        transport.connect(stream)
        return stream

    async def _resolve(self, host: str) -> Sequence[str]:
        if self.hosts is None:
            return [host]
        if host not in self.hosts:
            raise NotFound(f"{host} has no address")
        return self.hosts[host]

    async def _name(self, address: str) -> str:
        return self.name if isinstance(self.name, str) else await self.name


def upstream(
    *hosts: str | Server, tls: Tls = Tls.MAY, identity: Identity = Identity.AUTO
) -> Upstream:
    """An upstream of these servers, which by default nobody must verify."""
    servers = (host if isinstance(host, Server) else Server(host) for host in hosts)
    return Upstream(tuple(servers), tls, identity)


ONE = upstream("192.0.2.1")
TWO = upstream("192.0.2.2")

GREETING = """
    S: 220 mx.example.net ESMTP smtpproxy
    C: EHLO client.example.com
    S: 250-mx.example.net
    S: 250-PIPELINING
    S: 250-SIZE 1000000
    S: 250-ENHANCEDSTATUSCODES
    S: 250 8BITMIME
"""


def upstream_greets(number: int = 1, extensions: str = "") -> str:
    """The lines of an upstream that greets and takes EHLO, with the extensions named."""
    words = ["one.example.net", *extensions.split(",")] if extensions else ["one.example.net"]
    *front, last = words
    replies = "".join(f"U{number}: 250-{word}\n" for word in front)
    return (
        f"U{number}: 220 one.example.net ESMTP\n"
        f"P{number}: EHLO mx.example.net\n{replies}U{number}: 250 {last}\n"
    )


def replayed(number: int = 1) -> str:
    """Upstream `number` takes the envelope of `FIRST_RCPT`."""
    return f"""
        P{number}: MAIL FROM:<s@example.org>
        U{number}: 250 fine
        P{number}: RCPT TO:<a@example.com>
        U{number}: 250 fine
        S: 250 fine
    """


MAIL = """
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
"""
FIRST_RCPT = f"""
    {MAIL}
    C: RCPT TO:<a@example.com>
"""
REPLAYED = replayed(1)
BOUND = FIRST_RCPT + upstream_greets(1) + REPLAYED
MESSAGE = r"""
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: one\r\n.
    P1: one
    P1: .
    U1: 250 taken
    S: 250 taken
"""


def announcing(*lines: str) -> Extensions:
    """What a server announces with these lines ("SIZE 1000", "PIPELINING")."""
    return Extensions.of(Reply.of(250, "", "mx.example.net", *lines))


def with_tls_verify(upstream: Upstream) -> Upstream:
    return replace(upstream, tls=Tls.OFFERED)
