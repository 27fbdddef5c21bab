"""Messages that can be told from each other, and whose damage is seen.

Each has a number and the checksum of its body in a header field:

    X-Mark: NUMBER OCTETS CRC-OF-BODY CRC-OF-THESE-THREE

All is as it goes over the wire: with CRLF, and with the dots that RFC 5321 section 4.5.2 adds.
A proxy may put fields of its own before or behind it; what follows the header it must not touch.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from zlib import crc32

END = b".\r\n"
_END = b"\r\n" + END
_NEAR = 4096  # octets before what comes with the end of a body
_MARK = re.compile(rb"^X-Mark: ((\d+) (\d+) (\d+)) (\d+)\r?$", re.MULTILINE)
_LINE = b"0123456789 the quick brown fox jumps over the lazy dog, and back again\r\n"
_TEXT = 100_000  # octets of text, before what is like an attachment
_BASE64 = b64encode(bytes(range(54))) + b"\r\n"


@cache
def body(size: int) -> bytes:
    """Lines of so many octets, the last a whole one.

    First text, of which every tenth line begins with a dot, then base64, as in large messages.
    """
    text = min(size, _TEXT)
    lines = [b"." + b"." + _LINE[2:] if n % 10 == 0 else _LINE for n in range(text // 72 + 1)]
    lines += [_BASE64] * ((size - text) // len(_BASE64) + 1)
    return b"".join(lines)[: max(size - 2, 0)] + b"\r\n"


@cache
def _sum(size: int) -> int:
    return crc32(body(size))


def header(number: int, size: int) -> bytes:
    """The header of a message with `body(size)`, and the empty line."""
    mark = b"%d %d %d" % (number, len(body(size)), _sum(size))
    return (
        b"From: <sender@example.net>\r\nTo: <user@example.com>\r\nSubject: bench\r\n"
        b"Date: Fri, 20 Nov 2026 08:00:00 +0000\r\nMessage-ID: <%d@client.example.net>\r\n"
        b"X-Mark: %s %d\r\n\r\n" % (number, mark, crc32(mark))
    )


class Reading:
    """One message as it comes.  When it has ended, `number` and `fault` say what it was."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.fault = ""
        self._header = bytearray()
        self._in_body = False
        self._left = 0  # octets of the body that have not come
        self._behind = 0  # octets that came after it
        self._sum = 0
        self._promised = 0
        self._last = b"\r\n"  # what came before the octets that come, as far as an end may reach

    def feed(self, data: memoryview) -> memoryview | None:
        """What came behind the end, None while the message has not ended."""
        if not self._in_body:
            before = len(self._header)
            self._header += data
            end = self._header.find(b"\r\n\r\n", max(before - 3, 0))
            if end < 0:
                return None
            self._in_body = True
            self._read(bytes(self._header[: end + 2]))
            data = memoryview(bytes(self._header[end + 4 :]))
        part = data[: self._left]
        self._sum = crc32(part, self._sum)
        self._left -= len(part)
        behind = bytes(data[len(part) :])
        # No body holds an end: one that comes too early is looked for near the last octet.
        text = self._last + bytes(part[-_NEAR:]) + behind
        end = text.find(_END)
        self._last = text[-len(_END) :]
        self._behind += len(behind)
        if end < 0:
            return None
        rest = text[end + len(_END) :]
        if self._left or self._behind - len(rest) != len(END):
            self._found(f"message {self.number} does not end where it should")
        elif self._sum != self._promised:
            self._found(f"message {self.number} is damaged")
        return memoryview(rest)

    def _read(self, header: bytes) -> None:
        found = _MARK.findall(header)
        if len(found) != 1:
            self._found(f"{len(found)} marks in a header")
        elif crc32(found[0][0]) != int(found[0][4]):
            self._found("a mark that is damaged")
        else:
            self.number, self._left, self._promised = map(int, found[0][1:4])

    def _found(self, fault: str) -> None:
        """The first fault counts."""
        self.fault = self.fault or fault
