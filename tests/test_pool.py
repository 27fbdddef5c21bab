"""Connections to upstreams that are used again, and those that must not be."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.listener import ConnectionLimits
from smtpproxy.mail import Client, Peer
from smtpproxy.routing import Identity, Server, Upstream
from smtpproxy.upstream import PoolLimits
from tests.support.dialogue import (
    CLIENT,
    GREETING,
    ONE,
    Routes,
    Settings,
    World,
    upstream_greets,
)

KEEPS = PoolLimits(idle=5.0, age=60.0, uses=3, each=2)
OTHER = Peer("192.0.2.77", 41000, "198.51.100.1", 25)
PROXIED = replace(ONE, identity=Identity.PROXY2)
BACKED_UP = Upstream((Server("192.0.2.1"), Server("192.0.2.2")))
ROUTES: Routes = {"example.com": ONE, "proxied.test": PROXIED, "backup.test": BACKED_UP}
XCLIENT = "PIPELINING,XCLIENT NAME ADDR PORT PROTO HELO"


def world(**limits: Any) -> World:
    return World(ROUTES, settings=Settings(pool=replace(KEEPS, **limits)))


def message(number: int, before: str = "", domain: str = "example.com") -> str:
    """A session's message over the connection to an upstream, made as `before` says."""
    return f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@{domain}>
    {before}
    P{number}: MAIL FROM:<s@example.org>
    P{number}: RCPT TO:<a@{domain}>
    U{number}: 250 fine
    U{number}: 250 2.1.5 fine
    S: 250 2.1.5 fine
    C: DATA
    P{number}: DATA
    U{number}: 354 go
    S: 354 go
    C: .
    P{number}: .
    U{number}: 250 2.0.0 queued
    S: 250 2.0.0 queued
    """


LEAVES = "C: QUIT\nS: 221 2.0.0 Bye\nS closed\n"
FRESH = upstream_greets(1, "PIPELINING")


def told(number: int, address: str, still: bool = False) -> str:
    """XCLIENT for a client, and what the upstream offers after it."""
    offered = f"U{number}: 250-XCLIENT NAME ADDR PORT PROTO HELO\n" if still else ""
    return f"""
    P{number}: XCLIENT NAME=[UNAVAILABLE] HELO=client.example.com PROTO=ESMTP PORT=...
    U{number}: 220 hello
    P{number}: EHLO client.example.com
    U{number}: 250-one.example.net
    {offered}
    U{number}: 250 PIPELINING
    """


def joined(it: World, peer: Peer = CLIENT, helo: str = "client.example.com") -> World:
    """One more client, that is greeted."""
    it.client = it.connect(peer)
    return it.play(GREETING.replace("client.example.com", helo))


def test_one_that_was_told_of_nobody_serves_everybody() -> None:
    it = world().play(GREETING + message(1, FRESH) + LEAVES)
    joined(it, OTHER, "other.example.org").play(message(1) + LEAVES)
    assert len(it.upstreams) == 1


def test_one_that_was_told_of_a_client_serves_that_client_alone() -> None:
    greets = upstream_greets(1, XCLIENT) + told(1, CLIENT.address)
    it = world().play(GREETING + message(1, greets) + LEAVES)
    again = replace(CLIENT, port=40001)
    joined(it, again).play(message(1) + LEAVES)
    joined(it, OTHER).play(
        message(2, upstream_greets(2, XCLIENT) + told(2, OTHER.address)) + LEAVES
    )
    joined(it, CLIENT, "another.example.org").play(
        f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(3, XCLIENT)}
    P3: XCLIENT NAME=[UNAVAILABLE] HELO=another.example.org ...
    """
    )


def test_one_that_wants_to_be_told_anew_is() -> None:
    greets = upstream_greets(1, XCLIENT) + told(1, CLIENT.address, still=True)
    it = world().play(GREETING + message(1, greets) + LEAVES)
    joined(it, OTHER).play(message(1, told(1, OTHER.address, still=True)) + LEAVES)
    assert len(it.upstreams) == 1


