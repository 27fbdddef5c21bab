"""Clients: their sessions, from greeting to close."""

from __future__ import annotations

from smtpproxy.listener.names import session_names
from smtpproxy.listener.naming import ReverseName
from smtpproxy.listener.offer import Offer
from smtpproxy.listener.profile import Profile
from smtpproxy.listener.session import Session
from smtpproxy.listener.sessions import ConnectionLimits, Sessions

__all__ = [
    "ConnectionLimits",
    "Offer",
    "Profile",
    "ReverseName",
    "Session",
    "Sessions",
    "session_names",
]
