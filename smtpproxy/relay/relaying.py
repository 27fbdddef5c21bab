"""What transactions are given, and where their time goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from smtpproxy.deadlines import Deadlines
from smtpproxy.mail import Client
from smtpproxy.relay.delivery import DeliveryTimes
from smtpproxy.relay.doubt import Doubts
from smtpproxy.relay.guard import Guard
from smtpproxy.relay.shadow import Shadows
from smtpproxy.routing import Router, Server, Upstream
from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value


@value
class Relaying:
    """What every transaction of a listener is given: who is asked, and the limits.

    `recipient_time` is in seconds, all that the look-up of a recipient may take, and with it all
    that the first one of an upstream may; `max_message_bytes` and `max_header_bytes` in
    octets.  `reject_bare_newline`: refuse what would otherwise be made CRLF.  `prefer_chunks`: see
    `Delivery`.  Without `guard`, upstreams are believed whatever they refuse.
    """

    router: Router
    shadows: Shadows
    deadlines: Deadlines
    times: DeliveryTimes
    recipient_time: float
    max_message_bytes: int
    max_recipients: int
    reject_bare_newline: bool
    prefer_chunks: bool = False
    max_header_bytes: int = 2**20
    guard: Guard | None = None
    doubts: Doubts | None = None


class SessionView(Protocol):
    """The session, as its transactions know it."""

    @property
    def client(self) -> Client:
        """Who the client is, as far as that is known by now."""

    def received(self, transaction: str) -> bytes:
        """The `Received:` line for a transaction's message."""

    def upstream_failed(self, server: Server, address: str, reason: str) -> None:
        """An upstream's address was no use."""

    def shadow_answered(
        self, recipient: str, shadow: Upstream, reply: Reply, shadows: Reply
    ) -> None:
        """A shadow has said something of a recipient, beside the reply to the client."""


class Phases:
    """How long a transaction was about what: `seconds` by phase."""

    __slots__ = ("now", "seconds")

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self.now = now

    def spent(self, phase: str, began: float) -> None:
        """Count the time since `began`."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + self.now() - began
