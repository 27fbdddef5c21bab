"""Workloads against rivals: rounds in turn, so that what disturbs the machine disturbs all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import trustme

from bench import accounts
from bench.clients import GaveUp, send, send_by_source
from bench.load import Done, Plan
from bench.results import DIRECT, Outcome, Round
from bench.rivals import Rival, Running, Way
from bench.sink import Options
from bench.upstreams import Lost, Sink, SmtpSink, real_postfix
from bench.workloads import Ways, Workload
from tests.support.certificates import Certificate
from tests.support.processes import DidNotHappen

CHECKS = 0.4  # the share of a round's time that our own load takes where smtp-source measures
STRAGGLERS = 1.0  # seconds in which a rival that failed may still send


@dataclass(frozen=True, slots=True)
class Effort:
    """`rounds` of about `seconds` each, for each workload and rival."""

    rounds: int
    seconds: float


class Contestant:
    """A rival that runs, or no proxy: then the clients talk to the upstream."""

    def __init__(self, name: str, port: int, running: Running | None = None) -> None:
        self.name = name
        self.port = port
        self._running = running
        self.sent = 0  # messages, in all

    def pids(self) -> list[int]:
        return accounts.members(self._running.session) if self._running else []


Load = Callable[[Workload, Contestant, int], Done]
"""Sends so many messages; has the times of sessions where they are known."""


class Group:
    """Workloads for which proxies and upstream, at this port, are set up the same way."""

    def __init__(
        self, ways: Ways, folder: Path, rivals: Iterable[Rival], effort: Effort, upstream: int
    ) -> None:
        self._effort = effort
        self._ways = ways
        self._folder = folder
        self._rivals = list(rivals)
        self._upstream = upstream

    def run(
        self, workloads: Sequence[Workload], say: Callable[[str], object]
    ) -> dict[str, list[Outcome]]:
        """The outcomes of each workload, by its name."""
        results: dict[str, list[Outcome]] = {}
        self._folder.mkdir()
        with ExitStack() as stack:
            ours = stack.enter_context(ExitStack())
            sink = ours.enter_context(self._sink())
            upstream = self._postfix(stack) if self._ways.postfix else self._upstream
            contestants, others = self._start(stack, upstream)
            for workload in workloads:
                say(f"{workload.name}: {workload.title}")
                seconds = self._seconds(workload) * (CHECKS if workload.source else 1)
                outcomes = self._rounds(workload, contestants, _own(sink), seconds)
                results[workload.name] = [*outcomes, *others]
            ours.close()  # and smtp-sink gets its port
            if sources := [workload for workload in workloads if workload.source]:
                its = stack.enter_context(
                    SmtpSink(self._upstream, self._ways.xclient, self._folder)
                )
            for workload in sources:
                say(f"{workload.name}: the same by smtp-source")
                seconds = self._seconds(workload)
                timed = self._rounds(workload, contestants, _source(its), seconds)
                for outcome, other in zip(results[workload.name], timed, strict=False):
                    outcome.rounds, outcome.peak = other.rounds, other.peak
                    outcome.lost = outcome.lost or other.lost
                    outcome.gave_up = outcome.gave_up or other.gave_up
        return results

    def _seconds(self, workload: Workload) -> float:
        return max(self._effort.seconds, workload.least)

    def _sink(self) -> Sink:
        options = Options(self._upstream, self._ways.delay, xclient=self._ways.xclient)
        if self._ways.upstream_tls or self._ways.clients_tls:  # without a proxy, clients need it
            made = certificate(self._folder, self._ways.clients_tls or "ecdsa")
            options = replace(options, chain=str(made.chain), key=str(made.key))
        return Sink(options, self._folder)

    def _postfix(self, stack: ExitStack) -> int:
        folder = self._folder / "postfix"
        folder.mkdir()
        self._folder.chmod(0o755)
        return stack.enter_context(real_postfix(folder, self._upstream)).port

    def _start(self, stack: ExitStack, upstream: int) -> tuple[list[Contestant], list[Outcome]]:
        """Those that run, and why the others do not."""
        key = self._ways.clients_tls
        way = Way(
            upstream,
            certificate(self._folder, key, "mx.example.net") if key else None,
            self._ways.upstream_tls,
            self._ways.xclient,
        )
        contestants, others = [Contestant(DIRECT, upstream)], []
        for number, rival in enumerate(self._rivals):
            if why := rival.missing or rival.cannot(way):
                others.append(Outcome(rival.name, left_out=why))
                continue
            try:
                running = Running(rival, way, self._folder / f"rival{number}")
            except DidNotHappen as failure:
                others.append(Outcome(rival.name, gave_up=str(failure)))
            else:
                stack.callback(running.stop)
                contestants.append(Contestant(rival.name, running.port, running))
        return contestants, others

    def _rounds(
        self, workload: Workload, contestants: Sequence[Contestant], load: Load, seconds: float
    ) -> list[Outcome]:
        outcomes = {each.name: Outcome(each.name) for each in contestants}
        counts = {
            each.name: self._count(workload, each, load, outcomes[each.name], seconds)
            for each in contestants
        }
        for each in contestants:
            accounts.forget_peaks(each.pids())
        for number in range(self._effort.rounds):
            shift = number % len(contestants)
            for each in [*contestants[shift:], *contestants[:shift]]:
                outcome = outcomes[each.name]
                if not outcome.trouble:
                    self._round(workload, each, load, outcome, counts[each.name])
        for each in contestants:
            _, outcomes[each.name].peak = accounts.memory(each.pids())
        return list(outcomes.values())

    def _count(
        self, workload: Workload, each: Contestant, load: Load, outcome: Outcome, seconds: float
    ) -> int:
        """Messages for a round; found out by a first one, which also warms it up."""
        at_once = workload.parallel * workload.per_session
        first = at_once if workload.size >= 1 << 20 else max(at_once, 40)
        try:
            took = load(workload, each, first).seconds
        except (GaveUp, Lost) as failure:
            _failed(outcome, failure)
            return first
        most = workload.numbers // (self._effort.rounds + 2) or sys.maxsize
        count = min(int(first / took * seconds), most)
        return max(count // at_once, 1) * at_once

    def _round(
        self, workload: Workload, each: Contestant, load: Load, outcome: Outcome, count: int
    ) -> None:
        pids = each.pids()
        before = accounts.cpu(pids)
        try:
            done = load(workload, each, count)
        except (GaveUp, Lost) as failure:
            _failed(outcome, failure)
            return
        outcome.rounds.append(Round(count, done.seconds, accounts.cpu(pids) - before))
        if done.sessions:
            outcome.sessions.append(list(done.sessions))


def _failed(outcome: Outcome, why: GaveUp | Lost) -> None:
    if isinstance(why, Lost):
        outcome.lost = str(why)
    else:
        outcome.gave_up = str(why)


def _own(sink: Sink) -> Load:
    def load(workload: Workload, contestant: Contestant, count: int) -> Done:
        plan = _plan(workload, contestant, count)
        contestant.sent += count
        try:
            done = send(plan)
        except GaveUp:
            time.sleep(STRAGGLERS)
            sink.report()  # what came until then is no other rival's
            raise
        sink.expect(range(plan.first, plan.first + count))
        return done

    return load


def _source(sink: SmtpSink) -> Load:
    def load(workload: Workload, contestant: Contestant, count: int) -> Done:
        seconds = send_by_source(_plan(workload, contestant, count))
        sink.expect(count)
        return Done(seconds, ())

    return load


def _plan(workload: Workload, contestant: Contestant, count: int) -> Plan:
    return Plan(
        contestant.port,
        count,
        workload.parallel,
        workload.per_session,
        workload.size,
        workload.pipelining,
        tls=bool(workload.ways.clients_tls),
        recipient=workload.recipient,
        first=contestant.sent,
    )


def certificate(folder: Path, kind: str, name: str = "sink.test") -> Certificate:
    """One that an authority of its own signed; its key is of RSA (2048 bits) or ECDSA (P-256)."""
    key = trustme.KeyType.RSA if kind == "rsa" else trustme.KeyType.ECDSA
    authority = trustme.CA()
    signed = authority.issue_cert(name, key_type=key)
    made = Certificate(
        folder / f"{name}.cert.pem", folder / f"{name}.key.pem", folder / f"{name}.ca.pem"
    )
    for number, blob in enumerate(signed.cert_chain_pems):
        blob.write_to_path(made.chain, append=number > 0)
    signed.private_key_pem.write_to_path(made.key)
    authority.cert_pem.write_to_path(made.authority)
    return made
