"""A private Postfix: an upstream that delivers to maildirs, or a client that sends to a relay.

It is the Debian package's programs with a configuration, a queue and a log of their own, on a
port of its own. It needs root, since Postfix does.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.processes import DidNotHappen, greeting, tail, wait_until

DELIVERY_UID = 65534

# What the upstream refuses, and the reply that it then gives.
REFUSED = "refused@example.com"
REFUSAL = f"550 5.7.1 <{REFUSED}>: Recipient address rejected: Mailbox closed for good"
BUSY = "busy@example.com"
BUSY_REPLY = f"450 4.2.1 <{BUSY}>: Recipient address rejected: Mailbox busy, try again"
REFUSED_HEADER = b"X-Test: refuse"
HEADER_REPLY = "550 5.7.1 No such header here"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a Postfix differs from another.

    Mailboxes are full addresses, their domains are those it takes mail for. `certificate` is for
    STARTTLS, which is not announced without. `xclient` trusts every client on loopback to say
    who it speaks for. `relay` is where all other mail goes, `host:port`; without one it is
    thrown away. `main` is more of main.cf.
    """

    mailboxes: tuple[str, ...] = ("alice@example.com", "bob@example.com")
    hostname: str = "mx1.test"
    certificate: Certificate | None = None
    xclient: bool = True
    relay: str = ""
    main: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"
    port: int = 0  # a free one


PLAIN = Settings()


# What Postfix puts before a message that it delivers to a maildir.
_TRACE = re.compile(
    rb"Return-Path: .*\nX-Original-To: .*\nDelivered-To: .*\n(Received: .*\n(?:[ \t].*\n)*)"
)


def received(delivered: bytes) -> bytes:
    """The `Received:` field that Postfix wrote, with its line breaks and indents made one space."""
    found = _TRACE.match(delivered)
    assert found, delivered[:500]
    return b" ".join(found[1].split())


def content(delivered: bytes) -> bytes:
    """The message as Postfix was given it: what follows its own fields, with CRLF line ends."""
    found = _TRACE.match(delivered)
    assert found, delivered[:500]
    return delivered[found.end() :].replace(b"\n", b"\r\n")


