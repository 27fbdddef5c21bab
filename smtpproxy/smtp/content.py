"""The content of a message between DATA's 354 and the final dot (RFC 5321 section 4.1.1.4).

**The end of data is CRLF . CRLF and nothing else.**  What other servers could take
for it, a lone dot between line ends of which one is a bare CR or LF, or beside a NUL, stays content
and is made harmless (SMTP smuggling, CVE-2023-51764 and its kin).  Content is never split into
lines: chunks are searched as they are, and pass through as they came.
"""

from __future__ import annotations

import re
from io import IncrementalNewlineDecoder

_END = b"\r\n.\r\n"
_DOT = b"\r\n."  # the end, or a stuffed dot
_PARTIAL_END = re.compile(rb"(?:\r\n?|\n)(?:\.\r?)?\Z")  # at most four octets
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LONE_DOT = re.compile(rb"(?<=[\r\n])\.(?=[\r\n])")
_DOT_BEFORE_NUL = re.compile(rb"(?<=\n)\.(?=\0)")
_DOT_BEHIND_NUL = re.compile(rb"(?<=\n)(\0+)\.")


class DataReader:
    """Turns what follows a 354 into content that is safe to send on, and finds its end.

    The content given out is still dot-stuffed, its lines end in CRLF, it holds no bare CR
    or LF and no `CRLF . CRLF`, and unless it is empty its last line is ended: what is missing
    for the upstream is the final `. CRLF` alone.

    `size` counts the octets of the message so far as RFC 1870 does: line ends in,
    stuffed dots out.  `bare` tells whether a bare CR or LF was met.  `ascii` tells
    whether every octet had its eighth bit clear, `header_ascii` the same of the header section,
    which has `header_size` octets.
    """

    def __init__(self) -> None:
        # The line end of the DATA command counts: ". CRLF" at once is the empty message.
        self._held = b"\r\n"
        self._begun = False
        self._hidden = HiddenDots()
        self._header = HeaderSection()
        self.size = 0
        self.bare = False
        self.ascii = True

    @property
    def header_ascii(self) -> bool:
        return self._header.ascii

    @property
    def header_size(self) -> int:
        return self._header.size

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The content that `data` completes, and what follows the end of data.

        The second is None as long as the end was not met.
        """
        data = self._held + data
        rest: bytes | None = None
        dot = find_line_dot(data)  # without any, which is usual, there is no end either
        end = -1
        if dot >= 0 and data.rfind(_END, dot) >= 0:  # rare, and backwards is faster
            end = data.find(_END, dot)
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
            dot = find_line_dot(content)
        shown = self._hidden.feed(content)
        if shown is not content:
            content, dot = shown, find_line_dot(shown)
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


class HiddenDots:
    """Makes harmless the dots that NUL hides, in content that is dot-stuffed and comes in parts.

    A server that stops reading a line at NUL takes `.` NUL for a lone dot, as OpenSMTPD does: that
    dot goes, as any server takes away the first of a line (RFC 5321 section 4.5.2).  One that
    passes over NUL takes NUL `.` for it: that dot gets another, which stays in the message.

    Line ends are CRLF, and no part but the last ends in a dot that begins a line.
    """

    def __init__(self) -> None:
        self._before = b"\n"  # the line under way has only begun; or b"\n\0", b"" where it has more

    def feed(self, content: bytes) -> bytes:
        """What is safe; `content` itself where nothing has to be done."""
        before = self._before
        if b"\0" in content or (before == b"\n\0" and content):
            shown = _DOT_BEFORE_NUL.sub(b"", before + content)
            content = _DOT_BEHIND_NUL.sub(rb"\1..", shown)[len(before) :]
            visible = content.rstrip(b"\0")
            if visible != content and (visible.endswith(b"\n") or (before and not visible)):
                self._before = b"\n\0"
                return content
        if content:
            self._before = b"\n" if content.endswith(b"\n") else b""
        return content


class HeaderSection:
    """The header section of content that comes in parts: all up to the first empty line.

    Tells whether every octet of it had its eighth bit clear, as it has to where SMTPUTF8 is
    not in use (RFC 6532), and its size in octets, as it is sent.  The body is not looked at.
    """

    def __init__(self) -> None:
        self.ascii = True
        self.size = 0
        self._before: bytes | None = b"\r\n"  # the last octets; None once the section has ended

    def feed(self, content: bytes) -> None:
        if self._before is None:
            return
        before = len(self._before)
        content = self._before + content
        end = content.find(b"\r\n\r\n")
        self.size += (len(content) if end < 0 else end + 2) - before
        self._before = content[-3:] if end < 0 else None
        self.ascii = self.ascii and (content if end < 0 else content[:end]).isascii()


def find_line_dot(data: bytes) -> int:
    """Where the first `CRLF .` of `data` is, -1 where there is none."""
    dot = data.find(b".")  # base64 has none, and one octet is found 70 times as fast as three
    return data.find(_DOT, max(0, dot - 2)) if dot >= 0 else -1


def has_bare_line_end(content: bytes) -> bool:
    """A CR without its LF, or an LF without its CR, is in `content`.

    The decoder notes which line ends it met, in a quarter of the time that counting them takes.
    """
    if _has_lines_of_one_length(content):
        return False
    ends = IncrementalNewlineDecoder(None, translate=False)
    ends.decode(content.decode("latin-1"), final=True)
    return ends.newlines not in (None, "\r\n")


def _has_lines_of_one_length(content: bytes) -> bool:
    """All lines of `content` are as long as its second one, and end in CRLF.

    So is base64, and with it nearly all of a large message; this takes a quarter of the decoder's
    time.  Where each line has to end is looked at, and then that nothing else is a CR or LF.
    """
    first = content.find(b"\n")
    step = content.find(b"\n", first + 1) - first
    if first < 1 or step < 2:
        return False
    ends = len(range(first, len(content), step))
    if content[first::step] != b"\n" * ends or content[first - 1 :: step] != b"\r" * ends:
        return False
    others = bytearray(content)
    others[first::step] = others[first - 1 :: step] = bytes(ends)
    return b"\n" not in others and b"\r" not in others


def _mend(content: bytes, following: bytes) -> bytes:
    """`content` with every line end made CRLF and lone dots stuffed.

    `content` never begins inside a line end, nor with a dot whose line end was given out
    before; `following` is the octet after it where that is a line end's, else empty.
    """
    stuffed = _LONE_DOT.sub(b"..", content + following)
    return _LINE_END.sub(b"\r\n", stuffed[: len(stuffed) - len(following)])
