"""What of a client's ESMTP parameters an upstream is told, and what that asks of the mail.

A parameter is carried where the upstream offers its extension.  Elsewhere it is dropped where
the mail does not need it, and the recipient refused where it does.
"""

from __future__ import annotations

from smtpproxy.smtp.commands import Mail, Rcpt
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value

TOO_BIG = Reply.of(552, "5.3.4", "The message is too big")
NOT_8BIT = Reply.of(554, "5.6.3", "The recipient's server does not take 8-bit content")
NOT_BINARY = Reply.of(554, "5.6.3", "The recipient's server does not take binary content")
NOT_UTF8 = Reply.of(550, "5.6.7", "The recipient's server does not take SMTPUTF8")
NO_REQUIRETLS = Reply.of(550, "5.7.30", "The recipient's server cannot keep REQUIRETLS")
NOT_CAPABLE = Reply.of(554, "5.3.3", "The recipient's server does not offer this extension")

# The extension that each parameter belongs to (see `smtp.parameters`).
_EXTENSIONS = {
    "SIZE": "SIZE",
    "BODY": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET": "DSN",
    "ENVID": "DSN",
    "NOTIFY": "DSN",
    "ORCPT": "DSN",
    "REQUIRETLS": "REQUIRETLS",
    "MT-PRIORITY": "MT-PRIORITY",
    "BY": "DELIVERBY",
    "HOLDFOR": "FUTURERELEASE",
    "HOLDUNTIL": "FUTURERELEASE",
    "PRDR": "PRDR",
}


class NotCarried(Exception):
    """The mail needs what the upstream does not have; `reply` is the client's."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@value
class Carried:
    """MAIL as an upstream gets it.

    `ascii_only`: 8-bit content may not pass, as it would not be what it was declared (RFC 6152).
    `ascii_header`: nor may a header that is not ASCII (RFC 6531 section 3.4).
    """

    mail: Mail
    ascii_only: bool
    ascii_header: bool

    @property
    def binary(self) -> bool:
        return self.mail.parameters.get("BODY", "").upper() == "BINARYMIME"


def carried_mail(mail: Mail, offered: Extensions, verified: bool, each: bool) -> Carried:
    """`mail` for an upstream; raises `NotCarried`.

    `verified`: the connection is encrypted, and the certificate is that of the upstream.  `each`:
    we can tell the client of each recipient by itself, and want to hear so (PRDR).
    """
    given = mail.parameters
    if not given and not each and mail.sender.ascii:  # as most mail
        return Carried(mail, ascii_only=False, ascii_header=False)
    if offered.size_limit and int(given.get("SIZE", 0)) > offered.size_limit:
        raise NotCarried(TOO_BIG)
    binary = given.get("BODY", "").upper() == "BINARYMIME"
    if binary and not ("BINARYMIME" in offered and "CHUNKING" in offered):
        raise NotCarried(NOT_BINARY)
    if "SMTPUTF8" not in offered and not mail.sender.ascii:
        raise NotCarried(NOT_UTF8)
    if "REQUIRETLS" in given and not (verified and "REQUIRETLS" in offered):
        raise NotCarried(NO_REQUIRETLS)
    if "FUTURERELEASE" not in offered and ("HOLDFOR" in given or "HOLDUNTIL" in given):
        raise NotCarried(NOT_CAPABLE)
    if "DELIVERBY" not in offered and ";R" in given.get("BY", "").upper():  # RFC 2852 section 4.1.1
        raise NotCarried(NOT_CAPABLE)
    parameters = {
        keyword: value
        for keyword, value in given.items()
        if (_EXTENSIONS[keyword] in offered or (keyword == "BODY" and binary)) and keyword != "PRDR"
    }
    if each and "PRDR" in offered:
        parameters["PRDR"] = ""
    return Carried(
        Mail(mail.sender, parameters),
        ascii_only="BODY" in given and "BODY" not in parameters,
        ascii_header="SMTPUTF8" in given and "SMTPUTF8" not in parameters,
    )


def carried_rcpt(rcpt: Rcpt, offered: Extensions) -> Rcpt:
    """`rcpt` for an upstream; raises `NotCarried`."""
    if not rcpt.recipient.ascii and "SMTPUTF8" not in offered:
        raise NotCarried(NOT_UTF8)
    if not rcpt.parameters or "DSN" in offered:
        return rcpt
    return Rcpt(rcpt.recipient)
