"""The addresses of upstreams, and the order in which mail tries them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from smtpproxy.dns import NotFound, TryLater
from smtpproxy.routing import Server, Upstream
from smtpproxy.upstream.errors import Ourselves, OutOfService, Unreachable, UpstreamError
from smtpproxy.upstream.health import Health
from smtpproxy.upstream.standing import Standing, Standings
from smtpproxy.values import value

LookUp = Callable[[str], Awaitable[Sequence[str]]]


@value
class End:
    """An address of a server, or with "" why there is none.

    `left` are the addresses and servers still to be tried, itself among them.
    """

    server: Server
    address: str
    left: int = 1
    error: Unreachable | None = None


@dataclass(slots=True)
class LeftOut:
    """What mail is not tried at, or not before all others."""

    down: list[End] = field(default_factory=list)
    out: bool = False  # a server that drains or is in maintenance


class Ends:
    """Finds addresses, and knows which of them are down or out of service."""

    def __init__(
        self,
        resolve: LookUp,
        mail_hosts: LookUp,
        random: Random,
        health: Health,
        standings: Standings,
    ) -> None:
        self._resolve = resolve
        self._mail_hosts = mail_hosts
        self._random = random
        self._health = health
        self._standings = standings

    async def of(self, servers: Sequence[Server]) -> AsyncIterator[End]:
        """Each address of each of `servers`, and those servers that have none."""
        waiting = deque(servers)
        while waiting:
            server = waiting.popleft()
            try:
                if server.mx:
                    names = await self._mail_hosts(server.host)
                    waiting.extendleft(Server(name, server.port) for name in reversed(names))
                    continue
                addresses = [server.path] if server.path else await self._resolve(server.host)
            except (NotFound, TryLater) as error:
                yield End(server, "", error=Unreachable(str(error)))
                continue
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                yield End(server, address, left + len(waiting))

    async def for_mail(self, upstream: Upstream, left_out: LeftOut) -> AsyncIterator[End]:
        """Those in service, in order; then those that are down, where they may be well again."""
        health, standings = self._health, self._standings
        async for end in self.of(in_order(upstream.servers, self._random)):
            if standings and standings.of(upstream, end.server) is not Standing.ENABLED:
                left_out.out = True
            elif health and health.divert(end.server, end.address):
                left_out.down.append(end)
            else:
                yield end
        worth = [it for it in left_out.down if health.worth_trying(it.server, it.address)]
        for left, end in zip(range(len(worth), 0, -1), worth, strict=True):
            yield replace(end, left=left)

    def error(self, left_out: LeftOut, last: UpstreamError | None) -> UpstreamError:
        """What is told of it all, where `last` came of the last that was tried."""
        # That one is ourselves, for good, says nothing of those that were not tried.
        if last is not None and not isinstance(last, Ourselves):
            return last
        if left_out.down:
            end = left_out.down[-1]
            return Unreachable(self._health.why(end.server, end.address))
        if left_out.out:
            return OutOfService()
        return last or Unreachable("it has no address")


def in_order(servers: Sequence[Server], random: Random) -> list[Server]:
    """The order in which to try `servers`: as written, or drawn by their weights.

    Those that were drawn have none any more.
    """
    left, drawn = list(servers), []
    while left and left[0].weight:
        (chosen,) = random.choices(left, [server.weight for server in left])
        left.remove(chosen)
        drawn.append(replace(chosen, weight=0))
    return drawn + left
