"""XCLIENT and XFORWARD: who the client is, said by somebody who is trusted to know.

Source: Postfix's XCLIENT_README and XFORWARD_README; the encoding is xtext (RFC 3461 section 4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType

MAX_COMMAND = 512  # octets, CRLF included: a longer command is to be split
_LONGEST = 255  # characters of one value


# Writing


def xtext(text: str) -> str:
    """`text` with all but printable ASCII, and `+` and `=`, as `+HH`: one word, whatever comes."""
    try:
        octets = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON may have it, is none
        octets = text.encode("utf-8", "replace")
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}"
        for octet in octets
    )


def commands(attributes: Mapping[str, str], announced: Collection[str]) -> list[bytes]:
    """The XCLIENT commands that carry those of `attributes` that the server announced.

    ADDR goes last, and PORT in the same command: the server judges by them whether a further
    XCLIENT is allowed.  LOGIN stands with them where there is room: Postfix forgets it at the next
    XCLIENT.  A value too long for a command of its own is left out.
    """

    def word(name: str) -> bytes:
        if name not in attributes or name not in announced:
            return b""
        return f" {name}={xtext(attributes[name])}".encode()

    words = [word(name) for name in attributes if name not in ("LOGIN", "PORT", "ADDR")]
    login, address = word("LOGIN"), word("PORT") + word("ADDR")
    words += [login + address] if _size(login + address) <= MAX_COMMAND else [login, address]
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


# Reading


class BadAttributes(Exception):
    """What cannot be taken; the text says why, in our words alone."""


Attributes = Mapping[str, str]  # by name; the value is "" where it is said that there is none
NOTHING: Attributes = MappingProxyType({})


def read(verb: str, argument: str) -> Attributes:
    """The attributes behind XCLIENT or XFORWARD, each decoded, judged and in its one form.

    Addresses are without `IPV6:`, and an IPv4 address in IPv6 is an IPv4 address.  A NAME that
    there is not is the word that says so, in capitals.  Raises `BadAttributes`.
    """
    known = KNOWN[verb]
    if len(verb) + len(argument) + len(" \r\n") > MAX_COMMAND:
        raise BadAttributes("The line is too long")
    said: dict[str, str] = {}
    for word in filter(None, argument.split(" ")):
        name, _, value = word.partition("=")
        name = name.upper()
        if not value or not word.isascii():
            raise BadAttributes(f"Syntax: {verb} attribute=value...")
        if name not in known:
            raise BadAttributes(f"There is no such attribute of {verb}")
        if name in said:  # what Postfix takes the last of: where a blank was not encoded, say
            raise BadAttributes(f"{name} is given twice")
        try:
            said[name] = known[name](_decoded(value))
        except ValueError:
            raise BadAttributes(f"Bad {name} syntax") from None
    if not said:
        raise BadAttributes(f"Syntax: {verb} attribute=value...")
    return said


_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*")
_OCTET = re.compile(rb"\+([0-9A-Fa-f]{2})")


def _decoded(value: str) -> str:
    """The text in a value, or the value where it is no xtext: not all encode it, says Postfix."""
    if not _XTEXT.fullmatch(value):
        return value
    octets = _OCTET.sub(lambda match: bytes([int(match[1], 16)]), value.encode())
    return octets.decode()  # UnicodeDecodeError is a ValueError


_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?")
_NO_NAME = re.compile(r"\[(?:UNAVAILABLE|TEMPUNAVAIL)\]", re.IGNORECASE | re.ASCII)
_WORD = re.compile(rf"[!-~]{{1,{_LONGEST}}}")
_PORT = re.compile(r"[0-9]{1,5}")
_IPV6 = "IPV6:"


def _name(value: str) -> str:
    if _NO_NAME.fullmatch(value):
        return value.upper()
    return _held(_NAME, value)


def _address(value: str) -> str:
    if value[: len(_IPV6)].upper() != _IPV6:
        return str(IPv4Address(value))
    if "%" in value:  # a zone means nothing on another host
        raise ValueError
    address = IPv6Address(value[len(_IPV6) :])
    return str(address.ipv4_mapped or address)


def _port(value: str) -> str:
    port = int(_held(_PORT, value))
    if port > 65535:
        raise ValueError
    return str(port)


def _protocol(value: str) -> str:
    if value.upper() not in ("SMTP", "ESMTP"):
        raise ValueError
    return value.upper()


def _word(value: str) -> str:
    return _held(_WORD, value)


def _text(value: str) -> str:
    if len(value) > _LONGEST or not value.isprintable():
        raise ValueError
    return value


def _held(pattern: re.Pattern[str], value: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError
    return value


def _or_none(judge: Callable[[str], str]) -> Callable[[str], str]:
    return lambda value: "" if value.upper() == "[UNAVAILABLE]" else judge(value)


KNOWN: Mapping[str, Mapping[str, Callable[[str], str]]] = {
    "XCLIENT": {
        "NAME": _name,
        "ADDR": _or_none(_address),
        "PORT": _or_none(_port),
        "PROTO": _protocol,
        "HELO": _or_none(_word),
        "LOGIN": _or_none(_text),
        "DESTADDR": _or_none(_address),
        "DESTPORT": _or_none(_port),
    },
    "XFORWARD": {
        "NAME": _name,
        "ADDR": _or_none(_address),
        "PORT": _or_none(_port),
        "PROTO": _or_none(_text),
        "HELO": _or_none(_text),
        "IDENT": _or_none(_text),
        "SOURCE": _or_none(_text),
    },
}
