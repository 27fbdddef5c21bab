"""What a listener announces, by what its upstreams agree on."""

from __future__ import annotations

from typing import Any

import pytest

from smtpproxy.listener import Offer
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.keywords import Wishes
from smtpproxy.upstream import Agreement
from smtpproxy.upstream.agreement import agree
from tests.support.dialogue import announcing

FULL = announcing(
    "SIZE 2000",
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
SMALL = announcing("SIZE 500", "ENHANCEDSTATUSCODES")


def offer(*wishes: str, **settings: Any) -> Offer:
    settings = {"max_message_bytes": 1000, "max_recipients": 50, "starttls": False, **settings}
    return Offer(wishes=Wishes.of(wishes), **settings)


def heard(*unlisted: str, **said: Extensions | None) -> Agreement:
    """Of upstreams by the names of their hosts, None for one that nothing was heard of."""
    known = (
        (Upstream((Server(f"{name}.test"),)), [] if each is None else [each])
        for name, each in said.items()
    )
    return agree(known, unlisted)


ALWAYS = ["PIPELINING", "SIZE 1000", "CHUNKING", "PRDR", "LIMITS RCPTMAX=50"]
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


@pytest.mark.parametrize("size", ["SIZE 500", "SIZE 5000", "SIZE 0"])
def test_the_smallest_size(size):
    announced = offer()
    announced.follow(heard(one=announcing(size), two=announcing("SIZE 800"), three=None))
    assert announced(False).size_limit == (500 if size == "SIZE 500" else 800)


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
    assert announced(False).size_limit == 1000


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
        "announces SIZE 500: two.test:25 takes no more",
    ]
    assert announced.follow(heard(one=both, two=both)) == [
        "announces 8BITMIME, DSN: all upstreams offer them",
        "announces SIZE 1000",
    ]
    assert announced.follow(heard(one=both)) == []


def test_what_is_announced_after_starttls_alone_is_told_too():
    announced = offer(starttls=True)
    (change,) = announced.follow(heard(one=announcing("REQUIRETLS", *ASSUMED)))
    assert change == "announces REQUIRETLS: all upstreams offer it"
