"""What a listener announces, by what its upstreams agree on."""

from __future__ import annotations

from typing import Any

import pytest

from smtpproxy.listener import Offer
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.keywords import Wishes
from smtpproxy.upstream import Agreement
from smtpproxy.upstream.agreement import Said, agree
from tests.support.dialogue import announcing

FULL = announcing(
    "SIZE 200000",
    "ENHANCEDSTATUSCODES",
    "8BITMIME",
    "CHUNKING",
    "SMTPUTF8",
    "DSN",
    "BINARYMIME",
    "REQUIRETLS",
    "MT-PRIORITY MIXER",
    "DELIVERBY 60",
    "FUTURERELEASE 3600 2027-01-01T00:00:00Z",
)
SMALL = announcing("SIZE 70000", "ENHANCEDSTATUSCODES")


def offer(*wishes: str, **settings: Any) -> Offer:
    settings = {"max_message_bytes": 100_000, "max_recipients": 50, "starttls": False, **settings}
    return Offer(wishes=Wishes.of(wishes), **settings)


def heard(*unlisted: str, **said: Extensions | None) -> Agreement:
    """Of upstreams by the names of their hosts, None for one that nothing was heard of."""
    known = (
        Said(Upstream((Server(f"{name}.test"),)), () if each is None else (each,))
        for name, each in said.items()
    )
    return agree(known, unlisted)


ALWAYS = ["PIPELINING", "SIZE 100000", "CHUNKING", "PRDR", "LIMITS RCPTMAX=50"]
ASSUMED = ["ENHANCEDSTATUSCODES", "8BITMIME"]
CARRIED = [
    "SMTPUTF8",
    "DSN",
    "BINARYMIME",
    "MT-PRIORITY MIXER",
    "DELIVERBY 60",
    "FUTURERELEASE 3600 2027-01-01T00:00:00Z",
]


ANNOUNCED = [
    ("nothing is known", heard(one=None, two=None), ALWAYS + ASSUMED),
    ("no upstream", heard(), ALWAYS + ASSUMED),
    ("one of them is known", heard(one=FULL, two=None), ALWAYS + ASSUMED),
    ("one without any", heard(one=announcing(), two=None), ALWAYS),
    ("all have all", heard(one=FULL, two=FULL), ALWAYS + ASSUMED + CARRIED),
    ("the only one has all", heard(one=FULL), ALWAYS + ASSUMED + CARRIED),
    ("one mapping cannot list", heard("http", one=FULL), ALWAYS + ASSUMED),
    ("all of one upstream agree", heard(one=announcing("DSN")), [*ALWAYS, "DSN"]),
]


@pytest.mark.parametrize(("what", "agreement", "lines"), ANNOUNCED, ids=[a[0] for a in ANNOUNCED])
def test_what_is_announced(what, agreement, lines):
    announced = offer()
    announced.follow(agreement)
    assert list(announced(secured=False).lines()) == lines


@pytest.mark.parametrize("size", ["SIZE 70000", "SIZE 500000", "SIZE 0"])
def test_the_smallest_size(size):
    announced = offer()
    announced.follow(heard(one=announcing(size), two=announcing("SIZE 80000"), three=None))
    smaller = size == "SIZE 70000"
    assert announced(False).size_limit == (70000 if smaller else 80000)
    assert str(announced.size_of) == ("one.test:25" if smaller else "two.test:25")


@pytest.mark.parametrize(("size", "limit"), [(1, 100_000), (65535, 100_000), (65536, 65536)])
def test_a_size_that_no_server_may_have_is_not_passed_on(size, limit):
    """RFC 5321 section 4.5.3.1.7: at least 64K octets."""
    announced = offer()
    announced.follow(heard(one=announcing(f"SIZE {size}"), two=FULL))
    assert announced(False).size_limit == limit
    assert (announced.size_of is None) is (limit == 100_000)


def test_starttls_is_announced_until_it_is_used_and_requiretls_from_then_on():
    announced = offer(starttls=True)
    announced.follow(heard(one=FULL))
    assert "STARTTLS" in announced(secured=False)
    assert "REQUIRETLS" not in announced(secured=False)
    assert "STARTTLS" not in announced(secured=True)
    assert "REQUIRETLS" in announced(secured=True)


