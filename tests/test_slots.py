"""An upstream has no more connections than it may, and no slot for one is ever lost."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from smtpproxy.deadlines import Deadlines
from smtpproxy.events import Refused, Side
from smtpproxy.mail import Peer
from smtpproxy.stream import Stream
from smtpproxy.tasks import start
from smtpproxy.upstream import Connection, PoolLimits, Slots
from smtpproxy.upstream.errors import Busy
from smtpproxy.upstream.pool import QUEUE_TIME
from tests.support.dialogue import (
    CLIENT,
    FIRST_RCPT,
    GREETING,
    ONE,
    TWO,
    MemoryTransport,
    Settings,
    World,
    replayed,
    upstream,
    upstream_greets,
)

BUSY = "451 4.4.5 The server of this recipient is busy"


# The slots alone


class Line:
    """Slots, and who waits for them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.slots = Slots(Deadlines(self.clock))
        self.came: list[str] = []

    def wait(self, name: str, seconds: float = 100.0) -> Deferred[None]:
        waiting = start(self.slots.wait(ONE, seconds))
        waiting.addCallbacks(lambda _: self.came.append(name), lambda it: self._failed(name, it))
        return waiting

    def _failed(self, name: str, failure) -> None:
        self.came.append(f"{name} {failure.trap(Busy, CancelledError).__name__}")

    def wait_on(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)


def test_who_waits_is_served_in_order() -> None:
    line = Line()
    assert line.slots.take(ONE, 1)
    assert not line.slots.take(ONE, 1)
    assert line.slots.take(TWO, 1), "another upstream"
    for name in "abc":
        line.wait(name)
    assert (line.slots.taken(ONE), line.slots.waiting(ONE)) == (1, 3)
    line.slots.give_back(ONE)
    assert line.came == ["a"]
    assert not line.slots.take(ONE, 1), "nobody overtakes"
    line.slots.give_back(ONE)
    line.slots.give_back(ONE)
    line.slots.give_back(ONE)
    line.slots.give_back(TWO)
    assert line.came == ["a", "b", "c"]
    assert not len(line.slots)


def test_who_waits_too_long_is_told_so() -> None:
    line = Line()
    line.slots.take(ONE, 1)
    line.wait("a", 5.0)
    line.wait("b")
    line.wait_on(6)
    assert line.came == ["a Busy"]
    line.slots.give_back(ONE)
    assert line.came == ["a Busy", "b"]


def test_who_is_cancelled_takes_none() -> None:
    line = Line()
    line.slots.take(ONE, 1)
    line.wait("a").cancel()
    line.slots.give_back(ONE)
    assert line.came == ["a CancelledError"]
    assert not len(line.slots)


def test_a_limit_that_is_lifted_serves_all() -> None:
    line = Line()
    line.slots.take(ONE, 1)
    for name in "abc":
        line.wait(name)
    assert line.slots.take(ONE, 0)
    line.slots.give_back(ONE)
    assert line.came == ["a", "b", "c"]


def test_many_that_give_back_at_once_need_no_deep_stack() -> None:
    line = Line()
    line.slots.take(ONE, 1)
    for _ in range(5000):
        line.wait("").addCallback(lambda _: line.slots.give_back(ONE))
    line.slots.give_back(ONE)
    assert len(line.came) == 5000
    assert not len(line.slots)


HERE, THERE = IPv4Address("TCP", "192.0.2.5", 25), IPv4Address("TCP", "192.0.2.1", 25)


# Sessions


def limited(most: int, **keeps: Any) -> World:
    limits: dict[str, Any] = {"idle": 0.0, "age": 60.0, "uses": 10, "each": 5, **keeps}
    return World({"example.com": ONE}, settings=Settings(pool=PoolLimits(**limits, most=most)))


def taken(number: int) -> str:
    return upstream_greets(number) + replayed(number)


