"""What a server announces in its reply to EHLO (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from smtpproxy.smtp.replies import Reply


@dataclass(frozen=True, slots=True)
class Extensions:
    """Keywords in upper case, each with the words behind it."""

    keywords: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, reply: Reply) -> Extensions:
        """Read from a reply to EHLO, whose first line is the greeting; nonsense is passed over."""
        keywords: dict[str, tuple[str, ...]] = {}
        for line in reply.lines[1:]:
            words = line.decode("ascii", "replace").split()
            if words:
                # "AUTH=LOGIN" is what some servers say beside "AUTH LOGIN".
                keyword, _, value = words[0].partition("=")
                keywords.setdefault(keyword.upper(), (*value.split(), *words[1:]))
        return cls(MappingProxyType(keywords))

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    def __getitem__(self, keyword: str) -> tuple[str, ...]:
        """The words behind `keyword`; none where it is not announced."""
        return self.keywords.get(keyword, ())
