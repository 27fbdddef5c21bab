"""Mail clients that other people wrote, each sending one message to a server on loopback."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.needs import need


@dataclass(frozen=True, slots=True)
class Mail:
    """One message to send. Its content has CRLF line ends and no dots stuffed."""

    content: bytes
    recipients: tuple[str, ...] = ("alice@example.com",)
    sender: str = "sender@example.net"


@dataclass(frozen=True, slots=True)
class Way:
    """How to send: to which port, with STARTTLS or without, as which host, from which address.

    The certificate is not verified. `folder` is for files that a client needs.
    """

    port: int
    folder: Path
    tls: bool = False
    helo: str = "client.example.net"
    source: str = "127.0.0.2"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the client holds the message for sent, and all that it printed meanwhile."""

    sent: bool
    dialogue: str


Client = Callable[[Mail, Way], Outcome]


def python(mail: Mail, way: Way) -> Outcome:
    """smtplib of Python."""
    said: list[str] = []
    try:
        with smtplib.SMTP(
            "127.0.0.1", way.port, way.helo, timeout=60, source_address=(way.source, 0)
        ) as server:
            if way.tls:
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                server.starttls(context=context)
            server.ehlo_or_helo_if_needed()
            replies = [server.mail(mail.sender)]
            replies += [server.rcpt(recipient) for recipient in mail.recipients]
            if all(code == 250 for code, _ in replies):
                replies.append(server.data(mail.content))
            said = [f"{code} {text.decode()}" for code, text in replies]
    except smtplib.SMTPException as failure:
        return Outcome(False, "\n".join([*said, repr(failure)]))
    return Outcome(replies[-1][0] == 250, "\n".join(said))


def swaks(mail: Mail, way: Way) -> Outcome:
    need("swaks")
    lines = mail.content.split(b"\r\n")
    stuffed = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)
    return _run(
        "swaks",
        *("--server", "127.0.0.1", "--port", str(way.port), "--local-interface", way.source),
        *("--helo", way.helo, "--from", mail.sender, "--to", ",".join(mail.recipients)),
        *("--no-data-fixup", "--data", f"@{_file(way, stuffed + b'.')}"),
        *(["--tls"] if way.tls else []),
    )


def curl(mail: Mail, way: Way) -> Outcome:
    need("curl")
    recipients = [word for name in mail.recipients for word in ("--mail-rcpt", name)]
    return _run(
        *("curl", "--silent", "--show-error", "--verbose", "--interface", way.source),
        *("--mail-from", mail.sender, *recipients),
        *("--upload-file", str(_file(way, mail.content)), "--max-time", "60"),
        *(["--ssl-reqd", "--insecure"] if way.tls else []),
        f"smtp://127.0.0.1:{way.port}/{way.helo}",
    )


def smtp_source(mail: Mail, way: Way) -> Outcome:
    """Postfix's generator of load: HELO, one recipient, no TLS, no source address.

    It ends every message with an empty line of its own.
    """
    need("smtp-source")
    (recipient,) = mail.recipients
    assert mail.content.endswith(b"\r\n\r\n")
    text = mail.content.removesuffix(b"\r\n").replace(b"\r\n", b"\n")
    return _run(
        *("smtp-source", "-v", "-M", way.helo, "-f", mail.sender, "-t", recipient),
        *("-F", str(_file(way, text)), f"127.0.0.1:{way.port}"),
    )


def flood(port: int, recipient: str, messages: int, sessions: int, octets: int) -> Outcome:
    """smtp-source with messages of its own making, so many of this size, in parallel sessions."""
    need("smtp-source")
    return _run(
        *("smtp-source", "-m", str(messages), "-s", str(sessions), "-l", str(octets)),
        *("-f", "sender@example.net", "-t", recipient, f"127.0.0.1:{port}"),
    )


def _file(way: Way, content: bytes) -> Path:
    path = way.folder / "content"
    path.write_bytes(content)
    return path


def _run(*arguments: str) -> Outcome:
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=90,
    )
    return Outcome(done.returncode == 0, done.stdout.decode(errors="replace"))
