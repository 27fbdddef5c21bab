"""Giving a message to a mail server that is to send it on."""

from __future__ import annotations

import smtplib
from collections.abc import Sequence


def submit(
    port: int,
    sender: str,
    recipients: Sequence[str],
    message: bytes,
    mail: Sequence[str] = (),
    rcpt: Sequence[str] = (),
) -> None:
    """Give it to the server on this port of loopback, which must take it for all recipients.

    `mail` and `rcpt` are ESMTP parameters. With SMTPUTF8 among them addresses may be any text.
    """
    with smtplib.SMTP("127.0.0.1", port, "submitter.example.net", timeout=30) as server:
        refused = server.sendmail(sender, recipients, message, mail, rcpt)
    assert not refused, refused
