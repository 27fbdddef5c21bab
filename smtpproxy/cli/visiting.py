"""Trying upstreams as the proxy would, up to but not including MAIL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtpproxy import tls
from smtpproxy.cli.visit import Visit
from smtpproxy.config import Config
from smtpproxy.deadlines import Deadlines
from smtpproxy.dns import Addresses, NoReverseNames, NotFound, ReverseNames, TryLater
from smtpproxy.mail import UNAVAILABLE, Client, Peer
from smtpproxy.parts import listening
from smtpproxy.routing import Upstream
from smtpproxy.sockets import is_ourselves
from smtpproxy.upstream import Connector, Manners, TcpDial, Unreachable, UpstreamError


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address, the connections made to it, and why no mail can go there, if so."""

    address: str
    visits: tuple[Visit, ...]
    error: UpstreamError | None


@dataclass(frozen=True, slots=True)
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
        self._names = (
            ReverseNames(reactor, config.dns.servers, config.dns.timeout)
            if config.dns.reverse
            else NoReverseNames()
        )

    async def visit(self, upstream: Upstream) -> Report:
        """Try each address of `upstream`, also those after one that would take mail."""
        try:
            addresses = await self._addresses.resolve(upstream.host)
        except (NotFound, TryLater) as error:
            return Report(upstream, (Attempt("", (), Unreachable(str(error))),))
        attempts = [await self._attempt(upstream, address) for address in addresses]
        return Report(upstream, tuple(attempts))

    def stop(self) -> None:
        self._deadlines.stop()
        self._names.stop()
        self._addresses.stop()

    async def _attempt(self, upstream: Upstream, address: str) -> Attempt:
        visits: list[Visit] = []

        def make() -> Visit:
            visits.append(Visit(self._deadlines, upstream.host))
            return visits[-1]

        async def this_one(host: str) -> tuple[str, ...]:
            return (address,)

        connector = Connector(
            dial=TcpDial(self._reactor, make),
            resolve=this_one,
            is_ourselves=lambda address, port: is_ourselves(self._listening, address, port),
            manners=self._manners,
            deadlines=self._deadlines,
        )
        error: UpstreamError | None = None
        try:
            connection = await connector.connect(
                upstream,
                lambda with_name: self._identify(visits[-1], with_name),
                self._seconds,
                failed=lambda address, reason: None,
            )
            await connection.quit()
        except UpstreamError as caught:
            error = caught
        for visit in visits:
            await visit.end()
        return Attempt(address, tuple(visits), error)

    async def _identify(self, visit: Visit, with_name: bool) -> Client:
        """The client as XCLIENT introduces it: as if it had connected to this host."""
        here, _ = visit.ends()
        own, port = here.host, here.port  # type: ignore[attr-defined]  # it is of TCP
        peer = Peer(self._client or own, port, own, self._port)
        name = await self._names.name(peer.address) if with_name else UNAVAILABLE
        return Client(peer, name, self._helo)
