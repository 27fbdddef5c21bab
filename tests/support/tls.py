"""A session over loopback with TLS on both sides: real sockets, real handshakes."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from smtpproxy import tls
from smtpproxy.deadlines import Deadlines
from smtpproxy.events import Disconnected
from smtpproxy.listener import ConnectionLimits, Profile, SessionLimits, Sessions
from smtpproxy.mail import Peer
from smtpproxy.relay import DeliveryTimes, Relaying, Shadows
from smtpproxy.routing import Router, Row, Server, StaticMapping, Tls, Upstream
from smtpproxy.stream import Stream
from smtpproxy.transport import Poll
from smtpproxy.upstream import Connector, Manners, Pool, PoolLimits
from smtpproxy.upstream.dial import SocketDial
from tests.support.certificates import Authority, Certificate
from tests.support.dialogue import announcing

TIME = 10.0  # seconds for anything here


class Client:
    """A client, in a thread of its own, that says a line and hears a whole reply."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIME, (source, 0))
        self._replies = self.socket.makefile("rb")

    def hear(self) -> str:
        """The reply, its lines separated by a slash; "" at the end."""
        lines = []
        while line := self._replies.readline().decode().rstrip("\r\n"):
            lines.append(line)
            if line[3:4] != "-":
                break
        return "/".join(lines)

    def ask(self, text: str) -> str:
        self.socket.sendall(text.encode() + b"\r\n")
        return self.hear()

    def start_tls(self, name: str, behind: bytes = b"") -> None:
        """`behind`: plaintext sent in one segment with the command."""
        self.socket.sendall(b"STARTTLS\r\n" + behind)
        assert self.hear() == "220 2.0.0 Ready to start TLS"
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket, server_hostname=name)
        self._replies = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._replies.close()
        self.socket.close()


@dataclass
class TlsServer:
    """An upstream in threads: takes all mail, offers STARTTLS, and notes what it was told.

    `certificate` None: it offers STARTTLS and then does not speak TLS.
    """

    certificate: Certificate | None
    told: list[tuple[int, bool, str]] = field(default_factory=list)  # connection, encrypted, line
    asked_for: list[str | None] = field(default_factory=list)  # names, in SNI
    stumbles: int = 0  # handshakes to come in which it does not speak TLS
    resumed: list[bool] = field(default_factory=list)  # of each handshake: it was not a whole one

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def mails(self) -> list[tuple[int, bool]]:
        """Of each MAIL, the connection and whether it was encrypted."""
        return [(number, secret) for number, secret, line in self.told if line.startswith("MAIL")]

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            number += 1
            connection.settimeout(TIME)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        encrypted = content = False
        lines = connection.makefile("rb")

        def say(text: str) -> None:
            connection.sendall(text.encode() + b"\r\n")

        try:
            say("220 mx1.test")
            while octets := lines.readline():
                line = octets.decode().rstrip("\r\n")
                self.told.append((number, encrypted, line))
                if content:
                    if line == ".":
                        content = False
                        say("250 taken")
                    continue
                verb = line.split()[0]
                if verb == "EHLO":
                    say("250 mx1.test" if encrypted else "250-mx1.test\r\n250 STARTTLS")
                elif verb == "STARTTLS":
                    say("220 go")
                    if self.certificate is None or self.stumbles > 0:
                        self.stumbles -= 1
                        connection.recv(1)
                        say("this is no handshake")
                        break
                    connection = secured = self._context.wrap_socket(connection, server_side=True)
                    self.resumed.append(bool(secured.session_reused))
                    lines = connection.makefile("rb")
                    encrypted = True
                elif verb == "QUIT":
                    say("221 bye")
                    if isinstance(connection, ssl.SSLSocket):
                        connection.unwrap()  # to OpenSSL, without it the session is spoilt
                    break
                else:
                    content = verb == "DATA"
                    say("354 go" if content else "250 ok")
        except (OSError, UnicodeDecodeError):
            pass
        finally:
            lines.close()
            connection.close()

    @cached_property
    def _context(self) -> ssl.SSLContext:
        assert self.certificate is not None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate.chain, self.certificate.key)
        context.sni_callback = lambda _, name, __: self.asked_for.append(name)
        return context


