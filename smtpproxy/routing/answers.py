"""What a look-up answers, and what a mapping is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpproxy.routing.servers import Upstream


@dataclass(frozen=True, slots=True)
class Route:
    """Where a recipient's mail goes, and who said so.

    `mapping` is the mapping's name ("csv mapping.csv", "static"), `key` the key that
    matched, `place` the row that holds it ("mapping.csv:12"), "" where there are no rows.
    """

    upstream: Upstream
    mapping: str
    key: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """There is a route."""

    route: Route


@dataclass(frozen=True, slots=True)
class NoRoute:
    """None of the keys is known: for certain, and not because something failed."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The look-up failed for now; `reason` is for the log, in one line."""

    reason: str


Answer = Found | NoRoute | TryAgain


class Mapping(Protocol):
    """One source of routes."""

    @property
    def name(self) -> str:
        """What logs and explanations call it."""

    async def lookup(self, keys: Sequence[str]) -> Answer:
        """The route of the first of `keys` that is known.

        Raises nothing: trouble that may pass is the answer `TryAgain`.
        """

    def upstreams(self) -> Iterable[Upstream]:
        """Each upstream it can name without being asked for a recipient, once."""
