"""Clients behind a load balancer, which says by a PROXY header who they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smtpproxy.events import Connected, NotIntroduced, Refused, TransactionEnded
from smtpproxy.listener import ConnectionLimits
from smtpproxy.logs.text import lines
from smtpproxy.mail import Peer
from smtpproxy.routing import Identity
from smtpproxy.smtp.proxy_header import version1, version2
from tests.support.dialogue import GREETING, Settings, World, upstream, upstream_greets

BALANCER = Peer("192.0.2.5", 50000, "198.51.100.1", 25)
CLIENT = ("203.0.113.9", 40000), ("192.0.2.25", 25)
LINE = "PROXY TCP4 203.0.113.9 192.0.2.25 40000 25"
LOCAL = version2(("", 0), ("", 0))
HEADERS = {"1": version1(*CLIENT), "2": version2(*CLIENT)}
ONE_MESSAGE = f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(1, "XCLIENT ADDR PORT DESTADDR DESTPORT")}
    P1: XCLIENT DESTADDR=192.0.2.25 DESTPORT=25 PORT=40000 ADDR=203.0.113.9
    U1: 220 one
    P1: EHLO client.example.com
    U1: 250 one
    P1: MAIL FROM:<s@example.org>
    U1: 250 fine
    P1: RCPT TO:<a@example.com>
    U1: 250 fine
    S: 250 fine
"""


def world(peer: Peer = BALANCER, **settings) -> World:
    settings = {"proxy_from": ["192.0.2.5", "2001:db8::/32"], "peer": peer, **settings}
    return World({"example.com": upstream("192.0.2.1")}, settings=Settings(**settings))


def reasons(made: World) -> list[str]:
    return [event.reason for event in made.said(NotIntroduced)]


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_the_client_is_the_one_of_the_header(header: bytes) -> None:
    """For the log, the name look-up and the upstream; nothing is said or done before."""
    made = world()
    made.play("wait 4s")
    assert not made.events and not len(made.sessions)
    made.client.deliver(header)
    made.play(GREETING).play(ONE_MESSAGE)
    (connected,) = made.said(Connected)
    peer = connected.client.peer
    assert peer == Peer("203.0.113.9", 40000, "192.0.2.25", 25)
    assert peer.via == "192.0.2.5"
    [(_, line)] = lines(connected)
    assert line.startswith("connect from unknown[203.0.113.9] via=192.0.2.5 ")
    made.client.lose()
    made.clock.advance(0)
    assert made.said(TransactionEnded)[0].client.peer == peer


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_octet_by_octet(header: bytes) -> None:
    made = world()
    for at in range(len(header)):
        made.check_quiet("the header's end")
        made.client.deliver(header[at : at + 1])
        made.clock.advance(0)
    made.play(GREETING).play(ONE_MESSAGE)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_what_comes_behind_the_header_is_the_clients(header: bytes) -> None:
    """It may be a second header, which counts for nothing."""
    made = world()
    second = b"PROXY TCP4 192.0.2.1 192.0.2.1 1 1\r\n"
    made.client.deliver(header + b"EHLO client.example.com\r\n" + second)
    made.play(GREETING.replace("C: EHLO client.example.com\n", "") + "S: 500 ..." + ONE_MESSAGE)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_of_others_it_is_never_taken(header: bytes) -> None:
    """It is what it always was: no SMTP.  The QUIT in version 2 is none either."""
    made = world(Peer("192.0.2.6", 50000, "198.51.100.1", 25), max_errors=9)
    made.play("S: 220 ...")
    made.client.deliver(header + b"\r\n")
    made.clock.advance(0)
    said = bytes(made.client.said).splitlines()
    assert said and all(each.startswith(b"500 ") for each in said)
    assert made.client.open
    assert made.said(Connected)[0].client.peer.address == "192.0.2.6"


def test_the_name_that_is_looked_up_is_the_clients() -> None:
    asked: list[str] = []
    made = world()

    async def name(address: str) -> str:
        asked.append(address)
        return "mail.example.org"

    made.profile = replace(made.profile, reverse_name=name)
    made.client = made.connect(BALANCER)
    made.play(f"C: {LINE}\nS: 220 ...")
    assert asked == ["203.0.113.9"]


