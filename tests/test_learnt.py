"""What is remembered of upstreams, and what they agree on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from smtpproxy.deadlines import Deadlines
from smtpproxy.routing import Listing, Server, Upstream
from smtpproxy.upstream import Agreement, Learnt
from smtpproxy.upstream.learnt import (
    DAY,
    GRACE,
    MOST_ADDRESSES,
    MOST_UNLISTED,
    SETTLED,
    STEADY,
)
from tests.support.dialogue import announcing

HERE, THERE = Server("one.test"), Server("two.test", 2525)
ONE, TWO, THREE = Upstream((HERE,)), Upstream((THERE,)), Upstream((HERE, THERE))
EVERY = 600.0


class Scene:
    """`Learnt`, its clock, and what it tells."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.told: list[Agreement] = []
        self.deadlines = Deadlines(self.clock, resolution=0.1)
        self.learnt = Learnt(self.deadlines, self.told.append)

    def follow(self, *upstreams: Upstream, unlisted: tuple[str, ...] = ()) -> None:
        self.learnt.follow(Listing(upstreams, unlisted))

    def heard(
        self,
        upstream: Upstream,
        *lines: str,
        address: str = "192.0.2.1",
        by_mail: bool = True,
        server: Server | None = None,
    ) -> None:
        server = server or upstream.servers[0]
        self.learnt.heard(upstream, server, address, announcing(*lines), by_mail)

    def wait(self, seconds: float = SETTLED + 0.2) -> None:
        self.clock.pump([0.1] * 13)
        self.clock.advance(max(0.0, seconds - 1.3))

    @property
    def agreed(self) -> set[str]:
        """What all upstreams offer, once what was heard counts."""
        self.wait()
        agreement = self.learnt.agreement
        missing = set(agreement.without) | set(agreement.unsteady)
        return set() if agreement.unknown else set(agreement.words) - missing


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nothing_is_known_at_first(scene):
    scene.follow(ONE, TWO)
    assert scene.told == [Agreement(unknown={ONE: "", TWO: ""}, several=True)]


def test_all_must_offer_it(scene):
    scene.follow(ONE, TWO)
    scene.heard(ONE, "DSN", "SIZE 100000", "8BITMIME", "DELIVERBY 60")
    scene.wait()
    agreement = scene.learnt.agreement
    assert agreement.unknown == {TWO: ""}
    assert agreement.words == {"DSN": (), "8BITMIME": (), "DELIVERBY": ("60",)}
    scene.heard(TWO, "8BITMIME", "SIZE 90000", "DELIVERBY 90")
    scene.wait()
    agreement = scene.learnt.agreement
    assert agreement.unknown == {}
    assert agreement.without["DSN"] == (TWO,)
    assert agreement.without["BINARYMIME"] == (ONE, TWO)
    assert "8BITMIME" not in agreement.without
    assert agreement.words["DELIVERBY"] == ("90",)
    assert agreement.size == (90000, TWO)


@pytest.mark.parametrize("line", ["SIZE", "SIZE 0", "SIZE much", "SIZE 1", "SIZE 65535", "DSN"])
def test_a_size_without_a_limit_is_none(scene, line):
    scene.follow(ONE, TWO)
    scene.heard(ONE, line)
    scene.heard(TWO, "SIZE 200000")
    scene.wait()
    assert scene.learnt.agreement.size == (200000, TWO)


def test_a_changed_ehlo_replaces_the_one_before(scene):
    scene.follow(ONE)
    scene.heard(ONE, "DSN")
    assert scene.agreed == {"DSN"}
    scene.heard(ONE, "SMTPUTF8", "8BITMIME")
    assert scene.agreed == {"SMTPUTF8", "8BITMIME"}


def test_with_and_without_a_client_both_count(scene):
    scene.follow(ONE)
    scene.heard(ONE, "DSN", "8BITMIME", by_mail=False)
    scene.heard(ONE, "DSN", by_mail=True)
    assert scene.agreed == {"DSN"}
    scene.heard(ONE, "8BITMIME", by_mail=False)
    assert scene.agreed == set()


