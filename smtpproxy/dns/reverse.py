"""The names of clients."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.logger import Logger
from twisted.names import dns

from smtpproxy.dns.memory import FAILED, LONGEST, NONE, Memory
from smtpproxy.dns.names import NotFound, TryLater, clean, is_address
from smtpproxy.dns.resolver import RESOLV_CONF, Resolver
from smtpproxy.mail import TEMPUNAVAIL, UNAVAILABLE
from smtpproxy.tasks import start

log = Logger()

_POINTERS = 10  # names of one address that are considered

Address = IPv4Address | IPv6Address


class NoReverseNames:
    """Where clients are not to be looked up."""

    memory: Memory[str] | None = None  # nothing is asked

    async def name(self, address: str) -> str:
        return UNAVAILABLE

    def stop(self) -> None:
        pass


class ReverseNames:
    """The forward-confirmed names of clients (PTR, then its A or AAAA).

    `reactor`, `servers` and `resolv_conf` are as `Resolver` takes them.  `timeout` is in
    seconds, for all that naming one client may take.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[str],
        timeout: float,
        hosts: Path = Path("/etc/hosts"),
        resolv_conf: Path = RESOLV_CONF,
    ) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._hosts = hosts
        self._resolver = Resolver(reactor, servers, resolv_conf)
        self._memory: Memory[str] = Memory(reactor)

    @property
    def memory(self) -> Memory[str]:
        """What is remembered."""
        return self._memory

    async def name(self, address: str) -> str:
        """The name of `address` in lower case, without a trailing dot; or UNAVAILABLE, or
        TEMPUNAVAIL when DNS fails for now or takes longer than `timeout`.

        Never raises.
        """
        try:
            ip = ip_address(address.partition("%")[0])
        except ValueError:  # "" for a client on a Unix socket
            return UNAVAILABLE
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return await self._memory.get(str(ip), lambda: self._ask(ip))

    def stop(self) -> None:
        """Give up the look-ups under way."""
        self._memory.stop()

    async def _ask(self, ip: Address) -> tuple[str, float]:
        """The name, or the word for none, and the seconds to remember it."""
        if ip.is_loopback:  # never asked of another host
            return _name_in(self._hosts, ip), NONE
        work = start(self._confirmed(ip))
        work.addTimeout(self._timeout, self._reactor)
        try:
            return await work
        except (TryLater, TookTooLong, CancelledError):
            return TEMPUNAVAIL, FAILED
        except Exception:
            log.failure("looking up the name of {ip} failed", ip=ip)
            return TEMPUNAVAIL, FAILED

    async def _confirmed(self, ip: Address) -> tuple[str, float]:
        family = dns.A if ip.version == 4 else dns.AAAA
        failed = False
        for pointer in (await self._records(ip.reverse_pointer, dns.PTR))[:_POINTERS]:
            name = clean(pointer.payload.name.name)
            if not name:
                continue
            try:
                records = await self._records(name, family)
            except TryLater:
                failed = True
                continue
            for record in records:
                if ip_address(record.payload.address) == ip:
                    return name, min(pointer.ttl, record.ttl, LONGEST)
        return (TEMPUNAVAIL, FAILED) if failed else (UNAVAILABLE, NONE)

    async def _records(self, name: str, kind: int) -> list[Any]:
        try:
            return await self._resolver.records(name, kind)
        except NotFound:
            return []


def _name_in(hosts: Path, ip: Address) -> str:
    """The first name of `ip` in a hosts(5) file, or UNAVAILABLE."""
    try:
        lines = hosts.read_text("ascii", "replace").splitlines()
    except OSError:
        return UNAVAILABLE
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if names and is_address(address) and ip_address(address) == ip:
            return clean(names[0].encode("ascii", "replace")) or UNAVAILABLE
    return UNAVAILABLE
