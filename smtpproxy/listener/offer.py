"""What a listener announces in its reply to EHLO."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from smtpproxy.routing import Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.keywords import ASSUMED, KEYWORDS, NEEDS, OURS, Wishes, Words
from smtpproxy.upstream import Agreement

MOST_RECIPIENTS = 999_999  # RFC 9422 section 4: a limit has at most six digits
_NAMED = 3  # upstreams or mappings, where it is said which ones withhold something
_LONGEST = 100  # characters of the reason why one was not heard


class Offer:
    """What one listener can announce, by what its upstreams agree on.

    Some extensions are our own.  Some are announced until an upstream is known that does not have
    them.  The others are announced once every upstream is known, and all of them have it; those
    that are announced by then wait for the first answer of a new one.
    """

    def __init__(
        self,
        *,
        max_message_bytes: int,
        max_recipients: int,
        starttls: bool,
        lmtp: bool = False,
        wishes: Wishes | None = None,
        before: Offer | None = None,
    ) -> None:
        """`before` is what a listener offered that this one takes the place of."""
        self._max_message_bytes = max_message_bytes
        self._max_recipients = min(max_recipients, MOST_RECIPIENTS)
        self._starttls = starttls
        self._lmtp = lmtp
        self._wishes = wishes or Wishes()
        self._agreement: Agreement = before._agreement if before else Agreement()
        self._can: dict[str, Words] = before._can if before else {}  # now or after STARTTLS
        self._announced = {False: Extensions(), True: Extensions()}
        self._announce()

    def __call__(self, secured: bool) -> Extensions:
        """What is announced, `secured` after STARTTLS."""
        return self._announced[secured]

    def follow(self, agreement: Agreement) -> list[str]:
        """Announce what upstreams agree on from now on; what changes by that, in words."""
        before = self._can
        self._agreement = agreement
        self._announce()
        return list(self._changes(before))

    def withheld(self) -> dict[str, str]:
        """Each keyword that is not announced, and why."""
        return {keyword: why for keyword in KEYWORDS if (why := self._why_not(keyword))}

    @property
    def size_of(self) -> Upstream | None:
        """Whose limit is announced as SIZE; None for our own."""
        theirs = self._agreement.size
        if theirs is None or self._wishes.wanted("SIZE") or theirs[0] >= self._max_message_bytes:
            return None
        return theirs[1]

    def _announce(self) -> None:
        self._can = {each: self._words(each) for each in KEYWORDS if not self._why_not(each)}
        for secured, not_then in ((False, "REQUIRETLS"), (True, "STARTTLS")):
            # RFC 8689 section 2, RFC 3207 section 4.2
            can = {each: words for each, words in self._can.items() if each != not_then}
            self._announced[secured] = Extensions(MappingProxyType(can))

    def _words(self, keyword: str) -> Words:
        match keyword:
            case "SIZE":
                return (str(self._size),)
            case "LIMITS":
                one_domain = self._parts_messages
                return f"RCPTMAX={self._max_recipients}", *["RCPTDOMAINMAX=1"] * one_domain
        # What a new one will say is not known yet: till then, as it was.
        before = self._can.get(keyword, ()) if self._agreement.new else ()
        return self._agreement.words.get(keyword, before)

    @property
    def _parts_messages(self) -> bool:
        """A message may have to be sent again for the recipients of another upstream.

        Not with LMTP or PRDR, where each recipient may have an upstream of its own.
        """
        return self._agreement.several and not self._lmtp and bool(self._why_not("PRDR"))

    @property
    def _size(self) -> int:
        """The smallest limit, or ours if an administrator says so."""
        theirs = self._agreement.size
        return theirs[0] if theirs and self.size_of else self._max_message_bytes

    def _why_not(self, keyword: str) -> str:
        """Why it is not announced; "" where it is."""
        if keyword in self._wishes.never:
            return "the setting extensions forbids it"
        needed = NEEDS.get(keyword)
        if needed and (why := self._why_not(needed)):
            return f"it needs {needed}: {why}"
        if keyword == "STARTTLS" and not self._starttls:
            return "there is no certificate"
        if keyword == "PRDR" and self._lmtp:
            return "LMTP has a reply for each recipient of its own"
        if keyword == "CHUNKING" and not self._wishes.wanted(keyword) and self._parts_messages:
            # Exim says QUIT behind its last chunk, before it hears that some have to come again.
            return "without PRDR, it delays recipients of other upstreams"
        return "" if keyword in OURS else self._why_upstreams_do_not(keyword)

    def _why_upstreams_do_not(self, keyword: str) -> str:
        agreement = self._agreement
        # RFC 4865 section 4: FUTURERELEASE means nothing without its words.
        if self._wishes.wanted(keyword) and (keyword in agreement.words or keyword != _HELD):
            return ""
        if without := agreement.without.get(keyword):
            return f"{_names(without)} {_verb(without, 'does', 'do')} not offer it"
        if unsteady := agreement.unsteady.get(keyword):
            return f"{_names(unsteady)} {_verb(unsteady, 'does', 'do')} not always offer it"
        if keyword in ASSUMED:
            return ""
        if unlisted := agreement.unlisted:
            return f"{_names(unlisted)} cannot list {_verb(unlisted, 'its', 'their')} upstreams"
        if unknown := agreement.unknown:
            return f"{_names(_reasons(unknown))} {_verb(unknown, 'was', 'were')} not heard of yet"
        if new := agreement.new:
            if keyword in self._can:
                return ""
            return f"{_names(new)} {_verb(new, 'was', 'were')} not heard of yet"
        return "" if keyword in agreement.words else "no upstream is known"

    def _changes(self, before: dict[str, Words]) -> Iterator[str]:
        if gained := [keyword for keyword in self._can if keyword not in before]:
            it = _verb(gained, "it", "them")
            yield f"announces {', '.join(gained)}: all upstreams offer {it}"
        for keyword in before:
            if keyword not in self._can:
                yield f"announces {keyword} no longer: {self._why_not(keyword)}"
        if before.get("SIZE") != self._can.get("SIZE"):
            why = f": {self.size_of} takes no more" if self.size_of else ""
            yield f"announces SIZE {self._size}{why}"


_HELD = "FUTURERELEASE"


def _names(them: Sequence[object]) -> str:
    """The first of them, and how many more there are."""
    more = [f"{len(them) - _NAMED} more"] if len(them) > _NAMED else []
    *first, last = [*map(str, them[:_NAMED]), *more]
    return f"{', '.join(first)} and {last}" if first else last


def _reasons(unknown: Mapping[Upstream, str]) -> list[str]:
    return [f"{each} ({why[:_LONGEST]})" if why else str(each) for each, why in unknown.items()]


def _verb(them: Collection[object], one: str, many: str) -> str:
    return one if len(them) == 1 else many
