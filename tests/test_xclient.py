"""Who the client is, as its upstream is told: XCLIENT, then the client's own EHLO or HELO."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred

from smtpproxy.mail import TEMPUNAVAIL, UNAVAILABLE, Client, Peer
from smtpproxy.smtp.xclient import commands
from smtpproxy.upstream.handshake import attributes
from tests.support.dialogue import (
    CLIENT,
    FIRST_RCPT,
    GREETING,
    MESSAGE,
    ONE,
    REPLAYED,
    TWO,
    Settings,
    World,
)

ALL = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"


def announces(extensions: str, number: int = 1) -> str:
    """Upstream `number` greets, and announces this one extension."""
    return f"""
        U{number}: 220 one.example.net ESMTP
        P{number}: EHLO mx.example.net
        U{number}: 250-one.example.net
        U{number}: 250 {extensions}
    """


def world(name: str | Deferred[str] = UNAVAILABLE) -> World:
    return World({"example.com": ONE, "example.net": TWO}, settings=Settings(name=name))


def test_all_that_is_announced_is_told_with_the_address_last() -> None:
    world("client.example.com").play(GREETING).play(f"""
        {FIRST_RCPT}
        {announces(ALL)}
        P1: XCLIENT NAME=client.example.com HELO=client.example.com PROTO=ESMTP \
DESTADDR=198.51.100.1 DESTPORT=25 PORT=40000 ADDR=192.0.2.9
        U1: 220 one.example.net ESMTP
        P1: EHLO client.example.com
        U1: 250-one.example.net
        U1: 250 PIPELINING
        P1: MAIL FROM:<s@example.org>
        P1: RCPT TO:<a@example.com>
    """)


@pytest.mark.parametrize(
    ("announced", "told"),
    [
        ("XCLIENT ADDR", "XCLIENT ADDR=192.0.2.9"),
        ("xclient addr port", "XCLIENT PORT=40000 ADDR=192.0.2.9"),
        ("XCLIENT TTL PROTO", "XCLIENT PROTO=ESMTP"),
        ("XCLIENT SESSION ADDR", "XCLIENT SESSION=000000000001 ADDR=192.0.2.9"),
    ],
)
def test_nothing_else_is_told(announced: str, told: str) -> None:
    world().play(GREETING).play(f"{FIRST_RCPT}\n{announces(announced)}\nP1: {told}")


@pytest.mark.parametrize("announced", ["XCLIENT", "XCLIENT TTL", "XFORWARD NAME ADDR"])
def test_where_nothing_can_be_told_there_is_no_xclient(announced: str) -> None:
    world().play(GREETING).play(f"{FIRST_RCPT}\n{announces(announced)}\n{REPLAYED}")


def test_the_new_ehlo_is_the_clients_own_and_its_answer_counts() -> None:
    """What was announced to us says nothing of what the client is offered."""
    world().play(GREETING).play(f"""
        C: MAIL FROM:<s@example.org> SIZE=5
        S: 250 2.1.0 Ok
        C: RCPT TO:<a@example.com>
        U1: 220 one.example.net ESMTP
        P1: EHLO mx.example.net
        U1: 250-one.example.net
        U1: 250-SIZE
        U1: 250-PIPELINING
        U1: 250 XCLIENT ADDR
        P1: XCLIENT ADDR=192.0.2.9
        U1: 220 one.example.net ESMTP
        P1: EHLO client.example.com
        U1: 250 one.example.net
        {REPLAYED}
    """)


def test_a_client_that_said_helo_is_told_with_helo() -> None:
    """After a HELO nothing is announced: no pipelining, whatever our own EHLO was told."""
    world().play(f"""
        S: 220 mx.example.net ESMTP smtpproxy
        C: HELO old.example.com
        S: 250 mx.example.net
        {FIRST_RCPT}
        U1: 220 one.example.net ESMTP
        P1: EHLO mx.example.net
        U1: 250-one.example.net
        U1: 250-PIPELINING
        U1: 250 XCLIENT PROTO HELO
        P1: XCLIENT HELO=old.example.com PROTO=SMTP
        U1: 220 one.example.net ESMTP
        P1: HELO old.example.com
        U1: 250-one.example.net
        U1: 250 PIPELINING
        {REPLAYED}
    """)


def test_a_hostile_helo_name_is_one_word() -> None:
    world().play(f"""
        S: 220 mx.example.net ESMTP smtpproxy
        C: EHLO x+ADDR=127.0.0.1
        S: 250-mx.example.net
        S: 250-PIPELINING
        S: 250-SIZE 1000000
        S: 250-ENHANCEDSTATUSCODES
        S: 250 8BITMIME
        {FIRST_RCPT}
        {announces("XCLIENT HELO")}
        P1: XCLIENT HELO=x+2BADDR+3D127.0.0.1
        U1: 220 one.example.net ESMTP
        P1: EHLO x+ADDR=127.0.0.1
    """)


@pytest.mark.parametrize("name", ["a b", "a\tb", "a\x00b", "grün.example", "a" * 256, ""])
def test_what_is_no_word_does_not_pass_for_a_helo_name(name: str) -> None:
    made = world().play("S: 220 mx.example.net ESMTP smtpproxy")
    made.client.deliver(b"EHLO " + name.encode() + b"\r\n")
    made.play("S: 50...")


HOSTILE = "x.test\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<a@x.test> ADDR=127.0.0.1 +0D+0A\x00\udcff"


def test_a_hostile_reverse_name_is_one_word() -> None:
    """None such comes out of `dns`; were one to, it would still begin no command."""
    world(HOSTILE).play(GREETING).play(f"""
        {FIRST_RCPT}
        {announces("XCLIENT NAME ADDR")}
        P1: XCLIENT NAME=x.test+0D+0AMAIL+20FROM:<evil@x.test>+0D+0ARCPT+20TO:<a@x.test>\
