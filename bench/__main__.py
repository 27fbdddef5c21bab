"""`python -m bench`: measures, prints the tables, and writes what is asked for."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bench import idle
from bench.clients import GaveUp
from bench.figures import Figure, collected, heard
from bench.machine import about
from bench.measure import Effort, Group
from bench.report import into, lines, outcomes
from bench.results import DIRECT, Results
from bench.rivals import RIVALS, Rival
from bench.upstreams import Lost
from bench.variants import reusing, variants
from bench.workloads import STAGES, WORKLOADS, Ways, Workload
from tests.support.ports import free_port
from tests.support.processes import DidNotHappen, short_folder

MEMORY, FLIGHTS, PORTS, MAPPINGS = "memory", "flights", "ports", "mappings"
PARTS = [*(each.name for each in WORKLOADS), MEMORY, FLIGHTS, PORTS, MAPPINGS]
HOLDERS = ("nginx", "smtpproxy")  # whose idle sessions are measured
SHORT = {"rounds": 5, "seconds": 0.3, "repeat": 1, "reloads": 2}
FULL = {"rounds": 7, "seconds": 1.3, "repeat": 3, "reloads": 5}
OPEN = 65_536  # files, for 10,000 sessions with two connections
SPARE = 800  # files for all but idle sessions


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where mail was lost or damaged, never because of a time."""
    asked = _asked(arguments)
    parts = [name for part in asked.only for name in part.split(",")] or PARTS
    if unknown := sorted(set(parts) - set(PARTS)):
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if missing := [each for each in ("smtp-source", "smtp-sink") if not shutil.which(each)]:
        raise SystemExit(f"{' and '.join(missing)} of Postfix must be there")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is stopped that runs
    _many_files()
    rivals = _rivals(asked.rivals)
    results = Results(about(rivals))
    _say(*(f"left out: {each.name}: {each.missing}" for each in rivals if each.missing))
    with short_folder() as folder:
        _sessions(results, parts, rivals, asked, folder)
        if MEMORY in parts:
            _memory(results, rivals, asked.idle, folder)
        if FLIGHTS in parts:
            _flights(results, rivals, folder)
        if PORTS in parts:
            _ports(results, rivals, folder)
    if MAPPINGS in parts:
        results.figures += _mappings(asked)
    _say("\n" + "\n".join(lines(results)))
    if asked.json:
        results.write(asked.json)
    if asked.docs and parts == PARTS and not asked.rivals:
        from bench.plot import draw

        into(asked.docs, results)
        draw(results, asked.docs.with_suffix(""))
    _say(*(f"FAILED: {each}" for each in results.lost))
    return 1 if results.lost else 0


def _parser() -> argparse.ArgumentParser:
    """The defaults are for ten minutes; those of --full for thirty."""
    parser = argparse.ArgumentParser("python -m bench", description=main.__doc__)
    add = parser.add_argument
    add("--full", action="store_true", help="longer rounds, and more of them")
    add("--only", action="append", default=[], help=f"parts: {', '.join(PARTS)}")
    add("--rivals", default="", help=f"some of {', '.join(RIVALS)}")
    add("--rounds", type=int, help="of a workload for each rival")
    add("--seconds", type=float, help="of a round, about")
    add("--idle", type=int, default=10_000, help="idle sessions")
    add("--rows", type=int, default=1_000_000, help="of the CSV file")
    add("--database-rows", type=int, default=100_000, help="of a database's table")
    add("--repeat", type=int, help="how often loads and look-ups run")
    add("--reloads", type=int, help="of the running proxy")
    add("--json", type=Path, help="a file for all values")
    add("--docs", type=Path, help="the page to write the figures into, when all parts ran")
    return parser


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    asked = _parser().parse_args(arguments)
    defaults = FULL if asked.full else SHORT
    for name, value in defaults.items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


