"""Upstreams that speak LMTP, and those on a Unix socket: reached, greeted, introduced."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from smtpproxy.deadlines import Deadlines
from smtpproxy.events import TransactionEnded, UpstreamFailed
from smtpproxy.routing import Identity, Tls, Upstream, parse_servers
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.transport import Poll
from smtpproxy.upstream import SocketDial
from tests.support.dialogue import FIRST_RCPT, GREETING, World
from tests.support.trial import TestCase

HELO_GREETING = """
    S: 220 mx.example.net ESMTP smtpproxy
    C: HELO client.example.com
    S: 250 mx.example.net
"""
MESSAGE = r"""
    P1: MAIL FROM:<s@example.org>
    U1: 250 fine
    P1: RCPT TO:<a@example.com>
    U1: 250 2.1.5 known here
    S: 250 2.1.5 known here
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: one\r\n.
    P1: one
    P1: .
    U1: 250 2.0.0 <a@example.com> saved
    S: 250 2.0.0 <a@example.com> saved
"""
PATH = "/run/dovecot/lmtp"


def started(servers: str, greeting: str = GREETING, **ways) -> World:
    """A client that has been greeted."""
    to = Upstream(parse_servers(servers), **{"tls": Tls.MAY, **ways})
    return World({"example.com": to}).play(greeting)


def greets(verb: str, *announced: str) -> str:
    *front, last = "one.example.net", *announced
    replies = "".join(f"U1: 250-{word}\n" for word in front)
    return f"U1: 220 one.example.net LMTP\nP1: {verb}\n{replies}U1: 250 {last}\n"


# What is said


@pytest.mark.parametrize("greeting", [GREETING, HELO_GREETING], ids=["EHLO", "HELO"])
def test_lhlo_is_said_whatever_the_client_said(greeting: str) -> None:
    started("lmtp:192.0.2.1", greeting).play(f"""
        {FIRST_RCPT}
        {greets("LHLO mx.example.net")}
        {MESSAGE}
    """)


@pytest.mark.parametrize(
    "refusal", ["500 5.5.1 this is SMTP", "502 5.5.1 not here", "421 4.3.2 busy"]
)
def test_a_server_that_does_not_know_lhlo_is_not_asked_by_helo(refusal: str) -> None:
    """It does not speak LMTP: what it would answer to a message is not what is expected."""
    started("lmtp:192.0.2.1").play(f"""
        {FIRST_RCPT}
        U1: 220 one.example.net ESMTP
        P1: LHLO mx.example.net
        U1: {refusal}
        {"P1: QUIT" if refusal[0] == "5" else "P1 cut"}
        S: 451 4.4.0 The server of this recipient is not ready: {refusal}
    """)


@pytest.mark.parametrize(
    ("greeting", "proto"), [(GREETING, "ESMTP"), (HELO_GREETING, "SMTP")], ids=["EHLO", "HELO"]
)
def test_after_xclient_lhlo_has_the_clients_name(greeting: str, proto: str) -> None:
    started("lmtp:192.0.2.1", greeting).play(f"""
        {FIRST_RCPT}
        {greets("LHLO mx.example.net", "XCLIENT ADDR PORT PROTO HELO TTL")}
        P1: XCLIENT HELO=client.example.com PROTO={proto} PORT=40000 ADDR=192.0.2.9
        U1: 220 one.example.net LMTP
        P1: LHLO client.example.com
        U1: 250-one.example.net
        U1: 250 PIPELINING
        P1: MAIL FROM:<s@example.org>
        P1: RCPT TO:<a@example.com>
    """)


def test_behind_a_proxy_header_lhlo_has_the_clients_name() -> None:
    started("lmtp:192.0.2.1", identity=Identity.PROXY1).play(f"""
        {FIRST_RCPT}
        P1: PROXY TCP4 192.0.2.9 198.51.100.1 40000 25
        {greets("LHLO client.example.com")}
        {MESSAGE}
    """)


def test_starttls_is_as_with_smtp() -> None:
    started("lmtp:192.0.2.1").play(f"""
        {FIRST_RCPT}
        {greets("LHLO mx.example.net", "STARTTLS")}
        P1: STARTTLS
        U1: 454 4.7.0 not now
        {MESSAGE}
    """)


# Through a Unix socket


@pytest.mark.parametrize(
    ("servers", "verb"), [(f"lmtp:unix:{PATH}", "LHLO"), (f"unix:{PATH}", "EHLO")]
)
@pytest.mark.parametrize("tls", [Tls.NONE, Tls.MAY, Tls.OFFERED])
def test_a_unix_socket_needs_no_address_and_no_tls(servers: str, verb: str, tls: Tls) -> None:
    to = Upstream(parse_servers(servers), tls)
    world = World({"example.com": to}, hosts={}).play(GREETING)
    world.play(f"""
        {FIRST_RCPT}
        U1 connected to {PATH}
        {greets(f"{verb} mx.example.net", "STARTTLS")}
        {MESSAGE}
        C: RSET
        P1: RSET
        U1: 250 ok
        S: 250 ok
    """)
    (ended,) = world.said(TransactionEnded)
    assert (ended.server, ended.address) == (servers, PATH)


def test_tls_on_a_unix_socket_where_it_is_asked_for() -> None:
    started(f"lmtp:unix:{PATH}", tls=Tls.ENCRYPT).play(f"""
        {FIRST_RCPT}
        {greets("LHLO mx.example.net", "STARTTLS")}
        P1: STARTTLS
    """)
    started(f"lmtp:unix:{PATH}", tls=Tls.ENCRYPT).play(f"""
        {FIRST_RCPT}
        {greets("LHLO mx.example.net")}
        P1: QUIT
        S: 451 4.7.4 The server of this recipient does not offer TLS
    """)


def test_the_next_server_where_the_socket_takes_nothing() -> None:
    to = Upstream(parse_servers(f"lmtp:unix:{PATH},lmtp:192.0.2.1"), Tls.MAY)
    world = World({"example.com": to})
    world.unreachable.add(PATH)
    world.play(GREETING).play(f"""
        {FIRST_RCPT}
        U1 connected to 192.0.2.1
        {greets("LHLO mx.example.net")}
        {MESSAGE}
    """)
    (failed,) = world.said(UpstreamFailed)
    assert (failed.server, failed.address) == (f"lmtp:unix:{PATH}", PATH)


def test_our_own_socket() -> None:
    world = World({"example.com": Upstream(parse_servers(f"unix:{PATH}"))})
    world.ourselves.add(PATH)
    world.play(GREETING).play(f"{FIRST_RCPT}\nS: 554 5.4.6 Mail for this recipient loops back here")


def test_who_the_client_is_can_be_told_there_too() -> None:
    """Where the server trusts whoever can open its socket."""
    started(f"unix:{PATH}", identity=Identity.PROXY1).play(f"""
        {FIRST_RCPT}
        P1: PROXY TCP4 192.0.2.9 198.51.100.1 40000 25
    """)
    started(f"unix:{PATH}").play(f"""
        {FIRST_RCPT}
        {greets("EHLO mx.example.net", "XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.9
    """)


# Real sockets


class Greeting(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"220 hello\r\n")

    def connectionLost(self, reason: object = None) -> None:
        self.factory.lost.callback(None)


class Dialling(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.deadlines = Deadlines(reactor)
        self.addCleanup(self.deadlines.stop)
        self.dial = SocketDial(Poll(reactor), self.deadlines, lambda: Stream(self.deadlines))

    async def test_a_unix_socket(self) -> None:
        path = str(self.folder / "a:b")  # which is no IPv6 address
        factory = Factory.forProtocol(Greeting)
        factory.noisy = False
        factory.lost = Deferred()
        port = reactor.listenUNIX(path, factory)
        self.addCleanup(port.stopListening)
        stream = await self.dial(path, 0, 5.0)
        self.assertEqual(await stream.receive(5.0), b"220 hello\r\n")
        stream.close()
        await factory.lost

    async def test_no_such_socket_and_nobody_behind_it(self) -> None:
        with self.assertRaisesRegex(Disconnected, "No such file"):
            await self.dial(str(self.folder / "missing"), 0, 5.0)
        (self.folder / "file").write_text("")
        with self.assertRaisesRegex(Disconnected, "refused"):
            await self.dial(str(self.folder / "file"), 0, 5.0)
