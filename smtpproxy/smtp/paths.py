"""Reverse-paths and forward-paths: the addresses of an envelope (RFC 5321 section 4.1.2).

The parser is as strict as safety asks and as lenient as mail in use needs: dots
anywhere in an unquoted local part, underscores in domains and long local parts
(SRS, VERP) are taken, since the upstream knows its mailboxes better than we do;
control characters, unbalanced quotes and anything after the path are not.
"""

from __future__ import annotations

import re

from smtpproxy.values import value

# Classes are written by what they leave out: `re` compiles a range up to U+10FFFF slowly.
_DOT_STRING = r"[^\x00-\x20\x22(),:;<>@\[\\\]\x7f]+"
_QUOTED = r'"(?:[^\x00-\x1f\x22\\\x7f]|\\[\x20-\x7e])*"'
_LOCAL = rf"(?:{_DOT_STRING}|{_QUOTED})"
_LETTER = r"[^\x00-/:-@\[-^`{-\x7f]"  # or digit, or underscore
_LABEL = rf"{_LETTER}(?:-*{_LETTER})*"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[\x21-\x5a\x5e-\x7e]+\])"
_ROUTE = rf"(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?"  # to be taken and ignored: RFC 5321 appendix C
_PATH = re.compile(rf"{_ROUTE}(?P<local>{_LOCAL})(?:@(?P<domain>{_DOMAIN}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@value
class Path:
    """An address as the client wrote it, without angle brackets and source route.

    The null reverse-path `<>` has neither local part nor domain;
    `<Postmaster>` has no domain (RFC 5321 4.1.1.3).
    """

    local: str
    domain: str = ""

    @property
    def null(self) -> bool:
        return not self.local

    @property
    def ascii(self) -> bool:
        """The address needs no SMTPUTF8 (RFC 6531)."""
        return self.local.isascii() and self.domain.isascii()

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local


NULL_PATH = Path("")


def parse_path(text: str) -> Path | None:
    """The path in `text` (no angle brackets), None where it is none.

    A local part alone is a path only for `postmaster`, in any case of letters.
    """
    if not text:
        return NULL_PATH
    match = _PATH.fullmatch(text)
    if match is None or _CONTROL.search(text):
        return None
    local, domain = match.group("local", "domain")
    if not domain and local.lower() != "postmaster":
        return None
    return Path(local, domain or "")
