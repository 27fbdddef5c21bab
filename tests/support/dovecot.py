"""A private Dovecot: an LMTP server that delivers to maildirs.

It is the Debian package's programs with a configuration, mailboxes and a log of their own, on a
port of its own and on a Unix socket. It needs root, since Dovecot does. Versions 2.3 and 2.4
write their configurations differently.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.support.needs import missing, need
from tests.support.ports import free_port
from tests.support.processes import DidNotHappen, Process, greeting, wait_until

DELIVERY_UID = 65534

MAILBOXES = ("alice@example.com", "bob@example.com")

# What it refuses: at RCPT, and only once it has the message.
UNKNOWN = "unknown@example.com"
UNKNOWN_REPLY = f"550 5.1.1 <{UNKNOWN}> User doesn't exist: {UNKNOWN}"
FULL = "full@example.com"
FULL_REPLY = f"552 5.2.2 <{FULL}> Quota exceeded (mailbox for user is full)"

# What it puts before a message that it delivers.
_TRACE = re.compile(rb"Return-Path: .*\n(?:Delivered-To: .*\n)?(Received: .*\n(?:[ \t].*\n)*)")


def need_dovecot() -> None:
    """Skip or fail the test where there is no Dovecot with its LMTP server, or no root."""
    need("dovecot", root=True)
    if not Path("/usr/lib/dovecot/lmtp").exists():
        missing("needs Dovecot's LMTP server: apt-get install dovecot-lmtpd")


def received(delivered: bytes) -> bytes:
    """The `Received:` field that Dovecot wrote, with its line breaks and indents made one space."""
    found = _TRACE.match(delivered)
    assert found, delivered[:500]
    return b" ".join(found[1].split())


def content(delivered: bytes) -> bytes:
    """The message as Dovecot was given it: what follows its own fields, with CRLF line ends."""
    found = _TRACE.match(delivered)
    assert found, delivered[:500]
    return delivered[found.end() :].replace(b"\n", b"\r\n")


class Dovecot(Process):
    """A running Dovecot in `folder`, which must be one of `processes.short_folder`.

    It takes XCLIENT from loopback, and none through its socket: there it knows no address that
    it could trust.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.socket = folder / "lmtp"
        self.server = f"lmtp:127.0.0.1:{self.port}"
        self.server_on_socket = f"lmtp:unix:{self.socket}"
        self._mail = folder / "mail"
        self._write(folder)
        super().__init__(["dovecot", "-F", "-c", folder / "dovecot.conf"], folder / "dovecot.log")
        try:
            self.wait_for(lambda: greeting(self.port).startswith(b"220"), "Dovecot's greeting")
        except DidNotHappen:
            self.stop()
            raise

    def delivered(self, mailbox: str) -> list[bytes]:
        """The messages that lie in a mailbox, in no order; lines end in LF."""
        return [path.read_bytes() for path in (self._mail / mailbox).glob("new/*")]

    def take(self, mailbox: str, count: int = 1, seconds: float = 20) -> list[bytes]:
        """Wait until `count` messages lie in a mailbox, and take them out of it."""
        what = f"{count} message(s) for {mailbox}"
        wait_until(lambda: len(self.delivered(mailbox)) >= count, seconds, what)
        messages = self.delivered(mailbox)
        self.empty(mailbox)
        return messages

    def empty(self, mailbox: str) -> None:
        for path in (self._mail / mailbox).glob("new/*"):
            path.unlink()

    def _write(self, folder: Path) -> None:
        for name in ("base", "state", "mail"):
            (folder / name).mkdir()
        os.chown(self._mail, DELIVERY_UID, DELIVERY_UID)
        version = subprocess.run(["dovecot", "--version"], capture_output=True, text=True).stdout
        own, limit = (_V23, "quota_rule=*:bytes=10")
        if not version.startswith("2.3."):
            own, limit = (_V24, "quota_storage_size=10B")
        users = [f"{mailbox}:::::::\n" for mailbox in MAILBOXES]
        (folder / "users").write_text("".join([*users, f"{FULL}:::::::userdb_{limit}\n"]))
        values = {"folder": str(folder), "port": str(self.port), "uid": str(DELIVERY_UID)}
        (folder / "dovecot.conf").write_text((own + _COMMON) % values)


_COMMON = """
base_dir = %(folder)s/base
state_dir = %(folder)s/state
log_path = /dev/stderr
protocols = lmtp
listen = 127.0.0.1
ssl = no
hostname = dovecot.test
login_trusted_networks = 127.0.0.0/8
first_valid_uid = 1
mail_uid = %(uid)s
mail_gid = %(uid)s
mail_plugins = quota
service lmtp {
  inet_listener lmtp {
    port = %(port)s
  }
  unix_listener %(folder)s/lmtp {
    mode = 0666
  }
}
"""

_V23 = """
mail_location = maildir:%(folder)s/mail/%%u
passdb {
  driver = passwd-file
  args = %(folder)s/users
}
userdb {
  driver = passwd-file
  args = %(folder)s/users
}
plugin {
  quota = count:User quota
  quota_vsizes = yes
}
"""

_V24 = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
mail_driver = maildir
mail_path = %(folder)s/mail/%%{user}
passdb passwd-file {
  passwd_file_path = %(folder)s/users
}
userdb passwd-file {
  passwd_file_path = %(folder)s/users
}
quota user {
  driver = count
}
quota_storage_grace = 0
"""
