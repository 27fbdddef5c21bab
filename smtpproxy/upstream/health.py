"""Which addresses of upstreams failed when they were tried last, and when to try them again.

A place is an address of a server.  It is down once it has failed a few times in a row, or once
somebody had to wait long to see it fail: then mail passes it over while there is another.
Nothing of it outlives the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smtpproxy.routing import Server, Upstream

FIRST = 5.0  # seconds until a place that failed is asked again; then twice as long each time
LONGEST = 60.0  # seconds between two times, unless it is set
FALL = 3  # failures in a row that nobody had to wait for
SLOW = 5.0  # seconds: one failure that took so long is enough
LATE = 20.0  # seconds that a place is overdue before a client tries it in place of the check
UNWANTED = 3600.0  # seconds without mail for it until it is forgotten
MOST = 10_000  # places

Place = tuple[str, int, str]  # host, or path of a Unix socket; port; address


@dataclass(slots=True, eq=False)
class Trouble:
    """A place that failed, and was not seen well since; times are those of the clock.

    `failures` are those in a row.  `slow`: whoever tried it last had to wait for the failure.
    `wanted` is when there was mail for it.
    """

    upstream: Upstream  # the last that it failed for
    server: Server
    address: str
    since: float
    due: float  # when it is to be asked again
    wanted: float
    back_off: float = FIRST
    failures: int = 0
    reason: str = ""
    slow: bool = False
    down: bool = False
    asking: bool = False  # by a check, for no mail

    def __str__(self) -> str:
        return self.server.at(self.address)

    @property
    def place(self) -> Place:
        return place_of(self.server, self.address)


def place_of(server: Server, address: str) -> Place:
    """What weights and protocols make no difference to."""
    return server.host or server.path, server.port, address


class Health:
    """Remembers the places that failed; where all is well, it is false and costs nothing."""

    def __init__(
        self,
        seconds: Callable[[], float],
        note: Callable[[bool, str], object] = lambda well, text: None,
    ) -> None:
        """`seconds` is the clock; `note` gets a line for each place that goes down or comes up."""
        self._seconds = seconds
        self._note = note
        self._troubles: dict[Place, Trouble] = {}
        self.longest = LONGEST  # seconds between two checks of a place
        self.asked_for: Callable[[Trouble], object] = lambda trouble: None
        """Is told of each new one, to have it asked when it is due."""

    def __bool__(self) -> bool:
        return bool(self._troubles)

    def __iter__(self) -> Iterator[Trouble]:
        return iter(tuple(self._troubles.values()))

    def get(self, place: Place) -> Trouble | None:
        return self._troubles.get(place)

    def divert(self, server: Server, address: str) -> bool:
        """There is mail for a place: note it.  Is it down, and better tried elsewhere first?"""
        trouble = self._troubles.get(place_of(server, address))
        if trouble is None:
            return False
        trouble.wanted = self._seconds()
        return trouble.down and not self._overdue(trouble)

    def worth_trying(self, server: Server, address: str) -> bool:
        """Where there is no other: is it well again, or soon seen not to be?"""
        trouble = self._troubles.get(place_of(server, address))
        return trouble is None or not trouble.slow

    def why(self, server: Server, address: str) -> str:
        """In words, what is the matter with a place."""
        trouble = self._troubles.get(place_of(server, address))
        if trouble is None:
            return "it was down a moment ago"
        return f"{trouble} is down for {self._seconds() - trouble.since:.0f} s: {trouble.reason}"

    def failed(
        self, upstream: Upstream, server: Server, address: str, reason: str, took: float, sure: bool
    ) -> None:
        """Take note that a place failed, after `took` seconds.

        Where that is not `sure`, it is only to be asked.
        """
        now = self._seconds()
        place = place_of(server, address)
        trouble = self._troubles.get(place)
        new = trouble is None
        if trouble is None:
            if len(self._troubles) >= MOST:
                del self._troubles[next(iter(self._troubles))]
            trouble = Trouble(upstream, server, address, since=now, due=now + FIRST, wanted=now)
            self._troubles[place] = trouble
        trouble.upstream, trouble.reason = upstream, reason
        if not trouble.asking:
            trouble.wanted = now
        if now >= trouble.due:
            self.put_off(trouble)
        if sure:
            trouble.failures += 1
            trouble.slow = took >= SLOW
            self._judge(trouble)
        if new:
            self.asked_for(trouble)

    def well(self, server: Server, address: str) -> None:
        """Take note that a place answers."""
        trouble = self._troubles.pop(place_of(server, address), None)
        if trouble is not None and trouble.down:
            seconds = self._seconds() - trouble.since
            self._note(True, f"{trouble} is up again, after {seconds:.0f} s")

    def put_off(self, trouble: Trouble) -> None:
        """Have it asked later, and later each time."""
        trouble.back_off = min(2 * trouble.back_off, max(self.longest, FIRST))
        trouble.due = self._seconds() + trouble.back_off

    def forget(self, trouble: Trouble) -> None:
        """Know nothing of it any more."""
        if self._troubles.get(trouble.place) is trouble:
            del self._troubles[trouble.place]

    def is_unwanted(self, trouble: Trouble) -> bool:
        """There was no mail for it for long: its row may be gone, or its address another."""
        return self._seconds() - trouble.wanted >= UNWANTED

    def _judge(self, trouble: Trouble) -> None:
        if not trouble.down and (trouble.slow or trouble.failures >= FALL):
            trouble.down = True
            self._note(False, f"{trouble} is down: {trouble.reason}")

    def _overdue(self, trouble: Trouble) -> bool:
        """Nobody has asked it when it was due: then one client does, and the others wait."""
        if self._seconds() < trouble.due + LATE:
            return False
        self.put_off(trouble)
        return True
