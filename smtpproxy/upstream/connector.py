"""Connecting to an upstream: its addresses in turn, each with its share of the time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.dns import NotFound, TryLater
from smtpproxy.routing import Upstream
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.errors import Broken, Ourselves, Unreachable, UpstreamError
from smtpproxy.upstream.handshake import (
    Identify,
    Manners,
    TlsFailed,
    greet,
    hello,
    introduce,
    secure,
)

Failed = Callable[[str, str], object]  # told of an address and why it was given up


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
        is_ourselves: Callable[[str, int], bool],
        manners: Manners,
        deadlines: Deadlines,
    ) -> None:
        self._dial = dial
        self._resolve = resolve
        self._is_ourselves = is_ourselves
        self._manners = manners
        self._deadlines = deadlines

    async def connect(
        self, upstream: Upstream, identify: Identify, seconds: float, failed: Failed
    ) -> Connection:
        """A connection that took EHLO, STARTTLS and XCLIENT; at most `seconds` for all of it.

        Raises `UpstreamError`, that of the last address; `failed` hears of each.
        """
        until = self._deadlines.seconds() + seconds
        try:
            addresses = await self._resolve(upstream.host)
        except (NotFound, TryLater) as error:
            failed("", str(error))
            raise Unreachable(str(error)) from error
        last: UpstreamError = Unreachable("it has no address")
        for place, address in enumerate(addresses):
            share = (until - self._deadlines.seconds()) / (len(addresses) - place)
            try:
                return await self._deadlines.limit(self._try(upstream, address, identify), share)
            except TimedOut as error:
                last = Unreachable(f"no answer in {error.seconds:.0f} s")
            except UpstreamError as error:
                last = error
            failed(address, str(last))
            if not last.elsewhere:
                break
        raise last

    async def _try(self, upstream: Upstream, address: str, identify: Identify) -> Connection:
        if self._is_ourselves(address, upstream.port):
            raise Ourselves
        try:
            return await self._open(upstream, address, identify, starttls=True)
        except TlsFailed:
            # Encryption nobody can rely on is not worth the mail: again, in clear.
            return await self._open(upstream, address, identify, starttls=False)

    async def _open(
        self, upstream: Upstream, address: str, identify: Identify, starttls: bool
    ) -> Connection:
        try:
            stream = await self._dial(address, upstream.port, self._manners.connect_time)
        except (Disconnected, TimedOut) as error:
            raise Unreachable(str(error)) from error
        connection = Connection(stream, upstream, address)
        try:
            await greet(connection, self._manners)
            await hello(connection, self._manners)
            if starttls:
                await secure(connection, self._manners)
            await introduce(connection, identify, self._manners)
        except Broken as error:
            raise Unreachable(str(error)) from error
        except UpstreamError:
            connection.leave()
            raise
        except BaseException:
            connection.abort()
            raise
        return connection
