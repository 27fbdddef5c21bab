"""The loads, started as processes of their own: ours (`bench.load`) and Postfix's smtp-source."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench.load import Done, Plan
from tests.support.processes import DidNotHappen, Process

SOURCE = ("smtp-source", "-f", "sender@example.net", "-M", "client.example.net")


class GaveUp(Exception):
    """The clients got another reply than they must, or none.  No mail is lost by that."""


def send(plan: Plan) -> Done:
    """Have it done by our own; raises `GaveUp` where a reply is not the one it must be."""
    done = json.loads(_said(_ours(plan)))
    return Done(done["seconds"], tuple(done["sessions"]))


def send_by_source(plan: Plan) -> float:
    """Have it done by smtp-source, which can do only some of it; seconds."""
    options = ["-s", plan.parallel, "-m", plan.messages, "-l", plan.size, "-t", plan.recipient]
    start = time.monotonic()
    _said([*SOURCE, *map(str, options), f"127.0.0.1:{plan.port}"])
    return time.monotonic() - start


@contextmanager
def held(plan: Plan, folder: Path) -> Iterator[None]:
    """While this lasts, the sessions of the plan are open; raises `GaveUp` where one is not."""
    log = folder / "held.log"
    log.unlink(missing_ok=True)
    with Process(_ours(plan), log) as process:
        try:
            process.wait_for(lambda: "sessions" in process.output, "the sessions", 120)
        except DidNotHappen as failure:
            raise GaveUp(str(failure)) from None
        yield


def _ours(plan: Plan) -> list[str]:
    return [sys.executable, "-m", "bench.load", json.dumps(asdict(plan))]


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(  # noqa: S603 (our own load, or smtp-source)
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise GaveUp(f"the clients gave up: {done.stderr.strip()[-200:]}")
    return done.stdout
