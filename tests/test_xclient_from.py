"""XCLIENT and XFORWARD, taken of those alone who are listed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred

from smtpproxy.events import (
    Connected,
    Disconnected,
    Introduced,
    Refused,
    Tls,
    TransactionEnded,
)
from smtpproxy.listener import ConnectionLimits
from smtpproxy.logs.fields import fields
from smtpproxy.logs.text import lines
from smtpproxy.mail import UNAVAILABLE, Peer
from smtpproxy.routing import Identity
from smtpproxy.smtp.commands import Bdat, Verb
from smtpproxy.smtp.proxy_header import version2
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Refusal
from smtpproxy.smtp.states import State
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
    upstream,
    upstream_greets,
)
from tests.support.wire import greeted

FRONT = Peer("192.0.2.5", 50000, "198.51.100.1", 25)
ATTRIBUTES = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
TRUSTED = f"""
    S: 220 mx.example.net ESMTP smtpproxy
    C: EHLO front.example.net
    S: 250-mx.example.net
    S: 250-PIPELINING
    S: 250-SIZE 1000000
    S: 250-ENHANCEDSTATUSCODES
    S: 250-8BITMIME
    S: 250 XCLIENT {ATTRIBUTES}
"""
AGAIN = GREETING.partition("smtpproxy\n")[2]  # behind the greeting
AGAIN_TRUSTED = TRUSTED.partition("smtpproxy")[2]


def world(peer: Peer = FRONT, **settings) -> World:
    settings = {"xclient_from": ["192.0.2.5"], "peer": peer, **settings}
    routes = {"example.com": ONE, "example.net": TWO, "three.test": settings.pop("third", TWO)}
    return World(routes, settings=Settings(**settings))


def said_by(made: World, line: bytes) -> bytes:
    """The reply to one line."""
    made.client.deliver(line + b"\r\n")
    made.clock.advance(0)
    said = bytes(made.client.said)
    made.client.said.clear()
    return said


# Who may


def test_others_do_not_hear_of_it_and_may_not() -> None:
    made = world(CLIENT).play(GREETING)
    made.play("C: XCLIENT ADDR=203.0.113.9\nS: 550 5.7.0 Insufficient authorization")
    assert made.said(Refused)[0].stage == "XCLIENT"
    made.play("C: XFORWARD ADDR=203.0.113.9\nS: 502 5.5.1 Command not implemented")
    assert not made.said(Introduced)


def test_where_nobody_is_listed_there_is_no_such_command() -> None:
    made = world(xclient_from=[]).play(GREETING)
    made.play("C: XCLIENT ADDR=203.0.113.9\nS: 502 5.5.1 Command not implemented")


def test_after_helo_it_is_taken_and_not_announced() -> None:
    world().play("""
        S: 220 mx.example.net ESMTP smtpproxy
        C: HELO front.example.net
        S: 250 mx.example.net
        C: XCLIENT ADDR=203.0.113.9
        S: 220 mx.example.net ESMTP smtpproxy
    """)


STATES = {
    State.GREETED: b"",
    State.READY: b"EHLO x\r\n",
    State.SENDER: b"EHLO x\r\nMAIL FROM:<>\r\n",
    State.RECIPIENTS: b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\n",
    State.CHUNKS: b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nBDAT 0\r\n",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", [Verb.XCLIENT, Verb.XFORWARD])
@pytest.mark.parametrize("trusted", [None, False, True])
@pytest.mark.parametrize("argument", [b"ADDR=192.0.2.9", b"ADDR=x", b""])
def test_where_it_is_taken(state: State, verb: Verb, trusted: bool | None, argument: bytes) -> None:
    """In Postfix's order: the place, who may say it, what is said."""
    connection = greeted()
    connection.receive(STATES[state])
    while (event := connection.next_event()) is not None:
        if not isinstance(event, Bdat):
            connection.reply(Reply.of(250, "", "text"))
    assert connection.state is state
    connection.trust = {} if trusted is None else {verb: trusted}
    connection.receive(verb.value.encode() + b" " + argument + b"\r\n")
    event = connection.next_event()
    inside = state not in (State.GREETED, State.READY)
    code = 502 if trusted is None else 503 if inside else 550 if not trusted else 501
    if trusted and not inside and argument == b"ADDR=192.0.2.9":
        assert event is not None and not isinstance(event, Refusal)
        connection.reply(Reply.of(220, "", "text"))
        assert connection.state is (State.GREETED if verb is Verb.XCLIENT else state)
    else:
        assert isinstance(event, Refusal)
        assert event.reply.code == code
        connection.reply(event.reply)
        assert connection.state is state


