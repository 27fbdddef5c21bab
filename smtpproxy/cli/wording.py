"""Words that the commands share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtpproxy.routing import Upstream


def complain(text: str) -> None:
    """What is wrong goes to standard error."""
    print(text, file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def certificate_of(upstream: Upstream) -> str:
    """What is asked of its certificate, wherever it offers TLS."""
    return f"its certificate {'must' if upstream.tls_verify else 'need not'} verify"


def server(upstream: Upstream) -> str:
    """The upstream, and its TLS ways."""
    return f"{upstream} (TLS where offered; {certificate_of(upstream)})"
