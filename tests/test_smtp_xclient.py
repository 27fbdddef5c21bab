"""XCLIENT: each attribute is one word, and each command fits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.xclient import MAX_COMMAND, commands, xtext

ALL = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"]
CLIENT = {"ADDR": "192.0.2.1", "PORT": "4711", "NAME": "client.example.org", "HELO": "x"}


def undone(text: str) -> bytes:
    """The octets that a server reads in an xtext (RFC 3461 section 4)."""
    return re.sub(
        rb"\+([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()
    )


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", ""),
        ("client.example.org", "client.example.org"),
        ("[UNAVAILABLE]", "[UNAVAILABLE]"),
        ("IPV6:2001:db8::1", "IPV6:2001:db8::1"),
        ("a+b=c", "a+2Bb+3Dc"),
        ("a b", "a+20b"),
        ("a\r\nMAIL FROM:<>", "a+0D+0AMAIL+20FROM:<>"),
        ("\x00\x7f~!", "+00+7F~!"),
        ("é", "+C3+A9"),
        ("\udcff", "+FF"),  # an octet that was no UTF-8
    ],
)
def test_xtext(text: str, encoded: str) -> None:
    assert xtext(text) == encoded
    assert undone(encoded) == text.encode("utf-8", "surrogateescape")


@given(st.text())
def test_xtext_is_one_printable_word_and_can_be_undone(text: str) -> None:
    encoded = xtext(text)
    assert re.fullmatch(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*", encoded)
    assert undone(encoded) == text.encode()


@pytest.mark.parametrize(
    ("announced", "lines"),
    [
        (ALL, [b"XCLIENT NAME=client.example.org HELO=x PORT=4711 ADDR=192.0.2.1\r\n"]),
        (["ADDR"], [b"XCLIENT ADDR=192.0.2.1\r\n"]),
        (["HELO", "NAME"], [b"XCLIENT NAME=client.example.org HELO=x\r\n"]),
        (["TTL"], []),
        ([], []),
    ],
)
def test_what_was_announced_is_told(announced: list[str], lines: list[bytes]) -> None:
    assert commands(CLIENT, announced) == lines


def test_what_is_too_long_for_one_command_is_split_and_the_address_goes_last() -> None:
    told = {**CLIENT, "HELO": "h" * 400, "LOGIN": "l" * 90}
    assert commands(told, ALL) == [
        b"XCLIENT NAME=client.example.org HELO=" + b"h" * 400 + b"\r\n",
        b"XCLIENT LOGIN=" + b"l" * 90 + b" PORT=4711 ADDR=192.0.2.1\r\n",
    ]


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 2)])
def test_a_command_is_filled_to_its_last_octet(length: int, count: int) -> None:
    room = MAX_COMMAND - len("XCLIENT NAME=n HELO=\r\n")
    lines = commands({"NAME": "n", "HELO": "h" * (room + length)}, ALL)
    assert len(lines) == count
    assert max(map(len, lines)) == MAX_COMMAND - (count - 1) * (len(" NAME=n") - length)


def test_a_command_may_be_as_long_as_it_may_be() -> None:
    room = MAX_COMMAND - len("XCLIENT HELO=\r\n")
    [longest] = commands({"HELO": "h" * room}, ALL)
    assert len(longest) == MAX_COMMAND
    assert commands({"HELO": "h" * (room + 1)}, ALL) == []
    assert commands({**CLIENT, "HELO": "+" * 255}, ALL) == commands(
        {name: value for name, value in CLIENT.items() if name != "HELO"}, ALL
    )


values = st.one_of(st.text(max_size=30), st.text(max_size=300), st.text("+=h", max_size=600))


@given(st.dictionaries(st.sampled_from(ALL), values), st.sets(st.sampled_from(ALL)))
def test_every_word_is_told_once_and_in_commands_that_fit(
    told: dict[str, str], announced: set[str]
) -> None:
    names = []
    for line in commands(told, announced):
        assert re.fullmatch(rb"XCLIENT(?: [A-Z]+=[!-~]*)+\r\n", line)
        assert len(line) <= MAX_COMMAND
        for word in line.decode().split()[1:]:
            name, _, value = word.partition("=")
            assert undone(value) == told[name].encode()
            names.append(name)
    fitting = {
        name for name in told if len(f"XCLIENT {name}={xtext(told[name])}\r\n") <= MAX_COMMAND
    }
    assert sorted(names) == sorted(fitting & announced)
    assert "ADDR" not in names[:-1]
    if {"ADDR", "PORT"} <= set(names):
        assert names[-2:] == ["PORT", "ADDR"]
