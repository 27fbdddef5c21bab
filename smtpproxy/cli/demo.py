"""`smtpproxy demo`: six mails through a real proxy to two small servers, on loopback."""

from __future__ import annotations

import signal
import smtplib
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread

from smtpproxy.cli.demo_proxy import DidNotStart, Proxy
from smtpproxy.cli.demo_server import REFUSED_WORD, Judged, SmallServer
from smtpproxy.cli.wording import complain
from smtpproxy.values import value

FINE, NOT_FINE = 0, 1

SENDER = "sender@example.org"
CLIENT = "127.0.0.9"  # not the proxy's own address, so that one sees whom the servers saw
HELO = "client.example.org"

_PATIENCE = 5.0  # seconds for any answer

_CONFIG = """\
domain = "mx.example.net"
recipient_delimiter = "+"
control = "control"                # a socket beside this file

[[listeners]]
listen = "127.0.0.1:0"             # a free port

[[mappings]]
type = "csv"
file = "mapping.csv"
"""

_MAPPING = """\
# Two addresses, and a domain. The servers have no TLS, so nothing is there to verify.
pattern;server;tls_verify
alice@example.com;{one};false
bob@example.com;{two};false
example.net;{two};false
"""

_KEPT = """
The proxy listens on 127.0.0.1:{port}. From another terminal:

  swaks --server 127.0.0.1:{port} --to bob@example.com
  printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl --upload-file - \\
      --mail-from you@example.org --mail-rcpt alice+x@example.com smtp://127.0.0.1:{port}
  nc -C 127.0.0.1 {port}

A message with the word "{word}" in it is refused. The files are in {folder}:
the configuration, the mapping, and each mail that a server got. Ask about them:

  {command} check --config {folder}/smtpproxy.toml
  {command} lookup --config {folder}/smtpproxy.toml alice+news@example.com
  {command} probe --config {folder}/smtpproxy.toml

And the proxy as it runs:

  {command} status --config {folder}/smtpproxy.toml
  {command} tail --config {folder}/smtpproxy.toml
  {command} upstreams --config {folder}/smtpproxy.toml

An edit of mapping.csv is in force within 5 seconds; the log says so. An edit of the
configuration is, after:

  {command} reload --config {folder}/smtpproxy.toml

Ctrl-C ends all this and takes the folder away.
"""


@value
class Mail:
    """A mail to send, and what is to come of it: at which server ("" for none), which code."""

    recipient: str
    why: str
    server: str
    code: int
    body: bytes = b"Hello.\r\n.\r\n..and a line with dots.\r\n"

    @property
    def content(self) -> bytes:
        return b"From: <%b>\r\nSubject: a demo\r\n\r\n%b" % (SENDER.encode(), self.body)


MAILS = (
    Mail("alice@example.com", "an address row", "one", 250),
    Mail("bob@example.com", "an address row", "two", 250),
    Mail("alice+news@example.com", "alice's row, without the suffix", "one", 250),
    Mail("carol@example.net", "a domain row", "two", 250),
    Mail("nobody@example.com", "no row: the proxy refuses", "", 550),
    Mail("dave@example.net", "refused after DATA", "two", 554, b"A %b.\r\n" % REFUSED_WORD),
)


def run(options: Namespace) -> int:
    """0 where everything came out as it should, 1 where it did not."""
    try:
        with _ended_by_signals(), ExitStack() as stack:
            return _play(stack, options.keep)
    except DidNotStart as error:
        complain(str(error))
        return NOT_FINE


def _play(stack: ExitStack, keep: bool) -> int:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smtpproxy-demo-")))
    servers = [stack.enter_context(_serving(name, folder)) for name in ("one", "two")]
    config = folder / "smtpproxy.toml"
    config.write_text(_CONFIG)
    one, two = servers
    (folder / "mapping.csv").write_text(_MAPPING.format(one=one.address, two=two.address))
    proxy = stack.enter_context(Proxy(config))
    print(f"The proxy listens on 127.0.0.1:{proxy.port}, the servers on:")
    for server in servers:
        print(f"  {server.name}  {server.address}")
    print(f"\n{_MAPPING.format(one=one.address, two=two.address)}")

    faults: list[str] = []
    rows = [("recipient", "upstream", "reply", "")]
    for mail in MAILS:
        reply = _send(mail, proxy.port)
        server_name, judged = _judged(mail, servers)
        rows.append((mail.recipient, server_name or "-", reply, f"({mail.why})"))
        faults += _faults(mail, reply, server_name, judged)
    _print_table(rows)

    if keep:
        print(_kept(proxy.port, folder), flush=True)
    else:
        proxy.stop()
    print("\nThe log of the proxy:", flush=True)
    with suppress(KeyboardInterrupt):
        for line in proxy.log():
            print(line, flush=True)
        if keep:
            faults.append("the proxy ended by itself")
    for fault in faults:
        complain(fault)
    if not faults and not keep:
        print("\nEverything came out as it should.")
    return NOT_FINE if faults else FINE


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Whatever asks the program to end does so as Ctrl-C does: nothing is left behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup(1)
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _serving(name: str, folder: Path) -> Iterator[SmallServer]:
    with SmallServer(name, folder) as server:
        Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def _send(mail: Mail, port: int) -> str:
    """Send one mail over a socket; the reply that decided about it."""
    try:
        with smtplib.SMTP(
            "127.0.0.1", port, HELO, timeout=_PATIENCE, source_address=(CLIENT, 0)
        ) as client:
            client.ehlo()
            client.mail(SENDER)
            code, text = client.rcpt(mail.recipient)
            if code == 250:
                code, text = client.data(mail.content)
            return f"{code} {text.decode(errors='backslashreplace')}"
    except (OSError, smtplib.SMTPException) as error:
        return f"none: {error}"


def _judged(mail: Mail, servers: Sequence[SmallServer]) -> tuple[str, Judged | None]:
    """The server that got the mail, and what it made of it."""
    for server in servers:
        for judged in server.judged:
            if mail.recipient in judged.recipients:
                return server.name, judged
    return "", None


def _faults(mail: Mail, reply: str, server: str, judged: Judged | None) -> Iterator[str]:
    """What did not come out as it should."""
    if not reply.startswith(f"{mail.code} "):
        yield f"{mail.recipient}: the reply should be a {mail.code}, and is {reply}"
    if server != mail.server:
        yield f"{mail.recipient}: should be at {mail.server or 'no server'}, and is at {server}"
    if judged is None:
        return
    if reply != str(judged.reply):
        yield f"{mail.recipient}: {server} said {judged.reply}, and the client was told {reply}"
    if judged.content != mail.content:
        yield f"{mail.recipient}: {server} got another message than was sent"
    if judged.client != CLIENT:
        yield f"{mail.recipient}: {server} saw the client {judged.client} in place of {CLIENT}"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _kept(port: int, folder: Path) -> str:
    command = Path(sys.executable).with_name("smtpproxy")
    return _KEPT.format(
        port=port,
        folder=folder,
        word=REFUSED_WORD.decode(),
        command=command if command.exists() else f"{sys.executable} -m smtpproxy",
    )