def test_what_is_wrong_with_it_counts_as_an_error() -> None:
    made = world(max_errors=3).play(TRUSTED)
    made.play("""
        C: XCLIENT ADDR=x
        S: 501 5.5.4 Bad ADDR syntax
        C: XCLIENT
        S: 501 5.5.4 Syntax: XCLIENT attribute=value...
        C: XCLIENT TTL=3
        S: 501 5.5.4 There is no such attribute of XCLIENT
        S: 421 4.7.0 Too many errors
        S closed
    """)
    assert made.said(Disconnected)[0].client.peer == FRONT


# What becomes of it


def test_the_session_begins_anew_with_another_client() -> None:
    """For the log, the name look-up and the upstream."""
    made = world(name="mail.example.org").play(TRUSTED)
    made.play("""
        C: XCLIENT ADDR=203.0.113.9 PORT=40000 DESTADDR=192.0.2.25 DESTPORT=2525 HELO=x PROTO=SMTP
        S: 220 mx.example.net ESMTP smtpproxy
        C: MAIL FROM:<s@example.org>
        S: 503 5.5.1 Send EHLO first
    """)
    made.play(AGAIN + "C: XCLIENT ADDR=192.0.2.66\nS: 550 5.7.0 ...")
    made.play(f"""
        {FIRST_RCPT}
        {upstream_greets(1, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT")}
        P1: XCLIENT NAME=mail.example.org HELO=client.example.com PROTO=ESMTP \
DESTADDR=192.0.2.25 DESTPORT=2525 PORT=40000 ADDR=203.0.113.9
        U1: 220 one
        P1: EHLO client.example.com
        U1: 250 one
        {REPLAYED}
        {MESSAGE}
    """)
    (introduced,) = made.said(Introduced)
    peer = Peer("203.0.113.9", 40000, "192.0.2.25", 2525)
    assert introduced.client.peer == made.said(TransactionEnded)[0].client.peer == peer
    assert introduced.client.peer.via == "192.0.2.5"
    [(_, line)] = lines(introduced)
    assert line.startswith("XCLIENT from 192.0.2.5: client is unknown[203.0.113.9] ")
    assert made.said(Connected)[0].client.peer == FRONT


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("XCLIENT NAME=client.example.org ADDR=203.0.113.9", "client.example.org"),
        ("XCLIENT ADDR=203.0.113.9 NAME=[unavailable]", UNAVAILABLE),
        ("XCLIENT ADDR=203.0.113.9 NAME=[TempUnavail]", "[TEMPUNAVAIL]"),
        ("XCLIENT NAME=client.example.org", "client.example.org"),
    ],
)
def test_a_name_that_is_said_is_not_looked_up(told: str, name: str) -> None:
    looking: Deferred[str] = Deferred()
    made = world(name=looking).play(TRUSTED).play(f"C: {told}\nS: 220 ...")
    (introduced,) = made.said(Introduced)
    assert introduced.client.name == name
    assert looking.called, "nobody waits for it any more"
    (session,) = made.sessions._running
    assert session.client.name == name


def test_a_name_said_in_the_command_before_belongs_to_the_address() -> None:
    """Long ones take two commands; the address is behind them."""
    asked = []
    made = world(xclient_from=["192.0.2.5", "203.0.113.9"])

    async def name(address: str) -> str:
        asked.append(address)
        return "looked.up.test"

    made.profile = replace(made.profile, reverse_name=name)
    made.client = made.connect(FRONT)
    made.play(f"""
        {TRUSTED}
        C: XCLIENT NAME=client.example.org
        S: 220 ...
        C: XCLIENT ADDR=203.0.113.9
        S: 220 ...
        C: XCLIENT ADDR=203.0.113.10
        S: 220 ...
    """)
    names = [event.client.name for event in made.said(Introduced)]
    assert names[:2] == ["client.example.org", "client.example.org"]
    assert asked == ["192.0.2.5", "203.0.113.10"]
    *_, session = made.sessions._running
    assert session.client.name == "looked.up.test"


def test_until_the_name_is_found_there_is_none() -> None:
    """Least of all that of the client before."""
    made = world(name="front.example.net").play(TRUSTED)
    made.name = Deferred()
    made.play("C: XCLIENT ADDR=203.0.113.9\nS: 220 ...")
    (session,) = made.sessions._running
    assert session.client.name == UNAVAILABLE
    made.name.callback("mail.example.org")
    assert session.client.name == "mail.example.org"


