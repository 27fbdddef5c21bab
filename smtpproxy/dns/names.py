"""Names, and what there is instead of an answer about one."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address

# RFC 1035 section 2.3.4: 63 octets for a label, 255 for a name, two of which are not text.
# What holds anything else (CR LF, say) is an attack on whoever prints it; and what ends in a
# number could be taken for an address.
_NAME = re.compile(r"(?!.{254})([a-z0-9_-]{1,63}\.)*(?![0-9]+\Z)[a-z0-9_-]{1,63}", re.ASCII)


class NotFound(Exception):
    """There is no such name, or nothing of what was asked for belongs to it."""


class TryLater(Exception):
    """The look-up failed for now."""


def clean(name: bytes) -> str:
    """A name out of DNS, in lower case; "" if it holds what no host name does."""
    text = name.decode("ascii", "replace").lower().removesuffix(".")
    return text if _NAME.fullmatch(text) else ""


@lru_cache(1024)  # each connection to an upstream asks again
def is_address(host: str) -> bool:
    """True for an IPv4 or IPv6 address, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