def second(world: World, address: str = "192.0.2.10") -> MemoryTransport:
    """From now on it is another client that speaks; gives the one before."""
    before, world.client = world.client, world.connect(Peer(address, 40001, "198.51.100.1", 25))
    world.play(GREETING)
    return before


def test_a_session_waits_for_a_connection_less() -> None:
    world = limited(1).play(GREETING + FIRST_RCPT + taken(1))
    first = second(world)
    world.play(FIRST_RCPT)
    assert (world.slots.taken(ONE), world.slots.waiting(ONE)) == (1, 1)
    first.lose()
    world.play("P1: QUIT")
    assert len(world.upstreams) == 1, "the first is not closed as yet"
    world.play(f"U1: 221 bye\nU1 gone\nU2 connected to 192.0.2.1\n{taken(2)}")


def test_but_not_for_long() -> None:
    world = limited(1).play(GREETING + FIRST_RCPT + taken(1))
    second(world)
    world.play(
        f"{FIRST_RCPT}\nwait {QUEUE_TIME - 1:.0f}s\nwait 2s\nS: {BUSY}\nC: RSET\nS: 250 2.0.0 Ok"
    )
    (refused,) = world.said(Refused)
    assert (refused.by, refused.error) == (Side.PROXY, "all 1 connections are in use")
    assert not world.slots.waiting(ONE)


def test_who_leaves_while_waiting_leaves_the_line() -> None:
    world = limited(1).play(GREETING + FIRST_RCPT + taken(1))
    second(world)
    world.play(f"{FIRST_RCPT}\nC gone")
    assert not world.slots.waiting(ONE)


def test_one_that_is_kept_makes_room() -> None:
    """It was told of another client, and cannot serve this one."""
    world = limited(1, idle=100.0).play(GREETING + FIRST_RCPT)
    world.play(f"""
        {upstream_greets(1, "XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.9
        U1: 220 fine
        P1: EHLO client.example.com
        U1: 250 fine
        P1: MAIL FROM:<s@example.org>
        U1: 550 not you
        S: 550 not you
        C gone
    """)
    assert world.pool.kept(ONE) == 1
    second(world)
    world.play(
        f"{FIRST_RCPT}\nP1: QUIT\nU1: 221 bye\nU1 gone\nU2 connected to 192.0.2.1\n{taken(2)}"
    )


def test_none_is_kept_while_somebody_waits() -> None:
    world = limited(1, idle=100.0).play(GREETING + FIRST_RCPT + taken(1))
    first = second(world)
    world.play(f"{FIRST_RCPT}")
    first.deliver(b"RSET\r\n")
    world.play("P1: RSET\nU1: 250 reset")
    first.said.clear()
    first.deliver(b"QUIT\r\n")
    world.play(f"P1: QUIT\nU1: 221 bye\nU1 gone\nU2 connected to 192.0.2.1\n{taken(2)}")
    first.said.clear()


def test_those_made_ahead_count_and_do_not_wait() -> None:
    world = limited(2, idle=100.0, ready=5)
    world.play(f"{GREETING}{FIRST_RCPT}{upstream_greets(1)}\nP1: MAIL FROM:<s@example.org>")
    assert len(world.upstreams) == 2
    assert world.slots.taken(ONE) == 2
    world.upstream(2).lose()
    assert world.slots.taken(ONE) == 1


def test_one_whose_socket_is_closed_already_gives_its_slot_back_at_once() -> None:
    world = limited(1)
    transport = MemoryTransport(world.clock, HERE, THERE)
    stream = Stream(world.deadlines)
    transport.connect(stream)
    connection = Connection(stream, ONE, ONE.servers[0], "192.0.2.1")
    transport.lose()
    told: list[bool] = []
    connection.on_lost(lambda: told.append(True))
    assert told == [True]


# No slot is lost, whatever happens

