"""Addresses that fail are passed over, asked in the background, and used again."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from smtpproxy.events import Refused, Side, TransactionEnded, UpstreamFailed
from smtpproxy.routing import Identity, Server, Tls, Upstream
from smtpproxy.upstream import PoolLimits
from smtpproxy.upstream.checks import AT_ONCE
from smtpproxy.upstream.health import FALL, FIRST, LATE, MOST, SLOW, UNWANTED, Health
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
A = Server("a.test")

RESET = "C: RSET\nS: 250 2.0.0 Ok\n"
UNREACHABLE = "451 4.4.1 The server of this recipient is not reachable"


def started(to: Upstream = BOTH, **settings) -> World:
    return World({"example.com": to}, dict(HOSTS), Settings(checks=True, **settings)).play(GREETING)


def taken(number: int) -> str:
    """Upstream `number` greets, takes the recipient, and is left."""
    return f"""
        {upstream_greets(number)}
        {replayed(number)}
        U{number} gone
        {RESET}
    """


def asked(number: int) -> str:
    """A check, and the answers of an upstream that is well."""
    return f"{upstream_greets(number)}\nP{number}: QUIT\nU{number}: 221 bye\nU{number} gone"


def fails(world: World, address: str, connections: int) -> None:
    """It refuses mail until it is down; the other server takes all of it."""
    world.unreachable.add(address)
    for number in range(connections, connections + FALL):
        world.play(f"{FIRST_RCPT}\n{taken(number)}")


def refused(world: World) -> list[tuple[str, str]]:
    return [(it.address, it.reason) for it in world.said(UpstreamFailed)]


# What is remembered


class Watch:
    """A clock, and what the health says by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        self.asked: list[str] = []
        self.health = Health(lambda: self.now, lambda well, text: self.told.append(text))
        self.health.asked_for = lambda trouble: self.asked.append(str(trouble))

    def fail(self, took: float = 0.0, address: str = "192.0.2.1", sure: bool = True) -> None:
        self.health.failed(BOTH, A, address, "Connection refused", took, sure)

    @property
    def down(self) -> bool:
        return self.health.divert(A, "192.0.2.1")


def test_where_all_is_well_there_is_nothing() -> None:
    watch = Watch()
    assert not watch.health
    watch.health.well(A, "192.0.2.1")
    assert not watch.down
    assert not watch.told


def test_it_is_down_after_some_failures_in_a_row() -> None:
    watch = Watch()
    for _ in range(FALL - 1):
        watch.fail()
    assert not watch.down
    watch.health.well(A, "192.0.2.1")
    for _ in range(FALL - 1):
        watch.fail()
    assert not watch.down, "one success between them"
    watch.fail()
    assert watch.down
    assert not watch.health.divert(A, "192.0.2.9"), "another address of it"
    assert watch.told == ["a.test:25 at 192.0.2.1 is down: Connection refused"]
    watch.fail()
    watch.now += 95
    watch.health.well(A, "192.0.2.1")
    assert watch.told[1:] == ["a.test:25 at 192.0.2.1 is up again, after 95 s"]
    assert not watch.health


def test_one_failure_that_took_long_is_enough() -> None:
    watch = Watch()
    watch.fail(took=SLOW)
    assert watch.down
    assert not watch.health.worth_trying(A, "192.0.2.1")
    watch.fail(took=0.1)
    assert watch.health.worth_trying(A, "192.0.2.1"), "it is seen at once whether it is there"


def test_one_that_is_not_sure_is_only_to_be_asked() -> None:
    watch = Watch()
    for _ in range(FALL + 1):
        watch.fail(took=SLOW, sure=False)
    assert watch.asked == ["a.test:25 at 192.0.2.1"]
    assert not watch.down


