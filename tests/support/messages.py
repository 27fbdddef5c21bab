"""Messages to send. Their lines end in CRLF, and no dots are stuffed."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

_HEADER = b"From: <sender@example.net>\r\nSubject: a test\r\n"

OURS = {
    "plain": _HEADER + b"\r\nHello\r\n",
    "only header": _HEADER,
    "empty body": _HEADER + b"\r\n",
    "empty lines": _HEADER + b"\r\n\r\n\r\n\r\n",
    "only body": b"\r\nno header at all\r\n",
    "leading dots": _HEADER + b"\r\n.\r\n..\r\n...\r\n.a\r\n \r\n.\r\n\r\n.\r\n",
    "8-bit": _HEADER + "\r\nGrüße, 日本語, Ω\r\n".encode() + b"\xe4\xf6\xfc\xa0\xff\r\n",
    "binary lines": _HEADER
    + b"\r\n"
    + bytes(octet for octet in range(256) if octet not in b"\r\n") * 20
    + b"\r\n",
    "commands": _HEADER + b"\r\nQUIT\r\nRSET\r\nMAIL FROM:<a@example.net>\r\nDATA\r\nSTARTTLS\r\n",
    "a line of 1 MB": _HEADER + b"\r\n" + b"x" * 1_000_000 + b"\r\n.\r\nend\r\n",
    "blocks of dots": _HEADER + b"\r\n" + b".\r\n" * 30_000,
    "parts": _HEADER
    + b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    + "zwölf\r\n".encode()
    + b"--b\r\nContent-Type: message/rfc822\r\n\r\n"
    + _HEADER
    + b"\r\ninside\r\n--b--\r\nafter the end\r\n",
}


def cpython() -> list[Path]:
    """The messages of Python's own email tests; none where Debian's package of them is missing."""
    folder = Path(sysconfig.get_path("stdlib"), "test", "test_email", "data")
    return sorted(folder.glob("msg_*.txt"))


def as_content(text: bytes) -> bytes:
    """A text file as the content of a message: every kind of line end becomes CRLF."""
    lines = re.split(rb"\r\n|\r|\n", text)
    return b"\r\n".join(lines if lines[-1] == b"" else [*lines, b""])
