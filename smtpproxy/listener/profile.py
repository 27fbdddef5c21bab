"""What one listener is like: the same for all of its sessions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import field

from OpenSSL import SSL

from smtpproxy.listener.naming import ReverseName
from smtpproxy.listener.tally import SessionLimits
from smtpproxy.networks import Networks
from smtpproxy.relay import Relaying
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.upstream import Pool
from smtpproxy.values import value


@value
class Profile:
    """Times are in seconds; `tls_context` is None where STARTTLS is not offered.

    `offer` gives what EHLO announces, with True after STARTTLS.  With `lmtp`, clients speak LMTP
    (RFC 2033).  `reverse_name` gives the confirmed name of a client's address.  `now` gives
    seconds since 1970.  From `proxy_from`, a PROXY header has to come first, within
    `header_time`; from `xclient_from` and `xforward_from`, these commands are taken.
    `signs`: the greeting and our own refusals name the session.
    """

    domain: str
    tls_context: SSL.Context | None
    relaying: Relaying
    offer: Callable[[bool], Extensions]
    command_time: float
    data_time: float
    tls_time: float
    limits: SessionLimits
    pool: Pool
    reverse_name: ReverseName
    lmtp: bool = False
    session_time: float = 4 * 3600.0
    proxy_from: Networks = field(default_factory=Networks)
    header_time: float = 5.0
    xclient_from: Networks = field(default_factory=Networks)
    xforward_from: Networks = field(default_factory=Networks)
    signs: bool = False
    now: Callable[[], float] = time.time
