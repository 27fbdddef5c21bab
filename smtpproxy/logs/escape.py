r"""Texts from peers, made safe to stand in a log line.

Nothing a peer sends may end a line, begin one, or look like a field that we wrote
ourselves.  What could is written as `\xNN` (an ASCII character, or a byte that is not
UTF-8), `\uNNNN` or `\UNNNNNNNN`.  A backslash is `\x5c`, so every escape can be undone.
"""

from __future__ import annotations

import re
from json.encoder import encode_basestring_ascii

from smtpproxy.smtp.replies import Reply

LONGEST = 1000  # characters of one text; a reply may have a million, and go into many lines

# Names of our own fields; pflogsumm and others look for them anywhere in a line.
_FIELD = re.compile(
    "(bytes|by|client|delays?|dsn|error|from|helo|nrcpt|proto|relay|reply|session|size|status|to)="
)
_NOT_BARE = re.compile(r"[^A-Za-z0-9._:-]")
# What most addresses are: ASCII without blanks, angle brackets, backslash.
_SIMPLE = re.compile(rf"[!-;=?-\[\]-~]{{0,{LONGEST}}}")
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # ASCII without blanks, quote, equals sign, backslash
_SURROGATE = re.compile("[\ud800-\udfff]")


def shown(text: str, longest: int = LONGEST) -> str:
    """Free text: one line, no control or invisible character, and none of our `name=`."""
    text = _printable(clipped(text, longest))
    return _FIELD.sub(r"\1\\x3d", text) if "=" in text else text


def bracketed(address: str) -> str:
    """`<address>`: what is between the brackets has no blank and no bracket."""
    if _SIMPLE.fullmatch(address):
        return f"<{address}>"
    escaped = [c if c.isprintable() and c not in "\\<> " else _code(c) for c in clipped(address)]
    return f"<{''.join(escaped)}>"


def bare(word: str) -> str:
    """A host name, a verb: letters, digits and `._:-`; anything else is escaped."""
    return _NOT_BARE.sub(lambda match: _code(match[0]), clipped(word))


def quoted(text: str) -> str:
    r"""A value of a `key=value` line: as it is where that is plain, else a JSON string.

    There an equals sign is `\u003d`, so that whoever splits at `=` is not misled.
    """
    if _PLAIN.fullmatch(text):
        return text
    return json_string(text).replace("=", "\\u003d")


def json_string(text: str) -> str:
    r"""`text` as every JSON reader takes it: a byte that is not UTF-8 is `\xNN`."""
    if not text.isascii():
        text = _SURROGATE.sub(lambda match: _code(match[0]), text)
    return encode_basestring_ascii(text)


def clipped(text: str, longest: int = LONGEST) -> str:
    """`text`, or its beginning and `...`."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def reply_text(reply: Reply) -> str:
    """The reply's lines on one, without its code, not yet escaped; bytes as surrogates."""
    text = b" ".join(reply.lines) if len(reply.lines) != 1 else reply.lines[0]
    return clipped(text.decode("utf-8", "surrogateescape"))


def _printable(text: str) -> str:
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else _code(c) for c in text)


def _code(character: str) -> str:
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:  # how Python keeps a byte that is not UTF-8 (PEP 383)
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
