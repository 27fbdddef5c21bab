"""Trying upstreams as the proxy would, up to but not including MAIL."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from smtpproxy import tls
from smtpproxy.cli.visit import Visit
from smtpproxy.config import Config
from smtpproxy.deadlines import Deadlines
from smtpproxy.dns import Addresses, MailHosts, NoReverseNames, NotFound, ReverseNames, TryLater
from smtpproxy.mail import UNAVAILABLE, Client, Peer
from smtpproxy.parts import listening
from smtpproxy.routing import Server, Upstream
from smtpproxy.sockets import is_ourselves
from smtpproxy.transport import Poll
from smtpproxy.upstream import Caller, Connector, Manners, SocketDial, Unreachable, UpstreamError
from smtpproxy.values import value


@value
class Attempt:
    """One address of a server, or its path, "" where it has none, and the connections made to it.

    `error` is why no mail can go there, if so.
    """

    server: Server
    address: str
    visits: tuple[Visit, ...]
    error: UpstreamError | None


@value
class Report:
    """What came of an upstream, address by address, in the order the proxy tries them."""

    upstream: Upstream
    attempts: tuple[Attempt, ...]

    @property
    def error(self) -> UpstreamError | None:
        """What the proxy would end up with; None where it would be ready for mail."""
        error: UpstreamError | None = None
        for attempt in self.attempts:
            error = attempt.error
            if error is None or not error.elsewhere:
                break
        return error


class Visitor:
    """Visits upstreams; `seconds` is what one address may take.

    `client` is the address of the client to introduce, "" for our own, and `helo` its name.
    Raises `Faults` where the authorities of the configuration cannot be had.
    """

    def __init__(
        self, reactor: Any, config: Config, seconds: float, client: str = "", helo: str = ""
    ) -> None:
        authorities = Path(config.tls_ca) if config.tls_ca else None
        times = config.timeouts
        self._reactor = reactor
        self._listening = listening(config)
        self._seconds = seconds
        self._client = client
        self._helo = helo or config.domain
        self._port = config.listeners[0].listen.port
        self._manners = Manners(
            config.domain,
            tls.client_context(authorities),
            min(times.upstream_connect, seconds),
            min(times.upstream_reply, seconds),
        )
        self._deadlines = Deadlines(reactor)
        self._addresses = Addresses(reactor, timeout=min(10.0, seconds))
        self._mail_hosts = MailHosts(reactor, config.dns.servers, config.dns.timeout)
        self._names = (
            ReverseNames(reactor, config.dns.servers, config.dns.timeout)
            if config.dns.reverse
            else NoReverseNames()
        )

    async def visit(self, upstream: Upstream) -> Report:
        """Try each address of each server of `upstream`, also those after one that would do."""
        attempts = []
        for server in upstream.servers:
            async for attempt in self._attempts(upstream, server):
                attempts.append(attempt)
        return Report(upstream, tuple(attempts))

    def stop(self) -> None:
        self._deadlines.stop()
        self._names.stop()
        self._mail_hosts.stop()
        self._addresses.stop()

    async def _attempts(self, upstream: Upstream, server: Server) -> AsyncIterator[Attempt]:
        if server.path:
            yield await self._attempt(upstream, server, server.path)
            return
        try:
            names = await self._mail_hosts.of(server.host) if server.mx else (server.host,)
        except (NotFound, TryLater) as error:
            yield Attempt(server, "", (), Unreachable(str(error)))
            return
        for name in names:
            host = Server(name, server.port, lmtp=server.lmtp)
            try:
                addresses = await self._addresses.resolve(name)
            except (NotFound, TryLater) as error:
                yield Attempt(host, "", (), Unreachable(str(error)))
                continue
            for address in addresses:
                yield await self._attempt(upstream, host, address)

    async def _attempt(self, upstream: Upstream, server: Server, address: str) -> Attempt:
        visits: list[Visit] = []

        def make() -> Visit:
            visits.append(Visit(self._deadlines, server.host))
            return visits[-1]

        async def this_one(host: str) -> tuple[str, ...]:
            return (address,)

        connector = Connector(
            dial=SocketDial(Poll(self._reactor), self._deadlines, make),
            resolve=this_one,
            mail_hosts=this_one,
            is_ourselves=lambda address, port: is_ourselves(self._listening, address, port),
            manners=self._manners,
            deadlines=self._deadlines,
        )
        error: UpstreamError | None = None
        try:
            connection = await connector.connect(
                replace(upstream, servers=(server,)),
                self._caller(address),
                self._seconds,
                failed=lambda server, address, reason: None,
            )
            await connection.quit()
        except UpstreamError as caught:
            error = caught
        for visit in visits:
            await visit.end()
        return Attempt(server, address, tuple(visits), error)

    def _caller(self, address: str) -> Caller:
        """The client to introduce: as if it had connected to where we reach `address` from."""
        own, port = _own_end(address)
        client = self._client or own
        if (":" in client) != (":" in own):  # it would have come another way
            own = "::1" if ":" in client else "127.0.0.1"
        peer = Peer(client, port, own, self._port)

        async def identify(with_name: bool) -> Client:
            name = await self._names.name(peer.address) if with_name else UNAVAILABLE
            return Client(peer, name, self._helo)

        return Caller(peer, identify)


def _own_end(address: str) -> tuple[str, int]:
    """The address, and a free port, that this host would use towards `address`; no one is asked.

    For a Unix socket, as if it were a port of this host.
    """
    if address.startswith("/"):
        address = "127.0.0.1"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as ours:
        try:
            ours.connect((address, 25))  # sends nothing
        except OSError:  # no way there, as will be seen
            return ("::1" if ":" in address else "127.0.0.1"), 0
        host, port = ours.getsockname()[:2]
    return host.partition("%")[0], port