def test_what_was_said_before_does_not_stay() -> None:
    """LOGIN and the port, as with Postfix: they belong to the client before."""
    made = (
        world(xclient_from=["0.0.0.0/0"])
        .play(TRUSTED)
        .play("""
        C: XCLIENT LOGIN=alice HELO=x PROTO=SMTP ADDR=203.0.113.9 PORT=40000
        S: 220 ...
        C: XCLIENT ADDR=203.0.113.10
        S: 220 ...
    """)
    )
    first, second = (event.client for event in made.said(Introduced))
    assert (first.login, first.helo, first.protocol) == ("alice", "x", "SMTP")
    assert (first.peer.address, first.peer.port) == ("203.0.113.9", 40000)
    assert (second.login, second.helo, second.protocol) == ("", "", "ESMTP")
    assert (second.peer.address, second.peer.port) == ("203.0.113.10", 0)


@pytest.mark.parametrize(("listed", "again"), [(["192.0.2.5"], False), (["0.0.0.0/0"], True)])
def test_whether_it_may_be_said_again_is_up_to_the_new_address(
    listed: list[str], again: bool
) -> None:
    made = world(xclient_from=listed).play(TRUSTED).play("C: XCLIENT ADDR=203.0.113.9\nS: 220 ...")
    assert (b"XCLIENT NAME" in said_by(made, b"EHLO x")) is again
    assert said_by(made, b"XCLIENT ADDR=192.0.2.5")[:3] == (b"220" if again else b"550")


def test_an_address_that_is_not_known() -> None:
    """A list without "unix" does not hold it."""
    made = (
        world().play(TRUSTED).play("C: XCLIENT ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]\nS: 220 ...")
    )
    peer = made.said(Introduced)[0].client.peer
    assert (peer.address, peer.port) == ("", 0)
    made.play(AGAIN)


def test_it_may_be_sent_in_one_flight_with_what_follows() -> None:
    made = world().play(TRUSTED)
    made.client.deliver(
        b"XCLIENT ADDR=203.0.113.9\r\nEHLO client.example.com\r\nMAIL FROM:<s@example.org>\r\n"
    )
    made.clock.advance(0)
    said = bytes(made.client.said).splitlines()
    assert [said[0][:3], said[1][:3], said[-1]] == [b"220", b"250", b"250 2.1.0 Ok"]


def test_octet_by_octet() -> None:
    made = world().play(TRUSTED)
    for octet in b"XCLIENT ADDR=IPV6:2001:db8::9 NAME=x.test\r\n":
        made.client.deliver(bytes([octet]))
        made.clock.advance(0)
    made.play("S: 220 mx.example.net ESMTP smtpproxy")
    assert made.said(Introduced)[0].client.peer.address == "2001:db8::9"


def test_upstreams_of_the_client_before_are_left() -> None:
    made = (
        world(xclient_from=["192.0.2.5", "203.0.113.9"])
        .play(TRUSTED)
        .play(f"""
        {FIRST_RCPT}
        {upstream_greets(1, "XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.5
        U1: 220 one
        P1: EHLO front.example.net
        U1: 250 one
        {REPLAYED}
        C: XCLIENT ADDR=203.0.113.9
        S: 503 5.5.1 A transaction is under way; send RSET to leave it
        {MESSAGE}
        C: XCLIENT ADDR=203.0.113.9
        P1: QUIT
        S: 220 ...
        {AGAIN_TRUSTED}
        {FIRST_RCPT}
        {upstream_greets(2, "XCLIENT ADDR")}
        P2: XCLIENT ADDR=203.0.113.9
    """)
    )
    assert len(made.upstreams) == 2


def test_it_never_reaches_an_upstream_as_it_is() -> None:
    """Nor can what is in it make an attribute of its own there."""
    made = (
        world()
        .play(TRUSTED)
        .play("""
        C: XCLIENT LOGIN=a+20ADDR+3D127.0.0.1+2B HELO=x+2BADDR+3D127.0.0.1 ADDR=203.0.113.9
        S: 220 ...
    """)
    )
    made.play(AGAIN + FIRST_RCPT + f"""
        {upstream_greets(1, "XCLIENT HELO LOGIN ADDR")}
        P1: XCLIENT HELO=client.example.com LOGIN=a+20ADDR+3D127.0.0.1+2B ADDR=203.0.113.9
    """)  # fmt: skip


def test_a_client_of_another_family_than_its_connection() -> None:
    """A PROXY header has one family for both ends."""
    to = upstream("192.0.2.3", identity=Identity.PROXY2)
    made = world(third=to).play(TRUSTED)
    made.play("C: XCLIENT ADDR=IPV6:2001:db8::9 PORT=40000\nS: 220 ...")
    made.play(AGAIN)
    made.play("C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok")
    made.client.deliver(b"RCPT TO:<a@three.test>\r\n")
    made.clock.advance(0)
    assert bytes(made.upstream(1).said) == version2(("2001:db8::9", 40000), ("198.51.100.1", 25))


# TLS


