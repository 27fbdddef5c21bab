"""Carrying a client's transactions to upstreams.

A session has one `Outlet`, its way to upstreams, and for each MAIL a `Transaction`,
which binds to an upstream through a `Delivery`, that upstream's share of it.
"""

from __future__ import annotations

from smtpproxy.relay.carried import TOO_BIG
from smtpproxy.relay.delivery import Delivery, DeliveryTimes
from smtpproxy.relay.doubt import Doubts
from smtpproxy.relay.guard import Guard
from smtpproxy.relay.message import Message
from smtpproxy.relay.outlet import Outlet
from smtpproxy.relay.received import received_line
from smtpproxy.relay.relaying import Relaying
from smtpproxy.relay.shadow import Shadows
from smtpproxy.relay.transaction import Transaction
from smtpproxy.relay.verdict import Verdict

__all__ = [
    "TOO_BIG",
    "Delivery",
    "DeliveryTimes",
    "Doubts",
    "Guard",
    "Message",
    "Outlet",
    "Relaying",
    "Shadows",
    "Transaction",
    "Verdict",
    "received_line",
]
