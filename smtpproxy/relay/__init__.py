"""Carrying a client's transactions to upstreams.

A session has one `Outlet`, its way to upstreams, and for each MAIL a `Transaction`,
which binds to an upstream through a `Delivery`, that upstream's share of it.
"""

from __future__ import annotations

from smtpproxy.relay.delivery import Delivery, DeliveryTimes
from smtpproxy.relay.outlet import Outlet
from smtpproxy.relay.received import received_line
from smtpproxy.relay.shadow import Shadows
from smtpproxy.relay.transaction import TOO_BIG, Relaying, Transaction
from smtpproxy.relay.verdict import Verdict

__all__ = [
    "TOO_BIG",
    "Delivery",
    "DeliveryTimes",
    "Outlet",
    "Relaying",
    "Shadows",
    "Transaction",
    "Verdict",
    "received_line",
]
