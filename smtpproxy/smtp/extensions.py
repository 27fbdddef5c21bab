"""What a server announces in its reply to EHLO (RFC 5321 section 4.1.1.1).

One value for both directions: what an upstream was heard to offer, and what a listener
announces to its clients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from types import MappingProxyType

from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value

_NUMBER = re.compile(r"[0-9]{1,20}")  # as many digits as RFC 1870 section 4 lets a size have
_NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_LIMIT = re.compile(r"([A-Za-z0-9_-]+)=([1-9][0-9]{0,5})")  # RFC 9422 section 4


@value
class Extensions:
    """Keywords in upper case, each with the words behind it."""

    keywords: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @staticmethod
    @lru_cache(64)  # servers say the same to every client
    def of(reply: Reply) -> Extensions:
        """Read from a reply to EHLO, whose first line is the greeting; nonsense is passed over."""
        keywords: dict[str, tuple[str, ...]] = {}
        for line in reply.lines[1:]:
            words = line.decode("ascii", "replace").split()
            if words:
                # "AUTH=LOGIN" is what some servers say beside "AUTH LOGIN".
                keyword, _, value = words[0].partition("=")
                keywords.setdefault(keyword.upper(), (*value.split(), *words[1:]))
        return Extensions(MappingProxyType(keywords))

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    def __getitem__(self, keyword: str) -> tuple[str, ...]:
        """The words behind `keyword`; none where it is not announced."""
        return self.keywords.get(keyword, ())

    def lines(self) -> tuple[str, ...]:
        """The lines of a reply to EHLO behind the first: "SIZE 1000", "PIPELINING"."""
        return tuple(" ".join((keyword, *words)) for keyword, words in self.keywords.items())

    def number(self, keyword: str) -> int | None:
        """The first word behind `keyword`; None where there is none, or it is no number."""
        words = self[keyword]
        return int(words[0]) if words and _NUMBER.fullmatch(words[0]) else None

    @property
    def size_limit(self) -> int | None:
        """The largest message taken, in octets; None where no fixed limit is announced.

        RFC 1870 section 4: neither a SIZE without a number nor a SIZE of 0 is a limit.
        """
        return self.number("SIZE") or None

    @property
    def limits(self) -> Mapping[str, int]:
        """What LIMITS says (RFC 9422), such as {"RCPTMAX": 100}; nonsense is passed over."""
        if "LIMITS" not in self.keywords:  # as mostly
            return _NO_LIMITS
        matches = filter(None, map(_LIMIT.fullmatch, self["LIMITS"]))
        return {match[1].upper(): int(match[2]) for match in matches}
