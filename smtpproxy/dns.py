"""DNS: the name of a client, and the addresses of an upstream.

The two ask in different ways on purpose.  `ReverseNames` asks DNS itself, since the
answer is sent on as the identity of a client.  `Addresses` asks the system as every
other program does, so that /etc/hosts, search domains and a container's DNS count.

Both remember their answers, let equal questions under way share one look-up, and are
done within their `timeout`, whatever DNS does.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.error import CannotListenError, ConnectError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.names import client, dns
from twisted.names.error import DNSNameError, DomainError
from twisted.python.failure import Failure

from smtpproxy.mail import TEMPUNAVAIL, UNAVAILABLE

T = TypeVar("T")

log = Logger()

# RFC 1035 section 2.3.4: 63 octets for a label, 255 for a name, two of which are not text.
# What holds anything else (CR LF, say) is an attack on whoever prints it; and what ends in a
# number could be taken for an address.
_NAME = re.compile(r"(?!.{254})([a-z0-9_-]{1,63}\.)*(?![0-9]+\Z)[a-z0-9_-]{1,63}", re.ASCII)

_POINTERS = 10  # names of one address that are considered
_QUERIES = 200  # clients looked up at once; each takes a socket
_LONGEST = 3600.0  # seconds to remember a name, whatever its TTL
_NO_NAME = 60.0  # seconds to remember that there is none
_FAILED = 5.0  # seconds to remember that DNS fails
_FRESH = 30.0  # seconds that addresses count as new
_KNOWN = 86400.0  # seconds that addresses are kept for when DNS fails
_SIZE = 10_000  # answers remembered
_BACKLOG = 100  # look-ups that may wait for a thread

# Ways for DNS to fail that are no fault of ours.
_FAILURES = (
    TookTooLong,
    CancelledError,
    DomainError,
    CannotListenError,
    ConnectError,
    ConnectionClosed,
    OSError,
)

Address = IPv4Address | IPv6Address


class NotFound(Exception):
    """There is no such host, or it has no address."""


class TryLater(Exception):
    """The look-up failed for now."""


class _Memory(Generic[T]):
    """Answers by question, at most `size` of them: the longest known goes first."""

    def __init__(self, clock: IReactorTime, size: int = _SIZE) -> None:
        self._clock = clock
        self._size = size
        self._answers: dict[str, tuple[T, float]] = {}  # with the time until it holds
        self._waiters: dict[str, list[Deferred[T]]] = {}  # for each question under way
        self._work: dict[str, Deferred[tuple[T, float]]] = {}

    async def get(self, key: str, ask: Callable[[], Coroutine[Any, Any, tuple[T, float]]]) -> T:
        """The answer remembered, else the one that `ask` finds, with its seconds to live.

        Cancelling it leaves the look-up to the others who wait for it.
        """
        known = self.recall(key)
        if known is not None:
            return known
        waiter: Deferred[T] = Deferred()
        if key in self._waiters:
            self._waiters[key].append(waiter)
            return await waiter
        self._waiters[key] = [waiter]
        work = Deferred.fromCoroutine(ask())
        self._work[key] = work
        work.addCallbacks(self._answered, self._failed, callbackArgs=(key,), errbackArgs=(key,))
        return await waiter

    def recall(self, key: str) -> T | None:
        """The answer remembered, if it still holds."""
        answer, until = self._answers.get(key, (None, 0.0))
        return answer if self._clock.seconds() < until else None

    def keep(self, key: str, answer: T, seconds: float) -> None:
        self._answers.pop(key, None)  # it becomes the newest
        if seconds > 0:
            self._answers[key] = (answer, self._clock.seconds() + seconds)
        if len(self._answers) > self._size:
            del self._answers[next(iter(self._answers))]

    def stop(self) -> None:
        """Cancel the look-ups under way."""
        for work in list(self._work.values()):
            work.cancel()

    def _answered(self, found: tuple[T, float], key: str) -> None:
        answer, seconds = found
        self.keep(key, answer, seconds)
        for waiter in self._over(key):
            waiter.callback(answer)

    def _failed(self, failure: Failure, key: str) -> None:
        for waiter in self._over(key):
            waiter.errback(failure)

    def _over(self, key: str) -> list[Deferred[T]]:
        del self._work[key]
        return self._waiters.pop(key)


class NoReverseNames:
    """Where clients are not to be looked up."""

    async def name(self, address: str) -> str:
        return UNAVAILABLE

    def stop(self) -> None:
        pass


class ReverseNames:
    """The forward-confirmed names of clients (PTR, then its A or AAAA).

    `servers` are name servers, "ip" or "ip:port" ("[ip]:port" for IPv6); without any, those
    of `resolv_conf` are asked, which is read again when it changes.  `reactor` provides
    time, UDP and TCP.  `timeout` is in seconds, for all that naming one client may take.
    Raises ValueError for a server that is no address.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[str],
        timeout: float,
        hosts: Path = Path("/etc/hosts"),
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._hosts = hosts
        self._resolv_conf = None if servers else resolv_conf
        self._read = -1  # when `resolv_conf` was changed that was read last
        found = [_server(text) for text in servers] or [("127.0.0.1", dns.PORT)]
        self._resolver: Any = client.Resolver(servers=found, timeout=(1, 2), reactor=reactor)  # type: ignore[no-untyped-call]
        self._memory: _Memory[str] = _Memory(reactor)
        self._turns = DeferredSemaphore(_QUERIES)

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
        work = Deferred.fromCoroutine(self._find(ip))
        work.addTimeout(self._timeout, self._reactor)
        try:
            return await work
        except _FAILURES:
            return TEMPUNAVAIL, _FAILED
        except Exception:
            log.failure("looking up the name of {ip} failed", ip=ip)
            return TEMPUNAVAIL, _FAILED

    async def _find(self, ip: Address) -> tuple[str, float]:
        """The name, or the word for none, and the seconds to remember it."""
        if ip.is_loopback:  # never asked of another host
            return _name_in(self._hosts, ip), _NO_NAME
        await self._turns.acquire()
        try:
            self._reread()
            return await self._confirmed(ip)
        finally:
            self._turns.release()

    async def _confirmed(self, ip: Address) -> tuple[str, float]:
        family = dns.A if ip.version == 4 else dns.AAAA
        failed = False
        for pointer in (await self._records(ip.reverse_pointer, dns.PTR))[:_POINTERS]:
            name = _clean(pointer.payload.name.name)
            if not name:
                continue
            try:
                records = await self._records(name, family)
            except (DomainError, TookTooLong):
                failed = True
                continue
            for record in records:
                if ip_address(record.payload.address) == ip:
                    return name, min(pointer.ttl, record.ttl, _LONGEST)
        return (TEMPUNAVAIL, _FAILED) if failed else (UNAVAILABLE, _NO_NAME)

    async def _records(self, name: str, kind: int) -> list[Any]:
        """The records of this type; raises one of `_FAILURES` when DNS fails."""
        # Not `lookup…`: where no socket can be had, those leave the question blocked for ever.
        asked = self._resolver.queryUDP([dns.Query(name.encode("ascii"), kind)])
        try:
            answers, _, _ = await asked.addCallback(self._resolver.filterAnswers)
        except DNSNameError:
            return []
        return [record for record in answers if (record.type, record.cls) == (kind, dns.IN)]

    def _reread(self) -> None:
        """Take up the system's name servers if they have changed."""
        if self._resolv_conf is None:
            return
        try:
            changed = self._resolv_conf.stat().st_mtime_ns
            if changed != self._read:
                self._resolver.servers = _servers_in(self._resolv_conf)
                self._read = changed
        except OSError:  # being replaced: go on with those that are known
            return


