"""What one listener is like: the same for all of its sessions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from OpenSSL import SSL

from smtpproxy.relay import Relaying


@dataclass(frozen=True, slots=True)
class Profile:
    """Times are in seconds; `tls_context` is None where STARTTLS is not offered.

    `now` gives seconds since 1970.
    """

    domain: str
    tls_context: SSL.Context | None
    relaying: Relaying
    command_time: float
    data_time: float
    tls_time: float
    max_errors: int
    now: Callable[[], float] = time.time

    def extensions(self, secured: bool) -> tuple[str, ...]:
        """What EHLO announces (RFC 5321 4.1.1.1), `secured` after STARTTLS."""
        return (
            "PIPELINING",  # RFC 2920
            f"SIZE {self.relaying.max_message_bytes}",  # RFC 1870
            *(["STARTTLS"] if self.tls_context and not secured else []),  # RFC 3207
            "ENHANCEDSTATUSCODES",  # RFC 2034
            "8BITMIME",  # RFC 6152
        )
