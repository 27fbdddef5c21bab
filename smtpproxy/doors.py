"""The sockets that clients come in by; they stay where they are when the configuration changes."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from smtpproxy.config import Address, Config
from smtpproxy.deadlines import Deadlines
from smtpproxy.faults import Fault, Faults
from smtpproxy.sockets import listened
from smtpproxy.stream import ClientStream, Stream
from smtpproxy.transport import Acceptor, Poll

Receive = Callable[[Stream], object]  # begins the session of a client that has just connected
Bind = Callable[[Address], Sequence[socket.socket]]  # those that listen there; raises `Faults`

Place = tuple[Address, int]  # a listener's address, and its number among those that are equal
Bound = dict[Place, Sequence[socket.socket]]


class Door:
    """One listening socket, and who receives those that come in: `receive` may change."""

    def __init__(
        self,
        bound: socket.socket,
        receive: Receive,
        poll: Poll,
        deadlines: Deadlines,
        lent: bool,
    ) -> None:
        """`lent`: it is not ours alone."""
        self.addresses = listened(bound)
        self.receive = receive
        self._deadlines = deadlines
        self._acceptor = Acceptor(bound, self._make, poll, lent)

    def __str__(self) -> str:
        """The address as the configuration writes it."""
        host, port = self.addresses[0]
        return str(Address(path=host) if host.startswith("/") else Address(host, port))

    def close(self) -> None:
        """Let nobody in any more."""
        self._acceptor.stopListening()

    def _make(self) -> ClientStream:
        return ClientStream(self._deadlines, self.receive)


class Doors:
    """All of them, by the addresses that the configuration has for listeners."""

    def __init__(
        self,
        bind: Bind,
        poll: Poll,
        deadlines: Deadlines,
        listening: list[tuple[str, int]],
        note: Callable[[str], object],
        lent: bool = False,
    ) -> None:
        """`listening` is kept to be the host and port of each; `note` is told what changes.

        `lent`: others listen to the same sockets, and go on when we do not.
        """
        self._bind = bind
        self._poll = poll
        self._deadlines = deadlines
        self._listening = listening
        self._note = note
        self._lent = lent
        self._doors: dict[Place, list[Door]] = {}

    def bind(self, wanted: Iterable[tuple[Address, str]]) -> Bound:
        """Sockets for those of `wanted` that have none; raises `Faults`, and keeps none then.

        Each is an address, and where it is written.
        """
        return bind_missing(self._bind, wanted, self._doors)

    def follow(self, wanted: Sequence[tuple[Address, Receive]], bound: Bound) -> None:
        """Have these addresses alone, and who receives; `bound` has the sockets of new ones."""
        places = _places(address for address, _ in wanted)
        for place in [each for each in self._doors if each not in places]:
            for door in self._doors.pop(place):
                door.close()
                self._note(f"no longer listening on {door}")
        for place, (_, receive) in zip(places, wanted, strict=True):
            for door in self._doors.get(place, ()):
                door.receive = receive
            if place in bound:
                self._open(place, bound[place], receive)
        self._listening[:] = [
            address
            for doors in self._doors.values()
            for door in doors
            for address in door.addresses
        ]

    def close(self) -> None:
        """All of them, for good; what was listened to is ours all the same."""
        for doors in self._doors.values():
            for door in doors:
                door.close()
        self._doors.clear()

    def _open(self, place: Place, bound: Sequence[socket.socket], receive: Receive) -> None:
        lent = self._lent or bool(place[0].name)
        self._doors[place] = [
            Door(each, receive, self._poll, self._deadlines, lent) for each in bound
        ]
        for door in self._doors[place]:
            self._note(f"listening on {door}")


def places(config: Config) -> list[tuple[Address, str]]:
    """The address of each listener, and where it is written."""
    return [
        (listener.listen, config.place("listeners", number, "listen"))
        for number, listener in enumerate(config.listeners)
    ]


def bind_missing(
    bind: Bind, wanted: Iterable[tuple[Address, str]], there: Collection[Place]
) -> Bound:
    """Sockets for those of `wanted` that are not `there`; as `Doors.bind`."""
    wanted = list(wanted)
    bound: Bound = {}
    faults: list[Fault] = []
    places = _places(address for address, _ in wanted)
    going = [address for address, number in there if (address, number) not in places]
    for place, (address, written) in zip(places, wanted, strict=True):
        if place not in there:
            try:
                bound[place] = bind(address)
            except Faults as error:
                faults += (Fault(written, _worded(each, address, going)) for each in error.faults)
    if faults:
        close(bound)
        raise Faults(faults)
    return bound


def close(bound: Bound) -> None:
    """Give back sockets that are not needed after all."""
    for sockets in bound.values():
        for each in sockets:
            each.close()


def _worded(fault: Fault, address: Address, going: Sequence[Address]) -> str:
    """Why there is no listening to `address`: it may be for those that we listen to still."""
    if ours := next((each for each in going if each.overlaps(address)), None):
        return f"{address} cannot take the place of {ours} while smtpproxy runs: restart it"
    return str(fault)


def _places(addresses: Iterable[Address]) -> list[Place]:
    """Two listeners may both want port 0, which is any."""
    seen: Counter[Address] = Counter()
    places = []
    for address in addresses:
        places.append((address, seen[address]))
        seen[address] += 1
    return places
