"""XCLIENT: each attribute is one word, and each command fits; and what others say by it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.xclient import MAX_COMMAND, BadAttributes, commands, read, xtext

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


def test_a_login_goes_with_the_address_where_it_fits() -> None:
    """Postfix forgets it at the next XCLIENT."""
    told = {"LOGIN": "alice", **CLIENT, "NAME": "n" * 250, "HELO": "h" * 220}
    assert [line.split()[-3:] for line in commands(told, ALL)][-1] == [
        b"LOGIN=alice",
        b"PORT=4711",
        b"ADDR=192.0.2.1",
    ]
    long = {**told, "LOGIN": "l" * 490}
    assert [line.split()[1][:5] for line in commands(long, ALL)] == [b"NAME=", b"LOGIN", b"PORT="]


# Reading


GOOD = [
    ("NAME=client.example.org ADDR=192.0.2.1", {"NAME": "client.example.org", "ADDR": "192.0.2.1"}),
    ("name=x Addr=192.0.2.1  PORT=4711 ", {"NAME": "x", "ADDR": "192.0.2.1", "PORT": "4711"}),
    ("NAME=[unavailable]", {"NAME": "[UNAVAILABLE]"}),
    ("NAME=[TempUnavail]", {"NAME": "[TEMPUNAVAIL]"}),
    ("NAME=under_score.example.org", {"NAME": "under_score.example.org"}),
    ("ADDR=IPV6:2001:DB8:0:0::1", {"ADDR": "2001:db8::1"}),
    ("ADDR=ipv6:::1", {"ADDR": "::1"}),
    ("ADDR=IPv6:::FFFF:192.0.2.1", {"ADDR": "192.0.2.1"}),
    ("ADDR=[UNAVAILABLE] PORT=[unavailable]", {"ADDR": "", "PORT": ""}),
    ("ADDR=192.0.2.1 PORT=0", {"ADDR": "192.0.2.1", "PORT": "0"}),
    ("PORT=00025", {"PORT": "25"}),
    ("PROTO=smtp", {"PROTO": "SMTP"}),
    ("PROTO=ESMTP HELO=[192.0.2.1]", {"PROTO": "ESMTP", "HELO": "[192.0.2.1]"}),
    ("HELO=x+2BADDR+3D127.0.0.1", {"HELO": "x+ADDR=127.0.0.1"}),
    ("HELO=[UNAVAILABLE]", {"HELO": ""}),
    ("LOGIN=alice+40example.org", {"LOGIN": "alice@example.org"}),
    ("LOGIN=a+20b+c3+A9", {"LOGIN": "a bé"}),
    ("LOGIN=a+tag@example.org", {"LOGIN": "a+tag@example.org"}),  # as who does not encode says it
    ("LOGIN=a+tag+40example.org", {"LOGIN": "a+tag+40example.org"}),
    ("LOGIN=[UNAVAILABLE]", {"LOGIN": ""}),
    ("DESTADDR=192.0.2.25 DESTPORT=25", {"DESTADDR": "192.0.2.25", "DESTPORT": "25"}),
    ("HELO=" + "h" * 255, {"HELO": "h" * 255}),
]
NAMES = [
    "",
    ".",
    "-x",
    "x.",
    "a b",
    "a+20b",
    "+0D+0AMAIL",
    "x+00",
    "grün",
    "+C3+A9",
    "[x]",
    "x" * 256,
]
ADDRESSES = [
    "x",
    "192.0.2",
    "192.0.2.1.1",
    "192.0.2.256",
    "192.0.2.01",
    "[192.0.2.1]",
    "2001:db8::1",
]
ADDRESSES += ["IPV6:192.0.2.1", "IPV6:x", "IPV6:", "IPV6:fe80::1%eth0", "+0D+0A", "192.0.2.1+20"]
BAD = [
    "", " ", "ADDR", "ADDR=", "=192.0.2.1", "ADDR =192.0.2.1", "192.0.2.1", "TTL=3", "SESSION=x",
    "REVERSE_NAME=x", "\u017fESSION=x", "ADDR=192.0.2.1 ADDR=192.0.2.2",
    "ADDR=192.0.2.1 addr=192.0.2.1",
    *[f"NAME={name}" for name in NAMES], *[f"ADDR={address}" for address in ADDRESSES],
    *[f"DESTADDR={address}" for address in ADDRESSES],
    "PORT=65536", "PORT=-1", "PORT=x", "PORT=4711+0D+0A", "DESTPORT=65536", "PROTO=LMTP", "PROTO=x",
    "HELO=a+20b", "HELO=+0D+0AMAIL", "HELO=" + "h" * 256, "HELO=+C3+A9", "LOGIN=a+0D+0Ab",
    "LOGIN=+00",
    "LOGIN=+FF", "LOGIN=" + "l" * 256, "LOGIN=+E2+80+A8", "NAME=x\u2003ADDR=192.0.2.1",
    "NAME=x ADDR=" + "1" * 600, "LOGIN=+" + "0" * 60_000,
]  # fmt: skip


@pytest.mark.parametrize(("argument", "said"), GOOD)
def test_what_is_said_is_taken_in_one_form(argument: str, said: dict[str, str]) -> None:
    assert read("XCLIENT", argument) == said


@pytest.mark.parametrize("argument", BAD)
def test_what_cannot_be_taken(argument: str) -> None:
    with pytest.raises(BadAttributes) as raised:
        read("XCLIENT", argument)
    assert str(raised.value).isascii() and len(str(raised.value)) < 80


def test_a_command_has_512_octets_at_most() -> None:
    room = MAX_COMMAND - len("XCLIENT LOGIN= HELO=\r\n") - 250
    fits = f"LOGIN={'l' * room} HELO={'h' * 250}"
    assert read("XCLIENT", fits)
    with pytest.raises(BadAttributes, match="too long"):
        read("XCLIENT", fits + "h")


def test_xforward() -> None:
    """As Postfix sends it."""
    assert read("XFORWARD", "NAME=spike.example.org ADDR=192.0.2.1 PORT=4711 PROTO=ESMTP") == {
        "NAME": "spike.example.org",
        "ADDR": "192.0.2.1",
        "PORT": "4711",
        "PROTO": "ESMTP",
    }
    assert read("XFORWARD", "HELO=a+20b IDENT=4F1A2B3C SOURCE=REMOTE") == {
        "HELO": "a b",
        "IDENT": "4F1A2B3C",
        "SOURCE": "REMOTE",
    }
    for argument in ("LOGIN=x", "DESTADDR=192.0.2.1", "IDENT=+0D+0A", "IDENT=" + "x" * 256, ""):
        with pytest.raises(BadAttributes):
            read("XFORWARD", argument)


@given(st.dictionaries(st.sampled_from(ALL), values), st.sets(st.sampled_from(ALL)))
def test_what_we_tell_we_would_take_or_refuse_as_a_whole(
    told: dict[str, str], announced: set[str]
) -> None:
    """Nothing in a value can make an attribute of its own."""
    for line in commands(told, announced):
        try:
            said = read("XCLIENT", line.decode().partition(" ")[2].removesuffix("\r\n"))
        except BadAttributes:
            continue
        assert said.keys() <= told.keys()


@given(st.text(max_size=600), st.sampled_from(["XCLIENT", "XFORWARD"]))
def test_whatever_is_said_what_is_taken_is_printable(argument: str, verb: str) -> None:
    for text in (argument, f"HELO={argument}", f"LOGIN={xtext(argument)}", f"IDENT={argument}"):
        try:
            said = read(verb, text)
        except BadAttributes:
            continue
        assert all(value.isprintable() and len(value) <= 255 for value in said.values())
