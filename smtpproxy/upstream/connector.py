"""Connecting to an upstream: its addresses in turn, each with its share of the time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.dns import NotFound, TryLater
from smtpproxy.mail import Client, Peer
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.errors import (
    Broken,
    NotIntroduced,
    Ourselves,
    Unreachable,
    UpstreamError,
)
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
Asked = Callable[[Server, str, Extensions], object]  # told what an address announces
Heard = Callable[[Upstream, Server, str, Extensions], object]  # the same, and of which upstream


@dataclass(frozen=True, slots=True)
class _End:
    """An address of a server, or with "" why there is none.

    `left` are the addresses and servers still to be tried, itself among them.
    """

    server: Server
    address: str
    left: int = 1
    error: Unreachable | None = None


class Dial(Protocol):
    """Opens a stream to a port of an address, or to a Unix socket, whose path is the address.

    Raises `Disconnected` or `TimedOut`.
    """

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
        heard: Heard | None = None,
    ) -> None:
        """`mail_hosts` gives the hosts of a domain's MX records, best first.

        `heard` is told what each connection's upstream announced to a client that said EHLO.
        """
        self._dial = dial
        self._resolve = resolve
        self._mail_hosts = mail_hosts
        self._is_ourselves = is_ourselves
        self._manners = manners
        self._deadlines = deadlines
        self._random = random or Random()  # noqa: S311 (it spreads load)
        self._heard = heard

    async def connect(
        self, upstream: Upstream, caller: Caller | None, seconds: float, failed: Failed
    ) -> Connection:
        """A connection that took EHLO, STARTTLS and XCLIENT; at most `seconds` for all of it.

        Without a caller it is told of nobody, and is not ready for mail where it must be.  Raises
        `UpstreamError`, that of the last address; `failed` hears of each.
        """
        until = self._deadlines.seconds() + seconds
        last: UpstreamError | None = None
        async for end in self._ends(in_order(upstream.servers, self._random)):
            share = (until - self._deadlines.seconds()) / end.left
            try:
                connection = await self._try(upstream, end, caller, share)
            except UpstreamError as error:
                failed(end.server, end.address, str(error))
                if not error.elsewhere:
                    raise
                # That one is ourselves, for good, says nothing of the others.
                if last is None or not isinstance(error, Ourselves):
                    last = error
                continue
            connection.first_choice = last is None
            if caller is not None:
                await self._tell(connection, caller)
            return connection
        raise last or Unreachable("it has no address")

    async def ask(self, upstream: Upstream, seconds: float, heard: Asked, failed: Failed) -> None:
        """Have each address of each server say what it announces, to us and not to a client.

        Each has `seconds`.  No mail is sent, and no client introduced.
        """
        async for end in self._ends(list(upstream.servers)):
            try:
                connection = await self._try(upstream, end, None, seconds)
            except UpstreamError as error:
                failed(end.server, end.address, str(error))
                continue
            heard(end.server, end.address, connection.extensions)
            await connection.quit()

    async def introduce(self, connection: Connection, caller: Caller) -> None:
        """Tell a connection that was made before of the caller, where it wants to be told.

        Raises `Broken` or `UpstreamError`; also where it was told of another, and that stands.
        """
        before = connection.told
        await introduce(connection, caller, self._manners)
        if before is not None and connection.told is before:
            raise NotIntroduced
        await self._tell(connection, caller)

    async def _tell(self, connection: Connection, caller: Caller) -> None:
        """Tell who listens what was announced."""
        if self._heard is None:
            return
        if connection.server.lmtp or (await caller.identify(False)).esmtp:
            self._heard(
                connection.upstream, connection.server, connection.address, connection.extensions
            )

    async def _ends(self, servers: Sequence[Server]) -> AsyncIterator[_End]:
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
                yield _End(server, "", error=Unreachable(str(error)))
                continue
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                yield _End(server, address, left + len(waiting))

    async def _try(
        self, upstream: Upstream, end: _End, caller: Caller | None, seconds: float
    ) -> Connection:
        """One address; raises `UpstreamError`, also where it takes longer than `seconds`."""
        if end.error is not None:
            raise end.error
        try:
            return await self._deadlines.limit(self._connect(upstream, end, caller), seconds)
        except TimedOut as error:
            raise Unreachable(f"no answer in {error.seconds:.0f} s") from error

    async def _connect(self, upstream: Upstream, end: _End, caller: Caller | None) -> Connection:
        if self._is_ourselves(end.address, end.server.port):
            raise Ourselves
        try:
            return await self._open(upstream, end, caller, starttls=True)
        except TlsFailed:
            # Encryption nobody can rely on is not worth the mail: again, in clear.
            return await self._open(upstream, end, caller, starttls=False)

    async def _open(
        self, upstream: Upstream, end: _End, caller: Caller | None, starttls: bool
    ) -> Connection:
        """Ready for the mail of `caller`; without one, for none."""
        try:
            stream = await self._dial(end.address, end.server.port, self._manners.connect_time)
        except (Disconnected, TimedOut) as error:
            raise Unreachable(str(error)) from error
        connection = Connection(stream, upstream, end.server, end.address)
        try:
            manners = await announce(connection, caller or self._nobody, self._manners)
            await greet(connection, manners)
            await hello(connection, manners)
            if starttls:
                await secure(connection, manners)
            if caller is not None:
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

    @property
    def _nobody(self) -> Caller:
        """The caller where there is no client: without an address, a PROXY header says so."""
        peer = Peer("", 0, "", 0)

        async def identify(with_name: bool) -> Client:
            return Client(peer, helo=self._manners.domain)

        return Caller(peer, identify)


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
