"""Slow clients: that drip commands, or content, or never read."""

from __future__ import annotations

import pytest

from smtpproxy.events import Disconnected, TransactionEnded
from smtpproxy.listener import SessionLimits
from smtpproxy.smtp.content import HeaderSection
from tests.support.dialogue import BOUND, GREETING, ONE, Settings, World, announcing
from tests.support.wire import every_way

LATE = "S: 421 4.4.2 Timeout, closing the connection\nS closed"
DRIPS = "content came at less than 500 octets a second"
DATA = "C: DATA\nP1: DATA\nU1: 354 go\nS: 354 go\n"


def inside(**settings: float | SessionLimits) -> World:
    """A session in which the content of a message is awaited."""
    options = Settings(**settings)  # type: ignore[arg-type]
    return World({"example.com": ONE}, settings=options).play(GREETING + BOUND + DATA)


def content(world: World, octets: int, seconds: float) -> bool:
    """The client sends so much, in so many seconds, a block every half a second: was it heard out?

    It ends none of its lines.
    """
    for _ in range(int(seconds * 2)):
        world.client.deliver(b"x" * int(octets / seconds / 2))
        world.clock.advance(0)  # now and then, a session lets others go first
        world.clock.advance(0.5)
        world.upstream(1).said.clear()
        if world.client.closed:
            return False
    return True


def reason(world: World) -> str:
    (left,) = world.said(Disconnected)
    return str(left.reason)


# Content


def test_a_byte_a_minute_ends_when_a_pause_would() -> None:
    world = inside()
    for _ in range(3):
        world.client.deliver(b"x")
        world.play("P1 part: x\nwait 59s")
    assert not world.client.closed
    world.play(f"wait 4s\n{LATE}\nP1 cut")
    assert reason(world) == f"timeout: {DRIPS}"
    (ended,) = world.said(TransactionEnded)
    assert ended.error.startswith("timeout")


@pytest.mark.parametrize(("rate", "heard"), [(600, True), (400, False)])
def test_content_is_heard_out_at_the_least_rate(rate: int, heard: bool) -> None:
    assert content(inside(), rate * 3600, 3600) is heard


def test_it_is_slow_for_as_long_as_a_pause_may_last() -> None:
    """At 400 a second, 500 asked for, a fifth of the time is lost: 180 s after 900."""
    assert content(inside(), 400 * 890, 890)
    assert not content(inside(), 400 * 920, 920)


def test_any_rate_will_do_where_none_is_asked_for() -> None:
    world = inside(session=SessionLimits(data_rate=0))
    for _ in range(50):
        world.client.deliver(b"x")
        world.play("P1 part: x\nwait 179s")
    world.play(f"wait 2s\n{LATE}\nP1 cut")
    assert reason(world) == "timeout: not done within 180 s"


def test_a_pause_in_a_fast_transfer_is_forgiven() -> None:
    world = inside()
    for _ in range(20):
        assert content(world, 500_000, 5)
        world.play("wait 170s")


def test_nothing_is_saved_up() -> None:
    """A client that was very fast has no longer pause for it."""
    world = inside()
    assert content(world, 50_000, 1)
    world.play(f"wait 179s\nwait 2s\n{LATE}\nP1 cut")
    assert reason(world) == "timeout: not done within 180 s"


def test_a_client_is_not_blamed_for_a_slow_upstream() -> None:
    world = inside()
    for _ in range(20):
        world.play("U1 stalls")
        world.client.deliver(b"x")
        world.play("P1 part: x\nwait 170s\nU1 takes")
    assert not world.client.closed


CHUNKS = announcing("PIPELINING", "SIZE 1000000", "8BITMIME", "CHUNKING")


def with_chunks() -> World:
    world = World({"example.com": ONE}, settings=Settings(offer=CHUNKS))
    world.client.said.clear()
    world.client.deliver(b"EHLO client.example.com\r\n")
    world.client.said.clear()
    return world


def test_a_chunk_in_a_trickle() -> None:
    world = with_chunks().play(BOUND)
    world.client.deliver(b"BDAT 1000 LAST\r\n")
    world.play("P1: DATA\nU1: 354 go")
    for _ in range(17):
        world.client.deliver(b"x")
        world.clock.advance(10)
    assert not world.client.closed
    world.clock.advance(11)
    assert bytes(world.client.said).startswith(b"421 4.4.2")
    assert reason(world) == f"timeout: {DRIPS}"


