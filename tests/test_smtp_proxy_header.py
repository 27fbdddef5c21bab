"""The PROXY protocol's header, as proxy-protocol.txt shows it and as another reads it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from smtpproxy.smtp.proxy_header import version1, version2

V4 = ("192.168.0.1", 56324), ("192.168.0.11", 443)
V6 = ("2001:db8::9", 40000), ("2001:db8::1", 25)
UNIX = ("", 0), ("", 0)
SIGNATURE = bytes.fromhex("0D0A0D0A 000D0A51 5549540A")


@pytest.mark.parametrize(
    ("ends", "line"),
    [
        (V4, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
        (
            (("255.255.255.255", 65535),) * 2,
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ),
        (V6, b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 25\r\n"),
        (UNIX, b"PROXY UNKNOWN\r\n"),
    ],
)
def test_version_1(ends, line) -> None:
    """Section 2.1, the first two being its own examples."""
    assert version1(*ends) == line


def test_the_longest_line_of_version_1() -> None:
    longest = ":".join(["ffff"] * 8)
    line = version1((longest, 65535), (longest, 65535))
    assert len(line) == 104, "what the specification counts for TCP6"
    assert len(line) <= 107


@pytest.mark.parametrize(
    ("ends", "rest"),
    [
        (V4, "21 11 000C C0A80001 C0A8000B DC04 01BB"),
        (
            V6,
            "21 21 0024 20010DB8000000000000000000000009 20010DB80000000000000000000000019C40 0019",
        ),
        (UNIX, "20 00 0000"),
    ],
    ids=["IPv4", "IPv6", "unix"],
)
def test_version_2(ends, rest) -> None:
    """Section 2.2: version and command, family, length, addresses, ports."""
    assert version2(*ends) == SIGNATURE + bytes.fromhex(rest)


PARSERS = {"1": (V1Parser, version1), "2": (V2Parser, version2)}


@pytest.mark.parametrize(("parser", "version"), PARSERS.values(), ids=PARSERS)
def test_another_reads_what_was_meant(parser, version) -> None:
    for ends in (V4, V6):
        info = parser.parse(version(*ends).removesuffix(b"\r\n"))
        read = [(it.host, it.port) for it in (info.source, info.destination)]
        assert [(ip_address(host), port) for host, port in read] == [
            (ip_address(host), port) for host, port in ends
        ]


def test_another_reads_that_nothing_is_known() -> None:
    assert V2Parser.parse(version2(*UNIX)).source is None
