"""The extensions that a relay may announce for the servers behind it, and when it may.

Some are its own doing. For the others it speaks for all of its servers, before it knows which of
them will get the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType

from smtpproxy.smtp.extensions import Extensions
from smtpproxy.values import value

Words = tuple[str, ...]

_NUMBER = re.compile(r"[0-9]{1,9}")
_PROFILE = re.compile(r"[A-Za-z0-9._-]{1,64}")  # a server's word, which clients get to hear

OURS = (
    "PIPELINING",  # RFC 2920
    "SIZE",  # RFC 1870
    "STARTTLS",  # RFC 3207
    "CHUNKING",  # RFC 3030: chunks become DATA where need be
    "PRDR",  # draft-hall-prdr
    "LIMITS",  # RFC 9422
)
# Nearly every server has them, and a message can be refused where one does not.
ASSUMED = (
    "ENHANCEDSTATUSCODES",  # RFC 2034
    "8BITMIME",  # RFC 6152
)
# A client that sees them sends what no server without them can take as it was meant.
CARRIED = (
    "SMTPUTF8",  # RFC 6531
    "DSN",  # RFC 3461
    "BINARYMIME",  # RFC 3030
    "REQUIRETLS",  # RFC 8689
    "MT-PRIORITY",  # RFC 6710
    "DELIVERBY",  # RFC 2852
    "FUTURERELEASE",  # RFC 4865
)
KEYWORDS = (*OURS, *ASSUMED, *CARRIED)

NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "SMTPUTF8": "8BITMIME",  # RFC 6531 section 3.1
        "BINARYMIME": "CHUNKING",  # RFC 3030 section 3
        "REQUIRETLS": "STARTTLS",  # RFC 8689 section 2
    }
)

# The octets that parameters of MAIL or RCPT may add to the line, at least as the RFC says.
_OCTETS_ADDED: Mapping[str, int] = MappingProxyType(
    {
        "SIZE": 26,  # RFC 1870 section 3
        "8BITMIME": 17,  # RFC 6152 section 2, and for BINARYMIME as well
        "SMTPUTF8": 10,  # RFC 6531 section 3.1
        "DSN": 536,  # RFC 3461 section 4: ORCPT with 500, and NOTIFY
        "REQUIRETLS": 11,  # RFC 8689 section 2
        "MT-PRIORITY": 15,  # RFC 6710 section 3
        "DELIVERBY": 17,  # RFC 2852 section 3
        "FUTURERELEASE": 40,  # RFC 4865 section 4
        "PRDR": 5,
    }
)


def octets_added(announced: Iterable[str]) -> int:
    """How much longer a command line may be where these keywords are announced."""
    return sum(_OCTETS_ADDED.get(keyword, 0) for keyword in announced)


LEAST_SIZE = 65536  # octets that every server must take: RFC 5321 section 4.5.3.1.7


def too_small(size: int) -> bool:
    """Whether no server may have such a limit, in octets: mail is lost where it is believed."""
    return size < LEAST_SIZE


def offered(keyword: str, extensions: Extensions) -> Words | None:
    """What a server says behind `keyword`; None where it does not offer it, or to no use.

    REQUIRETLS is offered after STARTTLS alone, where that is offered no longer.
    """
    needed = NEEDS.get(keyword, keyword)
    if keyword not in extensions or (needed not in extensions and needed != "STARTTLS"):
        return None
    return _READ[keyword](extensions[keyword]) if keyword in _READ else ()


def joined(keyword: str, said: Collection[Words]) -> Words:
    """What is true of all servers behind `keyword`: `said` is what `offered` gives of each."""
    return _JOINED[keyword](said) if said and keyword in _JOINED else ()


# RFC 6710 section 3: the name of a profile, which says something where it is the same for all.


def _read_profile(words: Words) -> Words:
    return tuple(word.upper() for word in words[:1] if _PROFILE.fullmatch(word))


def _same_profile(said: Collection[Words]) -> Words:
    return next(iter(said)) if len(set(said)) == 1 else ()


# RFC 2852 section 2: the least time in seconds that may be asked for, none where that is 0.


def _read_least_time(words: Words) -> Words | None:
    least = words[0].partition(",")[0] if words else "0"
    if not _NUMBER.fullmatch(least):
        return None
    return (str(int(least)),) if int(least) else ()


def _longest_least_time(said: Collection[Words]) -> Words:
    return max(said, key=lambda words: int(words[0]) if words else 0)


# RFC 4865 section 4: for how many seconds mail is held at most, and until when.


def _read_release(words: Words) -> Words | None:
    if len(words) < 2 or not _NUMBER.fullmatch(words[0]):
        return None
    try:
        _moment(words[1])
    except ValueError:
        return None
    return words[:2]


def _earliest_release(said: Collection[Words]) -> Words:
    return (
        str(min(int(longest) for longest, _ in said)),
        min((latest for _, latest in said), key=_moment),
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} is of no time zone")
    return moment


_READ: Mapping[str, Callable[[Words], Words | None]] = {
    "MT-PRIORITY": _read_profile,
    "DELIVERBY": _read_least_time,
    "FUTURERELEASE": _read_release,
}
_JOINED: Mapping[str, Callable[[Collection[Words]], Words]] = {
    "MT-PRIORITY": _same_profile,
    "DELIVERBY": _longest_least_time,
    "FUTURERELEASE": _earliest_release,
}


@value
class Wishes:
    """Which keywords an administrator wants announced in any case, and which never."""

    always: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Raises `ValueError` where two of them contradict each other."""
        for keyword in sorted(self.always & self.never):
            raise ValueError(f'"+{keyword}" and "-{keyword}" are both there; keep one of the two')
        for keyword in KEYWORDS:
            if keyword in self.always and (needed := NEEDS.get(keyword)) in self.never:
                raise ValueError(f'"+{keyword}" cannot work with "-{needed}": it needs {needed}')

    def wanted(self, keyword: str) -> bool:
        """It is announced in any case, be it for another that needs it."""
        return keyword in self.always or any(NEEDS.get(each) == keyword for each in self.always)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Wishes:
        """Of texts such as "+SMTPUTF8" and "-CHUNKING"; raises `ValueError`."""
        wanted: dict[str, set[str]] = {"+": set(), "-": set()}
        for text in texts:
            sign, keyword = text[:1], text[1:].upper()
            if sign not in wanted:
                raise ValueError(
                    f'{text!r} has no sign; write "+{text.upper()}" for always or '
                    f'"-{text.upper()}" for never'
                )
            if keyword not in KEYWORDS:
                raise ValueError(f"{text!r}: no such extension; there are {', '.join(KEYWORDS)}")
            wanted[sign].add(keyword)
        return cls(frozenset(wanted["+"]), frozenset(wanted["-"]))