@pytest.mark.parametrize(
    "header",
    [LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 1.2.3.4 x\r\n"],
    ids=["LOCAL", "UNKNOWN", "UNKNOWN and more"],
)
def test_a_health_check_is_its_senders_own(header: bytes) -> None:
    made = world()
    made.client.deliver(header)
    made.play("S: 220 mx.example.net ESMTP smtpproxy\nC: QUIT\nS: 221 2.0.0 Bye\nS closed")
    (connected,) = made.said(Connected)
    assert connected.client.peer == BALANCER
    assert not connected.client.peer.via


def test_a_client_on_the_balancers_unix_socket_has_no_address() -> None:
    """Least of all the balancer's, which upstreams may trust."""
    made = world()
    made.client.deliver(version2(*CLIENT)[:13] + b"\x31" + (216).to_bytes(2, "big") + bytes(216))
    made.play("S: 220 ...")
    peer = made.said(Connected)[0].client.peer
    assert (peer.address, peer.port, peer.via) == ("", 0, "192.0.2.5")


def test_a_balancer_on_our_unix_socket() -> None:
    made = world(Peer("", 0, "", 0), proxy_from=["unix"])
    made.play(f"C: {LINE}" + GREETING + ONE_MESSAGE)
    assert made.said(Connected)[0].client.peer.via == "unix"


# No header


def test_who_says_nothing_has_so_many_seconds() -> None:
    world().play("wait 4s")
    made = world().play("wait 6s\nS closed")
    assert reasons(made) == ["not there within 5 s"]
    [(_, line)] = lines(made.said(NotIntroduced)[0])
    assert line.startswith("warning: no PROXY header from 192.0.2.5:50000: not there within 5 s ")


def test_who_drips_has_no_more() -> None:
    made = world()
    for octet in version1(*CLIENT)[:8]:
        made.client.deliver(bytes([octet]))
        made.clock.advance(1)
    made.play("S closed")
    assert reasons(made) == ["not there within 5 s"]


@pytest.mark.parametrize(
    "said",
    ["EHLO client.example.com", "PROXY TCP4 x y 1 2", "GET / HTTP/1.1", r"\r\n\r\nx", "QUIT"],
)
def test_what_is_no_header_ends_it_without_a_word(said: str) -> None:
    """Nothing of what came is in the log."""
    made = world().play(f"C: {said}\nS closed")
    (reason,) = reasons(made)
    assert reason in ("it begins with something else", "a line that is not as version 1 has it")
    assert not made.said(Connected) and not len(made.sessions)


def test_a_connection_that_ends_without_a_word_is_no_warning() -> None:
    """So do health checks that know no PROXY header."""
    made = world().play("C gone")
    assert [event.silent for event in made.said(NotIntroduced)] == [True]
    made = world()
    made.client.deliver(b"PROXY")
    made.play("C gone")
    assert [event.silent for event in made.said(NotIntroduced)] == [False]


def test_a_stop_does_not_wait_for_a_header() -> None:
    made = world().play("stop\nS closed")
    assert made.stopped is not None and made.stopped.called
    assert reasons(made) == ["stopped"]


# Limits


def test_the_limit_of_an_address_is_the_clients_and_not_the_balancers() -> None:
    made = world(limits=ConnectionLimits(100, 2))
    made.play(f"C: {LINE}\nS: 220 ...")
    for address, greeting in [
        ("203.0.113.9", "220 ..."),
        ("203.0.113.10", "220 ..."),
        ("203.0.113.9", "421 4.7.0 Too many connections from your address"),
    ]:
        made.client = made.connect(BALANCER)
        made.play(f"C: PROXY TCP4 {address} 192.0.2.25 40000 25\nS: {greeting}")
    (refused,) = made.said(Refused)
    assert refused.client.peer.address == "203.0.113.9"


def test_the_balancers_own_connections_have_no_limit_per_address() -> None:
    """A health check that is told 421 would take all clients with it."""
    made = world(limits=ConnectionLimits(100, 1, connections_per_minute=1))
    for _ in range(3):
        made.client = made.connect(BALANCER)
        made.client.deliver(LOCAL)
        made.play("S: 220 ...")
    made.client = made.connect(Peer("192.0.2.6", 1, "198.51.100.1", 25))
    made.play("S: 220 ...")
    made.client = made.connect(Peer("192.0.2.6", 1, "198.51.100.1", 25))
    made.play("S: 421 4.7.0 Too many connections from your address\nS closed")


def test_those_without_a_header_count_among_all() -> None:
    made = world(limits=ConnectionLimits(3, 9))
    first, second = made.client, made.connect(BALANCER)
    third = made.connect(BALANCER)
    assert made.connect(BALANCER).closed
    assert reasons(made) == ["too many connections"]
    made.client = made.connect(Peer("192.0.2.6", 1, "198.51.100.1", 25))
    made.play("S: 421 4.7.0 Too many connections; try again later\nS closed")
    for each in (first, second, third):  # each of them has its place kept
        each.deliver(f"{LINE}\r\n".encode())
        made.clock.advance(0)
        assert each.said.startswith(b"220 ")
    assert len(made.sessions) == 3
    first.lose()
    made.clock.advance(0)
    assert not made.connect(BALANCER).closed


# Onwards


@pytest.mark.parametrize("version", [1, 2])
def test_the_upstream_is_told_by_a_header_of_its_own(version: int) -> None:
    identity = Identity.PROXY1 if version == 1 else Identity.PROXY2
    to = upstream("192.0.2.1", identity=identity)
    made = World({"example.com": to}, settings=Settings(peer=BALANCER, proxy_from=["192.0.2.0/24"]))
    made.client.deliver(HEADERS["2"])
    made.play(GREETING).play("C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok")
    made.client.deliver(b"RCPT TO:<a@example.com>\r\n")
    made.clock.advance(0)
    assert bytes(made.upstream(1).said) == HEADERS[str(version)]
