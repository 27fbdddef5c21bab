"""Connections to upstreams: made, secured, introduced, and spoken over."""

from __future__ import annotations

from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.connector import Connector, Dial
from smtpproxy.upstream.dial import TcpDial
from smtpproxy.upstream.errors import (
    BROKEN_REPLY,
    Broken,
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

__all__ = [
    "BROKEN_REPLY",
    "Broken",
    "Caller",
    "ClientRefused",
    "Connection",
    "Connector",
    "Dial",
    "EarlyReply",
    "GreetingRefused",
    "InDoubt",
    "Manners",
    "NotEncrypted",
    "NotIntroduced",
    "NotVerified",
    "Ourselves",
    "TcpDial",
    "Unreachable",
    "UpstreamError",
]
