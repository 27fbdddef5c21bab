"""Who was told what of which message, and where it lies: nothing but bookkeeping.

The unit is a message for one recipient.  A client writes down each message before it sends it,
and then what it was told of each recipient; what lies in a mailbox is written down as it is found.
`Ledger.violations` compares the two.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf


class Fate(Enum):
    """What a client knows of its message for one recipient."""

    CUT = "left before the end"  # the end of the message was never sent
    TAKEN = "taken (2xx)"
    LATER = "refused for now (4xx)"
    REFUSED = "refused for good (5xx)"
    UNTOLD = "left after the end"  # before the answer came


@dataclass(frozen=True, slots=True)
class Violation:
    """What must not be, of which message, and where to look."""

    kind: str
    text: str
    number: int | None = None


@dataclass(slots=True)
class Sent:
    """A message as its client knows it; `fates` by mailbox, as is `said`, the last reply."""

    number: int
    sender: str
    client: str  # its address
    digest: bytes
    fates: dict[str, Fate]
    said: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy:
    """A message that lies in a mailbox.

    `number`: as its content says, None where that cannot be read.  `recipient`: as the upstream
    was told.  `sender` and `client` are None where the upstream does not say.  `id`: the one that
    the upstream gave it, None for one that gives none; under one id it got a message only once,
    even if it was killed and delivered it twice.
    """

    number: int | None
    recipient: str
    upstream: str
    digest: bytes
    sender: str | None = None
    client: str | None = None
    id: str | None = None


def address(mailbox: str, number: int) -> str:
    """The recipient of a message: `box3@example.com` and 17 make `box3+17@example.com`."""
    local, _, domain = mailbox.partition("@")
    return f"{local}+{number}@{domain}"


def parts(recipient: str) -> tuple[str, int | None]:
    """The mailbox and the number of such an address; no number where it is no such address."""
    local, _, domain = recipient.lower().rpartition("@")
    box, _, number = local.partition("+")
    return f"{box}@{domain}", int(number) if number.isascii() and number.isdigit() else None


class Ledger:
    """`homes`: the upstreams that may have the mail of a mailbox; of any other, all may.

    Threads may share it: each message is its client's own until `violations` is called, when all
    is over.
    """

    def __init__(self, homes: Mapping[str, Sequence[str]]) -> None:
        self.doubts: set[tuple[int, str]] = set()
        self.slain = -inf  # when a worker of the proxy was killed last
        self.copied_by_upstream = 0  # a killed server delivers again what it did not know it had
        self._homes = homes
        self._sent: dict[int, Sent] = {}
        self._copies: dict[tuple[int, str], list[Copy]] = defaultdict(list)
        self._found: list[Violation] = []
        self._numbers = itertools.count(1)

    # What happens

    def number(self) -> int:
        """The number of the next message."""
        return next(self._numbers)

    def begin(self, sent: Sent) -> None:
        self._sent[sent.number] = sent

    def violation(self, kind: str, text: str, number: int | None = None) -> None:
        """Somebody saw what must not be."""
        self._found.append(Violation(kind, text, number))

    def doubt(self, number: int, mailbox: str) -> None:
        """The proxy has logged that an upstream may have it."""
        self.doubts.add((number, mailbox))

    def found(self, copy: Copy) -> bool:
        """It lies in a mailbox; False where there is something wrong with it by itself."""
        mailbox, number = parts(copy.recipient)
        sent = None if copy.number is None else self._sent.get(copy.number)
        text = f"for {copy.recipient} at {copy.upstream}"
        if sent is None or number != copy.number or mailbox not in sent.fates:
            self.violation("invented", f"{text}: nobody sent that there", copy.number)
            return False
        copies = self._copies[sent.number, mailbox]
        if copy.id is not None and any(
            (each.upstream, each.id) == (copy.upstream, copy.id) for each in copies
        ):
            self.copied_by_upstream += 1
        else:
            copies.append(copy)
        before = len(self._found)
        if copy.digest != sent.digest:
            self.violation("altered", f"{text}: not the bytes that were sent", sent.number)
        if copy.sender is not None and copy.sender != sent.sender:
            self.violation("mistaken", f"{text}: from {copy.sender}", sent.number)
        if copy.client is not None and copy.client != sent.client:
            self.violation("mistaken", f"{text}: client {copy.client}", sent.number)
        if copy.upstream not in self._homes.get(mailbox, (copy.upstream,)):
            self.violation("misrouted", text, sent.number)
        return len(self._found) == before

    # What came of it

    @property
    def outcomes(self) -> Counter[Fate]:
        return Counter(fate for sent in self._sent.values() for fate in sent.fates.values())

    @property
    def copies(self) -> int:
        return sum(map(len, self._copies.values()))

    def missing(self) -> int:
        """Of those that got a 2xx, how many were not found so far."""
        told = (
            (sent.number, mailbox)
            for sent in list(self._sent.values())
            for mailbox, fate in list(sent.fates.items())
            if fate is Fate.TAKEN
        )
        return sum(key not in self._copies for key in told)

    def violations(self) -> list[Violation]:
        """All of them, once nothing happens any more."""
        return [*self._found, *self._compared()]

    def _compared(self) -> Iterator[Violation]:
        for sent in self._sent.values():
            for mailbox, fate in sent.fates.items():
                copies = self._copies.get((sent.number, mailbox), [])
                doubt = (sent.number, mailbox) in self.doubts
                if kind := _kind(fate, len(copies), doubt):
                    places = ", ".join(copy.upstream for copy in copies) or "nowhere"
                    said = sent.said.get(mailbox, "nothing")
                    logged = ", logged as in doubt" if doubt else ""
                    text = f"for {mailbox}: {fate.value}, told {said!r}{logged}; found: {places}"
                    yield Violation(kind, text, sent.number)


def _kind(fate: Fate, copies: int, doubt: bool) -> str | None:
    """What is wrong with so many copies, if anything."""
    if copies > 1:
        return "doubled"
    if fate is Fate.TAKEN:
        if not copies:
            return "lost"
        return "wrongly in doubt" if doubt else None
    if fate is Fate.CUT:  # its end was never sent, by anyone
        return "cut, and delivered" if copies else "cut, and in doubt" if doubt else None
    if copies and not doubt and fate is not Fate.UNTOLD:
        return "refused, and delivered"
    return None
