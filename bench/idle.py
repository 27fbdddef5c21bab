"""What a session costs beside time: memory, ways to the upstream and back, ports."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench import accounts
from bench.clients import held, send
from bench.load import Plan
from bench.measure import certificate
from bench.rivals import Rival, Running, Way
from bench.sink import Options
from bench.upstreams import Sink
from bench.workloads import Stage
from tests.support.ports import free_port
from tests.support.processes import wait_until

WARM = 200  # sessions before, so that what is only taken once counts for nothing
STALLED = 40  # sessions inside the content, of which nobody takes any
SETTLE = 0.5  # seconds in which those that left are taken away
LARGE = 64 << 20  # octets of content, more than all sockets on the way hold


def memory(rival: Rival, stage: Stage, sessions: int, folder: Path) -> float:
    """Octets a session, in all processes of the proxy."""
    stalled = stage.hold == "content"
    with _set_up(rival, Options(free_port(), stall=stalled), stage.tls, folder) as (_, running):
        plan = Plan(running.port, sessions, 100, tls=stage.tls, hold=stage.hold)
        if stalled:
            plan = replace(plan, messages=STALLED, parallel=STALLED, size=LARGE)
        first = replace(plan, messages=WARM, hold="recipient" if stalled else stage.hold)
        with held(first, folder):
            pass
        time.sleep(SETTLE)
        pids = accounts.members(running.session)
        before, _ = accounts.memory(pids)
        with held(plan, folder):
            now, _ = accounts.memory(pids)
    return (now - before) / plan.messages


def ports(rival: Rival, folder: Path) -> float:
    """The part of the sessions after which a port at the proxy is in TIME_WAIT."""
    with _set_up(rival, Options(free_port()), False, folder) as (sink, running):
        send(Plan(running.port, WARM, 20))
        sink.expect(range(WARM))
        return accounts.waiting(sink.port) / WARM


def flights(rival: Rival | None, folder: Path) -> list[str]:
    """What the upstream gets together, of a client that pipelines MAIL, three RCPT and DATA.

    Its greeting is one more way there and back.
    """
    options = Options(free_port(), delay=0.05)
    plan = Plan(options.port, 1, pipelining="envelope", recipients=3)
    folder.mkdir(exist_ok=True)
    if rival is None:
        with Sink(options, folder) as sink:
            send(plan)
            return _last(sink)
    with _set_up(rival, options, False, folder) as (sink, running):
        send(replace(plan, port=running.port))
        return _last(sink)


def _last(sink: Sink) -> list[str]:
    """The flights of the session that has just ended, or will soon."""
    found: list[list[str]] = []

    def look() -> bool:
        found.extend(each for each in sink.report()["flights"] if "content" in each)
        return bool(found)

    wait_until(look, 10, "the upstream's session to end")
    return found[-1]


@contextmanager
def _set_up(
    rival: Rival, options: Options, tls: bool, folder: Path
) -> Iterator[tuple[Sink, Running]]:
    folder.mkdir(exist_ok=True)
    way = Way(options.port, certificate(folder, "ecdsa", "mx.example.net") if tls else None)
    with Sink(options, folder) as sink:
        running = Running(rival, way, folder / "rival")
        try:
            yield sink, running
        finally:
            running.stop()