class Postfix:
    """A running Postfix in `folder`, which must be one of `processes.short_folder`."""

    def __init__(self, folder: Path, settings: Settings = PLAIN) -> None:
        self.settings = settings
        self.port = settings.port or free_port()
        self.server = f"{settings.address}:{self.port}"
        self.behind_proxy = f"{settings.address}:{free_port()}"  # takes PROXY headers alone
        self.log = folder / "log" / "maillog"
        self.spool = folder / "spool"
        self._etc = folder / "etc"
        self._mail = folder / "mail"
        self._write(folder)
        self.start()

    def start(self) -> None:
        """Start it, again after `stop` or `kill`."""
        self._postfix("start")
        try:
            wait_until(self._greets, 20, "Postfix's greeting")
        except DidNotHappen as failure:
            self.stop()
            raise DidNotHappen(f"{failure}; the end of its log:\n{tail(self.log)}") from None

    def __enter__(self) -> Postfix:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._postfix("stop")

    def kill(self) -> None:
        """End all of its processes at once, as a power cut would; its queue stays."""
        os.killpg(self.group, signal.SIGKILL)

    @property
    def group(self) -> int:
        """The process group of all of its processes."""
        return int((self.spool / "pid/master.pid").read_text())

    # What it delivered, and what it said

    def delivered(self, mailbox: str) -> list[bytes]:
        """The messages that lie in a mailbox, in no order; lines end in LF, as Postfix writes them.

        The first lines are Postfix's own: Return-Path, X-Original-To, Delivered-To, Received.
        """
        return [path.read_bytes() for path in self._maildir(mailbox).glob("new/*")]

    def take(self, mailbox: str, count: int = 1, seconds: float = 20) -> list[bytes]:
        """Wait until `count` messages lie in a mailbox, and take them out of it."""
        try:
            wait_until(
                lambda: len(self.delivered(mailbox)) >= count,
                seconds,
                f"{count} message(s) for {mailbox}",
            )
        except DidNotHappen as failure:
            raise DidNotHappen(f"{failure}; the end of the log:\n{tail(self.log)}") from None
        messages = self.delivered(mailbox)
        self.empty(mailbox)
        return messages

    def empty(self, mailbox: str) -> None:
        for path in self._maildir(mailbox).glob("new/*"):
            path.unlink()

    def logged(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Wait for a line of the log that holds this pattern."""
        expression = re.compile(pattern)

        def look() -> re.Match[str] | None:
            return expression.search(self.log.read_text(errors="replace"))

        return wait_until(look, seconds, f"{pattern!r} in {self.log}")

    # As a client

    def submit(self, sender: str, recipients: tuple[str, ...], message: bytes) -> None:
        """Put a message into the queue, as sendmail(1) does; smtp(8) then sends it to the relay."""
        subprocess.run(
            ["/usr/sbin/sendmail", "-C", self._etc, "-i", "-f", sender, "--", *recipients],
            input=message,
            check=True,
            timeout=20,
        )

    # How it is set up

    def _greets(self) -> bool:
        return greeting(self.port, self.settings.address).startswith(b"220")

    def _postfix(self, command: str) -> None:
        done = subprocess.run(
            ["postfix", "-c", self._etc, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        if done.returncode and "is not running" not in done.stdout:
            raise DidNotHappen(f"Postfix does not {command}: {done.stdout}\n{tail(self.log)}")

    def _maildir(self, mailbox: str) -> Path:
        return self._mail / mailbox

    def _write(self, folder: Path) -> None:
        for name in ("etc", "spool", "data", "mail", "log"):
            (folder / name).mkdir()
        owner = pwd.getpwnam("postfix")
        os.chown(folder / "data", owner.pw_uid, owner.pw_gid)
        os.chown(self._mail, DELIVERY_UID, DELIVERY_UID)
        settings = {**self._main(folder), **self._tls(), **self.settings.main}
        files = {
            "main.cf": "".join(f"{name} = {value}\n" for name, value in settings.items()),
            "master.cf": MASTER.format(server=self.server, behind_proxy=self.behind_proxy),
            "mailboxes": "".join(f"{name} {name}/\n" for name in self.settings.mailboxes),
            "recipients": f"/^{re.escape(REFUSED)}$/ 550 5.7.1 Mailbox closed for good\n"
            f"/^{re.escape(BUSY)}$/ 450 4.2.1 Mailbox busy, try again\n",
            "headers": f"/^{REFUSED_HEADER.decode()}$/ REJECT No such header here\n",
        }
        for name, text in files.items():
            (self._etc / name).write_text(text)

    def _main(self, folder: Path) -> dict[str, str]:
        etc = self._etc
        domains = {mailbox.rpartition("@")[2] for mailbox in self.settings.mailboxes}
        host, _, port = self.settings.relay.rpartition(":")
        relay = f"smtp:[{host}]:{port}" if host else "discard:"
        trusted = "127.0.0.0/8" if self.settings.xclient else ""
        return {
            "compatibility_level": "3.6",
            "queue_directory": f"{folder}/spool",
            "data_directory": f"{folder}/data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "multi_instance_name": "postfix-test",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(folder),
            "myhostname": self.settings.hostname,
            "inet_interfaces": self.settings.address,
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "mydestination": "",
            "alias_maps": "",
            "virtual_mailbox_domains": " ".join(sorted(domains)),
            "virtual_mailbox_base": str(self._mail),
            "virtual_mailbox_maps": f"texthash:{etc}/mailboxes",
            "virtual_uid_maps": f"static:{DELIVERY_UID}",
            "virtual_gid_maps": f"static:{DELIVERY_UID}",
            "recipient_delimiter": "+",
            "default_transport": relay,
            "relay_transport": relay,
            "smtpd_authorized_xclient_hosts": trusted,
            "smtpd_recipient_restrictions": f"check_recipient_access regexp:{etc}/recipients",
            "header_checks": f"regexp:{etc}/headers",
            # Messages of any size, and as they came: nothing added, rewritten or dropped.
            "message_size_limit": "0",
            "mailbox_size_limit": "0",
            "virtual_mailbox_limit": "0",
            "local_header_rewrite_clients": "",
            "message_drop_headers": "",
            # A test that goes wrong must not wait for the next try.
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            "queue_run_delay": "1s",
            "in_flow_delay": "0",
            "smtpd_client_connection_count_limit": "0",
        }

    def _tls(self) -> dict[str, str]:
        if self.settings.certificate is None:
            return {"smtpd_tls_security_level": "none"}
        return {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": str(self.settings.certificate.chain),
            "smtpd_tls_key_file": str(self.settings.certificate.key),
            "smtpd_tls_loglevel": "1",
            "smtpd_tls_received_header": "yes",
        }


MASTER = """\
{server} inet n - n - - smtpd
{behind_proxy} inet n - n - - smtpd
  -o smtpd_upstream_proxy_protocol=haproxy
pickup    unix n - n 60   1 pickup
cleanup   unix n - n -    0 cleanup
qmgr      unix n - n 300  1 qmgr
rewrite   unix - - n -    - trivial-rewrite
bounce    unix - - n -    0 bounce
defer     unix - - n -    0 bounce
trace     unix - - n -    0 bounce
verify    unix - - n -    1 verify
flush     unix n - n 1000 0 flush
tlsmgr    unix - - n 1000 1 tlsmgr
proxymap  unix - - n -    - proxymap
smtp      unix - - n -    - smtp
relay     unix - - n -    - smtp
error     unix - - n -    - error
retry     unix - - n -    - error
discard   unix - - n -    - discard
local     unix - n n -    - local
virtual   unix - n n -    - virtual
anvil     unix - - n -    1 anvil
scache    unix - - n -    1 scache
postlog   unix-dgram n - n - 1 postlogd
"""