+20ADDR+3D127.0.0.1+20+2B0D+2B0A+00+FF ADDR=192.0.2.9
    """)


def test_what_does_not_fit_is_split_at_512_octets() -> None:
    name, helo = "n" * 250, "h" * 241
    assert len(f"XCLIENT NAME={name} HELO={helo}\r\n") == 512
    world(name).play(GREETING.replace("client.example.com", helo)).play(f"""
        {FIRST_RCPT}
        {announces(ALL)}
        P1: XCLIENT NAME={name} HELO={helo}
        U1: 220 one.example.net ESMTP
        P1: XCLIENT PROTO=ESMTP DESTADDR=198.51.100.1 DESTPORT=25 PORT=40000 ADDR=192.0.2.9
        U1: 220 one.example.net ESMTP
        P1: EHLO {helo}
    """)


def test_the_second_of_two_commands_may_be_refused_as_well() -> None:
    name, helo = "n" * 250, "h" * 250
    world(name).play(GREETING.replace("client.example.com", helo)).play(f"""
        {FIRST_RCPT}
        {announces("XCLIENT NAME HELO ADDR")}
        P1: XCLIENT NAME={name}
        U1: 220 one.example.net ESMTP
        P1: XCLIENT HELO={helo} ADDR=192.0.2.9
        U1: 550 5.7.1 blocked
        P1: QUIT
        S: 550 5.7.1 blocked
    """)


def test_ipv6() -> None:
    peer = Peer("2001:db8::9", 40000, "2001:db8::1", 25)
    assert commands(attributes(Client(peer)), {"ADDR", "DESTADDR"}) == [
        b"XCLIENT DESTADDR=IPV6:2001:db8::1 ADDR=IPV6:2001:db8::9\r\n"
    ]


def test_a_client_on_a_unix_socket() -> None:
    said = attributes(Client(Peer("", 0, "", 0), helo="local.example.com"))
    assert said == {
        "NAME": UNAVAILABLE,
        "HELO": "local.example.com",
        "PROTO": "ESMTP",
        "PORT": UNAVAILABLE,
        "ADDR": UNAVAILABLE,
    }


def test_a_login_is_told_where_there_is_one() -> None:
    assert attributes(Client(CLIENT, login="alice"))["LOGIN"] == "alice"
    assert "LOGIN" not in attributes(Client(CLIENT))


# The reverse name


@pytest.mark.parametrize("name", [UNAVAILABLE, TEMPUNAVAIL])
def test_a_name_that_is_not_known(name: str) -> None:
    world(name).play(GREETING).play(f"""
        {FIRST_RCPT}
        {announces("XCLIENT NAME ADDR")}
        P1: XCLIENT NAME={name} ADDR=192.0.2.9
    """)


def test_a_late_name_delays_the_recipient_where_the_upstream_asks_for_it() -> None:
    naming: Deferred[str] = Deferred()
    made = world(naming).play(GREETING)
    made.play(f"{FIRST_RCPT}\n{announces('XCLIENT NAME ADDR')}\nwait 3s")
    naming.callback("client.example.com")
    made.play("P1: XCLIENT NAME=client.example.com ADDR=192.0.2.9")


@pytest.mark.parametrize(
    ("extension", "told"),
    [("XCLIENT ADDR", "P1: XCLIENT ADDR=192.0.2.9"), ("SIZE", "P1: MAIL FROM:<s@example.org>")],
)
def test_a_late_name_delays_nothing_where_nobody_asks_for_it(extension: str, told: str) -> None:
    world(Deferred()).play(GREETING).play(f"""
        C: NOOP
        S: 250 2.0.0 Ok
        {FIRST_RCPT}
        {announces(extension)}
        {told}
        C gone
        P1 cut
    """)


def test_a_name_that_never_comes_costs_the_recipient_and_not_the_session() -> None:
    """`dns` has a deadline of its own; were it to fail, that of the recipient holds."""
    world(Deferred()).play(GREETING).play(f"""
        {FIRST_RCPT}
        {announces("XCLIENT NAME ADDR")}
        wait 239s
        wait 2s
        P1 cut
        S: 451 4.4.1 ...
        C: QUIT
        S: 221 2.0.0 Bye
        S closed
    """)


def test_a_session_that_ends_before_the_name_is_found_forgets_it() -> None:
    naming: Deferred[str] = Deferred()
    made = world(naming).play(GREETING)
    made.play("C gone")
    assert naming.called


# Whom a connection belongs to


ONE_MESSAGE = f"""
    {FIRST_RCPT}
    {announces("XCLIENT ADDR HELO")}
    P1: XCLIENT HELO=client.example.com ADDR=192.0.2.9
    U1: 220 one.example.net ESMTP
    P1: EHLO client.example.com
    U1: 250 one.example.net
    {REPLAYED}
    {MESSAGE}
