"""Upstreams of several servers, and what is asked of TLS towards them."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from twisted.internet import defer

from smtpproxy.events import Refused, Side, TransactionEnded, UpstreamFailed
from smtpproxy.routing import Identity, Server, Tls, Upstream
from smtpproxy.upstream.ends import in_order
from tests.support.dialogue import (
    FIRST_RCPT,
    GREETING,
    Settings,
    World,
    replayed,
    upstream,
    upstream_greets,
)
from tests.support.tls import TlsTest, at

STILL_THERE = "C: RSET\nS: 250 2.0.0 Ok\n"
UNREACHABLE = "451 4.4.1 The server of this recipient is not reachable"
NOT_ENCRYPTED = "451 4.7.4 The server of this recipient does not offer TLS"
NOT_VERIFIED = "451 4.7.5 The server of this recipient cannot be verified"
HOSTS = {
    "a.test": ["192.0.2.1", "192.0.2.2"],
    "b.test": ["192.0.2.3"],
    "c.test": ["192.0.2.4"],
    "e.test": ["192.0.2.5"],
    "MX d.test": ["b.test", "c.test"],
    "MX loop.test": ["a.test", "b.test"],
}


def started(to: Upstream, **settings) -> World:
    world = World({"example.com": to}, dict(HOSTS), Settings(**settings))
    return world.play(GREETING)


def failures(world: World) -> list[tuple[str, str, str]]:
    return [(it.server, it.address, it.reason) for it in world.said(UpstreamFailed)]


# Several servers


def test_servers_are_tried_in_order_with_all_their_addresses() -> None:
    world = started(upstream("a.test", "b.test", "c.test"))
    world.unreachable |= {"192.0.2.1", "192.0.2.3"}
    world.play(f"""
        {FIRST_RCPT}
        U1 connected to 192.0.2.2
        U1: 554 5.7.1 go away
        P1 cut
        U2 connected to 192.0.2.4
        {upstream_greets(2)}
        {replayed(2)}
        C: RSET
        P2: RSET
        U2: 250 reset
        S: 250 reset
    """)
    assert failures(world) == [
        ("a.test:25", "192.0.2.1", "Connection refused"),
        ("a.test:25", "192.0.2.2", "it refused this proxy: 554 5.7.1 go away"),
        ("b.test:25", "192.0.2.3", "Connection refused"),
    ]
    (ended,) = world.said(TransactionEnded)
    assert (ended.server, ended.address) == ("c.test:25", "192.0.2.4")
    assert not world.said(Refused)


def test_a_name_that_is_not_found_costs_nothing_but_itself() -> None:
    world = started(upstream("unknown.test", "MX", "b.test"))
    world.play(f"{FIRST_RCPT}\nU1 connected to 192.0.2.3")
    assert failures(world) == [
        ("unknown.test:25", "", "unknown.test has no address"),
        ("MX:25", "", "MX has no address"),
    ]


def test_the_client_is_told_of_the_last_one() -> None:
    world = started(upstream("a.test", "b.test"))
    world.unreachable |= {"192.0.2.1", "192.0.2.2"}
    world.play(f"""
        {FIRST_RCPT}
        U1: 450 4.3.2 busy
        P1 cut
        S: 451 4.4.0 The server of this recipient is not ready: 450 4.3.2 busy
        {STILL_THERE}
    """)
    (refused,) = world.said(Refused)
    assert refused.by is Side.UPSTREAM


def test_each_address_of_all_servers_gets_its_share_of_the_time() -> None:
    """A later server counts as one address: how many it has is not known yet."""
    world = started(upstream("a.test", "b.test")).play(f"""
        {FIRST_RCPT}
        U1 connected to 192.0.2.1
        wait 79s
        wait 2s
        P1 cut
        U2 connected to 192.0.2.2
        wait 78s
        wait 2s
        P2 cut
        U3 connected to 192.0.2.3
        {upstream_greets(3)}
        {replayed(3)}
    """)
    assert [reason for _, _, reason in failures(world)] == ["no answer in 80 s"] * 2


def test_a_judgement_on_the_client_ends_it() -> None:
    started(upstream("b.test", "c.test")).play(f"""
        {FIRST_RCPT}
        U1: 220 one
        P1: EHLO mx.example.net
        U1: 250-one
        U1: 250 XCLIENT ADDR
        P1: XCLIENT ADDR=192.0.2.9
        U1: 554 5.7.1 192.0.2.9 is blocked
        P1: QUIT
        S: 554 5.7.1 192.0.2.9 is blocked
        {STILL_THERE}
    """)


# Weights


class Drawn(Random):
    """Draws what a test says, and notes from what it was to draw."""

    def __init__(self, *drawn: int) -> None:
        super().__init__(1)
        self._drawn = list(drawn)
        self.weights: list[list[int]] = []

    def choices(self, population, weights=None, **_):
        self.weights.append(list(weights))
        return [population[self._drawn.pop(0)]]


def weighted(*weights: int) -> list[Server]:
    return [Server(f"{name}.test", weight=w) for name, w in zip("abc", weights, strict=False)]


def test_servers_with_weights_are_drawn_by_them() -> None:
    random = Drawn(1, 0, 0)
    a, b, c = weighted(1, 2, 7)
    assert [server.host for server in in_order([a, b, c], random)] == ["b.test", "a.test", "c.test"]
    assert random.weights == [[1, 2, 7], [1, 7], [7]]


def test_how_often_a_server_is_first_is_as_its_weight() -> None:
    random = Random(5)
    first = Counter(in_order(weighted(1, 3), random)[0].host for _ in range(4000))
    assert 900 < first["a.test"] < 1100


def test_without_weights_nothing_is_drawn() -> None:
    assert in_order(weighted(0, 0, 0), Drawn()) == weighted(0, 0, 0)


def test_the_others_are_tried_where_the_one_drawn_fails() -> None:
    _, b, c = weighted(1, 1, 1)
    world = started(upstream(b, c), random=Drawn(1, 0))
    world.unreachable.add("192.0.2.4")
    world.play(f"{FIRST_RCPT}\nU1 connected to 192.0.2.3\n{upstream_greets(1)}\n{replayed(1)}")
    assert failures(world) == [("c.test:25", "192.0.2.4", "Connection refused")]


# MX records


def mx(domain: str) -> Server:
    return Server(domain, 25, mx=True)


def test_the_hosts_of_a_domain_in_the_order_of_its_records() -> None:
    world = started(upstream(mx("d.test")))
    world.unreachable.add("192.0.2.3")
    world.play(f"""
        {FIRST_RCPT}
        U1 connected to 192.0.2.4
        {upstream_greets(1)}
        {replayed(1)}
        C gone
        P1: QUIT
    """)
    assert failures(world) == [("b.test:25", "192.0.2.3", "Connection refused")]
    (ended,) = world.said(TransactionEnded)
    assert ended.server == "c.test:25"


def test_their_share_of_the_time() -> None:
    """A domain counts as one until its hosts are known."""
    started(upstream("e.test", mx("d.test"))).play(f"""
        {FIRST_RCPT}
        wait 119s
        wait 2s
        P1 cut
        U2 connected to 192.0.2.3
        wait 58s
        wait 2s
        P2 cut
        U3 connected to 192.0.2.4
    """)


def test_a_domain_without_records_that_can_be_found() -> None:
    world = started(upstream(mx("unknown.test"), "b.test")).play(f"{FIRST_RCPT}")
    assert world.upstreams[0][0] == "192.0.2.3"
    assert failures(world) == [("mx:unknown.test:25", "", "MX unknown.test has no address")]
    world = started(upstream(mx("unknown.test"))).play(f"{FIRST_RCPT}\nS: {UNREACHABLE}")
    (refused,) = world.said(Refused)
    assert refused.error == "MX unknown.test has no address"


def test_records_are_looked_up_when_it_is_their_turn() -> None:
    """A DNS that hangs costs nothing where an earlier server takes the mail."""
    world = started(upstream("b.test", mx("d.test")))

    async def never(host: str) -> list[str]:
        if host.startswith("MX"):
            await defer.Deferred()
        return HOSTS[host]

    world._resolve = never  # type: ignore[method-assign]
    world.play(f"{FIRST_RCPT}\nU1 connected to 192.0.2.3\n{upstream_greets(1)}\n{replayed(1)}")


# Ourselves among them


def test_one_of_them_is_ourselves() -> None:
    world = started(upstream(mx("loop.test")))
    world.ourselves |= {"192.0.2.1", "192.0.2.2"}
    world.play(f"{FIRST_RCPT}\nU1 connected to 192.0.2.3\n{upstream_greets(1)}\n{replayed(1)}")
    assert failures(world)[0] == ("a.test:25", "192.0.2.1", "it is this proxy itself")


@pytest.mark.parametrize("to", [("b.test", "a.test"), ("a.test", "b.test")])
def test_ourselves_behind_a_server_that_is_down_is_no_reason_to_bounce(to: list[str]) -> None:
    """Trouble that may pass is never a 5xx."""
    world = started(upstream(*to))
    world.ourselves |= {"192.0.2.1", "192.0.2.2"}
    world.unreachable.add("192.0.2.3")
    world.play(f"{FIRST_RCPT}\nS: {UNREACHABLE}\n{STILL_THERE}")


def test_ourselves_behind_a_name_that_dns_fails_for_is_no_reason_either() -> None:
    world = started(upstream("unknown.test", "a.test"))
    world.ourselves |= {"192.0.2.1", "192.0.2.2"}
    world.play(f"{FIRST_RCPT}\nS: {UNREACHABLE}\n{STILL_THERE}")


def test_none_but_ourselves() -> None:
    world = started(upstream("a.test"))
    world.ourselves |= {"192.0.2.1", "192.0.2.2"}
    world.play(f"{FIRST_RCPT}\nS: 554 5.4.6 Mail for this recipient loops back here")


# Which upstreams are the same

BOUND = FIRST_RCPT + "U1 connected to 192.0.2.3\n" + upstream_greets(1) + replayed(1)
OTHERS = {
    "another order": upstream("c.test", "b.test"),
    "one more server": upstream("b.test", "c.test", "a.test"),
    "another port": upstream(Server("b.test", 26), "c.test"),
    "TLS": upstream("b.test", "c.test", tls=Tls.NONE),
    "identity": upstream("b.test", "c.test", identity=Identity.NONE),
    "weights": upstream(Server("b.test", weight=1), Server("c.test", weight=1)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_upstream_has_to_wait_for_a_message_of_its_own(other: Upstream) -> None:
    routes = {"a@example.com": upstream("b.test", "c.test"), "b@example.com": other}
    routes["c@example.com"] = routes["a@example.com"]
    World(routes, dict(HOSTS), Settings()).play(GREETING + BOUND).play("""
        C: RCPT TO:<b@example.com>
        S: 452 4.5.3 This recipient's server is another one; send the message to it separately
        C: RCPT TO:<c@example.com>
        S: 452 4.5.3 This recipient's server is another one; send the message to it separately
    """)


def test_the_same_servers_are_one_upstream_whichever_of_them_took_it() -> None:
    routes = {"a@example.com": upstream("b.test", "c.test")}
    routes["b@example.com"] = upstream("b.test", "c.test")
    world = World(routes, dict(HOSTS), Settings()).play(GREETING)
    world.unreachable.add("192.0.2.3")
    world.play(f"""
        {FIRST_RCPT}
        U1 connected to 192.0.2.4
        {upstream_greets(1)}
        {replayed(1)}
        C: RCPT TO:<b@example.com>
        P1: RCPT TO:<b@example.com>
        U1: 250 fine
        S: 250 fine
    """)


# The ways of TLS, as far as they go without a handshake

WAYS = [Tls.NONE, Tls.MAY, Tls.OFFERED, Tls.ENCRYPT, Tls.VERIFY]
UNTIL_EHLO = "U1: 220 one\nP1: EHLO mx.example.net\n"
UNTIL_STARTTLS = UNTIL_EHLO + "U1: 250-one\nU1: 250 STARTTLS\n"


def way(tls: Tls) -> World:
    return World({"example.com": upstream("192.0.2.1", tls=tls)}).play(GREETING + FIRST_RCPT)


@pytest.mark.parametrize("tls", WAYS)
def test_an_upstream_without_starttls(tls: Tls) -> None:
    refused = tls in (Tls.ENCRYPT, Tls.VERIFY)
    ends = f"P1: QUIT\nS: {NOT_ENCRYPTED}\n{STILL_THERE}" if refused else replayed(1)
    world = way(tls).play(f"{UNTIL_EHLO}\nU1: 250 one\n{ends}")
    assert len(failures(world)) == refused


def test_tls_is_not_wanted_where_it_is_offered() -> None:
    way(Tls.NONE).play(f"{UNTIL_STARTTLS}\n{replayed(1)}")


REFUSED = {
    Tls.MAY: replayed(1),
    Tls.OFFERED: f"P1: QUIT\nS: {NOT_VERIFIED}",
    Tls.ENCRYPT: f"P1: QUIT\nS: {NOT_ENCRYPTED}",
    Tls.VERIFY: f"P1: QUIT\nS: {NOT_VERIFIED}",
}


@pytest.mark.parametrize("tls", REFUSED)
@pytest.mark.parametrize("reply", ["454 4.7.0 not now", "502 5.5.1 no"])
def test_starttls_refused(tls: Tls, reply: str) -> None:
    way(tls).play(f"{UNTIL_STARTTLS}\nP1: STARTTLS\nU1: {reply}\n{REFUSED[tls]}")


FAILED = {
    Tls.MAY: f"""
        U2 connected to 192.0.2.1
        U2: 220 one
        P2: EHLO mx.example.net
        U2: 250-one
        U2: 250 STARTTLS
        {replayed(2)}
    """,
    Tls.OFFERED: f"S: {NOT_VERIFIED}",
    Tls.ENCRYPT: f"S: {NOT_ENCRYPTED}",
    Tls.VERIFY: f"S: {NOT_VERIFIED}",
}


@pytest.mark.parametrize("tls", FAILED)
@pytest.mark.parametrize("fails", ["U1 gone", "wait 29s\nwait 2s\nP1 cut"], ids=["gone", "hangs"])
def test_a_handshake_that_fails(tls: Tls, fails: str) -> None:
    world = way(tls).play(f"{UNTIL_STARTTLS}\nP1: STARTTLS\nU1: 220 go\n{fails}\n{FAILED[tls]}")
    assert len(world.upstreams) == (2 if tls is Tls.MAY else 1), "never in clear"


@pytest.mark.parametrize("tls", [Tls.ENCRYPT, Tls.VERIFY])
def test_no_mail_goes_in_clear_because_the_next_server_is_down(tls: Tls) -> None:
    world = started(upstream("b.test", "c.test", tls=tls))
    world.unreachable.add("192.0.2.4")
    world.play(f"""
        {FIRST_RCPT}
        {UNTIL_EHLO}
        U1: 250 one
        P1: QUIT
        S: {UNREACHABLE}
    """)
    assert [address for _, address, _ in failures(world)] == ["192.0.2.3", "192.0.2.4"]


# The ways of TLS, where certificates matter


class WaysOfTls(TlsTest):
    @defer.inlineCallbacks
    def told(self, certificate, tls):
        server = self.server(certificate)
        reply = yield self.converse(at("mx1.test", server, tls), self.rcpt)
        return reply, server.mails()

    @defer.inlineCallbacks
    def test_a_certificate_that_does_not_verify(self):
        expected = {
            Tls.NONE: ("250 ok", [(1, False)]),
            Tls.MAY: ("250 ok", [(1, True)]),
            Tls.ENCRYPT: ("250 ok", [(1, True)]),
            Tls.OFFERED: (NOT_VERIFIED, []),
            Tls.VERIFY: (NOT_VERIFIED, []),
        }
        for tls, outcome in expected.items():
            given = yield self.told(self.authority.certificate("mx2.test"), tls)
            self.assertEqual(given, outcome, tls)

    @defer.inlineCallbacks
    def test_a_certificate_that_verifies(self):
        for tls in (Tls.MAY, Tls.OFFERED, Tls.ENCRYPT, Tls.VERIFY):
            self.events.clear()
            given = yield self.told(self.authority.certificate("mx1.test"), tls)
            self.assertEqual(given, ("250 ok", [(1, True)]), tls)
            (ended,) = self.said(TransactionEnded)
            self.assertTrue(ended.upstream_tls.verified)

    @defer.inlineCallbacks
    def test_what_is_no_handshake(self):
        expected = {
            Tls.MAY: ("250 ok", [(2, False)]),
            Tls.OFFERED: (NOT_VERIFIED, []),
            Tls.ENCRYPT: (NOT_ENCRYPTED, []),
            Tls.VERIFY: (NOT_VERIFIED, []),
        }
        for tls, outcome in expected.items():
            given = yield self.told(None, tls)
            self.assertEqual(given, outcome, tls)
