"""What one listener is like: the same for all of its sessions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from OpenSSL import SSL

from smtpproxy.relay import Relaying
from smtpproxy.smtp.extensions import Extensions


@dataclass(frozen=True, slots=True)
class Profile:
    """Times are in seconds; `tls_context` is None where STARTTLS is not offered.

    `offer` gives what EHLO announces, with True after STARTTLS.  With `lmtp`, clients speak LMTP
    (RFC 2033).  `now` gives seconds since 1970.
    """

    domain: str
    tls_context: SSL.Context | None
    relaying: Relaying
    offer: Callable[[bool], Extensions]
    command_time: float
    data_time: float
    tls_time: float
    max_errors: int
    lmtp: bool = False
    now: Callable[[], float] = time.time
