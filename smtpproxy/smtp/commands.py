"""Commands: what a client may say, as values, and the parser that makes them of a line.

Source: RFC 5321 section 4.1; parameters: 4.1.2.  `parse_command` is used on what a
client sends us, `encode` on what we send to an upstream, so that nothing a client
writes travels on but in the one form that the grammar here allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum
from types import MappingProxyType

from smtpproxy.smtp.paths import Path, parse_path
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.xclient import NOTHING, Attributes, BadAttributes, read
from smtpproxy.values import value

# RFC 5321 4.5.3.1.4 asks for 512 octets at least, parameters and long VERP
# addresses need more; Postfix takes as many.
MAX_COMMAND_LINE = 2048


class Verb(Enum):
    """The commands that are known; all others are refused with 500."""

    EHLO = "EHLO"
    HELO = "HELO"
    LHLO = "LHLO"
    STARTTLS = "STARTTLS"
    XCLIENT = "XCLIENT"
    XFORWARD = "XFORWARD"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BDAT = "BDAT"
    RSET = "RSET"
    NOOP = "NOOP"
    VRFY = "VRFY"
    EXPN = "EXPN"
    HELP = "HELP"
    AUTH = "AUTH"
    QUIT = "QUIT"

    __hash__ = object.__hash__  # Enum's own is slow, and keys of tables are hashed all the time


NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


@value
class Hello:
    """EHLO, HELO, or LMTP's LHLO (RFC 2033), with the name the client gives itself."""

    name: str
    verb: Verb = Verb.EHLO

    @property
    def esmtp(self) -> bool:
        """The reply names extensions."""
        return self.verb is not Verb.HELO

    def encode(self) -> bytes:
        return f"{self.verb.value} {self.name}\r\n".encode()


@value
class Mail:
    """MAIL FROM; a parameter's value is "" where it has none."""

    sender: Path
    parameters: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS)

    verb = Verb.MAIL

    def encode(self) -> bytes:
        return _encode_path("MAIL FROM", self.sender, self.parameters)


@value
class Rcpt:
    """RCPT TO; a parameter's value is "" where it has none."""

    recipient: Path
    parameters: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS)

    verb = Verb.RCPT

    def encode(self) -> bytes:
        return _encode_path("RCPT TO", self.recipient, self.parameters)


@value
class Bdat:
    """BDAT: the size of the chunk in octets, and whether it is the last (RFC 3030)."""

    size: int
    last: bool

    verb = Verb.BDAT

    def encode(self) -> bytes:
        return f"BDAT {self.size}{' LAST' if self.last else ''}\r\n".encode()


@value
class Plain:
    """Any other command, with its argument as it came ("" for none)."""

    verb: Verb
    argument: str = ""

    def encode(self) -> bytes:
        argument = f" {self.argument}" if self.argument else ""
        return f"{self.verb.value}{argument}\r\n".encode()


Command = Hello | Mail | Rcpt | Bdat | Plain


@value
class Introduction:
    """XCLIENT or XFORWARD of a client, and what it says; `flaw` is the reply where that is wrong.

    It is no `Command`: none such is ever sent on.
    """

    verb: Verb
    said: Attributes = field(default_factory=lambda: NOTHING)
    flaw: Reply | None = None


class BadCommand(Exception):
    """A line that is no command, and the reply it deserves.

    A reply of 421 asks for the connection to be closed.
    """

    def __init__(self, verb: str, reply: Reply) -> None:
        super().__init__(str(reply))
        self.verb = verb
        self.reply = reply


def parse_command(line: bytes) -> Command | Introduction:
    """The command in `line` (without its CRLF).

    Raises `BadCommand` with 500 for what is no command, 501 for a wrong argument,
    421 for another protocol's request, and for a BDAT whose chunk has no known end.
    """
    if known := _WHOLE.get(line.upper()):
        return known
    text = _text(line).rstrip(" ")
    word, _, argument = text.partition(" ")
    word = word.upper() if word.isascii() else ""  # outside ASCII, upper() makes RSET of "rſet"
    verb = _VERBS.get(word)
    if verb is None:
        raise _unknown(word)
    try:
        return _PARSERS[verb](verb, argument.lstrip(" "))
    except _BadArgument as fault:
        raise BadCommand(word, fault.reply) from None


def _text(line: bytes) -> str:
    try:
        text: str | None = line.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is not None and text.isprintable():  # as nearly all are; a search would take longer
        return text
    if _CONTROL.search(line):
        raise BadCommand("", Reply.of(500, "5.5.2", "Control characters in a command"))
    if text is None:
        raise BadCommand("", Reply.of(500, "5.5.2", "The command is not UTF-8 text"))
    return text


def _unknown(word: str) -> BadCommand:
    if word in _FOREIGN:
        return BadCommand(word, Reply.of(421, "4.7.0", "This is an SMTP server"))
    return BadCommand("", Reply.of(500, "5.5.2", "Command not recognised"))


# Commands that nearly always are one word, as a line in upper case.
_WHOLE = {
    verb.value.encode(): Plain(verb)
    for verb in (Verb.STARTTLS, Verb.DATA, Verb.RSET, Verb.NOOP, Verb.QUIT)
}
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# A browser made to talk to us (cross-protocol attack) ends the session at once.
_FOREIGN = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "PATCH", "DELETE"})
_HELLO_NAME = re.compile(r"[!-~]{1,255}")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u0080-\U0010ffff]+))?")
_BDAT = re.compile(r"([0-9]{1,18})( +LAST)?", re.IGNORECASE | re.ASCII)


