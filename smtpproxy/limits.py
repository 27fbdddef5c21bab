"""What the settings allow sessions, clients and connections, as these have it."""

from __future__ import annotations

from smtpproxy import descriptors
from smtpproxy.config import Limits, Upstreams
from smtpproxy.listener import ConnectionLimits, SessionLimits
from smtpproxy.networks import Networks
from smtpproxy.upstream import PoolLimits


def connection_limits(limits: Limits) -> ConnectionLimits:
    """What all clients, and each, may have."""
    return ConnectionLimits(
        total=descriptors.sessions(limits.max_connections),
        per_address=limits.max_connections_per_address,
        waiting=limits.max_waiting,
        connections_per_minute=limits.max_connections_per_minute,
        messages_per_minute=limits.max_messages_per_minute,
        recipients_per_minute=limits.max_recipients_per_minute,
        ipv4_prefix=limits.ipv4_prefix,
        ipv6_prefix=limits.ipv6_prefix,
        exempt=Networks(limits.exempt),
    )


def session_limits(limits: Limits) -> SessionLimits:
    """What one session may have."""
    return SessionLimits(
        errors=limits.max_errors,
        junk=limits.max_junk,
        commands=limits.max_commands,
        messages=limits.max_session_messages,
        recipients=limits.max_session_recipients,
        command_bytes=limits.max_command_bytes,
        data_rate=limits.min_data_rate,
    )


def pool_limits(upstreams: Upstreams) -> PoolLimits:
    """How many connections to upstreams there are, and how long they are kept."""
    return PoolLimits(
        idle=upstreams.keep_idle,
        age=upstreams.keep_age,
        uses=upstreams.keep_uses,
        each=upstreams.keep_connections,
        ready=upstreams.ready_connections,
        most=upstreams.max_connections,
    )