def test_all_addresses_and_servers_count(scene):
    scene.follow(THREE)
    scene.heard(THREE, "DSN", "8BITMIME", address="192.0.2.1")
    scene.heard(THREE, "DSN", address="192.0.2.2")
    assert scene.agreed == {"DSN"}
    scene.heard(THREE, "8BITMIME", address="192.0.2.1", server=THERE)
    assert scene.agreed == set()


@pytest.mark.parametrize("by_mail", [False, True])
def test_an_address_is_forgotten_after_a_day_where_others_are_heard(scene, by_mail):
    def heard(address: str, *lines: str) -> None:
        scene.heard(ONE, *lines, address=address, by_mail=by_mail)

    scene.follow(ONE)
    heard("192.0.2.2", "DSN")
    heard("192.0.2.1")
    scene.clock.advance(DAY - 1)
    heard("192.0.2.2", "DSN")
    assert scene.agreed == set()
    scene.clock.advance(1)
    assert scene.agreed == set()  # nothing was heard since
    heard("192.0.2.2", "DSN")
    assert scene.agreed == {"DSN"}
    scene.clock.advance(2 * DAY)
    assert scene.agreed == {"DSN"}  # the last one that is known stays


def test_it_remembers_no_more_addresses_than_it_should(scene):
    scene.follow(ONE)
    for number in range(5 * MOST_ADDRESSES):
        scene.heard(ONE, "DSN", address=f"2001:db8::{number:x}")
    ((_, known),) = scene.learnt.all()
    assert len(known.heard) == 2 * MOST_ADDRESSES
    for number in range(5 * MOST_ADDRESSES):
        scene.learnt.failed(ONE, HERE, f"2001:db8::{number:x}", "no answer")
    assert len(known.failures) == MOST_ADDRESSES


def test_many_changes_cost_one_reckoning(scene):
    scene.follow(ONE, TWO)
    del scene.told[:]
    for upstream in (ONE, TWO):
        scene.heard(upstream, "DSN")
    assert scene.told == []
    assert len(scene.deadlines) == 1
    scene.wait()
    assert len(scene.told) == 1


def test_what_changes_nothing_is_not_told(scene):
    scene.follow(ONE)
    scene.heard(ONE, "DSN", "X-ONE")
    scene.wait()
    del scene.told[:]
    scene.heard(ONE, "DSN", "X-OTHER")
    scene.follow(ONE)
    scene.wait()
    assert scene.told == []


def test_an_upstream_that_is_no_longer_listed_does_not_count(scene):
    scene.follow(ONE, TWO)
    scene.heard(ONE, "DSN")
    scene.heard(TWO)
    assert scene.agreed == set()
    scene.follow(ONE)
    assert scene.learnt.agreement.without.get("DSN") is None
    assert not scene.learnt.agreement.several
    scene.follow(TWO)
    assert scene.learnt.agreement.without["DSN"] == (TWO,)  # it is still known


def test_one_that_was_never_heard_is_gone_with_its_row(scene):
    scene.follow(ONE, TWO, unlisted=("http",))
    scene.heard(TWO)
    scene.follow(unlisted=("http",))
    assert [upstream for upstream, _ in scene.learnt.all()] == [TWO]


def test_where_a_mapping_cannot_list_its_own_others_count(scene):
    scene.follow(ONE)
    scene.heard(ONE, "DSN")
    scene.heard(TWO)
    assert scene.agreed == {"DSN"}
    scene.follow(ONE, unlisted=("http a.test",))
    agreement = scene.learnt.agreement
    assert agreement.without["DSN"] == (TWO,)
    assert (agreement.unlisted, agreement.several) == (("http a.test",), True)


