"""Clients: their sessions, from greeting to close."""

from __future__ import annotations

from smtpproxy.listener.names import session_names
from smtpproxy.listener.naming import ReverseName
from smtpproxy.listener.offer import Offer
from smtpproxy.listener.profile import Profile
from smtpproxy.listener.session import Session
from smtpproxy.listener.sessions import Sessions
from smtpproxy.listener.tally import SessionLimits
from smtpproxy.listener.visitors import ConnectionLimits

__all__ = [
    "ConnectionLimits",
    "Offer",
    "Profile",
    "ReverseName",
    "Session",
    "SessionLimits",
    "Sessions",
    "session_names",
]