def _rivals(names: str) -> list[Rival]:
    """Those of these names, or all."""
    asked = names.split(",") if names else list(RIVALS)
    if unknown := sorted(set(asked) - set(RIVALS)):
        raise SystemExit(f"no such rival: {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    return [RIVALS[name]() for name in asked]


def _sessions(
    results: Results,
    parts: Collection[str],
    rivals: Sequence[Rival],
    asked: argparse.Namespace,
    folder: Path,
) -> None:
    effort = Effort(asked.rounds, asked.seconds)
    for number, (ways, workloads) in enumerate(_groups(parts)):
        place = folder / f"group{number}"
        upstream = free_port()
        if workloads[0].variants:
            with variants(workloads[0], upstream, asked.rows) as several:
                found = Group(ways, place, several, effort, upstream).run(workloads, _say)
        elif ways.postfix and os.getuid() != 0:
            _say("left out: postfix: a real Postfix needs root")
            continue
        else:
            more = [reusing()] if workloads[0].reused else []
            found = Group(ways, place, [*rivals, *more], effort, upstream).run(workloads, _say)
        results.workloads |= found
        for workload in workloads:
            _say(workload.title, *outcomes(results, workload))


def _groups(parts: Collection[str]) -> Iterator[tuple[Ways, list[Workload]]]:
    """The workloads asked for, those together that want the same set-up."""
    groups: dict[tuple[Ways, str], list[Workload]] = {}
    for each in WORKLOADS:
        if each.name in parts:
            groups.setdefault((each.ways, each.variants), []).append(each)
    for workloads in groups.values():
        yield workloads[0].ways, workloads


def _memory(results: Results, rivals: Sequence[Rival], sessions: int, folder: Path) -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for stage in STAGES:
        count = min(sessions, (files - SPARE) // (2 if stage.hold == "recipient" else 1))
        if count < sessions:
            _say(f"only {count} sessions {stage.title}: {files} open files are allowed here")
            results.about[f"sessions {stage.title}"] = f"{count}: {files} open files are allowed"
        sizes = results.memory.setdefault(stage.name, {})
        for rival in rivals:
            if rival.name in HOLDERS and not rival.missing:
                place = folder / f"{stage.name}-{HOLDERS.index(rival.name)}"
                try:
                    sizes[rival.name] = idle.memory(rival, stage, count, place)
                    said = f"{sizes[rival.name] / 1000:.1f} KB"
                except (DidNotHappen, GaveUp) as failure:
                    said = f"left out: {failure}"
                _say(f"memory of a session {stage.title}, {rival.name}: {said}")


def _flights(results: Results, rivals: Sequence[Rival], folder: Path) -> None:
    for number, rival in enumerate([None, *rivals]):
        name = rival.name if rival else DIRECT
        if rival is None or not rival.missing:
            try:
                each = idle.flights(rival, folder / f"flights{number}")
            except (DidNotHappen, GaveUp) as failure:
                _say(f"left out: flights, {name}: {failure}")
            else:
                results.flights[name] = each
                _say(f"{name}: {len(each) + 1} ways to the upstream and back")


def _ports(results: Results, rivals: Sequence[Rival], folder: Path) -> None:
    for number, rival in enumerate(rivals):
        if not rival.missing:
            try:
                results.ports[rival.name] = idle.ports(rival, folder / f"ports{number}")
            except (DidNotHappen, GaveUp, Lost) as failure:
                _say(f"left out: ports, {rival.name}: {failure}")


def _mappings(asked: argparse.Namespace) -> list[Figure]:
    runs = [_run("bench.loading", asked.rows) for _ in range(asked.repeat)]
    runs += [_run("bench.databases", asked.database_rows) for _ in range(asked.repeat)]
    runs += [_run("bench.reloading", asked.rows, asked.reloads)]
    return collected(runs)


def _run(module: str, *arguments: int) -> list[Figure]:
    """What a measurement says that runs in a process of its own."""
    _say(f"{module} {' '.join(map(str, arguments))}")
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(  # noqa: S603 (a module of our own, and numbers)
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{module} failed")
    return heard(done.stdout)


def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, OPEN), max(most, OPEN)))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _say(*lines_: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines_))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
