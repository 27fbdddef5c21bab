"""Where HTTP is listened for, which may change while the program runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from socket import socket
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from smtpproxy.config import Address, Config
from smtpproxy.faults import Fault, Faults
from smtpproxy.sockets import listen_privately
from smtpproxy.web.access import Access, access_of
from smtpproxy.web.paths import Ask, Paths
from smtpproxy.web.site import BoundedSite

SOCKET_MODE = 0o660  # of a Unix socket: for the program's user and group


@dataclass(slots=True)
class Opened:
    """What a configuration asks for: `ports` are new, and none where they are there already."""

    address: Address | None
    access: Access
    ports: list[IListeningPort] = field(default_factory=list)

    def discard(self) -> None:
        """It is not wanted after all."""
        for port in self.ports:
            port.stopListening()


class Web:
    """The listener of the program."""

    def __init__(self, reactor: Any, ask: Ask, bind: Callable[[Address], Sequence[socket]]) -> None:
        """`ask` asks the program; `bind` gives the sockets of an address, and raises `Faults`."""
        self._reactor = reactor
        self._bind = bind
        self._paths = Paths(ask, Access("", frozenset(), local=True))
        self._site = BoundedSite(self._paths, reactor)
        self._address: Address | None = None
        self._ports: list[IListeningPort] = []

    def open(self, config: Config) -> Opened:
        """Listen as `config` wants it, where that is not done; raises `Faults`."""
        address = config.http.listen
        opened = Opened(address, access_of(config))
        if address is not None and address != self._address:
            try:
                opened.ports = self._listen(address)
            except Faults as error:
                place = config.place("http", "listen")
                raise Faults([Fault(place, str(each)) for each in error.faults]) from None
        return opened

    def move(self, opened: Opened) -> None:
        """What was opened counts from now on."""
        self._paths.access = opened.access
        if opened.address != self._address:
            self.close()
            self._address, self._ports = opened.address, opened.ports

    def close(self) -> Deferred[Any]:
        """Listen no more; fires once that is so."""
        ports, self._address, self._ports = self._ports, None, []
        return gatherResults([maybeDeferred(port.stopListening) for port in ports])

    def _listen(self, address: Address) -> list[IListeningPort]:
        if address.path:
            try:
                return [listen_privately(self._reactor, address.path, self._site, SOCKET_MODE)]
            except OSError as error:
                text = f"cannot listen: {error.strerror or error}"
                raise Faults([Fault(str(address), text)]) from None
        ports = []
        for each in self._bind(address):
            ports.append(self._reactor.adoptStreamPort(each.fileno(), each.family, self._site))
            each.close()
        return ports
