"""What a look-up asks, what it answers, and what a mapping is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from hashlib import sha256
from typing import Protocol

from smtpproxy.mail import Client
from smtpproxy.routing.keys import CATCH_ALL, address_key, keys_of, parents_of
from smtpproxy.routing.servers import Upstream
from smtpproxy.smtp.paths import Path
from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value


@value
class Question:
    """A recipient to be looked up, with what else is known of its mail.

    `domain` is this server's, for `<Postmaster>`; `sender` is None, and `client` too,
    where an administrator asks.  `keys` are the address, the address without suffix and the
    domain: see `keys_of`.
    """

    recipient: Path
    recipient_delimiter: str = ""
    domain: str = ""
    sender: Path | None = None
    client: Client | None = None
    keys: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = keys_of(self.recipient, self.recipient_delimiter, self.domain)
        object.__setattr__(self, "keys", keys)

    def all_keys(self, parent_domains: bool) -> tuple[str, ...]:
        """The keys with the parent domains, where they count, and the catch-all behind them.

        The null path has none of them.
        """
        if not self.keys:
            return ()
        parents = parents_of(self.keys[-1]) if parent_domains else ()
        return (*self.keys, *parents, CATCH_ALL)

    @property
    def percentile(self) -> int:
        """0 to 99, the same for a mailbox at all times and on all machines, suffix or not."""
        mailbox = self.keys[-2] if len(self.keys) > 1 else address_key(self.recipient)
        return int.from_bytes(sha256(mailbox.encode()).digest()[:8], "big") % 100


@value
class Row:
    """What a mapping's row says, but for its key.

    With `percent`, it is there for those recipients alone whose percentile is below it.
    `shadow` is an upstream that is asked as well, and gets no mail.
    """

    upstream: Upstream
    percent: int = 100
    shadow: Upstream | None = None

    def is_for(self, question: Question) -> bool:
        return self.percent == 100 or question.percentile < self.percent


@value
class Route:
    """Where a recipient's mail goes, and who said so.

    `mapping` is the mapping's name ("csv mapping.csv", "static"), `key` the key that
    matched, `place` the row that holds it ("mapping.csv:12"), "" where there are no rows.
    `age` is in seconds where the answer was remembered, else None; `stale` where it was
    remembered for too long, and nothing newer is to be had.
    """

    row: Row
    mapping: str
    key: str
    place: str = ""
    age: float | None = None
    stale: bool = False

    @property
    def upstream(self) -> Upstream:
        return self.row.upstream


@value
class Found:
    """There is a route.  `passed` are those whose row is not for this recipient (`percent`)."""

    route: Route
    passed: tuple[Route, ...] = ()


@value
class NoRoute:
    """None of the keys is known: for certain, and not because something failed."""

    passed: tuple[Route, ...] = ()


@value
class Refused:
    """The mapping itself refuses the recipient: `reply` is the client's, after `wait` seconds.

    The reply is 4xx or 5xx, and never 421.
    """

    reply: Reply
    wait: float = 0.0


@value
class TryAgain:
    """The look-up failed for now; `reason` is for the log, in one line."""

    reason: str


Answer = Found | NoRoute | Refused | TryAgain


class Mapping(Protocol):
    """One source of routes."""

    @property
    def name(self) -> str:
        """What logs and explanations call it."""

    def keys(self, question: Question) -> tuple[str, ...]:
        """What it is asked, in order, for explanations."""

    async def lookup(self, question: Question) -> Answer:
        """The route of the first key that is known.

        Raises nothing: trouble that may pass is the answer `TryAgain`.
        """

    def listed(self) -> Iterable[Row]:
        """What it can say without being asked for a recipient, each row once."""

    @property
    def lists_all(self) -> bool:
        """Whether `listed` has every upstream that it may ever name as it is now."""
