"""What there is to see of a session while it goes on."""

from __future__ import annotations

from smtpproxy.events import Tls
from smtpproxy.mail import Client
from smtpproxy.values import value


@value
class View:
    """One session: `stage` in words, `age` in seconds, `transactions` begun so far.

    `servers` are the upstreams that are connected to.
    """

    session: str
    client: Client
    tls: Tls | None
    stage: str
    age: float
    transactions: int
    servers: tuple[str, ...]
