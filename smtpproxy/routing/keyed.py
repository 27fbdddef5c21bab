"""A mapping whose rows have keys: what all kinds of tables share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from smtpproxy.routing.answers import Answer, Found, NoRoute, Question, Route, Row, TryAgain
from smtpproxy.values import value


@value
class Hit:
    """A row that a table has, with `place`, `age` and `stale` as in `Route`."""

    row: Row
    place: str = ""
    age: float | None = None
    stale: bool = False


@value
class Wrong:
    """What a table has for a key, and nobody can make sense of.

    `reason` is for the log, in one line.
    """

    reason: str


class LookupFailed(Exception):
    """The table cannot say for now; the text is for the log, in one line.

    `known` is what it said earlier of the keys it was asked for, up to the first of which
    nothing is known: a row in there may count, but that there is none says nothing.
    """

    def __init__(self, reason: str, known: Mapping[str, Hit] | None = None) -> None:
        super().__init__(reason)
        self.known = known or {}


class Hits(Protocol):
    """What a table has for each of the keys that it was asked for."""

    def get(self, key: str, /) -> Hit | Wrong | None:
        """The row of `key`, None where there is none."""


class Table(Protocol):
    """Rows by key."""

    async def find(self, keys: Sequence[str]) -> Hits:
        """Those of `keys` that there is a row for; raises `LookupFailed`."""

    def listed(self) -> Iterable[Row]:
        """As in `Mapping`."""

    @property
    def lists_all(self) -> bool:
        """As in `Mapping`."""


class KeyedMapping:
    """Asks a table for all keys of a recipient; the first that has a row for it counts.

    What the table cannot say of a key matters only where no row before it counts.
    """

    def __init__(self, name: str, table: Table, parent_domains: bool = False) -> None:
        self.name = name
        self.table = table
        self._parent_domains = parent_domains

    def keys(self, question: Question) -> tuple[str, ...]:
        return question.all_keys(self._parent_domains)

    async def lookup(self, question: Question) -> Answer:
        keys = self.keys(question)
        try:
            return self._walk(question, keys, await self.table.find(keys))
        except LookupFailed as error:
            answer = self._walk(question, keys, error.known)
            return TryAgain(str(error)) if isinstance(answer, NoRoute) else answer

    def _walk(self, question: Question, keys: Sequence[str], hits: Hits) -> Answer:
        passed: tuple[Route, ...] = ()
        for key in keys:
            hit = hits.get(key)
            if hit is None:
                continue
            if isinstance(hit, Wrong):
                return TryAgain(hit.reason)
            route = Route(hit.row, self.name, key, hit.place, hit.age, hit.stale)
            if hit.row.is_for(question):
                return Found(route, passed)
            passed += (route,)
        return NoRoute(passed)

    def listed(self) -> Iterable[Row]:
        return self.table.listed()

    @property
    def lists_all(self) -> bool:
        return self.table.lists_all
