"""The mapping that sends every recipient to one upstream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smtpproxy.routing.answers import Answer, Found, NoRoute, Route
from smtpproxy.routing.servers import Upstream


@dataclass(frozen=True, slots=True)
class StaticMapping:
    """Its first key matches, whatever it is: no mapping after this one is asked."""

    upstream: Upstream
    name: str = "static"

    async def lookup(self, keys: Sequence[str]) -> Answer:
        return Found(Route(self.upstream, self.name, keys[0])) if keys else NoRoute()

    def upstreams(self) -> Iterable[Upstream]:
        return (self.upstream,)
