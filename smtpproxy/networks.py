"""Networks of addresses: which client belongs to which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from socket import AF_INET, AF_INET6, inet_pton

UNIX = "unix"  # stands for all who come through a Unix socket

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2


def packed(address: str) -> bytes:
    """The 4 or 16 octets of an address; raises OSError where it is none.

    An IPv4 address in the clothes of IPv6 ("::ffff:192.0.2.1") is one of IPv4.
    """
    if ":" not in address:
        return inet_pton(AF_INET, address)
    octets = inet_pton(AF_INET6, address)
    return octets[12:] if octets.startswith(_MAPPED) else octets


class Networks:
    """Some networks: `address in networks`.  A Unix socket's "" is in those that list "unix"."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Of texts such as "192.0.2.0/24", "2001:db8::/32" and "192.0.2.7"; raises ValueError."""
        self._unix = False
        # By the octets of an address and the bits behind the prefix: the prefixes, as numbers.
        self._prefixes: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for text in texts:
            if text == UNIX:
                self._unix = True
                continue
            network = _network(text)
            bits = network.max_prefixlen - network.prefixlen
            prefix = int(network.network_address) >> bits
            self._prefixes[network.max_prefixlen // 8, bits].add(prefix)

    def __bool__(self) -> bool:
        """There is one at all."""
        return self._unix or bool(self._prefixes)

    def __contains__(self, address: str) -> bool:
        if not address or not self._prefixes:
            return self._unix and not address
        octets = packed(address)
        number = int.from_bytes(octets)
        return any(
            size == len(octets) and number >> bits in prefixes
            for (size, bits), prefixes in self._prefixes.items()
        )


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
        octets = packed(text.partition("/")[0])
    except (ValueError, OSError):
        raise ValueError(
            f'{text!r} is no network: write it as in "192.0.2.0/24" or "2001:db8::1"'
        ) from None
    if len(octets) * 8 != network.max_prefixlen:
        raise ValueError(f"{text!r}: write IPv4 addresses in their own form")
    if octets != network.network_address.packed:
        raise ValueError(
            f'{text!r} is no network: did you mean "{network}", or "{ip_address(octets)}" alone?'
        )
    return network
