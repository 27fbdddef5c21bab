"""Connecting to an upstream: its addresses in turn, each with its share of the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Protocol

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.dns import NotFound, TryLater
from smtpproxy.routing import Server, Upstream
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.errors import Broken, Ourselves, Unreachable, UpstreamError
from smtpproxy.upstream.handshake import (
    Caller,
    Manners,
    TlsFailed,
    announce,
    greet,
    hello,
    introduce,
    secure,
)

Failed = Callable[[Server, str, str], object]  # told of an address and why it was given up


class Dial(Protocol):
    """Opens a stream to a port of an address; raises `Disconnected` or `TimedOut`."""

    async def __call__(self, address: str, port: int, seconds: float) -> Stream: ...


class Connector:
    """Makes connections that are ready for mail."""

    def __init__(
        self,
        *,
        dial: Dial,
        resolve: Callable[[str], Awaitable[Sequence[str]]],
        mail_hosts: Callable[[str], Awaitable[Sequence[str]]],
        is_ourselves: Callable[[str, int], bool],
        manners: Manners,
        deadlines: Deadlines,
        random: Random | None = None,
    ) -> None:
        """`mail_hosts` gives the hosts of a domain's MX records, best first."""
        self._dial = dial
        self._resolve = resolve
        self._mail_hosts = mail_hosts
        self._is_ourselves = is_ourselves
        self._manners = manners
        self._deadlines = deadlines
        self._random = random or Random()  # noqa: S311 (it spreads load)

    async def connect(
        self, upstream: Upstream, caller: Caller, seconds: float, failed: Failed
    ) -> Connection:
        """A connection that took EHLO, STARTTLS and XCLIENT; at most `seconds` for all of it.

        Raises `UpstreamError`, that of the last address; `failed` hears of each.
        """
        until = self._deadlines.seconds() + seconds
        last: UpstreamError | None = None
        servers = deque(in_order(upstream.servers, self._random))
        while servers:
            server = servers.popleft()
            try:
                if server.mx:
                    names = await self._mail_hosts(server.host)
                    servers.extendleft(Server(name, server.port) for name in reversed(names))
                    continue
                addresses = await self._resolve(server.host)
            except (NotFound, TryLater) as error:
                last = Unreachable(str(error))
                failed(server, "", str(error))
                continue
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                share = (until - self._deadlines.seconds()) / (left + len(servers))
                try:
                    return await self._try(upstream, server, address, caller, share)
                except UpstreamError as error:
                    failed(server, address, str(error))
                    if not error.elsewhere:
                        raise
                    # That one is ourselves, for good, says nothing of the others.
                    if last is None or not isinstance(error, Ourselves):
                        last = error
        raise last or Unreachable("it has no address")

    async def _try(
        self, upstream: Upstream, server: Server, address: str, caller: Caller, seconds: float
    ) -> Connection:
        """One address; raises `UpstreamError`, also where it takes longer than `seconds`."""
        try:
            return await self._deadlines.limit(
                self._connect(upstream, server, address, caller), seconds
            )
        except TimedOut as error:
            raise Unreachable(f"no answer in {error.seconds:.0f} s") from error

    async def _connect(
        self, upstream: Upstream, server: Server, address: str, caller: Caller
    ) -> Connection:
        if self._is_ourselves(address, server.port):
            raise Ourselves
        try:
            return await self._open(upstream, server, address, caller, starttls=True)
        except TlsFailed:
            # Encryption nobody can rely on is not worth the mail: again, in clear.
            return await self._open(upstream, server, address, caller, starttls=False)

    async def _open(
        self, upstream: Upstream, server: Server, address: str, caller: Caller, starttls: bool
    ) -> Connection:
        try:
            stream = await self._dial(address, server.port, self._manners.connect_time)
        except (Disconnected, TimedOut) as error:
            raise Unreachable(str(error)) from error
        connection = Connection(stream, upstream, server, address)
        try:
            manners = await announce(connection, caller, self._manners)
            await greet(connection, manners)
            await hello(connection, manners)
            if starttls:
                await secure(connection, manners)
            await introduce(connection, caller, manners)
        except Broken as error:
            raise Unreachable(str(error)) from error
        except UpstreamError:
            connection.leave()
            raise
        except BaseException:
            connection.abort()
            raise
        return connection


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
