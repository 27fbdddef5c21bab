"""The PROXY protocol's header: who the client is, said before anything else.

Source: HAProxy's proxy-protocol.txt, sections 2.1 (version 1) and 2.2 (version 2).
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY, _LOCAL = 0x21, 0x20  # version 2 in the upper half
_TCP4, _TCP6, _UNSPECIFIED = 0x11, 0x21, 0x00

End = tuple[str, int]  # address and port; the address is "" for a Unix socket


def version1(source: End, destination: End) -> bytes:
    """The line in text; UNKNOWN for a client on a Unix socket."""
    if not source[0]:
        return b"PROXY UNKNOWN\r\n"
    family = "TCP4" if _is_v4(source) else "TCP6"
    words = f"PROXY {family} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n"
    return words.encode("ascii")


def version2(source: End, destination: End) -> bytes:
    """The binary header; LOCAL for a client on a Unix socket."""
    if not source[0]:
        return _SIGNATURE + bytes([_LOCAL, _UNSPECIFIED, 0, 0])
    addresses = b"".join(ip_address(address).packed for address, _ in (source, destination))
    ports = b"".join(port.to_bytes(2, "big") for _, port in (source, destination))
    family = _TCP4 if _is_v4(source) else _TCP6
    length = len(addresses + ports).to_bytes(2, "big")
    return _SIGNATURE + bytes([_PROXY, family]) + length + addresses + ports


def _is_v4(end: End) -> bool:
    return isinstance(ip_address(end[0]), IPv4Address)