def test_others_are_forgotten_after_a_day_and_the_oldest_of_too_many(scene):
    scene.follow(unlisted=("http",))
    scene.heard(ONE)
    scene.clock.advance(DAY)
    scene.follow(unlisted=("http",))
    assert [*scene.learnt.all()] == []
    others = [Upstream((Server(f"s{number}.test"),)) for number in range(MOST_UNLISTED + 2)]
    for upstream in others[:-1]:
        scene.heard(upstream)
    scene.heard(others[1])  # heard anew: not the oldest any more
    scene.heard(others[-1])
    remembered = [upstream for upstream, _ in scene.learnt.all()]
    assert remembered == [*others[3:-1], others[1], others[-1]]


Step = Callable[[Scene], None]


def mail(*lines: str, address: str = "192.0.2.1") -> Step:
    return lambda scene: scene.heard(ONE, *lines, address=address)


def asked(scene: Scene) -> None:
    scene.learnt.asking(ONE)
    scene.heard(ONE, by_mail=False)


def silent(scene: Scene) -> None:
    scene.learnt.asking(ONE)
    scene.learnt.failed(ONE, HERE, "192.0.2.2", "no answer")


def later(seconds: float) -> Step:
    return lambda scene: scene.clock.advance(seconds)


DUE: dict[str, tuple[list[Step], bool]] = {
    "never heard": ([], True),
    "heard by mail": ([mail()], False),
    "heard too long ago": ([mail(), later(EVERY)], True),
    "asked": ([asked], False),
    "asked too long ago": ([asked, later(EVERY)], True),
    "did not answer": ([silent], False),
    "did not answer too long ago": ([silent, later(EVERY)], True),
    "one address was not heard lately": (
        [mail(address="192.0.2.1"), later(EVERY), mail(address="192.0.2.2")],
        True,
    ),
    "one address did not answer": ([asked, silent, later(EVERY), mail()], True),
    "it says something else": (
        [asked, mail(), later(EVERY - 1), mail("DSN"), later(1)],
        True,
    ),
    "it says the same": ([asked, mail(), later(EVERY - 1), mail(), later(1)], False),
}


@pytest.mark.parametrize(("steps", "due"), DUE.values(), ids=DUE)
def test_who_is_to_be_asked(scene, steps, due):
    scene.follow(ONE)
    for step in steps:
        step(scene)
    assert scene.learnt.due(EVERY) == [ONE] * due


def test_others_are_not_asked(scene):
    scene.follow(unlisted=("http",))
    scene.heard(ONE)
    scene.clock.advance(DAY)
    assert scene.learnt.due(EVERY) == []


def test_a_failure_is_over_once_it_is_heard_or_was_asked_again(scene):
    def failing() -> list[list[str]]:
        return [[it.reason for it in known.failures.values()] for _, known in scene.learnt.all()]

    scene.follow(ONE, TWO)
    for upstream in (ONE, TWO):
        scene.learnt.asking(upstream)
        scene.learnt.failed(upstream, HERE, "192.0.2.1", "no answer")
        scene.learnt.failed(upstream, HERE, "192.0.2.2", "no answer")
        scene.learnt.asked(upstream, all_of_it=True)
    scene.wait(EVERY)
    scene.heard(ONE, server=HERE)
    scene.learnt.asking(TWO)
    assert failing() == [["no answer"], ["no answer", "no answer"]]  # all the while
    scene.learnt.failed(TWO, HERE, "192.0.2.1", "Connection refused")
    scene.learnt.asked(TWO, all_of_it=False)
    assert failing() == [["no answer"], ["no answer", "Connection refused"]]
    scene.wait(EVERY)
    scene.learnt.asking(TWO)
    scene.learnt.failed(TWO, HERE, "192.0.2.1", "Connection refused")
    scene.learnt.asked(TWO, all_of_it=True)
    assert failing() == [["no answer"], ["Connection refused"]]


def test_who_was_never_asked_is_first_and_who_failed_last(scene):
    scene.follow(ONE, TWO, THREE)
    silent(scene)
    scene.learnt.asking(TWO)
    scene.heard(TWO, by_mail=False)
    scene.wait(EVERY)
    assert scene.learnt.due(EVERY) == [THREE, TWO, ONE]
    assert [each for each in (ONE, TWO, THREE) if scene.learnt.is_failing(each)] == [ONE]


