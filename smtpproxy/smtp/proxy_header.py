"""The PROXY protocol's header: who the client is, said before anything else.

Source: HAProxy's proxy-protocol.txt, sections 2.1 (version 1) and 2.2 (version 2).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from smtpproxy.smtp.crc32c import crc32c
from smtpproxy.smtp.errors import ProtocolError
from smtpproxy.values import value

MAX_LINE = 107  # octets of version 1, CRLF included
MAX_BLOCK = 4096  # octets of version 2 behind its 16; 65535 could be said, and never are

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED = 16  # octets of version 2 that are always there: they say how many follow
_PROXY, _LOCAL = 0x21, 0x20  # version 2 in the upper half
_TCP4, _TCP6, _UNIX, _UNSPECIFIED = 0x11, 0x21, 0x31, 0x00
_CHECKSUM = 0x03  # PP2_TYPE_CRC32C

End = tuple[str, int]  # address and port; the address is "" for a Unix socket
Ends = tuple[End, End]  # the client's, and the one it connected to


# Writing


def version1(source: End, destination: End) -> bytes:
    """The line in text; UNKNOWN for a client on a Unix socket."""
    if not source[0]:
        return b"PROXY UNKNOWN\r\n"
    here, there = _alike(source[0], destination[0])
    family = "TCP4" if isinstance(here, IPv4Address) else "TCP6"
    return f"PROXY {family} {here} {there} {source[1]} {destination[1]}\r\n".encode("ascii")


def version2(source: End, destination: End) -> bytes:
    """The binary header; LOCAL for a client on a Unix socket."""
    if not source[0]:
        return _SIGNATURE + bytes([_LOCAL, _UNSPECIFIED, 0, 0])
    here, there = _alike(source[0], destination[0])
    family = _TCP4 if isinstance(here, IPv4Address) else _TCP6
    ports = b"".join(port.to_bytes(2, "big") for _, port in (source, destination))
    block = here.packed + there.packed + ports
    return _SIGNATURE + bytes([_PROXY, family]) + len(block).to_bytes(2, "big") + block


def _alike(source: str, destination: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """Both addresses, of one family, as a header has them; "" is the one that is no address.

    They differ where somebody told us of a client who reached us in another way than he did.
    """
    here = ip_address(source)
    there = ip_address(destination) if destination else type(here)(0)
    if type(here) is type(there):
        return here, there
    return tuple(
        IPv6Address(b"\0" * 10 + b"\xff\xff" + it.packed) if isinstance(it, IPv4Address) else it
        for it in (here, there)
    )


# Reading


class BadHeader(ProtocolError):
    """What came is no header, or a wrong one; the text says how, in our words alone."""


@value
class Header:
    """What a header says, and the octets that came behind it.

    `ends` is None where it says of no client (UNKNOWN, LOCAL): the connection is its sender's own,
    such as a health check.
    """

    ends: Ends | None
    rest: bytes


class HeaderReader:
    """Finds the header at the beginning of a connection, in either version."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Header | None:
        """The header; None where more octets are needed.  Raises `BadHeader`."""
        buffer = self._buffer
        buffer += data
        binary = buffer[:1] == _SIGNATURE[:1]
        size = _measure_block(buffer) if binary else _measure_line(buffer)
        if size is None or len(buffer) < size:
            return None
        read = _read_block if binary else _read_line
        return Header(read(bytes(buffer[:size])), bytes(buffer[size:]))


_BEGINNING = b"PROXY "
_PORT = rb"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b\r\n" % (_PORT, _PORT))
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?\r\n", re.DOTALL)


def _measure_line(buffer: bytearray) -> int | None:
    """The octets of a line in version 1; None where its end is not there yet."""
    if not buffer.startswith(_BEGINNING[: len(buffer)]):
        raise BadHeader("it begins with something else")
    end = buffer.find(b"\n", 0, MAX_LINE)
    if end < 0 and len(buffer) >= MAX_LINE:
        raise BadHeader(f"a line of more than {MAX_LINE} octets")
    return end + 1 if end >= 0 else None


def _read_line(line: bytes) -> Ends | None:
    if _UNKNOWN.fullmatch(line):  # section 2.1: whatever else stands there is to be ignored
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadHeader("a line that is not as version 1 has it")
    family = IPv4Address if match[1] == b"4" else IPv6Address
    try:
        here, there = (_text(family(match[number].decode())) for number in (2, 3))
    except ValueError:
        raise BadHeader("an address that is none") from None
    ports = int(match[4]), int(match[5])
    if max(ports) > 65535:
        raise BadHeader("a port that is none")
    return (here, ports[0]), (there, ports[1])


def _measure_block(buffer: bytearray) -> int | None:
    """The octets of a header in version 2; None where it does not say yet."""
    if not buffer.startswith(_SIGNATURE[: len(buffer)]):
        raise BadHeader("it begins with something else")
    if len(buffer) < _FIXED:
        return None
    size = int.from_bytes(buffer[14:_FIXED], "big")
    if size > MAX_BLOCK:
        raise BadHeader(f"more than {MAX_BLOCK} octets")
    return _FIXED + size


def _read_block(header: bytes) -> Ends | None:
    command, family, block = header[12], header[13], header[_FIXED:]
    if command == _LOCAL:  # section 2.2: the connection is the sender's own, whatever follows
        return None
    if command != _PROXY:
        raise BadHeader("a version or a command that there is not")
    if family >> 4 > 3 or family & 0xF > 2:
        raise BadHeader("a family or a transport that there is not")
    # What is defined and is not ours, such as datagrams, counts as UNSPEC.
    octets = {_TCP4: 12, _TCP6: 36, _UNIX: 216}.get(family, 0)
    if len(block) < octets:
        raise BadHeader("too short for its addresses")
    if not octets:
        return None
    _check(header, _FIXED + octets)
    if family == _UNIX:
        return ("", 0), ("", 0)
    size = 4 if family == _TCP4 else 16
    here, there = (_text(ip_address(block[at : at + size])) for at in (0, size))
    ports = block[2 * size : 2 * size + 4]
    return (here, int.from_bytes(ports[:2], "big")), (there, int.from_bytes(ports[2:], "big"))


def _check(header: bytes, place: int) -> None:
    """Pass over the vectors from `place` on, and verify the checksum that may be one of them."""
    while place < len(header):
        value = place + 3
        end = value + int.from_bytes(header[place + 1 : value], "big")
        if value > len(header) or end > len(header):
            raise BadHeader("a vector that is longer than the header")
        if header[place] == _CHECKSUM:  # section 2.2.2: made while its own octets were zero
            blank = header[:value] + bytes(end - value) + header[end:]
            if crc32c(blank).to_bytes(4, "big") != header[value:end]:
                raise BadHeader("a checksum that is not its own")
        place = end


def _text(address: IPv4Address | IPv6Address) -> str:
    """As `Peer` has it: an IPv4 address in IPv6 is an IPv4 address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