@pytest.mark.parametrize("answer", ["U1: 550 5.7.0 no", "U1: 421 4.3.0 no", "U1 gone"])
def test_one_that_does_not_want_to_be_told_anew_is_left(answer: str) -> None:
    greets = upstream_greets(1, XCLIENT) + told(1, CLIENT.address, still=True)
    it = world().play(GREETING + message(1, greets) + LEAVES)
    joined(it, OTHER).play(
        f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    P1: XCLIENT NAME=[UNAVAILABLE] ...
    {answer}
    {"P1: QUIT" if "550" in answer else ""}
    {upstream_greets(2, XCLIENT)}
    P2: XCLIENT NAME=[UNAVAILABLE] ...
    """
    )


def test_one_behind_a_proxy_header_serves_its_client_alone() -> None:
    it = world().play(GREETING + "C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok")
    it.client.deliver(b"RCPT TO:<a@proxied.test>\r\n")
    it.clock.advance(0)
    it.upstream(1).said.clear()  # the header
    behind = message(1, domain="proxied.test").split("RCPT TO:<a@proxied.test>", 1)[1]
    it.play(FRESH.replace("mx.example.net", "client.example.com") + behind + LEAVES)
    joined(it).play(message(1, domain="proxied.test") + LEAVES)
    joined(it, OTHER).play("C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok")
    it.client.deliver(b"RCPT TO:<a@proxied.test>\r\n")
    it.clock.advance(0)
    assert len(it.upstreams) == 2


def test_it_is_given_up_when_nobody_wants_it() -> None:
    world().play(GREETING + message(1, FRESH) + LEAVES + "wait 4s\nwait 2s\nP1: QUIT")


def test_it_is_not_used_more_often_than_is_set() -> None:
    it = world(uses=2).play(GREETING + message(1, FRESH) + LEAVES)
    joined(it).play(message(1) + "C: QUIT\nS: 221 2.0.0 Bye\nP1: QUIT\nS closed")


def test_it_is_not_kept_when_it_is_too_old() -> None:
    it = world(age=10.0).play(GREETING + message(1, FRESH) + "wait 11s")
    it.play("C: QUIT\nS: 221 2.0.0 Bye\nP1: QUIT\nS closed")


def test_no_more_are_kept_than_are_set() -> None:
    it = world(each=1).play(GREETING + message(1, FRESH))
    first = it.client
    joined(it, OTHER).play(message(2, upstream_greets(2, "PIPELINING")) + LEAVES)
    it.client = first
    it.play("C: QUIT\nS: 221 2.0.0 Bye\nP1: QUIT\nS closed")


def test_one_that_the_upstream_closes_is_forgotten() -> None:
    it = world().play(GREETING + message(1, FRESH) + LEAVES + "U1 gone")
    assert len(it.pool) == 0
    joined(it).play(message(2, upstream_greets(2, "PIPELINING")) + LEAVES)


def test_one_at_which_the_upstream_speaks_unasked_is_not_used() -> None:
    it = world().play(GREETING + message(1, FRESH) + LEAVES + "U1: 421 4.4.2 timeout")
    joined(it).play(message(2, "P1 cut\n" + upstream_greets(2, "PIPELINING")) + LEAVES)


def test_one_that_breaks_as_it_is_used_again_is_no_matter_to_the_client() -> None:
    it = world().play(GREETING + message(1, FRESH) + LEAVES)
    joined(it).play(
        f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    U1 gone
    {upstream_greets(2, "PIPELINING")}
    P2: MAIL FROM:<s@example.org>
    P2: RCPT TO:<a@example.com>
    U2: 250 fine
    U2: 250 2.1.5 fine
    S: 250 2.1.5 fine
    """
    )


def test_an_unfinished_transaction_is_not_left_to_the_next() -> None:
    it = world().play(
        GREETING
        + message(1, FRESH)
        + """
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    U1: 250 fine
    U1: 250 2.1.5 fine
    S: 250 2.1.5 fine
    C gone
    P1: QUIT
    """
    )
    assert len(it.pool) == 0


def test_a_backup_is_not_kept() -> None:
    """Once the first choice is back, mail is to go there."""
    it = world()
    it.unreachable.add("192.0.2.1")
    it.play(GREETING + message(1, FRESH, "backup.test"))
    it.play("U1 connected to 192.0.2.2\nC: QUIT\nS: 221 2.0.0 Bye\nP1: QUIT\nS closed")


