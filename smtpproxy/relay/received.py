"""The `Received:` line for upstreams that learn of the client in no other way.

Source: RFC 5321 section 4.4, RFC 3848 (the words behind "with").
"""

from __future__ import annotations

import re
from email.utils import formatdate

from smtpproxy.mail import Client

_LONGEST = 255  # characters of one word; RFC 5322 section 2.1.1 has 998 for a line
# HELO is the client's own word: what could end a word or a comment does not pass.
_UNSAFE = re.compile(r"[^A-Za-z0-9._:\[\]-]")


def received_line(
    client: Client, encrypted: bool, domain: str, transaction: str, now: float
) -> bytes:
    """The whole line, folded, its CRLF included; `now` in seconds since 1970."""
    helo = _word(client.helo)
    name = "unknown" if client.name.startswith("[") else _word(client.name)
    address = client.peer.address
    literal = f"IPv6:{address}" if ":" in address else address or "unix socket"
    protocol = client.protocol + ("S" if encrypted and client.esmtp else "")
    return (
        f"Received: from {helo} ({name} [{literal}])\r\n"
        f"\tby {domain} with {protocol} id {transaction};\r\n"
        f"\t{formatdate(now)}\r\n"
    ).encode("ascii")


def _word(said: str) -> str:
    return _UNSAFE.sub("?", said[:_LONGEST]) or "unknown"
