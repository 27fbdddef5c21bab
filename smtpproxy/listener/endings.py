"""What is told of a transaction that is over."""

from __future__ import annotations

from collections.abc import Iterator

from smtpproxy.events import Tls, TransactionEnded
from smtpproxy.mail import Client
from smtpproxy.relay import Transaction, Verdict
from smtpproxy.smtp.xclient import Attributes
from smtpproxy.upstream import Connection
from smtpproxy.values import value


@value
class About:
    """The session that it was in; `forwarded` is what XFORWARD said of the message."""

    session: str
    client: Client
    tls: Tls | None
    forwarded: Attributes


def endings(
    transaction: Transaction, about: About, abandoned: Verdict, heard: bool
) -> Iterator[TransactionEnded]:
    """One event for each upstream that had a part in it, and for each verdict of its own.

    `abandoned` counts where nobody judged the message.  `heard`: the client was there to be told.
    """
    shares: dict[tuple[Connection, Verdict], list[str]] = {}
    for each in transaction.accepted:
        verdict = transaction.message.last_word(each, abandoned)
        shares.setdefault((each.delivery.connection, verdict), []).append(each.recipient)
    for number, ((connection, verdict), recipients) in enumerate(shares.items()):
        yield TransactionEnded(
            session=about.session,
            # Upstreams and replies that differ make several of one.
            transaction=transaction.name + (f"{number:02X}" if number else ""),
            client=about.client,
            client_tls=about.tls,
            sender=str(transaction.mail.sender),
            recipients=tuple(recipients),
            server=str(connection.server),
            address=connection.address,
            upstream_tls=connection.tls,
            reply=verdict.reply,
            by=verdict.by,
            size=transaction.message.size,
            phases=transaction.phases,
            error=verdict.error,
            in_doubt=verdict.in_doubt,
            duplicate=transaction.came_again(verdict, recipients, heard=heard),
            forwarded=about.forwarded,
        )
