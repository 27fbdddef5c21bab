"""Servers that drain or are in maintenance, and what comes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smtpproxy.deadlines import Deadlines
from smtpproxy.events import Refused, Side
from smtpproxy.routing import Listing, Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.tasks import start
from smtpproxy.upkeep import Upkeep
from smtpproxy.upstream import Learnt, PoolLimits, Standing, Standings
from smtpproxy.upstream.health import SLOW
from smtpproxy.upstream.standing import named
from tests.support.dialogue import (
    FIRST_RCPT,
    GREETING,
    Settings,
    World,
    replayed,
    upstream,
    upstream_greets,
)

HOSTS = {"a.test": ["192.0.2.1"], "b.test": ["192.0.2.2"], "MX d.test": ["a.test", "b.test"]}
BOTH = upstream("a.test", "b.test")
MX = upstream(Server("d.test", mx=True))
KEEPS = PoolLimits(idle=100.0, age=1000.0, uses=10, each=5)
DRAIN, MAINTENANCE, ENABLED = Standing.DRAIN, Standing.MAINTENANCE, Standing.ENABLED

IN_MAINTENANCE = "451 4.3.2 The server of this recipient is in maintenance"
RESET = "C: RSET\nS: 250 2.0.0 Ok\n"


def started(to: Upstream = BOTH, **settings) -> World:
    return World({"example.com": to}, dict(HOSTS), Settings(checks=True, **settings)).play(GREETING)


def taken(number: int) -> str:
    return upstream_greets(number) + replayed(number)


def reset(number: int) -> str:
    return f"C: RSET\nP{number}: RSET\nU{number}: 250 reset\nS: 250 reset\n"


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A.test", "a.test:25"),
        ("a.test:2525*3", "a.test:2525"),
        ("2001:db8::1", "[2001:db8::1]:25"),
        ("lmtp:a.test", "lmtp:a.test:24"),
        ("unix:/run/x", "unix:/run/x"),
        ("a.test*1,b.test*2", "a.test:25,b.test:25"),
    ],
)
def test_a_name_is_that_of_rows_without_weights(text: str, name: str) -> None:
    assert named(text) == name


def test_a_server_stands_as_it_was_said_in_every_upstream() -> None:
    standings = Standings()
    heavy = Upstream((Server("a.test", weight=3), Server("b.test", weight=1)))
    assert not standings
    standings.set("a.test:25", DRAIN)
    assert standings.of(heavy, heavy.servers[0]) is DRAIN
    assert standings.of(heavy, replace(heavy.servers[0], weight=0)) is DRAIN
    assert standings.of(heavy, heavy.servers[1]) is ENABLED
    standings.set("a.test:25,b.test:25", MAINTENANCE)
    assert standings.of(heavy, heavy.servers[0]) is MAINTENANCE, "the stricter one"
    assert standings.of(upstream("b.test"), Server("b.test")) is ENABLED
    standings.set("a.test:25", ENABLED)
    standings.set("a.test:25,b.test:25", ENABLED)
    assert not standings


def test_a_domain_with_mx_records_and_each_of_their_hosts() -> None:
    standings = Standings()
    standings.set("b.test:25", DRAIN)
    assert standings.of(MX, Server("b.test")) is DRAIN
    assert standings.of(MX, Server("a.test")) is ENABLED
    standings.set("mx:d.test:25", MAINTENANCE)
    assert standings.of(MX, Server("a.test")) is MAINTENANCE
    assert standings.of(BOTH, Server("a.test")) is ENABLED
    several = upstream(Server("d.test", mx=True), "c.test")
    assert standings.of(several, Server("a.test")) is MAINTENANCE
    assert standings.of(several, Server("c.test")) is ENABLED


# Mail


@pytest.mark.parametrize("to", [BOTH, MX])
@pytest.mark.parametrize("standing", [DRAIN, MAINTENANCE])
def test_another_server_takes_its_mail(to: Upstream, standing: Standing) -> None:
    world = started(to)
    world.standings.set("a.test:25", standing)
    world.play(f"{FIRST_RCPT}\nU1 connected to 192.0.2.2\n{taken(1)}{reset(1)}")
    world.standings.set("a.test:25", ENABLED)
    world.play("C: QUIT\nP1: QUIT\nS: 221 2.0.0 Bye")
    world.client = world.connect()
    world.play(f"{GREETING}{FIRST_RCPT}\nU2 connected to 192.0.2.1")


@pytest.mark.parametrize("to", [BOTH, MX])
@pytest.mark.parametrize("standing", [DRAIN, MAINTENANCE])
def test_with_no_other_mail_waits_with_its_client(to: Upstream, standing: Standing) -> None:
    world = started(to)
    for name in ("a.test:25", "b.test:25"):
        world.standings.set(name, standing)
    world.play(f"{FIRST_RCPT}\nS: {IN_MAINTENANCE}\n{RESET}")
    assert not world.upstreams
    (refused,) = world.said(Refused)
    assert refused.by is Side.PROXY


def test_all_servers_of_an_upstream_at_once() -> None:
    world = started()
    world.standings.set("a.test:25,b.test:25", DRAIN)
    world.play(f"{FIRST_RCPT}\nS: {IN_MAINTENANCE}\n{RESET}")


def test_ourselves_is_no_reason_to_bounce_while_another_is_in_maintenance() -> None:
    world = started()
    world.ourselves.add("192.0.2.2")
    world.standings.set("a.test:25", MAINTENANCE)
    world.play(f"{FIRST_RCPT}\nS: {IN_MAINTENANCE}\n{RESET}")


def test_a_failing_server_is_told_of_before_one_in_maintenance() -> None:
    world = started()
    world.unreachable.add("192.0.2.2")
    world.standings.set("a.test:25", MAINTENANCE)
    world.play(f"{FIRST_RCPT}\nS: 451 4.4.1 The server of this recipient is not reachable\n{RESET}")


def test_a_session_goes_on_with_a_server_that_drains() -> None:
    world = started().play(FIRST_RCPT + taken(1))
    world.standings.set("a.test:25", DRAIN)
    world.play(f"{reset(1)}{FIRST_RCPT}{replayed(1)}{reset(1)}")
    assert len(world.upstreams) == 1


def test_a_message_in_hand_goes_on_at_a_server_in_maintenance_and_the_next_does_not() -> None:
    world = started().play(FIRST_RCPT + taken(1))
    world.standings.set("a.test:25", MAINTENANCE)
    world.play("""
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: one
        P1 part: one
        C: .
        P1:
        P1: .
    """)
    world.play(f"U1: 250 taken\nS: 250 taken\n{FIRST_RCPT}\nP1: QUIT\nU2 connected to 192.0.2.2")
    world.play(taken(2))


def test_a_session_between_two_messages_parts_from_a_server_in_maintenance() -> None:
    world = started().play(FIRST_RCPT + taken(1) + reset(1))
    world.standings.set("a.test:25", MAINTENANCE)
    world.play(f"P1 cut\n{FIRST_RCPT}\nU2 connected to 192.0.2.2\n{taken(2)}")


@pytest.mark.parametrize("standing", [DRAIN, MAINTENANCE])
def test_kept_connections_are_closed_and_none_is_kept(standing: Standing) -> None:
    world = started(pool=KEEPS).play(f"{FIRST_RCPT}{taken(1)}{reset(1)}C: QUIT\nS: 221 2.0.0 Bye")
    assert world.pool.kept(BOTH) == 1
    world.client = world.connect()
    world.play(f"{GREETING}{FIRST_RCPT}{replayed(1)}{reset(1)}C: QUIT\nS: 221 2.0.0 Bye")
    world.standings.set("b.test:25", standing)
    assert world.pool.kept(BOTH) == 1, "another server"
    world.standings.set("a.test:25", standing)
    assert world.pool.kept(BOTH) == 0
    world.play("P1: QUIT")


def test_one_in_use_is_not_kept_once_its_server_drains() -> None:
    world = started(pool=KEEPS).play(FIRST_RCPT + taken(1) + reset(1))
    world.standings.set("a.test:25", DRAIN)
    world.play("C: QUIT\nP1: QUIT\nS: 221 2.0.0 Bye")


def test_a_pool_that_has_stopped_hears_no_more() -> None:
    world = started(pool=KEEPS)
    world.pool.stop()
    world.pool.stop()
    assert not world.standings._watching


# Asking


def test_nobody_asks_a_server_in_maintenance() -> None:
    world = started()
    for name in ("192.0.2.1", "192.0.2.2"):
        world.health.failed(BOTH, Server("a.test"), name, "gone", SLOW, True)
    world.standings.set("a.test:25", MAINTENANCE)
    world.play("wait 1m")
    assert not world.upstreams
    assert not world.health


def test_what_a_server_offers_is_asked_while_it_drains_and_not_in_maintenance() -> None:
    world = started()
    world.standings.set("a.test:25", DRAIN)
    world.standings.set("b.test:25", MAINTENANCE)
    heard: list[str] = []
    asking = world.connector.ask(
        BOTH, 15.0, lambda server, address, offers: heard.append(address), lambda *_: None
    )
    done = start(asking)
    world.play(f"{upstream_greets(1)}\nP1: QUIT\nU1: 221 bye")
    assert done.called
    assert heard == ["192.0.2.1"]


# What an administrator is told


def test_what_is_said_and_what_is_reported() -> None:
    world = started()
    notes: list[str] = []
    learnt = Learnt(Deadlines(world.clock))
    upkeep = Upkeep(learnt, Deadlines(world.clock), lambda well, text: notes.append(text))
    learnt.follow(Listing((BOTH, MX), ()))
    learnt.heard(MX, Server("b.test"), "192.0.2.2", Extensions())
    assert upkeep.set("B.test", DRAIN) == {
        "name": "b.test:25",
        "standing": "drain",
        "upstreams": ["a.test:25,b.test:25", "mx:d.test:25"],
        "near": "",
    }
    assert notes == ["b.test:25: drain, by command"]
    upkeep.health.failed(BOTH, Server("a.test"), "192.0.2.1", "Connection refused", 0.0, True)
    world.clock.advance(2)
    assert upkeep.report(BOTH) == {
        "connections": 0,
        "waiting": 0,
        "standings": {"b.test:25": "drain"},
        "troubles": [
            {
                "server": "a.test:25",
                "address": "192.0.2.1",
                "down": False,
                "seconds": 2.0,
                "failures": 1,
                "reason": "Connection refused",
                "asked_in": 3.0,
            }
        ],
    }
    assert upkeep.report(MX)["standings"] == {"b.test:25": "drain"}
    upkeep.set("b.test", ENABLED)
    assert upkeep.report(MX) == {
        "connections": 0,
        "waiting": 0,
        "standings": {},
        "troubles": [],
    }
    with pytest.raises(ValueError, match="is not a host name"):
        upkeep.set("a b", DRAIN)
    upkeep.stop()
