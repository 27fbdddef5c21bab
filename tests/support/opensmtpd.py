"""A private OpenSMTPD: an upstream that delivers to maildirs, or a client that sends to a relay.

It is the Debian package's programs in a root of their own (see `private_root`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from tests.support.private_root import SHELL, PrivateRoot, RootedServer

# Compiled in.
USER, USER_ID = "opensmtpd", 65512
QUEUE_USER, QUEUE_USER_ID = "opensmtpq", 65513

CONTROL = "/usr/sbin/smtpctl"

DELIVERY_USER, DELIVERY_USER_ID = "mail", 65514


@dataclass(frozen=True, slots=True)
class Settings:
    """How an OpenSMTPD differs from another.

    Mailboxes are full addresses, their domains are those it takes mail for; others in these are
    refused. `relay` is where all other mail goes, `127.0.0.1:port`; without one it is refused.
    """

    mailboxes: tuple[str, ...] = ("erin@example.org", "frank@example.org")
    hostname: str = "mx3.test"
    relay: str = ""


PLAIN = Settings()

# What OpenSMTPD puts before a message that it delivers to a maildir.
_TRACE = re.compile(rb"Return-Path: .*\nDelivered-To: .*\n(Received: .*\n(?:[ \t].*\n)*)")


def content(delivered: bytes) -> bytes:
    """The message as it was given: what follows OpenSMTPD's own fields, with CRLF line ends."""
    found = _TRACE.match(delivered)
    assert found, delivered[:500]
    return delivered[found.end() :].replace(b"\n", b"\r\n")


class OpenSmtpd(RootedServer):
    """A running OpenSMTPD in `folder`, which must be one of `processes.short_folder`."""

    def __init__(self, folder: Path, settings: Settings = PLAIN) -> None:
        self.settings = settings
        users = {USER: USER_ID, QUEUE_USER: QUEUE_USER_ID, DELIVERY_USER: DELIVERY_USER_ID}
        root = PrivateRoot(folder / "root", "opensmtpd", users, [SHELL])
        root.make("/var/lib/opensmtpd/empty", mode=0o711)
        root.make("/var/spool/smtpd", mode=0o711)
        mail = root.make("/mail", DELIVERY_USER_ID)
        # Only a program of this group may speak to the running server.
        os.chown(root.file(CONTROL), 0, QUEUE_USER_ID)
        root.file(CONTROL).chmod(0o2755)
        port = free_port()
        root.write(
            "/etc/mailboxes", "".join(f"{name}: {DELIVERY_USER}\n" for name in settings.mailboxes)
        )
        domains = {name.rpartition("@")[2] for name in settings.mailboxes}
        root.write("/etc/ssl/certs/ca-certificates.crt", "")  # must be there
        root.write("/etc/mailname", f"{settings.hostname}\n")
        ours = "".join(f'match from any for domain "{name}" action "deliver"\n' for name in domains)
        configuration = CONFIGURATION.format(hostname=settings.hostname, port=port)
        relay = RELAY.format(settings=settings) if settings.relay else ""
        root.write("/etc/smtpd.conf", configuration + ours + relay)
        super().__init__(root, port, mail, None, "/usr/sbin/smtpd", "-d")

    def flush(self) -> None:
        """Try at once all that waits in the queue; of itself it does that after 400 s."""
        self.root.run(CONTROL, "schedule", "all")


CONFIGURATION = """\
listen on 127.0.0.1 port {port} hostname {hostname}
smtp sub-addr-delim "+"
table mailboxes file:/etc/mailboxes
action "deliver" maildir "/mail/%{{rcpt:strip}}" virtual <mailboxes>
"""
RELAY = """\
action "relay" relay host "smtp://{settings.relay}" helo {settings.hostname}
match from any for any action "relay"
"""
