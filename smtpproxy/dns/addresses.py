"""The addresses of upstream hosts, as the system knows them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from smtpproxy.dns.memory import FRESH, LongMemory, Memory
from smtpproxy.dns.names import NotFound, TryLater, is_address
from smtpproxy.threads import Busy, Stopped, Threads

_BACKLOG = 100  # look-ups that may wait for a thread


class Addresses:
    """The addresses of hosts.

    `reactor` provides time and callFromThread.  `timeout` is in seconds, for one look-up.
    `look_up` runs in one of at most `threads` threads of our own: it may hang, and then
    takes nobody else's.
    """

    def __init__(
        self,
        reactor: Any,
        timeout: float = 10.0,
        threads: int = 4,
        look_up: Callable[[str], tuple[str, ...]] | None = None,
    ) -> None:
        self._look_up = look_up or system_addresses
        self._threads = Threads(reactor, "addresses", threads, _BACKLOG)
        self._memory: LongMemory[tuple[str, ...]] = LongMemory(reactor, timeout)

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of `host`, IPv4 and IPv6, in the system's order of preference.

        An address is its own answer.  Raises NotFound, or TryLater when the look-up fails or
        takes longer than `timeout` and no answer of the last day is known.
        """
        if is_address(host):
            return (host,)
        return await self._memory.get(host, lambda: self._ask(host))

    @property
    def memory(self) -> Memory[Any]:
        """What is remembered."""
        return self._memory.memory

    def stop(self) -> None:
        """Give up the look-ups under way; their threads do not hold up the end of the process."""
        self._threads.stop()

    async def _ask(self, host: str) -> tuple[tuple[str, ...], float]:
        try:
            return await self._threads.run(lambda _: self._look_up(host)), FRESH
        except Busy:
            raise TryLater("too many look-ups hang") from None
        except Stopped:
            raise TryLater("stopping") from None


def system_addresses(host: str) -> tuple[str, ...]:
    """What getaddrinfo(3) says, in its order (RFC 6724), each once; blocks.

    Raises NotFound or TryLater.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY):
            raise NotFound(error.strerror) from None
        raise TryLater(error.strerror) from None
    except OSError as error:
        raise TryLater(str(error)) from None
    except ValueError:  # an empty label, one that is too long, a NUL
        raise NotFound("not a host name") from None
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