ROUTES = {"a@example.com": ONE, "b@example.com": upstream("192.0.2.2", "192.0.2.1")}
BEGIN = b"EHLO client.example.com\r\nMAIL FROM:<s@example.org>\r\n"
LINES = [
    "RCPT TO:<a@example.com>",
    "RCPT TO:<a@example.com>",
    "RCPT TO:<b@example.com>",
    "DATA",
    "hello\r\n.",
    "RSET\r\nMAIL FROM:<s@example.org>",
    "QUIT",
]
WRONG = ["250 XCLIENT ADDR", "554 no", "421 later", "garbage", "354 go"]
SECONDS = (0.5, 0.5, 6.0, 31.0, 61.0)


class Chance:
    """A world in which anything may happen."""

    def __init__(self, random: Random, most: int) -> None:
        self.random = random
        ready = random.randrange(2)
        limits = PoolLimits(idle=5.0, age=60.0, uses=3, each=2, ready=ready, most=most)
        settings = Settings(pool=limits, recipient_time=60.0, checks=True)
        self.world = World(ROUTES, settings=settings)
        self.world.client.lose()
        self.clients = [self.join() for _ in range(5)]
        self.greeted: set[MemoryTransport] = set()

    def join(self) -> MemoryTransport:
        client = self.world.connect(CLIENT)
        client.deliver(BEGIN)
        return client

    def step(self) -> None:
        acts = [self.client_says, self.upstream_says, self.upstream_says, self.time_passes]
        if self.random.random() < 0.15:
            acts = [self.client_goes, self.upstream_goes, self.network_changes]
        self.random.choice(acts)()
        self.world.clock.advance(0)

    def client_says(self) -> None:
        self.random.choice(self.clients).deliver(f"{self.random.choice(LINES)}\r\n".encode())

    def upstream_says(self) -> None:
        waiting = [each for _, each in self.world.upstreams if each.open]
        if waiting:
            end = self.random.choice(waiting)
            line = "250 fine" if end in self.greeted else "220 one"
            line = self.random.choice(WRONG) if self.random.random() < 0.1 else line
            self.greeted.add(end)
            end.deliver(f"{line}\r\n".encode())

    def time_passes(self) -> None:
        self.world.clock.advance(self.random.choice(SECONDS))

    def client_goes(self) -> None:
        number = self.random.randrange(len(self.clients))
        self.clients[number].lose()
        self.clients[number] = self.join()

    def upstream_goes(self) -> None:
        if waiting := [each for _, each in self.world.upstreams if each.open]:
            self.random.choice(waiting).lose()

    def network_changes(self) -> None:
        place = self.random.choice([self.world.unreachable, self.world.silent])
        place.symmetric_difference_update({self.random.choice(["192.0.2.1", "192.0.2.2"])})

    def end(self) -> None:
        for client in self.clients:
            client.lose()
        self.world.pool.stop()
        self.world.checks.stop()
        for _, each in self.world.upstreams:
            each.lose()
        for _ in range(400):
            self.world.clock.advance(1)


@pytest.mark.parametrize("most", [0, 1, 2])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), length=st.integers(20, 150))
def test_no_slot_is_lost(most: int, seed: int, length: int) -> None:
    chance = Chance(Random(seed), most)
    slots = chance.world.slots
    for _ in range(length):
        chance.step()
        held = Counter(each.upstream for each in slots.connections())
        for each in ROUTES.values():
            assert held[each] <= slots.taken(each)
            assert not most or slots.taken(each) <= most
    chance.end()
    assert not len(slots)


def test_and_all_of_that_does_happen() -> None:
    """The cases above would be worth little if sessions never got as far as an upstream."""
    seen: Counter[str] = Counter()
    for seed in range(40):
        chance = Chance(Random(seed), 1)
        for _ in range(100):
            chance.step()
            seen["waits"] += chance.world.slots.waiting(ONE) > 0
        seen.update(it.reply.enhanced for it in chance.world.said(Refused))
        chance.end()
    assert seen["waits"] > 100
    assert min(seen["4.4.5"], seen["4.4.1"]) > 5, seen
