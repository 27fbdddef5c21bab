"""A private Exim: an upstream that delivers to maildirs, or a client that sends to a relay.

It is the Debian package's program in a root of its own (see `private_root`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from tests.support.private_root import PrivateRoot, RootedServer

USER = "Debian-exim"  # compiled in
USER_ID = 65511

# Recipients that are refused, and what is then said: to RCPT, and after the final dot with PRDR.
REFUSED = "refused@example.net"
REFUSAL = "550 5.7.1 Mailbox closed for good"
PICKY = "picky@example.net"
PICKY_REFUSAL = "550 5.7.1 Not with this content"
FULL = "full@example.net"
FULL_REPLY = "450 4.2.2 No room for this content"


@dataclass(frozen=True, slots=True)
class Settings:
    """How an Exim differs from another.

    Mailboxes are full addresses, their domains are those it takes mail for. `relay` is where all
    other mail goes, `127.0.0.1:port`; without one it is refused. `prdr` and `chunking`: whether
    these are announced to clients, and used towards the relay.
    """

    mailboxes: tuple[str, ...] = ("carol@example.net", "dave@example.net", PICKY, FULL)
    hostname: str = "mx2.test"
    relay: str = ""
    prdr: bool = True
    chunking: bool = True


PLAIN = Settings()


class Exim(RootedServer):
    """A running Exim in `folder`, which must be one of `processes.short_folder`."""

    def __init__(self, folder: Path, settings: Settings = PLAIN) -> None:
        self.settings = settings
        root = PrivateRoot(folder / "root", "exim", {USER: USER_ID})
        root.make("/var/spool/exim4", USER_ID)
        root.make("/run/exim4", USER_ID)
        mail = root.make("/mail", USER_ID)
        log = root.make("/var/log/exim4", USER_ID) / "mainlog"
        port = free_port()
        root.write("/etc/mailboxes", "".join(f"{name}: {name}\n" for name in settings.mailboxes))
        root.write("/etc/exim4/exim4.conf", _configuration(settings, port))
        # As a daemon that stays in the foreground, and looks into its queue every second.
        super().__init__(root, port, mail, log, "/usr/sbin/exim4", "-bdf", "-q1s")


def _configuration(settings: Settings, port: int) -> str:
    host, _, relay_port = settings.relay.rpartition(":")
    return CONFIGURATION.format(
        hostname=settings.hostname,
        port=port,
        domains=" : ".join(sorted({name.rpartition("@")[2] for name in settings.mailboxes})),
        refused=REFUSED,
        refusal=REFUSAL,
        picky=PICKY,
        picky_refusal=PICKY_REFUSAL,
        full=FULL,
        full_reply=FULL_REPLY,
        user=USER,
        prdr="true" if settings.prdr else "false",
        hosts_prdr="*" if settings.prdr else "",
        hosts_chunking="*" if settings.chunking else "",
        relay_router=RELAY.format(host=host) if host else "",
        relay_port=relay_port or 25,
    )


RELAY = """\
relay:
  driver = manualroute
  domains = ! +ours
  route_list = * {host}
  self = send
  transport = relay
"""

# A name of a file may not come from outside: the mailbox is what the table has, not the address.
CONFIGURATION = """\
primary_hostname = {hostname}
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
disable_ipv6 = true
keep_environment =
notifier_socket =
tls_advertise_hosts =
smtputf8_advertise_hosts = *
chunking_advertise_hosts = {hosts_chunking}
dsn_advertise_hosts = *
prdr_enable = {prdr}
log_selector = +smtp_confirmation +received_recipients +outgoing_port +pipelining
host_lookup =
rfc1413_query_timeout = 0s
queue_run_max = 5
remote_max_parallel = 1
message_size_limit = 0
domainlist ours = {domains}
acl_smtp_rcpt = at_rcpt
acl_smtp_data_prdr = at_end_for_each
acl_smtp_vrfy = accept

begin acl
at_rcpt:
  deny   domains = +ours
         condition = ${{if eqi{{$local_part@$domain}}{{{refused}}}}}
         message = {refusal}
  require message = 550 5.1.1 No such mailbox
         verify = recipient
  accept
at_end_for_each:
  deny   condition = ${{if eqi{{$local_part@$domain}}{{{picky}}}}}
         message = {picky_refusal}
  defer  condition = ${{if eqi{{$local_part@$domain}}{{{full}}}}}
         message = {full_reply}
  accept

begin routers
{relay_router}
ours:
  driver = accept
  domains = +ours
  local_part_suffix = +*
  local_part_suffix_optional
  address_data = ${{lookup{{$local_part@$domain}}lsearch{{/etc/mailboxes}}{{$value}}fail}}
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = /mail/$address_data
  maildir_format
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add
  user = {user}
relay:
  driver = smtp
  port = {relay_port}
  allow_localhost
  hosts_try_prdr = {hosts_prdr}
  hosts_try_chunking = {hosts_chunking}
  hosts_try_fastopen =

begin retry
* * F,1h,1s

begin rewrite
begin authenticators
"""
