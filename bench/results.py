"""What was measured, as it is kept in the file of raw figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, from_json

DIRECT = "direct"
OURS = "smtpproxy"


@dataclass(frozen=True, slots=True)
class Round:
    """`cpu`: seconds of processor time that the proxy took."""

    messages: int
    seconds: float
    cpu: float


@dataclass(slots=True)
class Outcome:
    """What a rival did with a workload.

    `sessions`: seconds that each took, by rounds.  `peak`: octets of memory.  `left_out`: why
    it was not tried.  `gave_up`: why it did not do all of it.  `lost`: what it lost or damaged.
    With one of these, it has no figures that count.
    """

    rival: str
    rounds: list[Round] = field(default_factory=list)
    sessions: list[list[float]] = field(default_factory=list)
    peak: int = 0
    left_out: str = ""
    gave_up: str = ""
    lost: str = ""

    @property
    def counts(self) -> bool:
        return bool(self.rounds) and not self.trouble

    @property
    def trouble(self) -> str:
        return self.lost or self.gave_up or self.left_out

    @property
    def rate(self) -> float:
        """Messages a second."""
        return median(each.messages / each.seconds for each in self.rounds)

    @property
    def cpu(self) -> float:
        """Microseconds of processor time a message."""
        return median(each.cpu / each.messages * 1e6 for each in self.rounds)

    def session(self, percent: float) -> float:
        """Seconds that so many of a hundred sessions took at most; the median of the rounds.

        Over all sessions, one round in which something else ran would be all that is seen.
        """
        return median(_share(sorted(each), percent) for each in self.sessions)


@dataclass(slots=True)
class Results:
    """`workloads`: by name.  `memory`: octets of a session, by stage and rival.  `flights`: by
    rival.  `ports`: the part of its sessions that leave one in TIME_WAIT.  `figures`: of mappings.
    `about`: machine, versions and what was asked for.
    """

    about: dict[str, str] = field(default_factory=dict)
    workloads: dict[str, list[Outcome]] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    flights: dict[str, list[str]] = field(default_factory=dict)
    ports: dict[str, float] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)

    def outcome(self, workload: str, rival: str) -> Outcome | None:
        """That of a rival, None where it has no figures that count."""
        found = (each for each in self.workloads.get(workload, ()) if each.rival == rival)
        return next((each for each in found if each.counts), None)

    @property
    def lost(self) -> list[str]:
        """Each case of lost or damaged mail, and each workload that we could not do ourselves."""
        return [
            f"{name}, {each.rival}: {each.trouble}"
            for name, outcomes in self.workloads.items()
            for each in outcomes
            if each.lost or (each.gave_up and each.rival.startswith(OURS))
        ]

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self)) + "\n")


def _share(ordered: Sequence[float], percent: float) -> float:
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def read(file: Path) -> Results:
    """What `write` wrote."""
    kept: Mapping[str, Any] = json.loads(file.read_text())
    return Results(
        kept["about"],
        {name: [_outcome(each) for each in part] for name, part in kept["workloads"].items()},
        kept["memory"],
        kept["flights"],
        kept["ports"],
        from_json(kept["figures"]),
    )


def _outcome(kept: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**kept, "rounds": [Round(**each) for each in kept["rounds"]]})
