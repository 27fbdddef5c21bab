"""Limits of clients: at once, within a minute, and in one session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.task import Clock

from smtpproxy.events import Disconnected, Refused, Side
from smtpproxy.listener import ConnectionLimits, SessionLimits, visitors
from smtpproxy.listener.visitors import Visitors
from smtpproxy.networks import Networks
from smtpproxy.smtp.commands import Plain, Verb
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Refusal, ServerConnection
from tests.support.dialogue import (
    BOUND,
    CLIENT,
    GREETING,
    MAIL,
    ONE,
    TWO,
    Settings,
    World,
    announcing,
    upstream_greets,
)

ROUTES = {"example.com": ONE, "example.net": TWO}
FROM_YOU = "421 4.7.0 Too many connections from your address"
TOO_OFTEN = "421 4.7.0 Too many new connections from your address"
CROWDED = "451 4.4.5 Too many wait for their server; try again later"


def limits(**values: Any) -> ConnectionLimits:
    return ConnectionLimits(**{"total": 100, "per_address": 100, **values})


def world(session: SessionLimits | None = None, **values: Any) -> World:
    return World(ROUTES, settings=Settings(limits=limits(**values), session=session))


def told(it: World, address: str) -> str:
    """What one more client with this address is told first; its connection is kept."""
    return bytes(it.connect(replace(CLIENT, address=address)).said).decode().strip()


def taken(it: World, address: str) -> bool:
    return told(it, address).startswith("220 ")


def sends(it: World, *commands: str) -> list[str]:
    """What the first client is told of commands that no upstream hears of."""
    it.client.deliver("".join(f"{each}\r\n" for each in commands).encode())
    it.clock.advance(0)
    said = bytes(it.client.said).decode().splitlines()
    it.client.said.clear()
    return said


# Whose connections are counted together


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("203.0.113.1", "203.0.113.1", True),
        ("203.0.113.1", "203.0.113.2", False),
        ("203.0.113.1", "::ffff:203.0.113.1", True),
        ("::ffff:203.0.113.1", "::ffff:203.0.113.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_an_address_of_ipv4_and_a_64_of_ipv6_are_one_client(
    first: str, second: str, same: bool
) -> None:
    it = world(per_address=1)
    assert taken(it, first)
    assert told(it, second) == FROM_YOU if same else taken(it, second)


def test_other_lengths_of_prefix() -> None:
    it = world(per_address=1, ipv4_prefix=24, ipv6_prefix=48)
    for first, second, other in [
        ("203.0.113.1", "203.0.113.200", "203.0.114.1"),
        ("2001:db8::1", "2001:db8:0:ffff::1", "2001:db8:1::1"),
    ]:
        assert taken(it, first)
        assert told(it, second) == FROM_YOU
        assert taken(it, other)


def test_the_exempt_have_no_limits_but_those_of_all() -> None:
    it = world(
        total=5,
        per_address=1,
        connections_per_minute=1,
        exempt=Networks(["203.0.113.0/24", "2001:db8::/32"]),
    )
    for address in ("203.0.113.1", "203.0.113.1", "2001:db8::1", ""):
        assert taken(it, address)
    assert told(it, "203.0.113.1") == "421 4.7.0 Too many connections; try again later"


def test_whose_session_has_ended_makes_room() -> None:
    it = world(per_address=2)
    other = it.connect()
    assert told(it, CLIENT.address) == FROM_YOU
    other.lose()
    it.clock.advance(0)
    assert taken(it, CLIENT.address)
    assert told(it, CLIENT.address) == FROM_YOU


def test_limits_may_be_others_later() -> None:
    it = world(per_address=1)
    assert told(it, CLIENT.address) == FROM_YOU
    it.sessions.visitors.limits = limits(per_address=2)
    assert taken(it, CLIENT.address)
    assert told(it, CLIENT.address) == FROM_YOU


def test_one_that_speaks_for_others_is_not_counted_itself() -> None:
    it = world(per_address=1)
    it.profile = replace(it.profile, xclient_from=Networks(["203.0.113.1"]))
    front = [it.connect(replace(CLIENT, address="203.0.113.1")) for _ in range(3)]
    for each, address in zip(front, ("192.0.2.1", "192.0.2.1", "192.0.2.2"), strict=True):
        each.deliver(b"EHLO front.example.com\r\n")
        each.said.clear()
        each.deliver(b"XCLIENT ADDR=%s\r\n" % address.encode())
    assert [bytes(each.said[:9]) for each in front] == [b"220 mx.ex", b"421 4.7.0", b"220 mx.ex"]
    assert told(it, "192.0.2.1") == FROM_YOU


# Within a minute


def test_new_connections_within_a_minute() -> None:
    it = world(connections_per_minute=3)  # the world has one already
    assert taken(it, CLIENT.address)
    it.clock.advance(59)
    assert taken(it, CLIENT.address)
    assert told(it, CLIENT.address) == TOO_OFTEN
    assert taken(it, "192.0.2.10")
    assert [str(each.reply) for each in it.said(Refused)] == [TOO_OFTEN]
    it.clock.advance(1)
    assert [taken(it, CLIENT.address) for _ in range(4)] == [True, True, True, False]


def test_it_counts_though_the_connections_have_ended() -> None:
    it = world(connections_per_minute=2)
    it.client.lose()
    it.connect().lose()
    it.clock.advance(1)
    assert told(it, CLIENT.address) == TOO_OFTEN


def test_messages_within_a_minute() -> None:
    it = world(messages_per_minute=2).play(GREETING)
    assert sends(it, "MAIL FROM:<>", "RSET", "MAIL FROM:<>", "RSET") == [
        *["250 2.1.0 Ok", "250 2.0.0 Ok"] * 2
    ]
    assert sends(it, "MAIL FROM:<>") == ["421 4.7.0 Too many messages from your address"]
    assert it.client.closed
    (refused,) = it.said(Refused)
    assert (refused.stage, refused.by) == ("MAIL", Side.PROXY)
    it.clock.advance(60)
    it.client = it.connect()
    it.play(GREETING)
    assert sends(it, "MAIL FROM:<>") == ["250 2.1.0 Ok"]


def test_all_sessions_of_a_client_count() -> None:
    it = world(messages_per_minute=1).play(GREETING)
    assert sends(it, "MAIL FROM:<>") == ["250 2.1.0 Ok"]
    it.client = it.connect()
    it.play(GREETING)
    assert sends(it, "MAIL FROM:<>")[0].startswith("421 4.7.0")


def test_recipients_within_a_minute_are_held_against_the_next_message() -> None:
    """The one that has them may come to its end, so even a big one gets through."""
    it = world(recipients_per_minute=2).play(GREETING)
    rcpts = [f"RCPT TO:<{number}@nowhere.test>" for number in range(3)]
    said = sends(it, "MAIL FROM:<>", *rcpts, "RSET", "MAIL FROM:<>")
    assert [each[:3] for each in said] == ["250", "550", "550", "550", "250", "421"]
    assert said[-1] == "421 4.7.0 Too many recipients from your address"


def test_a_mail_that_is_refused_anyway_is_not_counted() -> None:
    it = world(messages_per_minute=1).play(GREETING)
    assert sends(it, "MAIL FROM:<> SIZE=9999999", "MAIL FROM:<> FOO", "MAIL FROM:<>")[-1] == (
        "250 2.1.0 Ok"
    )


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "MOST_REMEMBERED", 1000)
    clock = Clock()
    all_of_them = Visitors(limits(connections_per_minute=1), clock.seconds)
    staying = [all_of_them.of(f"2001:db8:1:{number:x}::1") for number in range(1500)]
    for each in staying:
        all_of_them.enters(each)
    for number in range(5000):
        each = all_of_them.of(f"2001:db8:2:{number:x}::1")
        assert each.connects() is None
        all_of_them.enters(each)
        all_of_them.leaves(each)
    assert len(all_of_them) == 1500
    assert all_of_them.of("2001:db8:1:5db::2") is staying[-1]
    for each in staying:
        all_of_them.leaves(each)
    assert len(all_of_them) == 1000
    clock.advance(60)
    all_of_them.of("192.0.2.1")
    assert len(all_of_them) == 1


def test_those_who_are_refused_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "MOST_REMEMBERED", 1000)
    it = world(total=1)
    for number in range(2000):
        told(it, f"2001:db8:2:{number:x}::1")
    assert len(it.sessions.visitors) == 1000


def test_who_stays_is_not_forgotten() -> None:
    it = world(per_address=1)
    it.clock.advance(200)
    assert taken(it, "192.0.2.10")
    assert told(it, CLIENT.address) == FROM_YOU


# Sessions that wait for an upstream


def waiting(most: int) -> World:
    """The first session waits for an upstream that never answers."""
    it = world(waiting=most)
    it.silent.add("192.0.2.1")
    return it.play(f"{GREETING}{MAIL}C: RCPT TO:<a@example.com>")


def test_sessions_that_wait_are_limited() -> None:
    it = waiting(1)
    first, it.client = it.client, it.connect()
    it.play(f"{GREETING}{MAIL}C: RCPT TO:<a@example.net>\nS: {CROWDED}")
    (refused,) = it.said(Refused)
    assert (refused.stage, refused.by) == ("RCPT", Side.PROXY)
    assert refused.error == "1 sessions wait for an upstream"
    first.lose()
    it.play(f"""
        C: RCPT TO:<a@example.net>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 250 fine
        P1: RCPT TO:<a@example.net>
        U1: 250 fine
        S: 250 fine
    """)
    assert it.sessions.visitors.waiting == 0


def test_a_message_that_has_an_upstream_is_not_held_up() -> None:
    """A recipient may have been sent ahead: what the upstream says of it must be told."""
    it = world(waiting=1).play(f"""
        {GREETING}{MAIL}
        C: RCPT TO:<a@example.com>\\r\\nRCPT TO:<b@example.com>
        {upstream_greets(1, "PIPELINING")}
        P1: MAIL FROM:<s@example.org>
        P1: RCPT TO:<a@example.com>
        P1: RCPT TO:<b@example.com>
        U1: 250 fine
    """)
    it.sessions.visitors.waiting += 1
    it.play("""
        U1: 550 5.1.1 no a
        S: 550 5.1.1 no a
        U1: 250 b
        S: 250 b
    """)


# In one session


def ended(it: World) -> str:
    (event,) = it.said(Disconnected)
    return str(event.reason)


def test_errors() -> None:
    it = world(SessionLimits(errors=2)).play(GREETING)
    said = sends(it, "FOO", "NOOP", "BAR", "NOOP")
    assert [each[:3] for each in said] == ["500", "250", "500", "421"]
    assert said[-1] == "421 4.7.0 Too many errors"
    assert ended(it) == "too many errors"


def test_junk() -> None:
    it = world(SessionLimits(errors=2, junk=3)).play(GREETING)  # EHLO is junk as well
    said = sends(it, *["NOOP"] * 9)
    assert said == ["250 2.0.0 Ok"] * 4 + ["421 4.7.0 Too many errors"]


def test_commands() -> None:
    it = world(SessionLimits(commands=4)).play(GREETING)
    said = sends(it, *["NOOP"] * 9)
    assert said == ["250 2.0.0 Ok"] * 3 + ["421 4.7.0 Too many commands"]
    assert ended(it) == "too many commands"


def test_the_last_command_may_be_data() -> None:
    """The message is not cut: the session ends behind its reply."""
    world(SessionLimits(commands=4)).play(f"""
        {GREETING}{BOUND}
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: one
        P1 part: one
        C: .
        P1:
        P1: .
        U1: 250 taken
        S: 250 taken
        S: 421 4.7.0 Too many commands
        S closed
        P1: QUIT
    """)


def test_messages() -> None:
    it = world(SessionLimits(messages=2)).play(GREETING)
    said = sends(it, *["MAIL FROM:<>", "RSET"] * 3)
    assert said[4:] == ["421 4.7.0 Too many messages in one session; connect again"]
    assert it.client.closed


def test_recipients_of_all_messages() -> None:
    it = world(SessionLimits(recipients=2, errors=99)).play(GREETING)
    rcpts = [f"RCPT TO:<{number}@nowhere.test>" for number in range(3)]
    said = sends(it, "MAIL FROM:<>", *rcpts, "RSET", "MAIL FROM:<>")
    assert [each[:3] for each in said] == ["250", "550", "550", "550", "250", "421"]
    assert said[-1] == "421 4.7.0 Too many recipients in one session; connect again"


# Sizes


def line(octets: int) -> str:
    return "NOOP " + "x" * (octets - len("NOOP \r\n"))


@pytest.mark.parametrize(
    ("announced", "longest"),
    [
        ((), 600),
        (("SIZE 1000",), 600 + 26),
        (("SIZE 1000", "8BITMIME", "SMTPUTF8"), 600 + 26 + 17 + 10),
        (("DSN", "PIPELINING"), 600 + 536),
    ],
)
def test_a_command_line_is_longer_by_what_extensions_add(
    announced: tuple[str, ...], longest: int
) -> None:
    settings = Settings(session=SessionLimits(command_bytes=600), offer=announcing(*announced))
    it = World({}, settings=settings)
    it.client.said.clear()
    sends(it, "EHLO client.example.com")
    assert sends(it, line(longest), line(longest + 1)) == [
        "250 2.0.0 Ok",
        "500 5.5.2 Line too long",
    ]
    sends(it, "HELO client.example.com")
    assert sends(it, line(600), line(601)) == ["250 2.0.0 Ok", "500 5.5.2 Line too long"]


def test_a_long_line_is_not_kept() -> None:
    connection = ServerConnection()
    connection.max_line = 512
    connection.reply(Reply.of(220, "", "hello"))
    for _ in range(100):
        connection.receive(b"x" * 500)
        assert connection.next_event() is None
        assert connection.buffered <= 512
    connection.receive(b"\r\nQUIT\r\n")
    assert connection.next_event() == Refusal("", Reply.of(500, "5.5.2", "Line too long"))
    assert connection.next_event() == Plain(Verb.QUIT)


def with_header(octets: int) -> World:
    """A message with a header of so many octets, up to its end."""
    it = World(ROUTES)
    relaying = replace(it.profile.relaying, max_header_bytes=1000)
    it.profile = replace(it.profile, relaying=relaying)
    it.client = it.connect()
    it.play(f"{GREETING}{BOUND}C: DATA\nP1: DATA\nU1: 354 go\nS: 354 go")
    content = "a: " + "x" * (octets - 5) + "\r\n\r\n" + "body\r\n" * 500
    it.client.deliver(f"{content}.\r\n".encode())
    it.clock.advance(0)
    it.upstream(1).said.clear()
    return it


def test_a_header_of_the_greatest_size() -> None:
    with_header(1000).play("U1: 250 taken\nS: 250 taken")


def test_a_header_that_is_too_big() -> None:
    with_header(1001).play("""
        S: 552 5.3.4 The header of the message is too big
        P1 cut
        C: RSET
        S: 250 2.0.0 Ok
    """)
