"""The content of a message between DATA's 354 and the final dot (RFC 5321 section 4.1.1.4).

**The end of data is CRLF . CRLF and nothing else.**  What other servers could take
for it, a lone dot between line ends of which one is a bare CR or LF, stays content and is
made harmless (SMTP smuggling, CVE-2023-51764 and its kin).  Content is never split into
lines: chunks are scanned with `find` and `count`, and pass through as they came.
"""

from __future__ import annotations

import re

_END = b"\r\n.\r\n"
_DOT = b"\r\n."  # the end, or a stuffed dot
_PARTIAL_END = re.compile(rb"(?:\r\n?|\n)(?:\.\r?)?\Z")  # at most four octets
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LONE_DOT = re.compile(rb"(?<=[\r\n])\.(?=[\r\n])")


class DataReader:
    """Turns what follows a 354 into content that is safe to send on, and finds its end.

    The content given out is still dot-stuffed, its lines end in CRLF, it holds no bare CR
    or LF and no `CRLF . CRLF`, and unless it is empty its last line is ended: what is missing
    for the upstream is the final `. CRLF` alone.

    `size` counts the octets of the message so far as RFC 1870 does: line ends in,
    stuffed dots out.  `bare` tells whether a bare CR or LF was met.  `ascii` tells
    whether every octet had its eighth bit clear, `header_ascii` the same of the header section.
    """

    def __init__(self) -> None:
        # The line end of the DATA command counts: ". CRLF" at once is the empty message.
        self._held = b"\r\n"
        self._begun = False
        self._header = HeaderSection()
        self.size = 0
        self.bare = False
        self.ascii = True

    @property
    def header_ascii(self) -> bool:
        return self._header.ascii

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The content that `data` completes, and what follows the end of data.

        The second is None as long as the end was not met.
        """
        data = self._held + data
        rest: bytes | None = None
        dot = data.find(_DOT)  # without any, which is usual, the rest need not be searched again
        end = data.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            content, held, rest = data[: end + 2], b"", data[end + len(_END) :]
        elif partial := _PARTIAL_END.search(data, max(0, len(data) - 4)):
            content, held = data[: partial.start()], partial[0]
        else:
            content, held = data, b""
        self._held = held
        if has_bare_line_end(content) or (held and content.endswith((b"\n.", b"\r."))):
            self.bare = True
            content = _mend(content, held[:1])
            dot = content.find(_DOT)
        self.ascii = self.ascii and content.isascii()
        self.size += len(content)
        if dot >= 0:
            self.size -= content.count(_DOT, dot)
        if not self._begun and content:
            self._begun = True
            self.size -= 2
            content = content[2:]  # that line end was the command's
        self._header.feed(content)
        return content, rest


class HeaderSection:
    """The header section of content that comes in parts: all up to the first empty line.

    Tells whether every octet of it had its eighth bit clear, as it has to where SMTPUTF8 is
    not in use (RFC 6532).  The body is not looked at.
    """

    def __init__(self) -> None:
        self.ascii = True
        self._before: bytes | None = b"\r\n"  # the last octets; None once the section has ended

    def feed(self, content: bytes) -> None:
        if self._before is None:
            return
        content = self._before + content
        end = content.find(b"\r\n\r\n")
        self._before = content[-3:] if end < 0 else None
        self.ascii = self.ascii and (content if end < 0 else content[:end]).isascii()


def has_bare_line_end(content: bytes) -> bool:
    """A CR without its LF, or an LF without its CR, is in `content`."""
    pairs = content.count(b"\r\n")
    return content.count(b"\r") != pairs or content.count(b"\n") != pairs


def _mend(content: bytes, following: bytes) -> bytes:
    """`content` with every line end made CRLF and lone dots stuffed.

    `content` never begins inside a line end, nor with a dot whose line end was given out
    before; `following` is the octet after it where that is a line end's, else empty.
    """
    stuffed = _LONE_DOT.sub(b"..", content + following)
    return _LINE_END.sub(b"\r\n", stuffed[: len(stuffed) - len(following)])
