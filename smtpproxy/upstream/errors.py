"""Why an upstream cannot be used, each with the reply that the client gets for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpproxy.events import Side
from smtpproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from smtpproxy.upstream.connection import Connection


class UpstreamError(Exception):
    """No mail can go there now: `reply` is for the client, the text for the log.

    `elsewhere`: another address of the same upstream may do better.
    """

    elsewhere = True
    by = Side.UPSTREAM

    def __init__(self, reason: str, reply: Reply) -> None:
        super().__init__(reason)
        self.reply = reply


class Unreachable(UpstreamError):
    """No address, no connection, or no answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, Reply.of(451, "4.4.1", "The server of this recipient is not reachable")
        )


class GreetingRefused(UpstreamError):
    """It greeted with 4xx or 5xx, or took neither EHLO nor HELO, before it knew of the client.

    That judges this proxy, not the mail: never a 5xx.
    """

    def __init__(self, theirs: Reply) -> None:
        super().__init__(
            f"it refused this proxy: {theirs}",
            Reply.of(451, "4.4.0", f"The server of this recipient is not ready: {theirs}"[:400]),
        )


class NotVerified(UpstreamError):
    """TLS with a verified certificate is asked for, and it is not to be had."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason,
            Reply.of(451, "4.7.5", "The server of this recipient cannot be verified"),
        )


class NotEncrypted(UpstreamError):
    """No mail goes there without TLS, and there is none."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, Reply.of(451, "4.7.4", "The server of this recipient does not offer TLS")
        )


class NotIntroduced(UpstreamError):
    """No mail goes there without XCLIENT, and it is not offered, or with no use to us."""

    def __init__(self) -> None:
        super().__init__(
            "it does not offer XCLIENT",
            Reply.of(451, "4.4.0", "The server of this recipient does not know this proxy"),
        )


class ClientRefused(UpstreamError):
    """It refused the client that XCLIENT named: its reply is the client's."""

    elsewhere = False

    def __init__(self, theirs: Reply, connection: Connection) -> None:
        super().__init__(f"it refused the client: {theirs}", theirs)
        self.connection = connection


class Ourselves(UpstreamError):
    """The mapping points at a listener of this very proxy."""

    by = Side.PROXY

    def __init__(self) -> None:
        super().__init__(
            "it is this proxy itself",
            Reply.of(554, "5.4.6", "Mail for this recipient loops back here"),
        )


class OutOfService(UpstreamError):
    """An administrator has said that it drains, or is in maintenance (RFC 3463: X.3.2)."""

    by = Side.PROXY

    def __init__(self) -> None:
        super().__init__(
            "it drains, or is in maintenance",
            Reply.of(451, "4.3.2", "The server of this recipient is in maintenance"),
        )


class Busy(UpstreamError):
    """It has as many connections as it may, and none became free in time (RFC 3463: X.4.5)."""

    by = Side.PROXY

    def __init__(self, most: int) -> None:
        super().__init__(
            f"all {most} connections are in use",
            Reply.of(451, "4.4.5", "The server of this recipient is busy"),
        )


class Broken(Exception):
    """The connection to the upstream is of no use any more; the text says why."""


class EarlyReply(Broken):
    """It answered inside the content, and the connection was cut for it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"it answered before the end of data: {reply}")
        self.reply = reply


class ChunkRefused(Broken):
    """It refused a BDAT chunk, and with it the message; the connection was cut for it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"it refused a part of the message: {reply}")
        self.reply = reply


class InDoubt(Broken):
    """The final dot was sent and no answer came: nobody knows whether the message was taken."""


BROKEN_REPLY = Reply.of(451, "4.4.2", "The connection to the server of this recipient was lost")
