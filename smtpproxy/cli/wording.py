"""Words that the commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtpproxy.routing import Row, Upstream

# What `tls` and `identity` ask for, by their values.
TLS = {
    "none": "no TLS",
    "may": "TLS where offered; its certificate need not verify",
    "verify where offered": "TLS where offered; its certificate must verify",
    "encrypt": "TLS always; its certificate need not verify",
    "verify": "TLS always; its certificate must verify",
}
IDENTITY = {
    "auto": "XCLIENT where offered",
    "xclient": "XCLIENT always",
    "proxy1": "the PROXY protocol, version 1",
    "proxy2": "the PROXY protocol, version 2",
    "received": "a Received: line in the message",
    "none": "none: the server takes this proxy for the client",
}
LONGEST = 1000  # characters of what others said

_DEFAULTS = ("verify where offered", "auto")


def complain(text: str) -> None:
    """What is wrong goes to standard error."""
    print(text, file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def harmless(text: str) -> str:
    r"""What others said, without what could drive a terminal; a backslash stays one.

    It is for people: what stands as `\xf6` in it already is not escaped once more.
    """
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tls_words(tls: str, servers: Iterable[str]) -> str:
    """What `tls` means for these servers, as they are written."""
    words = TLS.get(tls, tls)
    unix = [each.removeprefix("lmtp:").startswith("unix:") for each in servers]
    if tls in ("none", "encrypt", "verify") or not any(unix):
        return words
    return "no TLS on a Unix socket" if all(unix) else f"{words}; no TLS on a Unix socket"


def server(upstream: Upstream) -> str:
    """The upstream, and how it is talked to."""
    ways = tls_words(upstream.tls.value, map(str, upstream.servers))
    if upstream.identity.value != "auto":
        ways = f"{ways}; identity: {IDENTITY[upstream.identity.value]}"
    return f"{upstream} ({ways})"


def row_words(row: Row) -> str:
    """What a row says, with those of its columns that are not the default."""
    upstream = row.upstream
    tls, identity = upstream.tls.value, upstream.identity.value
    words = [str(upstream)]
    words += [f"tls={tls}"] * (tls not in _DEFAULTS)
    words += [f"identity={identity}"] * (identity not in _DEFAULTS)
    words += [f"percent={row.percent}"] * (row.percent < 100)
    words += [f"shadow={row.shadow}"] * (row.shadow is not None)
    return " ".join(words)
