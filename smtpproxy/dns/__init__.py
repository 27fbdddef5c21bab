"""DNS: the name of a client, and the addresses and mail hosts of an upstream.

They ask in different ways on purpose.  `ReverseNames` asks DNS itself, since the answer is
sent on as the identity of a client; so does `MailHosts`, since the system has no look-up of
MX records.  `Addresses` asks the system as every other program does, so that /etc/hosts,
search domains and a container's DNS count.

All remember their answers, let equal questions under way share one look-up, and are done
within their `timeout`, whatever DNS does.
"""

from __future__ import annotations

from smtpproxy.dns.addresses import Addresses, system_addresses
from smtpproxy.dns.mail_hosts import MailHosts
from smtpproxy.dns.names import NotFound, TryLater, is_address
from smtpproxy.dns.reverse import NoReverseNames, ReverseNames

__all__ = [
    "Addresses",
    "MailHosts",
    "NoReverseNames",
    "NotFound",
    "ReverseNames",
    "TryLater",
    "is_address",
    "system_addresses",
]
