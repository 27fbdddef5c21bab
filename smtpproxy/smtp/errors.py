"""What can be wrong on the wire."""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer sent what is not SMTP, or not SMTP at this place; the connection is of no use."""


class LocalProtocolError(Exception):
    """We were about to send what the state of the connection forbids: a fault of ours."""
