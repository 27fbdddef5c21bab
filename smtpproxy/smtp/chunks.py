"""The content of a message in chunks (BDAT, RFC 3030), and its way to and from DATA's form.

Message form is the message as its author sees it: no dots are stuffed.  It is what the
chunks of BDAT carry; behind DATA's 354 each dot that begins a line is doubled (RFC 5321
section 4.5.2).  As in `content`, nothing is split into lines.
"""

from __future__ import annotations

from typing import ClassVar

from smtpproxy.smtp.content import HeaderSection, HiddenDots, has_bare_line_end


class ChunkReader:
    """Turns the chunks of one message into its content, in message form.

    `begin` says that a chunk follows, `feed` takes its octets.  Unless the message is
    `binary` (BODY=BINARYMIME), each bare CR and each bare LF becomes CRLF; a CR at the end
    of a chunk is held back until it is known what follows.  Nothing ends a message but its
    last chunk.

    `size` counts the octets of the content given out so far (RFC 1870).  `bare` tells
    whether a bare CR or LF was met, which is no fault in a binary message.  `ascii` tells
    whether every octet had its eighth bit clear, `header_ascii` the same of the header section,
    which has `header_size` octets.
    """

    def __init__(self, binary: bool) -> None:
        self._binary = binary
        self._left = 0  # octets of the chunk under way
        self._last = False
        self._held = b""  # a CR whose LF may follow
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

    def begin(self, size: int, last: bool) -> None:
        """A chunk of `size` octets follows."""
        self._left = size
        self._last = last

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The content that `data` completes, and what follows the chunk.

        The second is None as long as the chunk goes on.  An empty chunk ends at once, with
        no data at all.
        """
        part, rest = data[: self._left], data[self._left :]
        self._left -= len(part)
        ended = self._left == 0
        content = part if self._binary else self._normalised(part, ended and self._last)
        self.size += len(content)
        self.ascii = self.ascii and content.isascii()
        self._header.feed(content)
        return content, rest if ended else None

    def _normalised(self, part: bytes, final: bool) -> bytes:
        part, self._held = self._held + part, b""
        if part.endswith(b"\r") and not final:
            part, self._held = part[:-1], b"\r"
        if not has_bare_line_end(part):
            return part
        self.bare = True
        lines_end_in_lf = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return lines_end_in_lf.replace(b"\n", b"\r\n")


class ChunkSkipper:
    """Counts off the octets of a BDAT chunk that is refused, so that they never run as commands."""

    def __init__(self, size: int) -> None:
        self._left = size

    def feed(self, data: bytes) -> bytes | None:
        """What follows the chunk; None as long as it goes on."""
        if len(data) < self._left:
            self._left -= len(data)
            return None
        rest = data[self._left :]
        self._left = 0
        return rest


class _LineStarts:
    """Changes how lines begin, in content that comes in parts, cut anywhere.

    The content holds no bare CR or LF.
    """

    old: ClassVar[bytes]
    new: ClassVar[bytes]

    def __init__(self) -> None:
        self._before = b"\r\n"  # the last two octets; the first line begins a line, too

    def feed(self, data: bytes) -> bytes:
        content = self._before + data
        self._before = content[-2:]
        # What is changed is the third octet of `old`: never one of those given out before.
        return content.replace(self.old, self.new)[2:]


class Stuffer(_LineStarts):
    """Makes of message form what goes between DATA's 354 and the final `. CRLF`."""

    old, new = b"\r\n.", b"\r\n.."

    def __init__(self) -> None:
        super().__init__()
        self._hidden = HiddenDots()

    def feed(self, data: bytes) -> bytes:
        return self._hidden.feed(super().feed(data))

    def end(self) -> bytes:
        """What the last line lacks of its line end."""
        return b"" if self._before == b"\r\n" else b"\r\n"


class Unstuffer(_LineStarts):
    """Makes message form of content as a `DataReader` gives it."""

    old, new = b"\r\n.", b"\r\n"