"""


def test_the_connection_is_kept_between_the_transactions_of_a_client() -> None:
    made = world().play(GREETING).play(f"{ONE_MESSAGE}\n{FIRST_RCPT}\n{REPLAYED}")
    assert len(made.upstreams) == 1


@pytest.mark.parametrize("name", ["other.example.com", "client.example.com"])
def test_a_client_that_introduces_itself_anew_gets_a_new_connection(name: str) -> None:
    world().play(GREETING).play(f"""
        {ONE_MESSAGE}
        C: HELO {name}
        P1: QUIT
        S: 250 mx.example.net
        {FIRST_RCPT}
        {announces("XCLIENT ADDR HELO PROTO", 2)}
        P2: XCLIENT HELO={name} PROTO=SMTP ADDR=192.0.2.9
        U2: 220 one.example.net ESMTP
        P2: HELO {name}
    """)


def test_a_connection_never_serves_a_second_client() -> None:
    made = world().play(GREETING).play(f"{ONE_MESSAGE}\nC gone\nP1: QUIT")
    made.client = made.connect(replace(CLIENT, address="192.0.2.10"))
    made.play(GREETING).play(f"""
        {FIRST_RCPT}
        {announces("XCLIENT ADDR", 2)}
        P2: XCLIENT ADDR=192.0.2.10
    """)
