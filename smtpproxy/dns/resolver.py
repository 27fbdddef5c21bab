"""Asking DNS itself: the name servers of the configuration, or those of the system."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.error import CannotListenError, ConnectError, ConnectionClosed
from twisted.names import client, dns
from twisted.names.error import DNSNameError, DomainError

from smtpproxy.dns.names import NotFound, TryLater, is_address

RESOLV_CONF = Path("/etc/resolv.conf")

_TRIES = (1, 2)  # seconds to wait for the name servers, each in turn, and then once more
_QUERIES = 200  # questions asked at once; each takes a socket
_LOCAL = ("127.0.0.1", dns.PORT)

_CODES = {  # RFC 1035 section 4.1.1, by the names that dig(1) shows
    dns.EFORMAT: "FORMERR",
    dns.ESERVER: "SERVFAIL",
    dns.ENOTIMP: "NOTIMP",
    dns.EREFUSED: "REFUSED",
}


class Resolver:
    """Asks `servers`, "ip" or "ip:port" ("[ip]:port" for IPv6).

    Without any, those of `resolv_conf` are asked, which is read again when it changes.
    `reactor` provides time, UDP and TCP.  Raises ValueError for a server that is no address.
    """

    def __init__(
        self, reactor: Any, servers: Sequence[str], resolv_conf: Path = RESOLV_CONF
    ) -> None:
        self._resolv_conf = None if servers else resolv_conf
        self._read = -1  # when `resolv_conf` was changed that was read last
        found = [_server(text) for text in servers] or [_LOCAL]
        self._client: Any = client.Resolver(servers=found, timeout=_TRIES, reactor=reactor)  # type: ignore[no-untyped-call]
        self._turns = DeferredSemaphore(_QUERIES)

    async def records(self, name: str, kind: int) -> list[Any]:
        """The records of `name`, or of what it is an alias of, that are of this type.

        They are `twisted.names.dns.RRHeader`.  Raises NotFound if there is no such name, and
        TryLater if DNS fails.
        """
        await self._turns.acquire()
        try:
            self._reread()
            # Not `lookup…`: where no socket can be had, those leave the question blocked for ever.
            asked = self._client.queryUDP([dns.Query(name.encode("ascii"), kind)])
            answers, _, _ = await asked.addCallback(self._client.filterAnswers)
        except DNSNameError:
            raise NotFound("no such name") from None
        except DomainError as error:
            code = error.args[0].rCode
            raise TryLater(f"the name server says {_CODES.get(code, code)}") from None
        except TookTooLong:
            raise TryLater("no name server answers") from None
        except (CannotListenError, ConnectError, ConnectionClosed, OSError) as error:
            raise TryLater(str(error)) from None
        finally:
            self._turns.release()
        return [record for record in answers if (record.type, record.cls) == (kind, dns.IN)]

    def _reread(self) -> None:
        """Take up the system's name servers if they have changed."""
        if self._resolv_conf is None:
            return
        try:
            changed = self._resolv_conf.stat().st_mtime_ns
            if changed != self._read:
                self._client.servers = _servers_in(self._resolv_conf)
                self._read = changed
        except OSError:  # being replaced: go on with those that are known
            return


def _servers_in(resolv_conf: Path) -> list[tuple[str, int]]:
    """The name servers of a resolv.conf(5) file; without any, the one on this host."""
    servers = []
    for line in resolv_conf.read_text("ascii", "replace").splitlines():
        match line.split():
            case ["nameserver", address, *_] if is_address(address):
                servers.append((str(ip_address(address)), dns.PORT))
    return servers or [_LOCAL]


def _server(text: str) -> tuple[str, int]:
    """Address and port of a name server; ValueError if it is no address.

    The address is written in the one canonical way, as answers are compared with it.
    """
    if is_address(text):
        return str(ip_address(text)), dns.PORT
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, port = text, str(dns.PORT)
    return str(ip_address(host.removeprefix("[").removesuffix("]"))), int(port)
