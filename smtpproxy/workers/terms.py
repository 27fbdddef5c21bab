"""What workers serve with, and how it gets from the parent to them.

The parent reads the configuration and binds; a worker has both from it, so that all workers have
the same, and one that is started later has what is in force, whatever the file says by then.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smtpproxy.config import Address, Config
from smtpproxy.doors import Bound
from smtpproxy.faults import Fault, Faults

Say = Callable[[bytes, Sequence[int]], object]  # as `Channel.send`


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """A configuration, and the sockets for its listeners."""

    config: Config
    sockets: Bound

    def tell(self, say: Say) -> None:
        """Say all of it to a worker."""
        for data, descriptors in map(lending, self.sockets, self.sockets.values()):
            say(data, descriptors)
        for data, descriptors in configuring(self.config):
            say(data, descriptors)
        say(keeping([address for address, _ in self.sockets]), ())


def lending(
    place: tuple[Address, int], sockets: Sequence[socket.socket]
) -> tuple[bytes, list[int]]:
    """What tells a worker of the sockets that listen at an address."""
    address, _ = place
    return _said("lent", str(address)), [each.fileno() for each in sockets]


def keeping(addresses: Sequence[Address]) -> bytes:
    """What tells a worker that this is all, and which addresses there are."""
    return _said("keep", sorted(map(str, addresses)))


def configuring(config: Config) -> Iterator[tuple[bytes, list[int]]]:
    """What tells a worker of a configuration, which has passwords in it: never in a file."""
    data = pickle.dumps(config)
    descriptor = os.memfd_create("configuration", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield _said("configuration", len(data)), [descriptor]
    finally:
        os.close(descriptor)


class Lent:
    """What a worker has been told to serve with; `complete` once there was all of it."""

    config: Config

    def __init__(self) -> None:
        self.complete = False
        self._sockets: dict[str, list[socket.socket]] = {}
        self.words: dict[str, Callable[[Any, Sequence[int]], object]] = {
            "lent": self._take,
            "configuration": self._configure,
            "keep": self._keep,
        }

    def bind(self, address: Address) -> list[socket.socket]:
        """Those that listen there; raises `Faults`.  They can be had again."""
        lent = self._sockets.get(str(address))
        if not lent:
            raise Faults([Fault(str(address), "the parent has not lent its socket")])
        copies = [each.dup() for each in lent]
        for each in copies:
            each.setblocking(False)
        return copies

    def close(self) -> None:
        """Have nothing any more: what is open keeps others from listening there."""
        self._keep([], ())

    def _take(self, address: str, descriptors: Sequence[int]) -> None:
        self._drop(address)
        self._sockets[address] = [socket.socket(fileno=each) for each in descriptors]

    def _configure(self, size: int, descriptors: Sequence[int]) -> None:
        (descriptor,) = descriptors
        try:
            self.config = pickle.loads(os.pread(descriptor, size, 0))  # noqa: S301 (our parent's)
        finally:
            os.close(descriptor)

    def _keep(self, addresses: Sequence[str], _: Sequence[int]) -> None:
        for address in self._sockets.keys() - set(addresses):
            self._drop(address)
        self.complete = True

    def _drop(self, address: str) -> None:
        for each in self._sockets.pop(address, ()):
            each.close()


def _said(word: str, value: Any) -> bytes:
    return json.dumps({word: value}).encode()
