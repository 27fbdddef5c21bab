"""XCLIENT: telling an upstream that trusts us who the client is.

Source: Postfix's XCLIENT_README; the encoding is xtext (RFC 3461 section 4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

MAX_COMMAND = 512  # octets, CRLF included: a longer command is to be split


def xtext(text: str) -> str:
    """`text` with all but printable ASCII, and `+` and `=`, as `+HH`: one word, whatever comes."""
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )


def commands(attributes: Mapping[str, str], announced: Collection[str]) -> list[bytes]:
    """The XCLIENT commands that carry those of `attributes` that the server announced.

    ADDR goes last, and PORT in the same command: the server judges by them whether a further
    XCLIENT is allowed.  A value too long for a command of its own is left out.
    """

    def word(name: str) -> bytes:
        if name not in attributes or name not in announced:
            return b""
        return f" {name}={xtext(attributes[name])}".encode()

    words = [word(name) for name in attributes if name not in ("PORT", "ADDR")]
    words.append(word("PORT") + word("ADDR"))
    lines: list[bytes] = []
    line = b""
    for each in words:
        if _size(each) > MAX_COMMAND:
            continue
        if line and _size(line + each) > MAX_COMMAND:
            lines.append(_VERB + line + b"\r\n")
            line = b""
        line += each
    if line:
        lines.append(_VERB + line + b"\r\n")
    return lines


_VERB = b"XCLIENT"


def _size(words: bytes) -> int:
    return len(_VERB) + len(words) + len(b"\r\n")
