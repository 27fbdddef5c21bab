"""How upstreams do, and what an administrator says of their servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from smtpproxy.deadlines import Deadlines
from smtpproxy.routing import Upstream
from smtpproxy.upstream import Checks, Health, Learnt, Slots, Standing, Standings, Trouble
from smtpproxy.upstream.standing import concerns, name_of, named


class Upkeep:
    """The health of upstreams, their standings and connections, whatever the configuration."""

    def __init__(
        self, learnt: Learnt, deadlines: Deadlines, note: Callable[[bool, str], object]
    ) -> None:
        """`note` gets a line for what changes, and whether that is well."""
        self._learnt = learnt
        self._deadlines = deadlines
        self._note = note
        self.health = Health(deadlines.seconds, note)
        self.standings = Standings()
        self.slots = Slots(deadlines)
        self.checks = Checks(self.health, self.standings, deadlines)

    def stop(self) -> None:
        self.checks.stop()

    def set(self, text: str, standing: Standing) -> dict[str, Any]:
        """Say it of a server or an upstream, and which it concerns; raises `ValueError`.

        Where that is none, `near` is the name that may be meant, or "".
        """
        name = named(text)
        self.standings.set(name, standing)
        self._note(True, f"{name}: {standing.value}, by command")
        concerned = [str(each) for each in self._concerned(name)]
        return {
            "name": name,
            "standing": standing.value,
            "upstreams": concerned,
            "near": "" if concerned else self._near(name),
        }

    def follow(self, said: Mapping[str, str]) -> None:
        """Have all standings as they were said elsewhere, by name."""
        now = {name: standing.value for name, standing in self.standings.said.items()}
        for name in {**now, **said}:
            standing = said.get(name, Standing.ENABLED.value)
            if standing != now.get(name, Standing.ENABLED.value):
                self.set(name, Standing(standing))

    def of_nobody(self) -> dict[str, str]:
        """What was said of names that no upstream which is known has."""
        return {
            name: standing.value
            for name, standing in sorted(self.standings.said.items())
            if not any(self._concerned(name))
        }

    def report(self, upstream: Upstream) -> dict[str, Any]:
        """What there is to tell of an upstream, as plain values; times are in seconds."""
        return {
            "connections": self.slots.taken(upstream),
            "waiting": self.slots.waiting(upstream),
            "standings": {
                name: standing.value
                for name, standing in sorted(self.standings.said.items())
                if self._is_of(name, upstream)
            },
            "troubles": [
                self._trouble(each) for each in self.health if _is_place_of(each, upstream)
            ],
        }

    def _concerned(self, name: str) -> Iterator[Upstream]:
        return (each for each, _ in self._learnt.all() if self._is_of(name, each))

    def _near(self, name: str) -> str:
        """The same host with another port, or what is written much alike."""
        known = {name_of([server]) for each, _ in self._learnt.all() for server in each.servers}
        known |= {name_of(each.servers) for each, _ in self._learnt.all()}
        host = name.rpartition(":")[0]
        same = [each for each in sorted(known) if each.rpartition(":")[0] == host]
        return next(iter(get_close_matches(name, same or known, 1, 0.0 if same else 0.6)), "")

    def _is_of(self, name: str, upstream: Upstream) -> bool:
        """Also where it is a host of its MX records that was heard."""
        return concerns(name, upstream) or any(
            name_of([server]) == name for server in self._learnt.servers(upstream)
        )

    def _trouble(self, trouble: Trouble) -> dict[str, Any]:
        now = self._deadlines.seconds()
        return {
            "server": str(trouble.server),
            "address": trouble.address,
            "down": trouble.down,
            "seconds": now - trouble.since,
            "failures": trouble.failures,
            "reason": trouble.reason,
            "asked_in": max(0.0, trouble.due - now),
        }


def _is_place_of(trouble: Trouble, upstream: Upstream) -> bool:
    ours = {name_of([each]) for each in upstream.servers}
    return trouble.upstream == upstream or name_of([trouble.server]) in ours