@pytest.mark.parametrize(
    ("upstreams", "wishes", "limits", "chunking"),
    [
        (["one", "two"], ["-PRDR"], ("RCPTMAX=50", "RCPTDOMAINMAX=1"), False),
        (["one", "two"], ["-PRDR", "+CHUNKING"], ("RCPTMAX=50", "RCPTDOMAINMAX=1"), True),
        (["one"], ["-PRDR"], ("RCPTMAX=50",), True),
        (["one", "two"], [], ("RCPTMAX=50",), True),
    ],
)
def test_where_a_message_must_come_again_for_others(upstreams, wishes, limits, chunking):
    """Exim says QUIT behind its last chunk, and obeys RCPTDOMAINMAX with PRDR, too."""
    announced = offer(*wishes)
    announced.follow(heard(**dict.fromkeys(upstreams)))
    assert announced(False)["LIMITS"] == limits
    assert ("CHUNKING" in announced(False)) is chunking


def test_to_lmtp_clients_neither_prdr_nor_one_domain():
    announced = offer(lmtp=True)
    announced.follow(heard(one=None, two=None))
    assert "PRDR" not in announced(False)
    assert announced(False)["LIMITS"] == ("RCPTMAX=50",)


def test_a_limit_has_six_digits_at_most():
    assert offer(max_recipients=5_000_000)(False).limits["RCPTMAX"] == 999_999


WITHOUT_8BIT = announcing("SMTPUTF8", "DSN")


@pytest.mark.parametrize(
    ("wishes", "agreement", "there", "not_there"),
    [
        (["-PIPELINING", "-SIZE"], heard(), "CHUNKING", "PIPELINING SIZE"),
        (["-STARTTLS"], heard(), "", "STARTTLS"),
        (["-CHUNKING"], heard(one=FULL), "SMTPUTF8", "CHUNKING BINARYMIME"),
        (["-8BITMIME"], heard(one=FULL), "DSN", "8BITMIME SMTPUTF8"),
        ([], heard(one=WITHOUT_8BIT), "DSN", "8BITMIME SMTPUTF8"),
        (["+SMTPUTF8"], heard(one=SMALL), "SMTPUTF8 8BITMIME", "DSN"),
        (["+SMTPUTF8", "+DSN"], heard("http", one=None), "SMTPUTF8 DSN", "BINARYMIME"),
        (["+ENHANCEDSTATUSCODES"], heard(one=announcing()), "ENHANCEDSTATUSCODES", "8BITMIME"),
        (["+FUTURERELEASE"], heard(one=SMALL), "", "FUTURERELEASE"),
        (["+FUTURERELEASE"], heard(one=SMALL, two=FULL), "FUTURERELEASE", ""),
        (["+DELIVERBY"], heard(one=None), "DELIVERBY", ""),
    ],
)
def test_wishes(wishes, agreement, there, not_there):
    announced = offer(*wishes, starttls=True)
    announced.follow(agreement)
    for keyword in there.split():
        assert keyword in announced(False)
    for keyword in not_there.split():
        assert keyword not in announced(False)
        assert keyword in announced.withheld()


def test_a_wish_for_size_announces_ours():
    announced = offer("+SIZE")
    announced.follow(heard(one=SMALL))
    assert announced(False).size_limit == 100_000
    assert announced.size_of is None


def test_why_something_is_not_announced():
    announced = offer("-DSN", lmtp=True)
    few = {"one": SMALL, "two": FULL, "three": SMALL, "four": SMALL, "five": SMALL}
    announced.follow(heard(**few))
    assert announced.withheld() == {
        "STARTTLS": "there is no certificate",
        "PRDR": "LMTP has a reply for each recipient of its own",
        "8BITMIME": "one.test:25, three.test:25, four.test:25 and 1 more do not offer it",
        "SMTPUTF8": "it needs 8BITMIME: "
        "one.test:25, three.test:25, four.test:25 and 1 more do not offer it",
        "DSN": "the setting extensions forbids it",
        "BINARYMIME": "one.test:25, three.test:25, four.test:25 and 1 more do not offer it",
        "REQUIRETLS": "it needs STARTTLS: there is no certificate",
        "MT-PRIORITY": "one.test:25, three.test:25, four.test:25 and 1 more do not offer it",
        "DELIVERBY": "one.test:25, three.test:25, four.test:25 and 1 more do not offer it",
        "FUTURERELEASE": "one.test:25, three.test:25, four.test:25 and 1 more do not offer it",
    }