@pytest.mark.parametrize(("rate", "heard"), [(600, True), (100, False)])
def test_a_chunk_that_is_refused_is_content_all_the_same(rate: int, heard: bool) -> None:
    """It has no less time than one that is taken."""
    world = with_chunks()
    world.client.deliver(b"BDAT %d LAST\r\n" % (rate * 900))
    for _ in range(900):
        world.client.deliver(b"x" * rate)
        world.clock.advance(1)
    world.clock.advance(1)
    assert bytes(world.client.said).startswith(b"503 " if heard else b"421 4.4.2")


# Commands, and replies


def test_commands_that_drip_end_when_silence_would() -> None:
    world = World({})
    world.client.said.clear()
    for _ in range(30):
        world.client.deliver(b"N")
        world.clock.advance(10)
    world.clock.advance(1)
    world.play(LATE)
    assert reason(world) == "timeout: not done within 300 s"


def test_a_drop_right_before_each_look_at_the_clock_helps_nobody() -> None:
    world = World({})
    world.client.said.clear()
    while world.clock.seconds() < 302 and not world.client.closed:
        world.client.deliver(b"N")
        world.clock.advance(0.1)
    assert world.client.closed
    assert world.clock.seconds() <= 301


def test_what_a_client_that_never_reads_makes_us_keep_is_bounded() -> None:
    world = World({"example.com": ONE}).play(f"{GREETING}C stalls")
    session = next(iter(world.sessions._running))
    world.client.deliver(b"NOOP\r\n" * 50)
    heard = len(world.client.said)
    for _ in range(100):
        world.client.deliver(b"NOOP\r\n" * 10_000)
        assert session._stream.unread + session.core.buffered < 130_000
    assert len(world.client.said) == heard < 1000
    assert world.client.paused
    world.clock.advance(301)
    assert world.client.closed
    assert reason(world).startswith("timeout")


# The whole session


def test_a_session_ends_when_its_time_is_over() -> None:
    world = World({}, settings=Settings(session_time=1000.0)).play(GREETING)
    for _ in range(4):
        world.play("wait 240s\nC: NOOP\nS: 250 2.0.0 Ok")
    world.play(f"wait 39s\nwait 2s\n{LATE}")
    assert reason(world) == "timeout: the session took 1000 s"


def test_a_session_that_never_pauses_ends_all_the_same() -> None:
    world = World({}, settings=Settings(session_time=1000.0, session=SessionLimits(junk=9999)))
    world.client.said.clear()
    while world.clock.seconds() < 1100 and not world.client.closed:
        world.client.deliver(b"NOOP\r\n")
        world.clock.advance(1)
        world.client.said.clear() if not world.client.closed else None
    assert world.clock.seconds() <= 1002


def test_a_session_may_end_inside_the_content() -> None:
    world = inside(session_time=1000.0)
    assert content(world, 600_000, 600)
    assert not content(world, 600_000, 600)
    assert world.upstream(1).cut
    assert reason(world) == "timeout: the session took 1000 s"


def test_a_session_never_ends_between_the_end_of_a_message_and_its_reply() -> None:
    inside(session_time=100.0).play(f"""
        C: one
        P1 part: one
        C: .
        P1:
        P1: .
        wait 500s
        U1: 250 taken
        S: 250 taken
        {LATE}
        P1: QUIT
    """)


# What header sizes are made of

HEADERS = {
    b"": 0,
    b"\r\n": 0,
    b"\r\nbody\r\n": 0,
    b"a: b\r\n": 6,
    b"a: b\r\n\r\n": 6,
    b"a: b\r\n c\r\n\r\nbody\r\n\r\n": 10,
    b"a: b\r\n.\r\nc: d\r\n\r\nbody": 15,
}


@pytest.mark.parametrize(("message", "size"), HEADERS.items())
def test_the_size_of_a_header_in_any_portions(message: bytes, size: int) -> None:
    for parts in every_way(message):
        section = HeaderSection()
        for part in parts:
            section.feed(part)
        assert section.size == size
