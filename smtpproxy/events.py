"""What happens in a session, as frozen values in the past tense.

A session tells its `Observer`; the log, and later metrics and the status page,
are observers.  Nothing here holds a password or message content.  Texts that came
from a peer are as they came: whoever writes them somewhere escapes them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum

from smtpproxy.mail import Client, Peer
from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value


class Side(Enum):
    """Who refused, or who broke off."""

    NONE = ""
    CLIENT = "client"
    PROXY = "proxy"
    UPSTREAM = "upstream"


@value
class Tls:
    """One TLS connection: `version` ("TLSv1.3"), cipher, and whether the certificate verified."""

    version: str
    cipher: str
    verified: bool = False
    server_name: str = ""

    def __str__(self) -> str:
        return f"{self.version} {self.cipher}" + (" verified" if self.verified else "")


@value
class Connected:
    """A client connected and got our greeting."""

    session: str
    client: Client


@value
class NotIntroduced:
    """Who has to say by a PROXY header whom it connects for did not, and got no session.

    `silent`: it said nothing at all and left, as health checks do.
    """

    session: str
    peer: Peer
    reason: str
    silent: bool = False


@value
class Introduced:
    """The client said by XCLIENT that it is another: `client`."""

    session: str
    client: Client


@value
class TlsStarted:
    """The handshake with the client was completed."""

    session: str
    client: Client
    tls: Tls


@value
class Refused:
    """A client's command was refused: `stage` is its verb, or CONNECT.

    `error` says why, in one line, where the reply does not tell.  `server` and `address` are
    the upstream that refused a recipient, as in `TransactionEnded`; all servers of its row, and no
    address, where none of them could be used.
    """

    session: str
    client: Client
    stage: str
    reply: Reply
    by: Side
    sender: str | None = None
    recipient: str | None = None
    error: str = ""
    server: str = ""
    address: str = ""


@value
class UpstreamFailed:
    """An upstream, or one of its addresses, did not do what the client's mail needed.

    `server` is the upstream as the mapping names it, `address` the address tried ("" before
    one is known).
    """

    session: str
    server: str
    address: str
    reason: str


@value
class ShadowAnswered:
    """A shadow was asked of a recipient: the reply that the client got, and the shadow's."""

    session: str
    client: Client
    recipient: str
    shadow: str
    reply: Reply
    shadow_reply: Reply

    @property
    def differs(self) -> bool:
        """One takes the recipient and the other does not, or not for now."""
        return self.reply.code // 100 != self.shadow_reply.code // 100


@value
class TransactionEnded:
    """A transaction in which at least one recipient was accepted came to its end.

    `reply` is the reply to the message that the client got, or would have got.
    `phases` are seconds: "lookup", "connect", "envelope", "content", "final".
    `error` is "" for success, else what went wrong, in one line; `by` says whose it was.
    `in_doubt`: the final dot was sent, and its answer never came.  `duplicate`: most likely the
    same message was delivered before, and the client did not hear of it.  `forwarded` is what
    the client said by XFORWARD, by attribute, of where it has the message from.
    """

    session: str
    transaction: str
    client: Client
    client_tls: Tls | None
    sender: str
    recipients: tuple[str, ...]
    server: str
    address: str
    upstream_tls: Tls | None
    reply: Reply
    by: Side
    size: int
    phases: Mapping[str, float]
    error: str = ""
    in_doubt: bool = False
    duplicate: bool = False
    forwarded: Mapping[str, str] = field(default_factory=dict)


@value
class Disconnected:
    """The client's connection ended.

    `commands` counts by verb: (taken, all).  `after` is the last verb when the
    client left without QUIT, else "".  `reason` says why in that case.
    """

    session: str
    client: Client
    seconds: float
    commands: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    after: str = ""
    reason: str = ""


Event = (
    Connected
    | NotIntroduced
    | Introduced
    | TlsStarted
    | Refused
    | UpstreamFailed
    | ShadowAnswered
    | TransactionEnded
    | Disconnected
)
Observer = Callable[[Event], None]
