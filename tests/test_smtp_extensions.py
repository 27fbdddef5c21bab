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


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_no_reply_is_too_odd(lines: list[bytes]) -> None:
    for keyword, words in Extensions.of(Reply(250, tuple(lines))).keywords.items():
        assert keyword == keyword.upper() and all(words)