def at(host: str, server: TlsServer, tls: Tls = Tls.OFFERED) -> Upstream:
    return Upstream((Server(host, server.port),), tls)


class TlsTest(TestCase):
    """A proxy before one upstream, and the events of its session."""

    timeout = 30

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.authority = Authority(self.folder)
        self.events: list[Any] = []
        self.deadlines = Deadlines(reactor)
        self.addCleanup(self.deadlines.stop)

    def server(self, certificate: Certificate | None) -> TlsServer:
        server = TlsServer(certificate)
        self.addCleanup(server.close)
        return server

    def proxy(self, upstream: Upstream) -> int:
        """Starts a proxy before `upstream`, whose name is one of 127.0.0.1; gives its port."""
        ours = self.authority.certificate("mx.example.net")
        times = DeliveryTimes(TIME, TIME)

        async def resolve(host: str) -> tuple[str, ...]:
            return ("127.0.0.1",)

        async def no_name(address: str) -> str:
            return "[UNAVAILABLE]"

        connector = Connector(
            dial=SocketDial(Poll(reactor), self.deadlines, partial(Stream, self.deadlines)),
            resolve=resolve,
            mail_hosts=resolve,
            is_ourselves=lambda address, port: False,
            manners=Manners("mx.example.net", tls.client_context(self.authority.file), 1.0, TIME),
            deadlines=self.deadlines,
        )
        relaying = Relaying(
            router=Router([StaticMapping(Row(upstream))], "", "mx.example.net"),
            shadows=Shadows(connector, lambda _: None),
            deadlines=self.deadlines,
            times=times,
            recipient_time=TIME,
            max_message_bytes=1000,
            max_recipients=10,
            reject_bare_newline=False,
        )
        profile = Profile(
            "mx.example.net",
            tls.server_context(ours.chain, ours.key),
            relaying,
            lambda secured: announcing(*(() if secured else ("STARTTLS",)), "PIPELINING"),
            command_time=TIME,
            data_time=TIME,
            tls_time=1.0,
            limits=SessionLimits(errors=10),
            pool=Pool(connector, PoolLimits(0.0, TIME, 1, 1), self.deadlines),
            reverse_name=no_name,
        )

        self.sessions = Sessions(
            names=lambda: "000000000001",
            observe=self.observe,
            limits=ConnectionLimits(10, 10),
            deadlines=self.deadlines,
        )
        peer = Peer("127.0.0.1", 1, "127.0.0.1", 25)
        factory: Factory[Any] = Factory.forProtocol(
            lambda: Stream(self.deadlines, lambda it: self.sessions.begin(peer, it, profile))
        )
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[arg-type]
        self.addCleanup(listening.stopListening)
        return int(listening.getHost().port)

    def observe(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, Disconnected):
            self.disconnected.callback(None)

    @inlineCallbacks
    def converse(self, upstream: Upstream, conversation):
        """Has a client hold `conversation` with a proxy before `upstream`; what it returns."""
        port = self.proxy(upstream)
        self.disconnected: Deferred[None] = Deferred()

        def hold():
            client = Client(port)
            try:
                assert client.hear().startswith("220 ")
                return conversation(client)
            finally:
                client.close()

        result = yield deferToThread(hold)
        yield self.disconnected
        while len(self.deadlines):  # what still has a deadline comes to its end before it
            done: Deferred[None] = Deferred()
            reactor.callLater(0.01, done.callback, None)
            yield done
        return result

    def said(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def rcpt(self, client: Client) -> str:
        client.ask("EHLO client.example.com")
        assert client.ask("MAIL FROM:<s@example.org>").startswith("250")
        return client.ask("RCPT TO:<a@example.com>")
