"""Words that the commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from smtpproxy.smtp.keywords import LEAST_SIZE

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
LONGEST_EXTENSION = 200  # of one line of a reply to EHLO
MOST_EXTENSIONS = 100

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
    return printable(_clipped(text, LONGEST))


def printable(text: str) -> str:
    """All of `text`, without what could drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def extensions(lines: Sequence[str]) -> str:
    """What a reply to EHLO announces; a long line of it hides none of the others."""
    shown = [printable(_clipped(line, LONGEST_EXTENSION)) for line in lines[:MOST_EXTENSIONS]]
    more = [f"{len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
    return ", ".join(shown + more) or "no extensions"


def too_small(size: int) -> str:
    """What is wrong with a limit of `size` octets."""
    return f"{size} is too small: RFC 5321 has every server take {LEAST_SIZE}; not announced"


def _clipped(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


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
