"""The hosts that take the mail of a domain (RFC 5321 section 5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from twisted.names import dns

from smtpproxy.dns.memory import LONGEST, NONE, LongMemory, Memory
from smtpproxy.dns.names import NotFound, clean
from smtpproxy.dns.resolver import RESOLV_CONF, Resolver

_HOSTS = 20  # of one domain; nobody waits for more to be tried

_Hosts = tuple[tuple[int, str], ...]  # preference and name of each


class MailHosts:
    """The hosts of domains' MX records.

    `reactor`, `servers` and `resolv_conf` are as `Resolver` takes them.  `timeout` is in
    seconds, for one look-up.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[str],
        timeout: float,
        resolv_conf: Path = RESOLV_CONF,
        random: Random | None = None,
    ) -> None:
        self._resolver = Resolver(reactor, servers, resolv_conf)
        self._memory: LongMemory[_Hosts] = LongMemory(reactor, timeout)
        self._random = random or Random()  # noqa: S311 (it spreads load)

    async def of(self, domain: str) -> tuple[str, ...]:
        """The hosts for the mail of `domain`, best first, at most 20.

        Equal ones are in another order each time.  A domain without MX records is its own
        host.  Raises NotFound if there is no such domain or it takes no mail, or TryLater when
        DNS fails or takes longer than `timeout` and no answer of the last day is known.
        """
        name = clean(domain.encode("ascii", "replace"))
        if not name:
            raise NotFound(f"{domain}: not a domain name")
        hosts = await self._memory.get(name, lambda: self._ask(name))
        return tuple(host for _, host in self._best(hosts))

    @property
    def memory(self) -> Memory[Any]:
        """What is remembered."""
        return self._memory.memory

    def stop(self) -> None:
        """Give up the look-ups under way."""
        self._memory.stop()

    async def _ask(self, domain: str) -> tuple[_Hosts, float]:
        records = await self._resolver.records(domain, dns.MX)
        if not records:  # the "implicit MX"
            return ((0, domain),), NONE
        given = [(record.payload.preference, record.payload.name.name) for record in records]
        if not any(name for _, name in given):  # RFC 7505: its only host is the root
            raise NotFound("it takes no mail (null MX)")
        # What is no host name is passed over, an address, say (RFC 1035 section 3.3.9).
        hosts = [(preference, host) for preference, name in given if (host := clean(name))]
        if not hosts:  # an error (RFC 5321 section 5.1), and not the implicit MX
            raise NotFound("its MX records name no host")
        return self._best(hosts), min(*(record.ttl for record in records), LONGEST)

    def _best(self, hosts: Iterable[tuple[int, str]]) -> _Hosts:
        """The best of `hosts`, each once: lowest preference first, equal ones shuffled."""
        drawn = sorted(hosts, key=lambda host: (host[0], self._random.random()))
        best: dict[str, int] = {}
        for preference, host in drawn:
            best.setdefault(host, preference)
        return tuple((preference, host) for host, preference in best.items())[:_HOSTS]
