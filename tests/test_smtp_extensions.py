"""What a server announces, read with patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply


@pytest.mark.parametrize(
    ("lines", "announced"),
    [
        # The first line is the greeting, whatever it holds.
        ([b"mx.example.net"], {}),
        ([b"SIZE 10"], {}),
        ([b"mx", b"PIPELINING", b"SIZE 10240000"], {"PIPELINING": (), "SIZE": ("10240000",)}),
        ([b"mx", b"pipelining", b"Size  1"], {"PIPELINING": (), "SIZE": ("1",)}),
        ([b"mx", b"XCLIENT NAME ADDR PORT"], {"XCLIENT": ("NAME", "ADDR", "PORT")}),
        ([b"mx", b"AUTH PLAIN LOGIN", b"AUTH=PLAIN LOGIN"], {"AUTH": ("PLAIN", "LOGIN")}),
        ([b"mx", b"AUTH=LOGIN PLAIN"], {"AUTH": ("LOGIN", "PLAIN")}),
        ([b"mx", b"AUTH="], {"AUTH": ()}),
        # RFC 9422: behind the keyword "=" is the announcement's own.
        ([b"mx", b"LIMITS RCPTMAX=9 RCPTDOMAINMAX=1"],
         {"LIMITS": ("RCPTMAX=9", "RCPTDOMAINMAX=1")}),
        ([b"mx", b"SIZE 1", b"SIZE 2"], {"SIZE": ("1",)}),
        ([b"mx", b"", b"  ", b"DSN "], {"DSN": ()}),
        ([b"mx", b"\xff\xfe x", b"8BITMIME"], {"\ufffd\ufffd": ("x",), "8BITMIME": ()}),
    ],
)  # fmt: skip
def test_keywords_and_the_words_behind_them(
    lines: list[bytes], announced: dict[str, tuple[str, ...]]
) -> None:
    extensions = Extensions.of(Reply(250, tuple(lines)))
    assert extensions.keywords == announced
    for keyword, words in announced.items():
        assert keyword in extensions and extensions[keyword] == words


def test_what_is_not_announced_has_no_words() -> None:
    for extensions in [Extensions(), Extensions.of(Reply(250, (b"mx", b"SIZE 1")))]:
        assert "DSN" not in extensions and extensions["DSN"] == ()


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ([], None),
        ([b"SIZE 1"], 1),
        ([b"size 052428800"], 52428800),
        ([b"SIZE 99999999999999999999"], 99999999999999999999),
        # RFC 1870 section 4: no fixed limit.
        ([b"SIZE"], None),
        ([b"SIZE 0"], None),
        ([b"SIZE 100000000000000000000"], None),
        ([b"SIZE -1"], None),
        ([b"SIZE 10M"], None),
        ([b"SIZE \xb2"], None),
    ],
)
def test_the_size_limit(said: list[bytes], limit: int | None) -> None:
    assert Extensions.of(Reply(250, (b"mx", *said))).size_limit == limit


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ([], {}),
        ([b"RCPTMAX=9"], {}),
        ([b"LIMITS"], {}),
        ([b"LIMITS RCPTMAX=100"], {"RCPTMAX": 100}),
        ([b"LIMITS RcptMax=1 MAILMAX=999999"], {"RCPTMAX": 1, "MAILMAX": 999999}),
        ([b"LIMITS X-OUR_OWN=7 RCPTMAX=2"], {"X-OUR_OWN": 7, "RCPTMAX": 2}),
        # Nonsense beside what is right.
        ([b"LIMITS RCPTMAX=many RCPTDOMAINMAX=1"], {"RCPTDOMAINMAX": 1}),
        ([b"LIMITS RCPTMAX RCPTMAX= =5 RCPTMAX=0 RCPTMAX=-1 RCPTMAX=1000000"], {}),
        ([b"LIMITS RCPTMAX=01 RCPTMAX=1=2 RCPTMAX=3,4"], {}),
    ],
)
def test_limits(said: list[bytes], limits: dict[str, int]) -> None:
    """RFC 9422."""
    assert Extensions.of(Reply(250, (b"mx", *said))).limits == limits


def test_the_lines_of_a_reply_to_ehlo() -> None:
    announced = Extensions({"PIPELINING": (), "SIZE": ("1000",), "LIMITS": ("A=1", "B=2")})
    assert announced.lines() == ("PIPELINING", "SIZE 1000", "LIMITS A=1 B=2")
    assert Extensions().lines() == ()


keywords = st.from_regex("[A-Z0-9][A-Z0-9-]*", fullmatch=True)
words = st.lists(st.from_regex("[!-~]+", fullmatch=True), max_size=3).map(tuple)


@given(st.dictionaries(keywords, words, max_size=5))
def test_what_is_announced_is_what_is_heard(announced: dict[str, tuple[str, ...]]) -> None:
    lines = Extensions(announced).lines()
    assert Extensions.of(Reply.of(250, "", "mx", *lines)).keywords == announced


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_no_reply_is_too_odd(lines: list[bytes]) -> None:
    for keyword, words in Extensions.of(Reply(250, tuple(lines))).keywords.items():
        assert keyword == keyword.upper() and all(words)


@given(st.sampled_from([b"SIZE ", b"LIMITS RCPTMAX=", b"DELIVERBY "]), st.binary(max_size=25))
def test_no_number_is_too_odd(start: bytes, number: bytes) -> None:
    extensions = Extensions.of(Reply(250, (b"mx", start + number)))
    for read in (
        extensions.size_limit,
        extensions.number("DELIVERBY"),
        *extensions.limits.values(),
    ):
        assert read is None or str(read).encode() in number
