"""What a relay may announce for the servers behind it."""

from __future__ import annotations

import pytest

from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.keywords import KEYWORDS, Wishes, joined, offered
from smtpproxy.smtp.replies import Reply


def announcing(*lines: str) -> Extensions:
    return Extensions.of(Reply.of(250, "", "one.example.net", *lines))


OFFERED = [
    ("DSN", ["DSN"], ()),
    ("DSN", ["DSN and more"], ()),
    ("DSN", ["PIPELINING"], None),
    ("SMTPUTF8", ["SMTPUTF8", "8BITMIME"], ()),
    ("SMTPUTF8", ["SMTPUTF8"], None),  # RFC 6531 section 3.1
    ("BINARYMIME", ["BINARYMIME", "CHUNKING"], ()),
    ("BINARYMIME", ["BINARYMIME", "8BITMIME"], None),  # RFC 3030 section 3
    ("REQUIRETLS", ["REQUIRETLS"], ()),  # heard after STARTTLS
    ("MT-PRIORITY", ["MT-PRIORITY"], ()),
    ("MT-PRIORITY", ["MT-PRIORITY stanag4406 x"], ("STANAG4406",)),
    ("MT-PRIORITY", ["MT-PRIORITY " + "x" * 65], ()),
    ("MT-PRIORITY", ["MT-PRIORITY na\u00efve"], ()),
    ("MT-PRIORITY", ["MT-PRIORITY a=b;c"], ()),
    ("DELIVERBY", ["DELIVERBY"], ()),
    ("DELIVERBY", ["DELIVERBY 0"], ()),
    ("DELIVERBY", ["DELIVERBY 0120,future-token"], ("120",)),
    ("DELIVERBY", ["DELIVERBY soon"], None),
    ("DELIVERBY", [f"DELIVERBY {'9' * 10}"], None),
    (
        "FUTURERELEASE",
        ["FUTURERELEASE 3600 2027-01-01T00:00:00Z"],
        ("3600", "2027-01-01T00:00:00Z"),
    ),
    ("FUTURERELEASE", ["FUTURERELEASE"], None),
    ("FUTURERELEASE", ["FUTURERELEASE 3600"], None),
    ("FUTURERELEASE", ["FUTURERELEASE soon 2027-01-01T00:00:00Z"], None),
    ("FUTURERELEASE", ["FUTURERELEASE 3600 tomorrow"], None),
    ("FUTURERELEASE", ["FUTURERELEASE 3600 2027-01-01T00:00:00"], None),  # where?
]


@pytest.mark.parametrize(("keyword", "lines", "words"), OFFERED)
def test_what_a_server_offers(keyword, lines, words):
    assert offered(keyword, announcing(*lines)) == words


JOINED = [
    ("DSN", [(), ()], ()),
    ("MT-PRIORITY", [("MIXER",), ("MIXER",)], ("MIXER",)),
    ("MT-PRIORITY", [("MIXER",), ("NSEP",)], ()),
    ("MT-PRIORITY", [("MIXER",), ()], ()),
    ("DELIVERBY", [(), ("90",), ("120",)], ("120",)),
    ("DELIVERBY", [(), ()], ()),
    (
        "FUTURERELEASE",
        [("3600", "2027-01-01T00:30:00Z"), ("900", "2027-01-01T01:00:00+01:00")],
        ("900", "2027-01-01T01:00:00+01:00"),
    ),
]


@pytest.mark.parametrize(("keyword", "said", "words"), JOINED)
def test_what_all_servers_offer(keyword, said, words):
    assert joined(keyword, said) == words
    assert joined(keyword, said[::-1]) == words


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_nobody_offers_anything(keyword):
    assert joined(keyword, []) == ()


def test_wishes():
    assert Wishes.of([]) == Wishes()
    assert Wishes.of(["+smtputf8", "-Chunking", "+SMTPUTF8"]) == Wishes(
        frozenset({"SMTPUTF8"}), frozenset({"CHUNKING"})
    )


def test_what_is_wanted_wants_what_it_needs():
    wishes = Wishes.of(["+SMTPUTF8"])
    assert [keyword for keyword in KEYWORDS if wishes.wanted(keyword)] == ["8BITMIME", "SMTPUTF8"]


BAD_WISHES = [
    (["SMTPUTF8"], "'SMTPUTF8' has no sign; write \"+SMTPUTF8\" for always"),
    ([""], "'' has no sign"),
    (["+"], "'+': no such extension; there are PIPELINING, SIZE, "),
    (["+XCLIENT"], "'+XCLIENT': no such extension"),
    (["+DSN", "-dsn"], '"+DSN" and "-DSN" are both there'),
    (["+BINARYMIME", "-CHUNKING"], '"+BINARYMIME" cannot work with "-CHUNKING"'),
    (["-8BITMIME", "+SMTPUTF8"], '"+SMTPUTF8" cannot work with "-8BITMIME"'),
    (["+REQUIRETLS", "-STARTTLS"], '"+REQUIRETLS" cannot work with "-STARTTLS"'),
]


@pytest.mark.parametrize(("texts", "fault"), BAD_WISHES)
def test_wishes_that_cannot_be_fulfilled(texts, fault):
    with pytest.raises(ValueError) as caught:
        Wishes.of(texts)
    assert fault in str(caught.value)
