"""Listening sockets: bound here, adopted by the reactor, and which targets are our own."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory

from smtpproxy.config import Address
from smtpproxy.faults import Fault, Faults

BACKLOG = 1024  # connections that wait to be accepted; the kernel's somaxconn may say less


def bind(address: Address) -> list[socket.socket]:
    """The listening, non-blocking sockets for `address`: two for all addresses of IPv4 and IPv6.

    Raises `Faults` where the address cannot be listened to.
    """
    bound: list[socket.socket] = []
    try:
        if address.path:
            bound.append(_bind_path(address.path))
        for family, host in _families(address):
            try:
                port = bound[0].getsockname()[1] if bound else address.port
                bound.append(_bind(family, host, port))
            except OSError as error:
                # A host without IPv6 listens to what it has.
                if not (bound and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)):
                    raise
    except OSError as error:
        for each in bound:
            each.close()
        hint = _HINTS.get(error.errno or 0, "")
        raise Faults([Fault(str(address), f"cannot listen: {error.strerror}{hint}")]) from None
    return bound


def listened(bound: socket.socket) -> list[tuple[str, int]]:
    """Host and port that a socket listens to, or its path and 0; two where it takes IPv4, too.

    One that systemd has bound does so, as a rule.
    """
    name = bound.getsockname()
    if isinstance(name, str):
        return [(name, 0)]
    host, port = name[:2]
    if host == "::" and not bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return [("::", port), ("0.0.0.0", port)]
    return [(host, port)]


def is_local(address: str) -> bool:
    """`address` is one of this host's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:  # or there is no descriptor left: then it cannot be connected to either
        return False
    return True


def is_ourselves(listening: Iterable[tuple[str, int]], address: str, port: int) -> bool:
    """A connection to `port` of `address` comes back to one of the (host, port) `listening`.

    A Unix socket is its path and port 0, in both.
    """
    if address.startswith("/"):
        paths = (os.path.realpath(host) for host, _ in listening if host.startswith("/"))
        return os.path.realpath(address) in paths  # /var/run is /run
    address = _reached(address)
    for host, own_port in listening:
        if port == own_port:
            if address == host:
                return True
            if host in ("0.0.0.0", "::") and (":" in host) == (":" in address):
                return is_local(address)
    return False


@lru_cache(1024)  # each connection to an upstream asks again
def _reached(address: str) -> str:
    """The address, in its canonical form, that a connection to `address` is made to."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    ip = (ip.version == 6 and ip.ipv4_mapped) or ip
    if ip.is_unspecified:  # Linux takes it for this host
        return "127.0.0.1" if ip.version == 4 else "::1"
    return str(ip)


_HINTS = {
    errno.EADDRINUSE: "; another program listens there (ss -ltnp shows which): stop it, or choose "
    "another port",
    errno.EACCES: "; a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "; this host has no such address",
}


def _families(address: Address) -> Sequence[tuple[socket.AddressFamily, str]]:
    if address.path:
        return ()
    if not address.host:
        return ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return ((family, address.host),)


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_path(path: str) -> socket.socket:
    """A listening Unix socket for every local user, as a port of the loopback address is.

    Raises OSError.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        if _is_stale(path):
            os.unlink(path)
        bound.bind(path)
        os.chmod(path, 0o666)  # noqa: S103
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def listen_privately(
    reactor: Any, path: str, factory: Factory[Any], mode: int = 0o600
) -> IListeningPort:
    """Listen at a Unix socket that is for root and this program's user alone; raises OSError.

    `adoptStreamPort` would not do: it opens every Unix socket to all users.
    """
    if _is_stale(path):
        os.unlink(path)
    try:
        port: IListeningPort = reactor.listenUNIX(path, factory, mode=mode)
    except CannotListenError as error:
        reason: OSError = error.socketError
        if reason.errno == errno.EADDRINUSE:
            raise OSError(reason.errno, f"{reason.strerror}; {_holder(path)}") from None
        raise reason from None
    return port


def _holder(path: str) -> str:
    """Why nobody else can listen at `path`."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return "it is no socket: move it away, or choose another name"
    return "another program listens there: perhaps another smtpproxy"


def _is_stale(path: str) -> bool:
    """There is a socket that nobody listens to any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # whoever listens may have no room for it
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False
    return False