def test_stopping_gives_all_of_them_up() -> None:
    it = world().play(GREETING + message(1, FRESH) + LEAVES)
    it.pool.stop()
    it.play("P1: QUIT")


def test_connections_are_made_ahead() -> None:
    it = world(ready=1).play(
        GREETING + message(1, FRESH) + upstream_greets(2, "PIPELINING") + LEAVES
    )
    joined(it, OTHER).play(message(1))
    joined(it, replace(OTHER, address="192.0.2.78")).play(message(2) + upstream_greets(3))


def test_one_made_ahead_is_told_of_the_client() -> None:
    it = world(ready=1).play(
        GREETING
        + message(1, upstream_greets(1, XCLIENT) + told(1, ""))
        + upstream_greets(2, XCLIENT)
        + LEAVES
    )
    joined(it, OTHER).play(message(2, told(2, OTHER.address)) + upstream_greets(3, XCLIENT))


def test_none_is_made_ahead_where_nobody_answers() -> None:
    it = world(ready=1)
    it.unreachable.add("192.0.2.1")
    it.play(
        GREETING
        + "C: MAIL FROM:<>\nS: 250 2.1.0 Ok\nC: RCPT TO:<a@example.com>\nS: 451 4.4.1 ...\nwait 1m"
    )
    assert not it.upstreams


# The property: mail goes over a connection that was told of nobody, or of its client.

KNOWN = Client(OTHER, "client.example", "client.example")
NOT_TOLD = {"port", "via", "listener"}


@pytest.mark.parametrize("field", [each.name for each in fields(Client) if each.name != "peer"])
def test_a_client_that_differs_in_anything_is_another(field) -> None:
    other: dict[str, Any] = {field: None}
    assert not KNOWN.same_as(replace(KNOWN, **other))


@pytest.mark.parametrize("field", [each.name for each in fields(Peer)])
def test_a_client_that_connects_otherwise_is_another_but_for_its_port(field) -> None:
    other: dict[str, Any] = {field: None}
    known = replace(KNOWN, peer=replace(OTHER, **other))
    assert KNOWN.same_as(known) == (field in NOT_TOLD)


CLIENTS = [Peer(f"192.0.2.{end}", 40000 + end, "198.51.100.1", 25) for end in (10, 11, 12)]
HELOS = ["a.example.org", "b.example.org"]


