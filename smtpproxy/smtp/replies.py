"""Replies: the server's three-digit answers, and the reader that finds them in bytes.

Source: RFC 5321 section 4.2 (form, multiline), RFC 2034 and RFC 3463
(enhanced status codes).
"""

from __future__ import annotations

import re
from dataclasses import field
from functools import lru_cache

from smtpproxy.smtp.errors import ProtocolError
from smtpproxy.values import value

MAX_REPLY_LINE = 4096  # octets with the line end; RFC 5321 4.5.3.1.5 says 512, servers exceed it
MAX_REPLY = 64 * 1024  # octets of all lines of one reply
MAX_REPLY_LINES = 256

_ENHANCED = re.compile(rb"([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@value
class Reply:
    """One reply: its code and the text of each line, without code and line end.

    The text is bytes, since an upstream's reply reaches the client as it came; it holds
    no line end (see `clean`).
    """

    code: int
    lines: tuple[bytes, ...]
    # What is asked of a reply all the time is known once it is made; most are made once for all.
    positive: bool = field(init=False, repr=False, compare=False)
    """2xx or 3xx: the command was taken."""
    success: bool = field(init=False, repr=False, compare=False)
    """2xx: the command was carried out."""
    _wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        code, last = self.code, self.lines[-1]
        front = [b"%d-%b\r\n" % (code, line) for line in self.lines[:-1]]
        object.__setattr__(self, "positive", code < 400)
        object.__setattr__(self, "success", 200 <= code < 300)
        object.__setattr__(self, "_wire", b"%b%d %b\r\n" % (b"".join(front), code, last))

    @staticmethod
    def of(code: int, enhanced: str, *texts: str) -> Reply:
        """A reply of our own; `enhanced` ("5.7.1", or "" for none) begins each line."""
        return _own(code, enhanced, texts)

    @property
    def permanent(self) -> bool:
        """5xx: to be tried again only after a change."""
        return self.code >= 500

    @property
    def enhanced(self) -> str:
        """The enhanced status code of the first line, "" where there is none (RFC 2034)."""
        match = _ENHANCED.match(self.lines[0])
        return match[1].decode() if match else ""

    def encode(self) -> bytes:
        """The reply on the wire, every line ended by CRLF."""
        return self._wire

    def __str__(self) -> str:
        """Code and text on one line, for people: not for the wire."""
        text = b" ".join(self.lines).decode("utf-8", "backslashreplace")
        return f"{self.code} {text}".rstrip()


@lru_cache(512)  # most are the same for every client
def _own(code: int, enhanced: str, texts: tuple[str, ...]) -> Reply:
    prefix = f"{enhanced} " if enhanced else ""
    return Reply(code, tuple(clean(f"{prefix}{text}".encode()) for text in texts))


def clean(text: bytes) -> bytes:
    """`text` with each control character but TAB made a question mark."""
    return _CONTROL.sub(b"?", text)


class ReplyReader:
    """Finds replies in the bytes a server sends.

    Lines end in LF, with or without a CR before it.  Where the lines of a reply
    disagree about the code, the last one counts (RFC 5321 4.2.1).
    """

    __slots__ = ("_lines", "_octets", "_unread")

    def __init__(self) -> None:
        self._unread = b""
        self._lines: list[bytes] = []
        self._octets = 0  # in the lines of the reply so far

    def feed(self, data: bytes) -> None:
        self._unread += data

    @property
    def empty(self) -> bool:
        """Nothing was received that is not part of a reply already given."""
        return not self._unread and not self._lines

    def clear(self) -> bool:
        """Throw away what is unread; tell whether there was anything (RFC 3207 section 4.2)."""
        unread = not self.empty
        self._unread = b""
        self._lines.clear()
        self._octets = 0
        return unread

    def next_reply(self) -> Reply | None:
        """The next reply, or None when more bytes are needed.

        Raises `ProtocolError` where the bytes are no reply, or one without an end.
        """
        while self._unread:
            # A line is short, and most come whole: what was searched before is searched again.
            line, end, rest = self._unread.partition(b"\n")
            if not end:
                if len(line) >= MAX_REPLY_LINE:
                    raise ProtocolError("a reply line that is too long")
                return None
            self._unread = rest
            if len(line) >= MAX_REPLY_LINE:
                raise _no_reply(line)
            reply, more = _read(line)
            if not more and not self._lines:
                return reply
            self._octets += len(line) + 1
            self._lines += reply.lines
            if self._octets > MAX_REPLY or len(self._lines) > MAX_REPLY_LINES:
                raise ProtocolError("a reply that is too long")
            if not more:
                reply = _of_lines(reply.code, tuple(self._lines))
                self._lines.clear()
                self._octets = 0
                return reply
        return None


@lru_cache(64)  # as what a server announces
def _of_lines(code: int, lines: tuple[bytes, ...]) -> Reply:
    return Reply(code, lines)


@lru_cache(512)  # servers say the same again and again
def _read(line: bytes) -> tuple[Reply, bool]:
    """The reply of this one line, and whether more lines belong to it."""
    match = _LINE.fullmatch(line.removesuffix(b"\r"))
    if match is None:
        raise _no_reply(line)
    return Reply(int(match[1]), (clean(match[3] or b""),)), match[2] == b"-"


def _no_reply(line: bytes) -> ProtocolError:
    text = line.removesuffix(b"\r")
    return ProtocolError(f"not an SMTP reply: {text[:80]!r}")