@pytest.mark.parametrize(
    ("agreement", "why"),
    [
        (heard(one=SMALL, two=FULL, three=None), "one.test:25 does not offer it"),
        (heard("http a", one=None), "http a cannot list its upstreams"),
        (heard("http a", "http b", one=FULL), "http a and http b cannot list their upstreams"),
        (heard(one=FULL, two=None), "two.test:25 was not heard of yet"),
        (heard(one=None, two=None), "one.test:25 and two.test:25 were not heard of yet"),
        (heard(), "no upstream is known"),
    ],
)
def test_who_withholds_it(agreement, why):
    announced = offer()
    announced.follow(agreement)
    assert announced.withheld()["DSN"] == why


def test_changes_are_told():
    announced = offer(starttls=True)
    assert announced.follow(heard(one=None, two=None)) == []
    both = announcing("DSN", "8BITMIME", "ENHANCEDSTATUSCODES")
    assert announced.follow(heard(one=both, two=None)) == []
    assert announced.follow(heard(one=both, two=both)) == ["announces DSN: all upstreams offer it"]
    assert announced.follow(heard(one=both, two=SMALL)) == [
        "announces 8BITMIME no longer: two.test:25 does not offer it",
        "announces DSN no longer: two.test:25 does not offer it",
        "announces SIZE 70000: two.test:25 takes no more",
    ]
    assert announced.follow(heard(one=both, two=both)) == [
        "announces 8BITMIME, DSN: all upstreams offer them",
        "announces SIZE 100000",
    ]
    assert announced.follow(heard(one=both)) == []


def test_what_is_announced_after_starttls_alone_is_told_too():
    announced = offer(starttls=True)
    (change,) = announced.follow(heard(one=announcing("REQUIRETLS", *ASSUMED)))
    assert change == "announces REQUIRETLS: all upstreams offer it"


DSN = Said(Upstream((Server("one.test"),)), (announcing("DSN", "DELIVERBY 60", *ASSUMED),))
NEXT = Upstream((Server("next.test"),))
NEW = Said(NEXT, new=True)


def test_a_new_upstream_takes_nothing_back_and_brings_nothing():
    announced = offer()
    announced.follow(agree([DSN, NEW], ()))
    assert "DSN" not in announced(False)
    assert announced.withheld()["DSN"] == "next.test:25 was not heard of yet"
    announced.follow(agree([DSN], ()))
    before = announced(False).lines()
    assert {"DSN", "DELIVERBY 60"} < set(before)
    for known in ([DSN, NEW], [NEW]):  # it may come in place of all others
        assert announced.follow(agree(known, ())) == []
        assert announced(False).lines() == before
        assert "DSN" not in announced.withheld()
    assert announced.follow(agree([DSN, Said(NEXT, reason="Connection refused")], ())) == [
        f"announces {keyword} no longer: next.test:25 (Connection refused) was not heard of yet"
        for keyword in ("DSN", "DELIVERBY")
    ]


def test_a_new_upstream_holds_nothing_that_others_lack():
    announced = offer()
    announced.follow(agree([DSN], ()))
    without = Said(Upstream((Server("two.test"),)), (SMALL,))
    announced.follow(agree([DSN, without, NEW], ()))
    assert "DSN" not in announced(False)


def test_the_reasons_why_several_were_not_heard():
    announced = offer()
    reasons = ["Connection refused", "", "x" * 1000, "no answer in 15 s"]
    said = (
        Said(Upstream((Server(f"{number}.test"),)), reason=reason)
        for number, reason in enumerate(reasons)
    )
    announced.follow(agree(said, ()))
    why = f"0.test:25 (Connection refused), 1.test:25, 2.test:25 ({'x' * 100}) and 1 more"
    assert announced.withheld()["DSN"] == f"{why} were not heard of yet"


def test_one_that_does_not_always_offer_it():
    announced = offer()
    wavering = Said(DSN.upstream, DSN.extensions, unsteady=("DSN", "8BITMIME"))
    announced.follow(agree([wavering], ()))
    for keyword in ("DSN", "8BITMIME"):
        assert announced.withheld()[keyword] == "one.test:25 does not always offer it"
    assert "DELIVERBY" in announced(False)
