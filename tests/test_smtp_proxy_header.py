"""The PROXY protocol's header, as proxy-protocol.txt shows it and as another reads it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from smtpproxy.smtp.crc32c import crc32c
from smtpproxy.smtp.proxy_header import (
    MAX_BLOCK,
    BadHeader,
    Ends,
    Header,
    HeaderReader,
    version1,
    version2,
)
from tests.support.wire import mixtures

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


MIXED: list[tuple[Ends, str, str]] = [
    (
        (("192.0.2.9", 40000), ("2001:db8::1", 25)),
        "TCP6 ::ffff:192.0.2.9 2001:db8::1 40000 25",
        "00000000000000000000FFFFC0000209 20010DB8000000000000000000000001 9C40 0019",
    ),
    (
        (("2001:db8::9", 40000), ("192.0.2.1", 25)),
        "TCP6 2001:db8::9 ::ffff:192.0.2.1 40000 25",
        "20010DB8000000000000000000000009 00000000000000000000FFFFC0000201 9C40 0019",
    ),
    (
        (("192.0.2.9", 0), ("", 0)),
        "TCP4 192.0.2.9 0.0.0.0 0 0",
        "C0000209 00000000 0000 0000",
    ),
    (
        (("2001:db8::9", 0), ("", 0)),
        "TCP6 2001:db8::9 :: 0 0",
        "20010DB8000000000000000000000009 00000000000000000000000000000000 0000 0000",
    ),
]


@pytest.mark.parametrize(("ends", "line", "octets"), MIXED)
def test_ends_of_two_kinds_are_made_one(ends: Ends, line: str, octets: str) -> None:
    """XCLIENT of a client of ours may name one of another family than ours, or no destination."""
    said, wanted = version1(*ends).decode().split()[1:], line.split()
    assert [ip_address(each) for each in said[1:3]] == [ip_address(each) for each in wanted[1:3]]
    assert [said[0], *said[3:]] == [wanted[0], *wanted[3:]]
    written = bytes.fromhex(octets)
    assert version2(*ends) == block(0x11 if len(written) == 12 else 0x21, written)
    assert read(version1(*ends)) == read(version2(*ends))


# Reading


TAIL = b"EHLO x\r\nPROXY \r\n\r\n\x00"


def read(header: bytes, tail: bytes = b"") -> Ends | None:
    found = HeaderReader().feed(header + tail)
    assert found is not None
    assert found.rest == tail
    return found.ends


def block(
    family: int, octets: bytes, command: int = 0x21, vectors: bytes = b"", length: int | None = None
) -> bytes:
    """A header in version 2."""
    length = len(octets + vectors) if length is None else length
    return SIGNATURE + bytes([command, family]) + length.to_bytes(2, "big") + octets + vectors


def vector(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def summed(header: bytes) -> bytes:
    """`header`, which ends in a checksum that is blank, with that filled in."""
    return header[:-4] + crc32c(header).to_bytes(4, "big")


INET = bytes.fromhex("C0000209 C6336401 9C40 0019")
INET6 = bytes.fromhex("20010DB8" + "00" * 11 + "09 20010DB8" + "00" * 11 + "01 9C40 0019")
MAPPED = bytes.fromhex("00" * 10 + "FFFFC0000209" + "00" * 10 + "FFFFC6336401" + "9C40 0019")
V4_ENDS = ("192.0.2.9", 40000), ("198.51.100.1", 25)
V6_ENDS = ("2001:db8::9", 40000), ("2001:db8::1", 25)
SSL_VECTOR = vector(0x20, b"\x01\0\0\0\0" + vector(0x21, b"TLSv1.3"))
GOOD: dict[str, tuple[bytes, Ends | None]] = {
    "TCP4": (b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n", V4_ENDS),
    "TCP6": (b"PROXY TCP6 2001:DB8::9 2001:db8:0:0::1 40000 25\r\n", V6_ENDS),
    "TCP6, mapped": (b"PROXY TCP6 ::ffff:192.0.2.9 ::FFFF:c633:6401 40000 25\r\n", V4_ENDS),
    "ports": (b"PROXY TCP4 192.0.2.9 192.0.2.1 0 65535\r\n",
              (("192.0.2.9", 0), ("192.0.2.1", 65535))),
    "longest": (version1(("ffff:" * 7 + "ffff", 65535), ("ffff:" * 7 + "ffff", 65535)),
                (("ffff:" * 7 + "ffff", 65535),) * 2),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "UNKNOWN and more": (b"PROXY UNKNOWN ffff::1 \xff\x00 65535 65535\r\n", None),
    "UNKNOWN, 107 octets": (b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n", None),
    "v2 INET": (block(0x11, INET), V4_ENDS),
    "v2 INET6": (block(0x21, INET6), V6_ENDS),
    "v2 INET6, mapped": (block(0x21, MAPPED), V4_ENDS),
    "v2 unix": (block(0x31, b"/run/x".ljust(108, b"\0") * 2), (("", 0), ("", 0))),
    "v2 UNSPEC": (block(0x00, b""), None),
    "v2 UNSPEC with octets": (block(0x00, b"\x03\xff\xff\x00"), None),
    "v2 datagrams": (block(0x12, INET), None),
    "v2 LOCAL": (block(0x00, b"", 0x20), None),
    "v2 LOCAL, whatever follows": (block(0x11, b"\xff" * 9, 0x20), None),
    "v2 LOCAL of a family there is not": (block(0xF7, b"", 0x20), None),
    "v2 vectors": (block(0x11, INET, vectors=SSL_VECTOR + vector(0x04, b"\0" * 7)), V4_ENDS),
    "v2 empty vector": (block(0x11, INET, vectors=vector(0x04, b"")), V4_ENDS),
    "v2 checksum": (summed(block(0x11, INET, vectors=vector(0x03, bytes(4)))), V4_ENDS),
    "v2 largest": (block(0x11, INET, vectors=vector(0x04, bytes(MAX_BLOCK - 15))), V4_ENDS),
}  # fmt: skip
BAD: dict[str, bytes] = {
    "SMTP": b"EHLO client.example.com\r\n",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "a blank line": b"\r\nPROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n",
    "lower case": b"proxy TCP4 192.0.2.9 198.51.100.1 40000 25\r\n",
    "bare LF": b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\n",
    "two blanks": b"PROXY TCP4  192.0.2.9 198.51.100.1 40000 25\r\n",
    "a blank at the end": b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25 \r\n",
    "one word less": b"PROXY TCP4 192.0.2.9 198.51.100.1 40000\r\n",
    "one word more": b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25 1\r\n",
    "TCP5": b"PROXY TCP5 192.0.2.9 198.51.100.1 40000 25\r\n",
    "UNKNOWNS": b"PROXY UNKNOWNS\r\n",
    "IPv6 in TCP4": b"PROXY TCP4 2001:db8::9 2001:db8::1 40000 25\r\n",
    "IPv4 in TCP6": b"PROXY TCP6 192.0.2.9 198.51.100.1 40000 25\r\n",
    "a zero in front": b"PROXY TCP4 192.0.2.09 198.51.100.1 40000 25\r\n",
    "256": b"PROXY TCP4 192.0.2.256 198.51.100.1 40000 25\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 2001:db8::1 40000 25\r\n",
    "port 65536": b"PROXY TCP4 192.0.2.9 198.51.100.1 65536 25\r\n",
    "port 025": b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 025\r\n",
    "port -1": b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 -1\r\n",
    "port +1": b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 +1\r\n",
    "not ASCII": "PROXY TCP4 192.0.2.٩ 198.51.100.1 40000 25\r\n".encode(),
    "NUL": b"PROXY TCP4 192.0.2.9\x00 198.51.100.1 40000 25\r\n",
    "108 octets": b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n",
    "no end": b"PROXY UNKNOWN ".ljust(107, b"x"),
    "v2 wrong signature": SIGNATURE[:-1] + b"\r",
    "v2 version 1": block(0x11, INET, 0x11),
    "v2 version 3": block(0x11, INET, 0x31),
    "v2 command 2": block(0x11, INET, 0x22),
    "v2 family 4": block(0x41, INET),
    "v2 transport 3": block(0x13, INET),
    "v2 too short": block(0x11, INET[:-1]),
    "v2 INET6 too short": block(0x21, INET6[:-1]),
    "v2 unix too short": block(0x31, bytes(215)),
    "v2 too long": block(0x11, INET, length=MAX_BLOCK + 1),
    "v2 as long as can be said": block(0x11, INET, length=65535),
    "v2 vector without a length": block(0x11, INET, vectors=b"\x04\x00"),
    "v2 vector beyond the end": block(0x11, INET, vectors=b"\x04\x00\x02x"),
    "v2 checksum wrong": block(0x11, INET, vectors=vector(0x03, b"\0\0\0\0")),
    "v2 checksum of three": block(0x11, INET, vectors=vector(0x03, b"\0\0\0")),
}  # fmt: skip


@pytest.mark.parametrize(("header", "ends"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("tail", [b"", b"\n", TAIL], ids=["alone", "LF behind", "tail"])
def test_a_header_is_read(header: bytes, ends: Ends | None, tail: bytes) -> None:
    assert read(header, tail) == ends


def feed_each(reader: HeaderReader, octets: bytes) -> None:
    for at in range(len(octets)):
        assert reader.feed(octets[at : at + 1]) is None


@pytest.mark.parametrize(("header", "ends"), GOOD.values(), ids=GOOD)
def test_octet_by_octet(header: bytes, ends: Ends | None) -> None:
    """All of its own octets are needed, and not one behind them."""
    reader = HeaderReader()
    feed_each(reader, header[:-1])
    assert reader.feed(header[-1:]) == Header(ends, b"")


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
@pytest.mark.parametrize("tail", [b"", TAIL], ids=["alone", "tail"])
def test_what_is_no_header(header: bytes, tail: bytes) -> None:
    with pytest.raises(BadHeader) as raised:
        HeaderReader().feed(header + tail)
    assert str(raised.value).isprintable() and str(raised.value).isascii()
    with pytest.raises(BadHeader):
        feed_each(HeaderReader(), header)


def test_a_header_that_never_ends_is_not_kept() -> None:
    for beginning in (b"PROXY UNKNOWN ", SIGNATURE + b"\x21\x11\xff\xff"):
        with pytest.raises(BadHeader):
            HeaderReader().feed(beginning + b"x" * 70_000)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
sides = st.tuples(addresses, st.integers(0, 65535))


@given(sides, sides, st.binary(max_size=20), st.sampled_from([version1, version2]))
def test_what_is_written_is_read(source, destination, tail, version) -> None:
    ends = (str(source[0]), source[1]), (str(destination[0]), destination[1])
    plain = lambda it: getattr(it, "ipv4_mapped", None) or it  # noqa: E731
    assert read(version(*ends), tail) == (
        (str(plain(source[0])), source[1]),
        (str(plain(destination[0])), destination[1]),
    )


@given(mixtures(b"PROXY ", b"TCP4 ", b"192.0.2.9 ", b"25", b"\r\n", SIGNATURE, b"\x21\x11", INET))
def test_any_octets_are_a_header_or_none(octets: bytes) -> None:
    """However they are cut, they are one and the same, and nothing else is ever raised."""

    def outcome(parts: list[bytes]) -> object:
        reader, seen = HeaderReader(), b""
        for part in parts:
            seen += part
            try:
                found = reader.feed(part)
            except BadHeader as error:
                return str(error)
            if found is not None:
                return found.ends, seen.removesuffix(found.rest)
        return None

    assert outcome([octets]) == outcome([octets[at : at + 1] for at in range(len(octets))])


def test_the_checksum_is_the_one_of_the_rfc() -> None:
    """RFC 3720 appendix B.4, whose octets stand in the order of the wire there."""
    for octets, checksum in [
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ]:
        assert crc32c(octets) == checksum