def test_starttls_comes_first() -> None:
    """What came in clear counts no more after it: with it would go who the client is."""
    context = SSL.Context(SSL.TLS_METHOD)
    made = world(tls_context=context, xclient_from=["0.0.0.0/0"]).play("S: 220 ...")
    assert b"250-STARTTLS" in said_by(made, b"EHLO front.example.net")
    assert said_by(made, b"XCLIENT ADDR=203.0.113.9").startswith(b"220")
    assert b"STARTTLS" not in said_by(made, b"EHLO client.example.com")
    assert said_by(made, b"STARTTLS") == b"503 5.5.1 STARTTLS comes before XCLIENT\r\n"


def test_inside_tls_it_is_taken_and_tls_stays() -> None:
    made = world(tls_context=SSL.Context(SSL.TLS_METHOD)).play("S: 220 ...")
    (session,) = made.sessions._running
    session.tls = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert b"STARTTLS" not in said_by(made, b"EHLO front.example.net")
    assert said_by(made, b"XCLIENT ADDR=203.0.113.9").startswith(b"220")
    assert b"STARTTLS" not in said_by(made, b"EHLO client.example.com")
    assert said_by(made, b"STARTTLS") == b"503 5.5.1 TLS is active already\r\n"


# Limits


def test_the_limit_of_an_address_is_that_of_the_new_one() -> None:
    made = world(limits=ConnectionLimits(100, 1))
    made.play(TRUSTED).play("C: XCLIENT ADDR=203.0.113.9\nS: 220 ...")
    first = made.client
    for address, reply in [
        ("203.0.113.9", "421 4.7.0 Too many connections from your address"),
        ("203.0.113.10", "220 ..."),
    ]:  # the front's own place is free again each time
        made.client = made.connect(FRONT)
        made.play(TRUSTED + "C: XCLIENT NAME=x.test\nS: 220 ..." + AGAIN_TRUSTED)
        made.play(f"C: XCLIENT ADDR={address}\nS: {reply}")
    first.lose()
    made.clock.advance(0)
    made.client = made.connect(replace(CLIENT, address="203.0.113.9"))
    made.play("S: 220 ...")


def test_who_speaks_for_others_has_no_limit_of_its_own() -> None:
    made = world(limits=ConnectionLimits(100, 1))
    for _ in range(3):
        made.play(TRUSTED + "C: XCLIENT NAME=x.test\nS: 220 ...")
        made.client = made.connect(FRONT)


# XFORWARD


def forwarding(**settings) -> World:
    made = world(xclient_from=[], xforward_from=["192.0.2.5"], **settings)
    announced = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
    return made.play(TRUSTED.replace(f"XCLIENT {ATTRIBUTES}", announced))


def test_what_is_forwarded_is_in_the_log_of_the_next_transaction_alone() -> None:
    made = forwarding().play(f"""
        C: XFORWARD NAME=client.example.org ADDR=203.0.113.9 PORT=40000 PROTO=ESMTP
        S: 250 2.0.0 Ok
        C: XFORWARD HELO=a+20error+3Dx+22 IDENT=4F1A SOURCE=REMOTE
        S: 250 2.0.0 Ok
        {FIRST_RCPT}
        {upstream_greets(1, "XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.5
        U1: 220 one
        P1: EHLO front.example.net
        U1: 250 one
        {REPLAYED}
        {MESSAGE}
        {FIRST_RCPT}
        {REPLAYED}
        {MESSAGE}
    """)
    first, second = made.said(TransactionEnded)
    assert first.client.peer == FRONT
    told = fields(first)
    assert told["forwarded_client"] == "client.example.org[203.0.113.9]"
    assert (told["forwarded_helo"], told["forwarded_id"]) == ('a error=x"', "4F1A")
    (summary,) = [text for _, text in lines(first) if "summary" in text]
    assert r'forwarded_helo="a error\u003dx\""' in summary
    assert not any(name.startswith("forwarded") for name in fields(second))


@pytest.mark.parametrize("ends_it", ["RSET", "EHLO front.example.net"])
def test_what_was_forwarded_ends_as_a_transaction_would(ends_it: str) -> None:
    made = forwarding().play("C: XFORWARD ADDR=203.0.113.9\nS: 250 2.0.0 Ok")
    assert said_by(made, ends_it.encode()).startswith(b"250")
    (session,) = made.sessions._running
    assert not session._forwarded


def test_what_is_known_of_nothing() -> None:
    made = forwarding().play(f"""
        C: XFORWARD NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] HELO=[UNAVAILABLE]
        S: 250 2.0.0 Ok
        {FIRST_RCPT}
        {upstream_greets(1)}
        {REPLAYED}
        {MESSAGE}
    """)
    told = fields(made.said(TransactionEnded)[0])
    assert told["forwarded_client"] == "unknown[unknown]"
    assert "forwarded_helo" not in told
