"""What smtpproxy aims at, as ratios within one run.  None of it ever fails the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.results import DIRECT, OURS, Outcome, Results
from bench.workloads import STAGES, Stage

NGINX, HAPROXY, HARAKA = "nginx", "HAProxy tcp", "Haraka smtp_proxy"
REUSING = f"{OURS}, upstream connections reused"
Measure = Callable[[Outcome], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """`value`: None where it was not measured."""

    text: str
    value: float | None
    limit: float
    at_least: bool = False
    unit: str = " \u00d7"

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "\u2265" if self.at_least else "\u2264"
        state = {None: "not measured", True: "met", False: "not met"}[self.met]
        value = "" if self.value is None else f" {self.value:.2f}{self.unit}"
        return f"{state}:{value} (goal {sign} {self.limit:g}{self.unit}) {self.text}"


def goals(results: Results) -> Iterator[Goal]:
    """All, with what they came to."""
    cpu, rate = _cpu, _rate

    def ratio(
        measure: Measure, workload: str, other: str, ours: str = OURS, base: str = ""
    ) -> float | None:
        mine = results.outcome(workload, ours)
        its = results.outcome(base or workload, other)
        return measure(mine) / measure(its) if mine and its and measure(its) else None

    one = "one 1 KB message per session, 20 parallel"
    yield Goal(f"{one}: CPU of nginx", ratio(cpu, "one-20", NGINX), 0.85)
    yield Goal(f"{one}: messages/s of direct", ratio(rate, "one-20", DIRECT), 0.8, True)
    yield Goal(f"{one}: CPU of Haraka", ratio(cpu, "one-20", HARAKA), 0.1)
    reused = ratio(cpu, "all-on", NGINX, REUSING)
    yield Goal(f"{one}, upstream connections reused: CPU of nginx", reused, 0.6)
    yield Goal(f"{one}, XCLIENT: CPU of nginx", ratio(cpu, "xclient", NGINX), 1.0)
    pipelining = ratio(rate, "pipelining", NGINX)
    yield Goal("a client that pipelines: messages/s of nginx", pipelining, 9, True)
    yield Goal("20 messages per session: CPU of nginx", ratio(cpu, "many", NGINX), 1.2)
    many = ratio(rate, "many-pipelined", NGINX)
    yield Goal("the same, pipelined: messages/s of nginx", many, 2, True)
    yield Goal("STARTTLS from clients, ECDSA: CPU of nginx", ratio(cpu, "tls-ecdsa", NGINX), 1.1)
    yield Goal("STARTTLS to upstreams: CPU of Haraka", ratio(cpu, "tls-up", HARAKA), 0.25)
    reused = ratio(cpu, "tls-up", NGINX, REUSING, "one-20")
    yield Goal("the same, reused: CPU of nginx without TLS", reused, 0.65)
    yield Goal("10 MB messages: MB/s of nginx", ratio(rate, "10mb", NGINX), 1.5, True)
    yield Goal("10 MB messages: MB/s of HAProxy", ratio(rate, "10mb", HAPROXY), 1.0, True)
    slow = ratio(_half, "slow", DIRECT)
    yield Goal("an upstream that takes 5 ms: session time of direct", slow, 0.9)
    ready = ratio(_half, "slow", DIRECT, REUSING)
    yield Goal("the same with ready connections: session time of direct", ready, 0.5)
    added = _added(results)
    yield Goal("one at a time: 99th percentile of the time added", added, 1.5, unit=" ms")
    for stage in STAGES:
        yield _memory(stage, results.memory.get(stage.name, {}))
    workers = ratio(rate, "workers", f"{OURS}, 1 workers", f"{OURS}, 2 workers")
    yield Goal("2 workers: messages/s of 1", workers, 1.9, True)
    everything = ratio(cpu, "all-on", OURS, f"{OURS}, all on (JSON log)")
    yield Goal("everything on: CPU of the bare one", everything, 1.15)


def _cpu(outcome: Outcome) -> float:
    return outcome.cpu


def _rate(outcome: Outcome) -> float:
    return outcome.rate


def _half(outcome: Outcome) -> float:
    return outcome.session(50)


def _added(results: Results) -> float | None:
    """Milliseconds: what 99 of 100 sessions took at most, less what half of the direct ones did.

    That is more than was added, never less.
    """
    ours, direct = (results.outcome("one-1", name) for name in (OURS, DIRECT))
    return (ours.session(99) - direct.session(50)) * 1000 if ours and direct else None


def _memory(stage: Stage, sizes: Mapping[str, float]) -> Goal:
    """nginx of the same run is the measure of an idle one; without it, its figure from elsewhere.

    That of a session inside the content stands for itself: nginx holds back far less.
    """
    ours = sizes.get(OURS)
    goal = stage.goal if stage.hold == "content" else sizes.get(NGINX, stage.goal)
    value = None if ours is None else ours / 1000
    return Goal(f"memory of a session {stage.title}", value, round(goal / 1000, 1), unit=" KB")
