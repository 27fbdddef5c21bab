"""Connections to upstreams: made, secured, introduced, and spoken over."""

from __future__ import annotations

from smtpproxy.upstream.agreement import Agreement
from smtpproxy.upstream.checks import Checks
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.connector import Connector, Dial, Heard
from smtpproxy.upstream.dial import SocketDial
from smtpproxy.upstream.errors import (
    BROKEN_REPLY,
    Broken,
    ChunkRefused,
    ClientRefused,
    EarlyReply,
    GreetingRefused,
    InDoubt,
    NotEncrypted,
    NotIntroduced,
    NotVerified,
    Ourselves,
    Unreachable,
    UpstreamError,
)
from smtpproxy.upstream.handshake import Caller, Manners
from smtpproxy.upstream.health import Health, Trouble
from smtpproxy.upstream.learnt import Learnt
from smtpproxy.upstream.pool import Pool, PoolLimits
from smtpproxy.upstream.slots import Slots
from smtpproxy.upstream.standing import Standing, Standings
from smtpproxy.upstream.survey import Survey

__all__ = [
    "BROKEN_REPLY",
    "Agreement",
    "Broken",
    "Caller",
    "Checks",
    "ChunkRefused",
    "ClientRefused",
    "Connection",
    "Connector",
    "Dial",
    "EarlyReply",
    "GreetingRefused",
    "Health",
    "Heard",
    "InDoubt",
    "Learnt",
    "Manners",
    "NotEncrypted",
    "NotIntroduced",
    "NotVerified",
    "Ourselves",
    "Pool",
    "PoolLimits",
    "Slots",
    "SocketDial",
    "Standing",
    "Standings",
    "Survey",
    "Trouble",
    "Unreachable",
    "UpstreamError",
]
