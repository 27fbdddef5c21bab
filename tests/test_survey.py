"""Upstreams are asked in the background, and heard by the way; a listener's EHLO follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from smtpproxy.listener import Offer
from smtpproxy.routing import Identity, Listing, Server, Tls, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.upstream import Learnt, Survey
from smtpproxy.upstream.learnt import Failure, Known
from smtpproxy.upstream.survey import AT_ONCE, IN_ALL, MOST, MOST_FAILING, PATIENCE, SLOW
from tests.support.dialogue import ONE, TWO, Settings, World, upstream

EVERY = 600.0

EHLO = """
    C: EHLO client.example.com
    S: 250-mx.example.net
    S: 250-PIPELINING
    S: 250-SIZE 1000000
    S: 250-CHUNKING
    S: 250-PRDR
"""


class Scene:
    """A world whose listener announces what its upstreams agree on."""

    def __init__(
        self,
        *upstreams: Upstream,
        hosts: Mapping[str, Sequence[str]] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.offer = Offer(max_message_bytes=1_000_000, max_recipients=5, starttls=False)
        self.told: list[str] = []
        settings = replace(settings or Settings(), offer=self.offer, heard=self._heard)
        routes = {f"{number}@example.com": each for number, each in enumerate(upstreams, 1)}
        self.world = World(routes, hosts, settings)
        self.learnt = Learnt(
            self.world.deadlines, lambda it: self.told.extend(self.offer.follow(it))
        )
        self.survey = Survey(self.world.connector, self.learnt, self.world.deadlines, EVERY)
        self.learnt.follow(self.world.profile.relaying.router.listing())
        self.play("S: 220 mx.example.net ESMTP smtpproxy")

    def _heard(self, upstream: Upstream, server: Server, address: str, said: Extensions) -> None:
        self.learnt.heard(upstream, server, address, said)

    def play(self, script: str) -> None:
        self.world.play(script)

    def ask(self) -> None:
        self.survey.start()
        self.world.clock.advance(0)

    def known(self, number: int = 0) -> Known:
        return [known for _, known in self.learnt.all()][number]


def asked(number: int, *lines: str) -> str:
    """An upstream is asked, says this, and is left."""
    *front, last = ["one.example.net", *lines]
    return "\n".join(
        (
            f"U{number}: 220 one.example.net ESMTP",
            f"P{number}: EHLO mx.example.net",
            *(f"U{number}: 250-{line}" for line in front),
            f"U{number}: 250 {last}",
            f"P{number}: QUIT",
            f"U{number}: 221 Bye",
            f"U{number} gone",
        )
    )


def test_upstreams_are_asked_and_what_they_agree_on_is_announced():
    scene = Scene(ONE, TWO)
    scene.play(EHLO + "S: 250-LIMITS RCPTMAX=5\nS: 250-ENHANCEDSTATUSCODES\nS: 250 8BITMIME")
    scene.ask()
    scene.play(asked(1, "DSN", "8BITMIME", "SMTPUTF8"))
    scene.play("wait 2s")
    assert scene.told == ["announces ENHANCEDSTATUSCODES no longer: 192.0.2.1:25 does not offer it"]
    scene.play(asked(2, "DSN", "8BITMIME"))
    scene.play(f"wait 2s\n{EHLO}S: 250-LIMITS RCPTMAX=5\nS: 250-8BITMIME\nS: 250 DSN")
    assert scene.told[1:] == ["announces DSN: all upstreams offer it"]


def test_the_ehlo_follows_one_that_changes():
    scene = Scene(ONE)
    scene.ask()
    scene.play(asked(1, "DSN", "8BITMIME", "ENHANCEDSTATUSCODES"))
    scene.play("wait 2s")
    both = "S: 250-LIMITS RCPTMAX=5\nS: 250-ENHANCEDSTATUSCODES\nS: 250-8BITMIME\n"
    scene.play(EHLO + both + "S: 250 DSN")
    scene.play("wait 2m\nC: NOOP\nS: 250 2.0.0 Ok\n" * 5)
    scene.ask()
    scene.play(asked(2, "SMTPUTF8", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 90000"))
    scene.play("wait 2s")
    scene.play(EHLO.replace("1000000", "90000") + both + "S: 250 SMTPUTF8")
    assert scene.told == [
        "announces DSN: all upstreams offer it",
        "announces SMTPUTF8: all upstreams offer it",
        "announces DSN no longer: 192.0.2.1:25 does not offer it",
        "announces SIZE 90000: 192.0.2.1:25 takes no more",
    ]


def test_mail_teaches_as_well_and_who_was_heard_is_not_asked():
    scene = Scene(ONE)
    scene.play(
        """
        C: HELO client.example.com
        S: 250 mx.example.net
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<1@example.com>
        U1: 220 one.example.net ESMTP
        P1: EHLO mx.example.net
        U1: 250-one.example.net
        U1: 250 DSN
        P1: MAIL FROM:<s@example.org>
        U1: 250 Ok
        P1: RCPT TO:<1@example.com>
        U1: 250 Ok
        S: 250 Ok
        """
    )
    assert scene.known().heard == {}  # after HELO nothing is announced
    scene.world.client = scene.world.connect()
    scene.play(
        """
        S: 220 mx.example.net ESMTP smtpproxy
        C: EHLO other.example.com
        S: 250-mx.example.net
        S: 250-PIPELINING
        S: 250-SIZE 1000000
        S: 250-CHUNKING
        S: 250-PRDR
        S: 250-LIMITS RCPTMAX=5
        S: 250-ENHANCEDSTATUSCODES
        S: 250 8BITMIME
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<1@example.com>
        U2: 220 one.example.net ESMTP
        P2: EHLO mx.example.net
        U2: 250-one.example.net
        U2: 250-XCLIENT ADDR
        U2: 250 DSN
        P2: XCLIENT ADDR=192.0.2.9
        U2: 220 one.example.net ESMTP
        P2: EHLO other.example.com
        U2: 250-one.example.net
        U2: 250 REQUIRETLS
        P2: MAIL FROM:<s@example.org>
        U2: 250 Ok
        P2: RCPT TO:<1@example.com>
        U2: 250 Ok
        S: 250 Ok
        wait 2s
        """
    )
    (heard,) = scene.known().heard.values()
    assert (heard.server.host, heard.address, heard.by_mail) == ("192.0.2.1", "192.0.2.1", True)
    assert heard.extensions.lines() == ("REQUIRETLS",)  # as announced to the client
    scene.ask()
    assert len(scene.world.upstreams) == 2


def test_each_address_of_each_server_is_asked():
    both = upstream("one.test", Server("two.test", 2525))
    hosts = {"one.test": ["192.0.2.1", "192.0.2.2"], "two.test": ["192.0.2.3"]}
    scene = Scene(both, hosts=hosts)
    scene.ask()
    for number in (1, 2, 3):
        scene.play(f"U{number} connected to 192.0.2.{number}\n{asked(number, f'X{number}')}")
    assert [
        (str(each.server), each.address, each.extensions.lines(), each.by_mail)
        for each in scene.known().heard.values()
    ] == [
        ("one.test:25", "192.0.2.1", ("X1",), False),
        ("one.test:25", "192.0.2.2", ("X2",), False),
        ("two.test:2525", "192.0.2.3", ("X3",), False),
    ]


def test_the_hosts_of_mx_records_are_asked():
    scene = Scene(
        upstream(Server("example.org", mx=True)),
        hosts={"MX example.org": ["mx1.test"], "mx1.test": ["192.0.2.1"]},
    )
    scene.ask()
    scene.play(asked(1))
    (heard,) = scene.known().heard.values()
    assert str(heard.server) == "mx1.test:25"


@pytest.mark.parametrize(
    ("identity", "header"),
    [
        (Identity.PROXY1, b"PROXY UNKNOWN\r\n"),
        (Identity.PROXY2, b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"),  # LOCAL
    ],
)
def test_a_proxy_header_says_that_the_connection_is_our_own(identity, header):
    scene = Scene(upstream("192.0.2.1", identity=identity))
    scene.ask()
    said = scene.world.upstream(1).said
    assert bytes(said) == header
    del said[:]
    scene.play(asked(1, "DSN"))
    assert len(scene.known().heard) == 1


def test_no_client_is_introduced():
    scene = Scene(upstream("192.0.2.1", identity=Identity.XCLIENT))
    scene.ask()
    scene.play(asked(1, "XCLIENT NAME ADDR"))
    scene.ask()
    assert len(scene.known().heard) == 1


def test_one_that_speaks_helo_alone_offers_nothing():
    scene = Scene(ONE)
    scene.ask()
    scene.play(
        """
        U1: 220 one.example.net SMTP
        P1: EHLO mx.example.net
        U1: 502 what?
        P1: HELO mx.example.net
        U1: 250 one.example.net
        P1: QUIT
        wait 2s
        """
    )
    (heard,) = scene.known().heard.values()
    assert heard.extensions.lines() == ()
    assert "8BITMIME" not in scene.offer(False)


FAILING = {
    "no address": (upstream("none.test"), "none.test has no address", ""),
    "refused": (upstream("one.test"), "Connection refused", "192.0.2.1"),
    "no TLS": (
        upstream("two.test", tls=Tls.ENCRYPT),
        "it does not offer STARTTLS",
        "192.0.2.2",
    ),
    "silent": (upstream("three.test"), "no answer in 15 s", "192.0.2.3"),
    "ourselves": (upstream("four.test"), "it is this proxy itself", "192.0.2.4"),
}


@pytest.mark.parametrize(("failing", "reason", "address"), FAILING.values(), ids=FAILING)
def test_one_that_cannot_be_asked_is_asked_again(failing, reason, address):
    names = ("one.test", "two.test", "three.test", "four.test")
    scene = Scene(failing, hosts={name: [f"192.0.2.{n}"] for n, name in enumerate(names, 1)})
    scene.play(LEAVE)
    scene.world.unreachable.add("192.0.2.1")
    scene.world.ourselves.add("192.0.2.4")
    for _ in range(2):
        scene.ask()
        if address == "192.0.2.2":
            number = len(scene.world.upstreams)
            scene.play(
                f"U{number}: 220 two.test ESMTP\nP{number}: EHLO mx.example.net\n"
                f"U{number}: 250 two.test\nP{number}: QUIT\nU{number} gone"
            )
        scene.play("wait 16s")
        (failure,) = scene.known().failures.values()
        assert failure == Failure(failing.servers[0], address, reason, failure.at)
        connections = len(scene.world.upstreams)
        scene.ask()  # not so soon
        assert scene.known().failures == {(*_place(failing), address): failure}
        assert len(scene.world.upstreams) == connections
        scene.world.clock.advance(EVERY)
    assert "192.0.2.4" not in [address for address, _ in scene.world.upstreams]
    assert scene.known().heard == {}
    assert scene.told == []


def _place(failing: Upstream) -> tuple[str, int]:
    return failing.servers[0].host, failing.servers[0].port


def test_one_that_takes_long_is_not_asked_a_second_time_meanwhile():
    scene = Scene(ONE)
    survey = Survey(scene.world.connector, scene.learnt, scene.world.deadlines, every=10.0)
    survey.start()
    scene.play("wait 11s")
    assert scene.learnt.due(10.0) == [ONE]
    survey.start()
    assert len(scene.world.upstreams) == 1


def test_a_few_are_asked_at_once():
    scene = Scene(*(upstream(f"192.0.2.{number}") for number in range(100, 150)))
    scene.ask()
    scene.ask()
    assert len(scene.world.upstreams) == AT_ONCE
    scene.play(asked(3))
    assert len(scene.world.upstreams) == AT_ONCE + 1
    for number in range(1, AT_ONCE + 1):
        scene.world.upstream(number).lose()
    scene.world.clock.advance(0)
    assert len(scene.world.upstreams) == 2 * AT_ONCE
    assert len({address for address, _ in scene.world.upstreams}) == 2 * AT_ONCE


def rows(number: int, network: str = "192.0.2") -> list[Upstream]:
    return [upstream(f"{network}.{each}") for each in range(1, number + 1)]


def answer(scene: Scene) -> int:
    """Those that are asked and not mute say something; how many there are."""
    answered = 0
    for number, (address, transport) in enumerate(scene.world.upstreams, 1):
        if transport.open and not transport.closed and address not in MUTE:
            scene.play(asked(number))
            answered += 1
    return answered


MUTE = {f"192.0.2.{number}" for number in range(1, 256)}


def answer_all(scene: Scene, seconds: float) -> int:
    """The same, until nobody new has come for so long."""
    answered, quiet = 0, 0.0
    while quiet < seconds:
        number = answer(scene)
        answered += number
        scene.play("wait 500ms")
        quiet = 0.0 if number else quiet + 0.5
    return answered


def test_mute_ones_do_not_hold_up_the_others():
    good = rows(100, "198.51.100")
    scene = Scene(*rows(40), *good)
    scene.ask()
    began = scene.world.clock.seconds()
    assert answer_all(scene, 2 * SLOW + 1) == len(good)
    assert scene.world.clock.seconds() - began < 4 * SLOW + 5


def test_a_new_one_is_asked_while_many_are_asked_again():
    scene = Scene(*rows(MOST + 10))
    scene.play(LEAVE)
    scene.ask()
    scene.play("wait 11m")
    scene.ask()
    scene.play("wait 10s")  # these are the slow ones by now
    asking = [known for _, known in scene.learnt.all() if known.asking]
    assert len(asking) == MOST_FAILING
    scene.learnt.follow(Listing((*(each for each, _ in scene.learnt.all()), NEW), ()))
    scene.ask()
    assert scene.world.upstreams[-1][0] == "198.51.100.1"
    assert answer(scene) == 1


NEW = upstream("198.51.100.1")
LEAVE = "C: QUIT\nS: 221 2.0.0 Bye\nS closed"


def test_who_was_slow_before_counts_no_longer():
    scene = Scene(*rows(AT_ONCE + 10))
    scene.play(LEAVE)
    for _ in range(3):
        before = len(scene.world.upstreams)
        scene.ask()
        assert len(scene.world.upstreams) == before + AT_ONCE
        scene.play("wait 11m")
        assert len(scene.world.upstreams) == before + AT_ONCE + 10


def test_there_is_an_end_to_those_that_are_asked():
    scene = Scene(*rows(MOST + 10))
    scene.ask()
    scene.play(f"wait {PATIENCE - 1:.0f}s")
    assert len(scene.world.upstreams) == MOST
    scene.play(f"wait {PATIENCE:.0f}s")
    assert len(scene.world.upstreams) == MOST + 10


def test_one_with_many_mute_addresses_has_an_end():
    hosts = {"one.test": [f"192.0.2.{number}" for number in range(1, 20)]}
    scene = Scene(upstream("one.test"), hosts=hosts)
    scene.ask()
    scene.play("wait 59s")
    assert scene.known().asking
    scene.play("wait 2s")
    assert not scene.known().asking
    assert not any(transport.open for _, transport in scene.world.upstreams)
    *_, last = scene.known().failures.values()
    assert (last.address, last.reason) == ("", f"not all addresses were asked in {IN_ALL:.0f} s")


def test_a_new_row_takes_back_what_is_announced_only_if_it_says_so():
    scene = Scene(ONE)
    scene.ask()
    scene.play(asked(1, "DSN", "8BITMIME", "ENHANCEDSTATUSCODES"))
    scene.play("wait 2s")
    assert "DSN" in scene.offer(False)
    scene.learnt.follow(Listing((ONE, NEW), ()))
    scene.ask()
    scene.play("wait 14s")
    assert "DSN" in scene.offer(False)
    scene.play("wait 3s")
    assert scene.told[1:] == [
        "announces DSN no longer: 198.51.100.1:25 (no answer in 15 s) was not heard of yet"
    ]
    scene.play("C: NOOP\nS: 250 2.0.0 Ok\nwait 4m\n" * 3)
    scene.ask()
    scene.play(asked(3, "DSN", "8BITMIME", "ENHANCEDSTATUSCODES"))
    scene.play(asked(4, "DSN", "8BITMIME", "ENHANCEDSTATUSCODES"))
    scene.play("wait 2s")
    assert "DSN" in scene.offer(False)


def test_many_that_fail_at_once_are_no_trouble():
    scene = Scene(
        *(upstream(f"192.0.2.{number}") for number in range(250)),
        *(upstream(f"198.51.100.{number}") for number in range(250)),
    )
    scene.world.unreachable.update(str(each.servers[0].host) for each, _ in scene.learnt.all())
    scene.ask()
    assert all(known.failures for _, known in scene.learnt.all())


def test_stopping_leaves_nothing_behind():
    scene = Scene(ONE, TWO, upstream("192.0.2.3"))
    scene.world.silent.add("192.0.2.1")
    scene.ask()
    scene.play("U1: 220 two.test ESMTP\nP1: EHLO mx.example.net")
    scene.survey.stop()
    scene.world.clock.advance(0)
    scene.play("P1 cut\nP2 cut")
    assert len(scene.world.upstreams) == 2
    scene.play("C: QUIT\nS: 221 2.0.0 Bye\nS closed\nC gone")
    assert len(scene.world.deadlines) == 0