def test_it_is_asked_less_and_less_often() -> None:
    watch = Watch()
    waits = []
    for _ in range(7):
        watch.fail()
        watch.fail()  # many at once are no reason to wait longer
        (trouble,) = watch.health
        waits.append(trouble.due - watch.now)
        watch.now = trouble.due
    assert waits == [FIRST, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    watch.health.longest = 1.0
    watch.fail()
    assert trouble.due == watch.now + FIRST, "never more often than at first"


def test_one_client_tries_it_where_nobody_asks() -> None:
    watch = Watch()
    watch.fail(took=SLOW)
    watch.now += FIRST + LATE - 1
    assert watch.down
    watch.now += 1
    assert not watch.down
    assert watch.down, "the others do not wait for it"


def test_it_is_forgotten_when_no_mail_wants_it() -> None:
    watch = Watch()
    watch.fail()
    (trouble,) = watch.health
    watch.now += UNWANTED - 1
    assert not watch.health.is_unwanted(trouble)
    assert not watch.down  # asked for by mail
    watch.now += 1
    assert not watch.health.is_unwanted(trouble)
    trouble.asking = True
    watch.fail()
    watch.now += UNWANTED
    assert watch.health.is_unwanted(trouble)
    watch.health.forget(trouble)
    watch.health.forget(trouble)
    assert not watch.health


def test_there_is_an_end_to_what_is_remembered() -> None:
    watch = Watch()
    for number in range(MOST + 5):
        watch.fail(address=f"2001:db8::{number:x}")
    assert len(list(watch.health)) == MOST


# What mail makes of it


def test_one_that_is_down_costs_mail_no_attempt() -> None:
    world = started()
    fails(world, "192.0.2.1", 1)
    assert len(refused(world)) == FALL
    world.play(f"{FIRST_RCPT}\nU4 connected to 192.0.2.2\n{taken(4)}")
    assert len(refused(world)) == FALL, "it was tried"
    assert world.notes == [(False, "a.test:25 at 192.0.2.1 is down: Connection refused")]


def test_one_that_says_nothing_costs_one_client_its_time() -> None:
    world = started()
    world.silent.add("192.0.2.1")
    world.play(f"{FIRST_RCPT}\nwait 31s\nU1 connected to 192.0.2.2\n{taken(1)}")
    world.play(f"{FIRST_RCPT}\nU2 connected to 192.0.2.2\n{taken(2)}")
    assert [text for _, text in world.notes] == [
        "a.test:25 at 192.0.2.1 is down: not done within 30 s"
    ]


def test_a_check_brings_it_back() -> None:
    world = started()
    fails(world, "192.0.2.1", 1)
    world.unreachable.clear()
    world.play(f"wait 6s\nU4 connected to 192.0.2.1\n{asked(4)}")
    assert [text for _, text in world.notes[1:]] == [
        "a.test:25 at 192.0.2.1 is up again, after 6 s"
    ]
    world.play(f"{FIRST_RCPT}\nU5 connected to 192.0.2.1\n{taken(5)}")
    world.play("wait 4m")
    assert len(world.upstreams) == 5, "it is asked no more"
    assert not len(world.slots)


def test_checks_back_off_and_end_where_no_mail_wants_it() -> None:
    world = started()
    fails(world, "192.0.2.1", 1)
    (trouble,) = world.health
    for _ in range(int(UNWANTED / 300) + 1):
        world.play("C: NOOP\nS: 250 2.0.0 Ok\nwait 299s\n")
    assert not world.health
    assert 55 <= trouble.failures <= 70, "about once a minute"
    assert len(world.notes) == 1


def test_what_answers_late_is_not_well() -> None:
    """A check that gets no answer leaves it down; one that is refused a greeting, too."""
    world = started()
    fails(world, "192.0.2.1", 1)
    world.unreachable.clear()
    world.play("wait 6s\nU4 connected to 192.0.2.1\nU4: 554 5.7.1 go away\nP4 cut")
    world.play("wait 11s\nU5 connected to 192.0.2.1\nwait 59s\nwait 2s\nP5 cut")
    assert len(world.notes) == 1
    world.play(f"wait 21s\nU6 connected to 192.0.2.1\n{asked(6)}")
    assert len(world.notes) == 2


def test_the_only_one_is_tried_where_it_fails_at_once() -> None:
    """No back-off keeps mail from a server that is there again."""
    world = started(upstream("a.test"))
    world.unreachable.add("192.0.2.1")
    for _ in range(FALL + 1):
        world.play(f"{FIRST_RCPT}\nS: {UNREACHABLE}\n{RESET}")
    assert len(refused(world)) == FALL + 1
    world.unreachable.clear()
    world.play(f"{FIRST_RCPT}\n{taken(1)}")
    assert [well for well, _ in world.notes] == [False, True]


def test_the_only_one_that_says_nothing_is_not_waited_for_again() -> None:
    world = started(upstream("a.test"))
    world.play(
        f"{FIRST_RCPT}\nU1 connected to 192.0.2.1\nwait 241s\nP1 cut\nS: {UNREACHABLE}\n{RESET}"
    )
    assert [text for _, text in world.notes] == [
        "a.test:25 at 192.0.2.1 is down: no answer in 240 s"
    ]
    world.play(f"{FIRST_RCPT}\nS: {UNREACHABLE}\n{RESET}")
    *_, last = world.said(Refused)
    assert last.error.startswith("a.test:25 at 192.0.2.1 is down for ")
    world.play(f"wait 5s\nU2 connected to 192.0.2.1\n{asked(2)}")
    world.play(f"{FIRST_RCPT}\nU3 connected to 192.0.2.1\n{taken(3)}")


def test_a_client_that_leaves_early_says_nothing_of_the_upstream() -> None:
    world = started(upstream("a.test"))
    world.play(f"{FIRST_RCPT}\nU1 connected to 192.0.2.1\nwait 15s\nC gone\nP1 cut")
    assert not world.health


def test_too_little_time_says_nothing_of_the_upstream() -> None:
    world = started(upstream("a.test"), recipient_time=4.0)
    world.play(
        f"{FIRST_RCPT}\nU1 connected to 192.0.2.1\nwait 5s\nP1 cut\nS: {UNREACHABLE}\n{RESET}"
    )
    assert not world.health


def test_what_is_said_of_a_client_says_nothing_of_the_upstream() -> None:
    world = started()
    for number in range(1, FALL + 2):
        world.play(f"""
            {FIRST_RCPT}
            {upstream_greets(number, "XCLIENT ADDR")}
            P{number}: XCLIENT ADDR=192.0.2.9
            U{number}: 421 4.7.0 not you
            P{number} cut
            S: 421 4.7.0 not you
            S closed
        """)
        world.client = world.connect()
        world.play(GREETING)
    assert not world.health


def test_an_upstream_that_hangs_up_on_a_client_may_mean_that_client() -> None:
    world = started(upstream("a.test"))
    for number in range(1, FALL + 2):
        world.play(f"""
            {FIRST_RCPT}
            {upstream_greets(number, "XCLIENT ADDR")}
            P{number}: XCLIENT ADDR=192.0.2.9
            U{number} gone
            S: {UNREACHABLE}
            {RESET}
        """)
    assert not world.health


def test_a_recipient_or_a_message_says_nothing_of_the_upstream() -> None:
    world = started(upstream("a.test"))
    for number in range(1, FALL + 2):
        world.play(f"""
            {FIRST_RCPT}
            {upstream_greets(number)}
            P{number}: MAIL FROM:<s@example.org>
            U{number}: 250 fine
            P{number}: RCPT TO:<a@example.com>
            U{number} gone
            S: 451 4.4.2 The connection to the server of this recipient was lost
            {RESET}
        """)
    assert not world.health


def test_behind_a_proxy_header_a_client_may_be_meant_so_it_is_asked() -> None:
    world = started(upstream("a.test", identity=Identity.PROXY1))
    header = "PROXY TCP4 192.0.2.9 198.51.100.1 40000 25"
    for number in range(1, FALL + 2):
        world.play(f"""
            {FIRST_RCPT}
            P{number}: {header}
            U{number}: 554 5.7.1 you are on a list
            P{number} cut
            S: 451 4.4.0 The server of this recipient is not ready: 554 5.7.1 you are on a list
            {RESET}
        """)
    assert world.health
    assert not world.notes
    number = FALL + 2
    world.play(f"""
        wait 6s
        P{number}: PROXY UNKNOWN
        U{number}: 220 one
        P{number}: EHLO mx.example.net
        U{number}: 250 one
        P{number}: QUIT
    """)
    assert not world.health


def test_a_certificate_that_does_not_verify_is_an_answer() -> None:
    world = started(upstream("a.test", tls=Tls.ENCRYPT))
    for number in range(1, FALL + 2):
        world.play(f"""
            {FIRST_RCPT}
            {upstream_greets(number)}
            P{number}: QUIT
            S: 451 4.7.4 The server of this recipient does not offer TLS
            {RESET}
        """)
    assert not world.health


@pytest.mark.parametrize("known", [False, True])
def test_a_tls_handshake_that_stalls_is_no_address_that_is_down(known) -> None:
    """Least of all where it was to resume a session: another one follows at once."""
    world = started(upstream("a.test", tls=Tls.MAY))
    if known:
        world.connector._manners.resumable.keep((A, "192.0.2.1", Tls.MAY), SSL.Session(), 0.0)
    world.play(f"""
        {FIRST_RCPT}
        U1: 220 one
        P1: EHLO mx.example.net
        U1: 250-one
        U1: 250 STARTTLS
        P1: STARTTLS
        U1: 220 go
        wait 31s
        U2: 220 one
        P2: EHLO mx.example.net
    """)
    assert not world.health and world.notes == []


def test_the_loop_to_ourselves_is_for_now_where_another_is_down() -> None:
    world = started()
    world.silent.add("192.0.2.1")
    world.play(f"{FIRST_RCPT}\nwait 31s\nU1 connected to 192.0.2.2\n{taken(1)}")
    world.ourselves.add("192.0.2.2")
    world.play(f"{FIRST_RCPT}\nS: {UNREACHABLE}\n{RESET}")


def test_not_more_than_some_are_asked_at_once() -> None:
    names = [f"192.0.2.{number}" for number in range(1, AT_ONCE + 6)]
    world = started(upstream("a.test"))
    for name in names:
        world.health.failed(upstream(name), Server(name), name, "gone", SLOW, True)
    world.play("wait 6s")
    assert len(world.upstreams) == AT_ONCE
    for number in range(1, AT_ONCE + 1):
        world.play(asked(number))
    world.play("wait 2s")
    assert len(world.upstreams) == len(names)
    assert len(list(world.health)) == 5


def test_a_check_that_says_nothing_is_no_reason_to_hurry() -> None:
    world = started()
    world.health.failed(BOTH, A, "192.0.2.1", "gone", SLOW, True)
    world.ourselves.add("192.0.2.1")
    world.play("wait 1m")
    (trouble,) = world.health
    assert trouble.back_off == 40.0


def test_a_backup_is_not_kept_while_the_first_is_down() -> None:
    world = started(pool=PoolLimits(idle=100.0, age=1000.0, uses=10, each=5))
    world.silent.add("192.0.2.1")
    world.play(f"{FIRST_RCPT}\nwait 31s\nU1 connected to 192.0.2.2\n{taken(1)}")
    world.play(f"""
        {FIRST_RCPT}
        {upstream_greets(2)}
        P2: MAIL FROM:<s@example.org>
        U2: 250 fine
        P2: RCPT TO:<a@example.com>
        U2: 250 fine
        S: 250 fine
        C: RSET
        P2: RSET
        U2: 250 reset
        S: 250 reset
        C gone
        P2: QUIT
    """)
    assert not world.pool.kept(BOTH)


def test_stopping_ends_the_checks() -> None:
    world = started()
    fails(world, "192.0.2.1", 1)
    world.unreachable.clear()
    world.play("wait 6s\nU4 connected to 192.0.2.1")
    world.checks.stop()
    world.play("P4 cut\nwait 4m")
    assert len(world.upstreams) == 4


@pytest.mark.parametrize("to", [BOTH, upstream(Server("d.test", mx=True))])
def test_a_backup_that_serves_meanwhile_is_the_upstream_all_the_same(to: Upstream) -> None:
    world = started(to)
    fails(world, "192.0.2.1", 1)
    ended = world.said(TransactionEnded)
    assert {it.server for it in ended} == {"b.test:25"}
    assert {it.by for it in ended} == {Side.CLIENT}
