"""The messages: each follows from the seed of the run and its number, so none need be kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from random import Random

_PRINTABLE = bytes(range(0x20, 0x7F))
_EIGHT_BIT = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")

# What an octet of a random text becomes; one in so many ends a line.
_TABLES = {
    "text": bytes(10 if n % 64 == 0 else _PRINTABLE[n % 95] for n in range(256)),
    "8-bit": bytes(10 if n % 64 == 0 else _EIGHT_BIT[n % 253] for n in range(256)),
    "a long line": bytes(_PRINTABLE[n % 95] for n in range(256)),
    "dots": bytes(10 if n % 3 == 0 else 46 for n in range(256)),
}
BARE = "bare line ends"
KINDS = (*_TABLES, BARE)

# What other servers could take for the end of a message.  Each begins with a letter, so that no
# two of them make up a real end.
_TRICKS = (
    b"a\n.\r\n",
    b"b\r.\r\n",
    b"c\n.\n",
    b"d\r.\r",
    b"e\r\n.\n",
    b"f\r\n.\rg\r\n",
    b"h\n",
    b"i\r",
    b"MAIL FROM:<injected@client.example.net>\r\n",
    b"RCPT TO:<box0+injected@example.com>\r\nDATA\r\n",
    b"plain text\r\n",
)
_LINE_END = re.compile(rb"\r\n|\r|\n")
_MARK = re.compile(rb"^X-Soak: (\d+)\r\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Message:
    """`chunked`: what is sent by BDAT.  `stuffed`: by DATA, without the final dot.  `content`: what
    has to arrive, in message form.
    """

    number: int
    chunked: bytes
    stuffed: bytes
    content: bytes

    @property
    def digest(self) -> bytes:
        return digest(self.content)


def digest(content: bytes) -> bytes:
    return sha256(content).digest()


def message(seed: int, number: int, kind: str, size: int) -> Message:
    """Number `number`, with a body of about `size` octets."""
    rng = Random(f"{seed}/{number}")  # noqa: S311 (no secret)
    header = (
        f"X-Soak: {number}\r\nFrom: <sender@client.example.net>\r\nTo: <box@example.com>\r\n"
        f"Message-ID: <{number}.{seed}@client.example.net>\r\nSubject: {kind}, {size} octets\r\n"
        "Date: Fri, 20 Nov 2026 08:00:00 +0000\r\n\r\n"
    ).encode()
    if kind == BARE:
        raw = header + b"".join(rng.choices(_TRICKS, k=size // 8)) + b"end\r\n"
        # To this client the dots are no lines' beginnings: it stuffs none.
        return Message(number, raw, raw, _LINE_END.sub(b"\r\n", raw))
    lines = rng.randbytes(size).translate(_TABLES[kind])
    raw = header + lines.replace(b"\n", b"\r\n") + b"\r\n"
    return Message(number, raw, raw.replace(b"\r\n.", b"\r\n.."), raw)


def marked(delivered: bytes) -> tuple[int | None, bytes, bytes]:
    """Number, what upstreams put in front, and the content of a message that lies in a mailbox.

    Its lines end in CRLF.  The number is None where there is no mark.
    """
    found = _MARK.search(delivered)
    if found is None:
        return None, b"", delivered
    return int(found[1]), delivered[: found.start()], delivered[found.start() :]