class _BadArgument(Exception):
    def __init__(self, text: str, enhanced: str = "5.5.4", code: int = 501) -> None:
        super().__init__(text)
        self.reply = Reply.of(code, enhanced, text)


def _hello(verb: Verb, argument: str) -> Hello:
    # What stands there is judged by the upstream: half of the world's HELO names
    # are no domains.  It only has to be one printable word.
    if not _HELLO_NAME.fullmatch(argument):
        raise _BadArgument(f"Syntax: {verb.value} hostname")
    return Hello(argument, verb)


def _mail(verb: Verb, argument: str) -> Mail:
    sender, parameters = _path_and_parameters(argument, "FROM:", "5.1.7")
    if sender.local and not sender.domain:
        raise _BadArgument("The sender address has no domain", "5.1.7")
    return Mail(sender, parameters)


def _rcpt(verb: Verb, argument: str) -> Rcpt:
    recipient, parameters = _path_and_parameters(argument, "TO:", "5.1.3")
    if recipient.null:
        raise _BadArgument("The recipient address is empty", "5.1.3")
    return Rcpt(recipient, parameters)


def _bdat(verb: Verb, argument: str) -> Bdat:
    match = _BDAT.fullmatch(argument)
    if match is None:
        # A chunk follows, and where it ends nobody knows: it must not run as commands.
        raise _BadArgument("Syntax: BDAT size [LAST]", "4.5.4", 421)
    return Bdat(int(match[1]), last=match[2] is not None)


def _bare(verb: Verb, argument: str) -> Plain:
    if argument:
        raise _BadArgument(f"{verb.value} takes no argument")
    return Plain(verb)


def _free(verb: Verb, argument: str) -> Plain:
    return Plain(verb, argument)


def _required(verb: Verb, argument: str) -> Plain:
    if not argument:
        raise _BadArgument(f"{verb.value} needs an argument")
    return Plain(verb, argument)


def _introduction(verb: Verb, argument: str) -> Introduction:
    # What is wrong with it is for those alone who may say it at all.
    try:
        return Introduction(verb, read(verb.value, argument))
    except BadAttributes as fault:
        return Introduction(verb, flaw=Reply.of(501, "5.5.4", str(fault)))


_VERBS = {verb.value: verb for verb in Verb}  # Enum's own look-up is slow
_PARSERS: Mapping[Verb, Callable[[Verb, str], Command | Introduction]] = {
    Verb.EHLO: _hello,
    Verb.HELO: _hello,
    Verb.LHLO: _hello,
    Verb.STARTTLS: _bare,
    Verb.XCLIENT: _introduction,
    Verb.XFORWARD: _introduction,
    Verb.MAIL: _mail,
    Verb.RCPT: _rcpt,
    Verb.DATA: _bare,
    Verb.BDAT: _bdat,
    Verb.RSET: _bare,
    Verb.NOOP: _free,
    Verb.VRFY: _required,
    Verb.EXPN: _required,
    Verb.HELP: _free,
    Verb.AUTH: _free,
    Verb.QUIT: _bare,
}


_SYNTAX = {"FROM:": "Syntax: MAIL FROM:<address>", "TO:": "Syntax: RCPT TO:<address>"}


def _path_and_parameters(
    argument: str, keyword: str, enhanced: str
) -> tuple[Path, Mapping[str, str]]:
    syntax = _SYNTAX[keyword]
    if argument[: len(keyword)].upper() != keyword:
        raise _BadArgument(syntax)
    rest = argument[len(keyword) :].lstrip(" ")
    text, rest = _bracketed(rest, syntax)
    path = parse_path(text)
    if path is None:
        raise _BadArgument("The address is not valid", enhanced)
    if rest and not rest.startswith(" "):
        raise _BadArgument(syntax)
    return path, _parameters(rest)


def _bracketed(text: str, syntax: str) -> tuple[str, str]:
    """What stands between the angle brackets, which a quoted string may hold too, and the rest."""
    if not text.startswith("<"):
        raise _BadArgument(syntax)
    inside, bracket, rest = text[1:].partition(">")
    if bracket and '"' not in inside:
        return inside, rest
    quoted = escaped = False
    for place, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == ">" and not quoted:
            return text[1:place], text[place + 1 :]
    raise _BadArgument(syntax)


def _parameters(text: str) -> Mapping[str, str]:
    if not text:
        return NO_PARAMETERS
    parameters: dict[str, str] = {}
    for word in filter(None, text.split(" ")):
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise _BadArgument("A parameter is not of the form KEYWORD=value")
        keyword = match[1].upper()
        if keyword in parameters:
            raise _BadArgument("A parameter is given twice")
        parameters[keyword] = match[2] or ""
    return parameters or NO_PARAMETERS


def _encode_path(head: str, path: Path, parameters: Mapping[str, str]) -> bytes:
    if not parameters:
        return f"{head}:<{path}>\r\n".encode()
    words = [f"{head}:<{path}>"]
    words += (f"{keyword}={value}" if value else keyword for keyword, value in parameters.items())
    return " ".join(words).encode() + b"\r\n"