class Addresses:
    """The addresses of upstream hosts, as the system knows them.

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
        self._reactor = reactor
        self._timeout = timeout
        self._threads = threads
        self._look_up = look_up or system_addresses
        self._memory: _Memory[tuple[str, ...] | NotFound | TryLater] = _Memory(reactor)
        self._known: _Memory[tuple[str, ...]] = _Memory(reactor)
        self._jobs: SimpleQueue[tuple[str, Deferred[tuple[str, ...]]] | None] = SimpleQueue()
        self._started = 0  # threads
        self._unfinished = 0  # jobs given to them
        self._stopped = False

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of `host`, IPv4 and IPv6, in the system's order of preference.

        An address is its own answer.  Raises NotFound, or TryLater when the look-up fails or
        takes longer than `timeout` and no answer of the last day is known.
        """
        if is_address(host):
            return (host,)
        answer = await self._memory.get(host, lambda: self._ask(host))
        if isinstance(answer, Exception):
            raise type(answer)(*answer.args)  # a new one: each raise adds to its traceback
        return answer

    def stop(self) -> None:
        """Give up the look-ups under way; their threads do not hold up the end of the process."""
        self._stopped = True
        self._memory.stop()
        for _ in range(self._started):
            self._jobs.put(None)
        self._started = 0

    async def _ask(self, host: str) -> tuple[tuple[str, ...] | NotFound | TryLater, float]:
        try:
            addresses = await self._job(host)
        except NotFound as error:
            return NotFound(f"{host}: {error}"), _FAILED
        except TryLater as error:
            why = str(error)
        except (TookTooLong, CancelledError):
            why = f"no answer within {self._timeout:g} s"
        except Exception as error:
            log.failure("looking up {host} failed", host=host)
            why = str(error)
        else:
            self._known.keep(host, addresses, _KNOWN)
            return addresses, _FRESH
        known = self._known.recall(host)
        return (known, _FRESH) if known else (TryLater(f"{host}: {why}"), _FAILED)

    async def _job(self, host: str) -> tuple[str, ...]:
        """What `look_up` says in a thread; raises as it does, or TookTooLong."""
        if self._stopped:
            raise TryLater("stopping")
        if self._unfinished >= self._threads + _BACKLOG:
            raise TryLater("too many look-ups hang")
        if self._started < self._threads:
            Thread(target=self._run, name=f"addresses-{self._started}", daemon=True).start()
            self._started += 1
        job: Deferred[tuple[str, ...]] = Deferred()
        job.addTimeout(self._timeout, self._reactor)
        self._jobs.put((host, job))
        self._unfinished += 1
        return await job

    def _run(self) -> None:
        """One thread: take jobs until there is a None."""
        while (task := self._jobs.get()) is not None:
            host, job = task
            answer: tuple[str, ...] | Exception = ()
            if not job.called:  # else its time ran out in the queue
                try:
                    answer = self._look_up(host)
                except Exception as error:
                    answer = error
            self._reactor.callFromThread(self._done, job, answer)

    def _done(self, job: Deferred[tuple[str, ...]], answer: tuple[str, ...] | Exception) -> None:
        self._unfinished -= 1
        if job.called:  # its time ran out
            return
        if isinstance(answer, Exception):
            job.errback(answer)
        else:
            job.callback(answer)


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


def is_address(host: str) -> bool:
    """True for an IPv4 or IPv6 address, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _clean(name: bytes) -> str:
    """A name out of DNS, in lower case; "" if it holds what no host name does."""
    text = name.decode("ascii", "replace").lower().removesuffix(".")
    return text if _NAME.fullmatch(text) else ""


def _name_in(hosts: Path, ip: Address) -> str:
    """The first name of `ip` in a hosts(5) file, or UNAVAILABLE."""
    try:
        lines = hosts.read_text("ascii", "replace").splitlines()
    except OSError:
        return UNAVAILABLE
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if names and is_address(address) and ip_address(address) == ip:
            return _clean(names[0].encode("ascii", "replace")) or UNAVAILABLE
    return UNAVAILABLE


def _servers_in(resolv_conf: Path) -> list[tuple[str, int]]:
    """The name servers of a resolv.conf(5) file; without any, the one on this host."""
    servers = []
    for line in resolv_conf.read_text("ascii", "replace").splitlines():
        match line.split():
            case ["nameserver", address, *_] if is_address(address):
                servers.append((str(ip_address(address)), dns.PORT))
    return servers or [("127.0.0.1", dns.PORT)]


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