class Upstreams:
    """Answers all that upstreams are told, and keeps who each message is from."""

    def __init__(self, it: World, xclient: str) -> None:
        self.it = it
        self.xclient = xclient  # "never", "once" or "always" offered
        self.identity: dict[int, tuple[str, str]] = {}
        self.mails: list[tuple[str, tuple[str, str] | None]] = []
        self._greeted: set[int] = set()

    def answer(self) -> None:
        for _ in range(50):
            self.it.clock.advance(0)
            answered = [self._answer(number) for number in range(len(self.it.upstreams))]
            if not any(answered):
                return
        raise AssertionError("no end of it")

    def _answer(self, number: int) -> bool:
        transport = self.it.upstreams[number][1]
        if not transport.open:
            transport.said.clear()
            return False
        if number not in self._greeted:
            self._greeted.add(number)
            transport.deliver(b"220 hello\r\n")
            return True
        said = bytes(transport.said)
        transport.said.clear()
        for line in said.decode().split("\r\n")[:-1]:
            transport.deliver(self._reply(number, line))
        return bool(said)

    def _reply(self, number: int, line: str) -> bytes:
        if line.startswith("EHLO"):
            told = number in self.identity
            offers = self.xclient == "always" or (self.xclient == "once" and not told)
            xclient = b"250-XCLIENT ADDR HELO PORT\r\n" if offers else b""
            return b"250-one\r\n" + xclient + b"250 PIPELINING\r\n"
        if line.startswith("XCLIENT"):
            words = dict(word.split("=", 1) for word in line.split()[1:])
            self.identity[number] = words["ADDR"], words["HELO"]
            return b"220 fine\r\n"
        if match := re.match(r"MAIL FROM:<(.*)@example.org>", line):
            self.mails.append((match[1], self.identity.get(number)))
        if line.startswith("QUIT"):
            return b"221 bye\r\n"
        return b"354 go\r\n" if line == "DATA" else b"250 2.0.0 fine\r\n"


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["never", "once", "always"]),
    st.integers(0, 2),
    st.lists(
        st.tuples(
            st.sampled_from(CLIENTS),
            st.sampled_from(HELOS),
            st.sampled_from(["quit", "go", "stay", "reset", "again"]),
            st.sampled_from([0, 0, 1, 6]),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_a_connection_that_was_told_of_one_client_never_carries_anothers_mail(
    xclient: str, ready: int, sessions: list[tuple[Peer, str, str, int]]
) -> None:
    limits = ConnectionLimits(100, 100)
    pool = replace(KEEPS, ready=ready, uses=20)
    it = World(ROUTES, settings=Settings(pool=pool, limits=limits))
    upstreams = Upstreams(it, xclient)
    expected: list[tuple[str, tuple[str, str]]] = []
    for number, (peer, helo, end, pause) in enumerate(sessions):
        client = it.connect(peer)
        lines = [f"EHLO {helo}", f"MAIL FROM:<m{number}@example.org>", "RCPT TO:<a@example.com>"]
        lines += ["DATA", "."]
        expected.append((f"m{number}", (peer.address, helo)))
        if end == "again":  # by another name
            lines += ["EHLO c.example.org", f"MAIL FROM:<n{number}@example.org>"]
            lines += ["RCPT TO:<a@example.com>", "DATA", "."]
            expected.append((f"n{number}", (peer.address, "c.example.org")))
        if end == "reset":
            lines += ["MAIL FROM:<x@example.com>", "RCPT TO:<b@example.com>", "RSET"]
        for line in [*lines, *(["QUIT"] if end == "quit" else [])]:
            client.deliver(line.encode() + b"\r\n")
            upstreams.answer()
        if end == "go":
            client.lose()
        it.clock.pump([0.5] * 2 * pause)
        upstreams.answer()
    assert [name for name, _ in upstreams.mails] == [name for name, _ in expected]
    for (name, identity), (_, client_identity) in zip(upstreams.mails, expected, strict=True):
        assert identity == (None if xclient == "never" else client_identity), name


def test_behind_a_proxy_header_xclient_makes_no_difference() -> None:
    """The upstream knows the connection for its first client, and nobody tells it anew."""
    it = world().play(GREETING + "C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok")
    it.client.deliver(b"RCPT TO:<a@proxied.test>\r\n")
    it.clock.advance(0)
    it.upstream(1).said.clear()  # the header
    greets = upstream_greets(1, XCLIENT).replace("mx.example.net", "client.example.com")
    behind = message(1, domain="proxied.test").split("RCPT TO:<a@proxied.test>", 1)[1]
    it.play(greets + behind + LEAVES)
    joined(it, OTHER).play("C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok")
    it.client.deliver(b"RCPT TO:<a@proxied.test>\r\n")
    it.clock.advance(0)
    assert len(it.upstreams) == 2


def test_one_that_takes_nothing_that_xclient_could_say_is_left() -> None:
    again = told(1, CLIENT.address).replace("U1: 250 PIPELINING", "U1: 250 XCLIENT")
    it = world().play(
        GREETING
        + message(1, upstream_greets(1, XCLIENT) + again)
        .replace("P1: RCPT TO:<a@example.com>\n    U1: 250 fine", "U1: 250 fine")
        .replace("U1: 250 fine\n", "U1: 250 fine\n    P1: RCPT TO:<a@example.com>\n", 1)
        + LEAVES
    )
    joined(it, OTHER).play(
        f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    P1: QUIT
    {upstream_greets(2, XCLIENT)}
    P2: XCLIENT NAME=[UNAVAILABLE] ...
    """
    )


def test_what_was_said_of_the_one_before_does_not_stay() -> None:
    every = "PIPELINING,XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
    it = world().play(
        GREETING + "C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok\nC: RCPT TO:<a@example.com>\n"
        f"{upstream_greets(1, every)}"
        """
    P1: XCLIENT NAME=[UNAVAILABLE] HELO=client.example.com PROTO=ESMTP DESTADDR=198.51.100.1 ...
    U1: 220 hello
    P1: EHLO client.example.com
    U1: 250-one
    U1: 250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT
    U1: 250 PIPELINING
    """ + message(1).split("C: RCPT TO:<a@example.com>", 1)[1] + LEAVES
    )
    joined(it, Peer("", 0, "", 0)).play("C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok")
    it.client.deliver(b"RCPT TO:<a@example.com>\r\n")
    it.clock.advance(0)
    said = bytes(it.upstream(1).said)
    it.upstream(1).said.clear()
    for name in (b"LOGIN", b"DESTADDR", b"DESTPORT"):
        assert name + b"=[UNAVAILABLE]" in said


def test_one_that_fell_silent_leaves_time_for_another_server() -> None:
    it = world(idle=1000.0, age=1000.0).play(
        GREETING + message(1, upstream_greets(1, "PIPELINING"), "backup.test")
    )
    first = it.client
    joined(it, OTHER).play(message(2, upstream_greets(2, "PIPELINING"), "backup.test") + LEAVES)
    it.client = first
    it.play(LEAVES)
    assert len(it.pool) == 2
    it.unreachable.add("192.0.2.1")  # no new ones, and those there are say nothing
    joined(it).play(
        f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@backup.test>
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@backup.test>
    wait 121s
    P1 cut
    P2 cut
    U3 connected to 192.0.2.2
    {upstream_greets(3, "PIPELINING")}
    P3: MAIL FROM:<s@example.org>
    P3: RCPT TO:<a@backup.test>
    U3: 250 fine
    U3: 250 2.1.5 fine
    S: 250 2.1.5 fine
    """
    )


def test_one_that_is_silent_when_it_is_told_anew_leaves_time_too() -> None:
    greets = upstream_greets(1, XCLIENT) + told(1, CLIENT.address, still=True)
    it = world(idle=1000.0, age=1000.0).play(GREETING + message(1, greets) + LEAVES)
    joined(it, OTHER).play(
        f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    P1: XCLIENT NAME=[UNAVAILABLE] ...
    wait 121s
    P1 cut
    {upstream_greets(2)}
    P2: MAIL FROM:<s@example.org>
    """
    )


def test_none_is_made_ahead_for_a_while_after_one_that_was_no_use() -> None:
    it = world(ready=2).play(GREETING)
    it.play(
        "C: MAIL FROM:<>\nS: 250 2.1.0 Ok\nC: RCPT TO:<a@example.com>\n"
        + upstream_greets(1)
        + "P1: MAIL FROM:<>\nU2: 554 5.3.2 no\nU3: 554 5.3.2 no"
    )
    assert len(it.upstreams) == 3
    joined(it, OTHER).play("C: MAIL FROM:<>\nS: 250 2.1.0 Ok\nC: RCPT TO:<a@example.com>")
    assert len(it.upstreams) == 4
    it.play(upstream_greets(4) + "P4: MAIL FROM:<>")
    assert len(it.upstreams) == 4


@pytest.mark.parametrize(("limits", "made"), [({"ready": 9}, 2), ({"ready": 2, "idle": 0.0}, 0)])
def test_no_more_are_made_ahead_than_can_be_kept(limits: dict[str, Any], made: int) -> None:
    it = world(**limits).play(
        GREETING
        + "C: MAIL FROM:<>\nS: 250 2.1.0 Ok\nC: RCPT TO:<a@example.com>\n"
        + upstream_greets(1)
        + "P1: MAIL FROM:<>"
    )
    assert len(it.upstreams) == 1 + made


def test_none_is_made_ahead_where_a_backup_serves() -> None:
    it = world(ready=2)
    it.unreachable.add("192.0.2.1")
    it.play(
        GREETING
        + "C: MAIL FROM:<>\nS: 250 2.1.0 Ok\nC: RCPT TO:<a@backup.test>\n"
        + upstream_greets(1)
        + "P1: MAIL FROM:<>"
    )
    assert len(it.upstreams) == 1


def test_nothing_is_held_of_upstreams_that_have_no_connection() -> None:
    it = world().play(GREETING + message(1, FRESH) + LEAVES + "wait 10s\nP1: QUIT")
    assert not it.pool._idle
