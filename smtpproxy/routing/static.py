"""The mapping that sends every recipient to one upstream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from smtpproxy.routing.answers import Answer, Found, NoRoute, Question, Route, Row
from smtpproxy.values import value


@value
class StaticMapping:
    """Its first key matches, whatever it is: no mapping after this one is asked.

    Unless it has a `percent`: then only by those whom its row is not for.
    """

    row: Row
    name: str = "static"
    lists_all: ClassVar[bool] = True

    def keys(self, question: Question) -> tuple[str, ...]:
        return question.keys[:1]

    async def lookup(self, question: Question) -> Answer:
        keys = self.keys(question)
        if not keys:
            return NoRoute()
        route = Route(self.row, self.name, keys[0])
        return Found(route) if self.row.is_for(question) else NoRoute((route,))

    def listed(self) -> Iterable[Row]:
        return (self.row,)