def test_why_one_was_not_heard(scene):
    scene.follow(ONE)
    scene.learnt.asking(ONE)
    scene.learnt.failed(ONE, HERE, "192.0.2.1", "Connection refused")
    scene.learnt.asked(ONE, all_of_it=True)
    scene.wait()
    assert scene.learnt.agreement.unknown == {ONE: "Connection refused"}


def added(scene: Scene) -> Agreement:
    """A row is added after the first ones."""
    scene.follow(ONE)
    scene.follow(ONE, TWO)
    return scene.learnt.agreement


def test_a_new_upstream_is_new_until_it_was_asked(scene):
    assert added(scene) == Agreement(unknown={ONE: ""}, new=(TWO,))
    scene.learnt.asking(TWO)
    scene.learnt.failed(TWO, THERE, "192.0.2.2", "Connection refused")
    scene.wait()
    assert scene.learnt.agreement.new == (TWO,)  # it may have other addresses
    scene.learnt.asked(TWO, all_of_it=True)
    scene.wait()
    assert scene.learnt.agreement.new == ()
    assert scene.learnt.agreement.unknown == {ONE: "", TWO: "Connection refused"}
    scene.follow(ONE, TWO)
    scene.learnt.asking(TWO)
    assert scene.learnt.agreement.new == ()


def test_a_new_upstream_is_new_for_a_short_time(scene):
    assert added(scene).new == (TWO,)
    scene.wait(GRACE - 1)
    scene.follow(ONE, TWO)
    assert scene.learnt.agreement.new == (TWO,)
    scene.wait(1.5)
    assert scene.learnt.agreement.new == ()
    assert scene.learnt.agreement.unknown == {ONE: "", TWO: ""}


def test_what_was_taken_back_counts_again_after_a_time_without_a_lapse(scene):
    scene.follow(ONE)
    scene.heard(ONE, "DSN", "8BITMIME", by_mail=False)
    assert scene.agreed == {"DSN", "8BITMIME"}
    for _ in range(3):
        scene.heard(ONE, "8BITMIME")
        assert scene.learnt.agreement.unsteady.get("DSN") in (None, (ONE,))
        assert scene.agreed == {"8BITMIME"}
        scene.heard(ONE, "DSN", "8BITMIME")
        assert scene.agreed == {"8BITMIME"}
        assert scene.learnt.agreement.unsteady == {"DSN": (ONE,)}
        scene.wait(STEADY - 10)
        scene.heard(ONE, "DSN", "8BITMIME")
        assert scene.agreed == {"8BITMIME"}
    scene.wait(10)
    assert scene.agreed == {"8BITMIME"}  # it was not heard since
    scene.heard(ONE, "DSN", "8BITMIME", by_mail=False)
    assert scene.agreed == {"DSN", "8BITMIME"}


def test_each_lapse_begins_the_time_anew(scene):
    scene.follow(ONE)
    scene.heard(ONE, "DSN", "8BITMIME")
    for _ in range(3):
        scene.heard(ONE, "8BITMIME")
        scene.wait(STEADY - 10)
    scene.heard(ONE, "DSN", "8BITMIME")
    assert scene.agreed == {"8BITMIME"}
    scene.wait(10)
    scene.heard(ONE, "DSN", "8BITMIME")
    assert scene.agreed == {"DSN", "8BITMIME"}


def test_what_was_never_offered_counts_at_once(scene):
    scene.follow(ONE)
    scene.heard(ONE, "8BITMIME")
    assert scene.agreed == {"8BITMIME"}
    scene.heard(ONE, "DSN", "8BITMIME")
    assert scene.agreed == {"DSN", "8BITMIME"}


def test_sizes_that_cannot_be_meant(scene):
    scene.follow(ONE, TWO)
    scene.heard(ONE, "SIZE 1")
    scene.heard(ONE, "SIZE 3", address="192.0.2.2")
    scene.heard(TWO, "SIZE 70000")
    scene.wait()
    assert scene.learnt.agreement.too_small == {ONE: 1}
    assert scene.learnt.agreement.size == (70000, TWO)
