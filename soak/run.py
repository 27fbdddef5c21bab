"""One run: servers, proxy and clients are started, and asked for their accounts at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from soak import journal
from soak.chaos import Chaos
from soak.crowd import Crowd
from soak.ledger import Ledger
from soak.plans import lot
from soak.proxied import Proxied, Routes
from soak.report import Figures, faults, judged, lines
from soak.samples import Sampler, at_rest, trend
from soak.upstreams import PLAIN, Upstream, missing, ours, real_exim, real_postfix
from tests.support.certificates import Authority

WHIMS = 0.02
RESTARTS = (0.1, 0.2, 0.3)  # of the time: the last process has the most of it, to grow
EMPTYING = 60.0  # seconds until all that was taken must have arrived
QUIET = 20.0  # seconds until connections that are kept must be closed

Make = Callable[[str, Path], Upstream]


def say(*texts: str) -> None:
    sys.stdout.write("".join(f"{text}\n" for text in texts))
    sys.stdout.flush()


class Soak:
    """One run, all of whose files are in `folder`."""

    def __init__(
        self, folder: Path, seed: int, seconds: float, clients: int, workers: int = 1
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._seconds = seconds
        self._clients = clients
        self._workers = workers
        self._upstreams: list[Upstream] = []

    def run(self) -> bool:
        """Whether anything was wrong; what, is printed."""
        start = time.monotonic()
        with self._servers() as routes:
            ledger = Ledger(routes.homes)
            with Proxied(self._folder, routes, self._workers) as proxy:
                figures = self._load(proxy, routes, ledger)
                if fault := proxy.end():
                    ledger.violation("a bad end", fault)
        logs = [upstream.log for upstream in self._upstreams]
        journal.read(proxy.log, logs, ledger)
        for process in journal.left(self._folder):
            ledger.violation("a process is left", process)
        violations = [*ledger.violations(), *judged(figures, ledger)]
        say(*lines(figures, ledger, violations), f"all of it took {time.monotonic() - start:.0f} s")
        say(*faults(violations, (f"{self._folder}/*/wrong", *map(str, [proxy.log, *logs]))))
        return bool(violations)

    def _load(self, proxy: Proxied, routes: Routes, ledger: Ledger) -> Figures:
        """All of the load, and what came of it once it is quiet again."""
        restarts = [part * self._seconds for part in RESTARTS]
        rng = lot(self._seed, "chaos")
        crowd = Crowd(ledger, (proxy.port, proxy.lmtp_port), self._clients, self._seed)
        chaos = Chaos(self._upstreams, proxy, routes, ledger, rng, restarts)
        start = time.monotonic()
        before = at_rest(proxy.pid, 2.0)
        with Sampler(lambda: proxy.pid) as sampler:
            with crowd, chaos:
                while (now := time.monotonic()) < start + self._seconds:
                    self._collect(ledger)
                    time.sleep(min(1.0, start + self._seconds - now))
        seconds = time.monotonic() - start
        self._empty(ledger)
        after = at_rest(proxy.pid, QUIET, before.descriptors)
        return Figures(seconds, crowd.counts, chaos.counts, trend(sampler.samples), (before, after))

    def _collect(self, ledger: Ledger) -> int:
        return sum(upstream.collect(ledger) for upstream in self._upstreams)

    def _empty(self, ledger: Ledger) -> None:
        """Wait until all that was taken lies in a mailbox, and nothing comes any more."""
        until = time.monotonic() + EMPTYING
        while time.monotonic() < until:
            time.sleep(1.0)
            waiting = sum(upstream.waiting() for upstream in self._upstreams)
            if not self._collect(ledger) and not waiting and not ledger.missing():
                return
        for upstream in self._upstreams:
            if waiting := upstream.waiting():
                ledger.violation("a queue is not empty", f"{waiting} messages at {upstream.name}")

    @contextmanager
    def _servers(self) -> Iterator[Routes]:
        """All upstreams, running, and which domain belongs to which."""
        folder = self._folder
        certificate = Authority(folder, "upstreams").certificate("mx3.test")
        own = partial(ours, seed=self._seed, whims=WHIMS)
        modern = partial(own, certificate=certificate)
        mx1: Make = partial(real_postfix, certificate=certificate)
        mx2: Make = real_exim
        if missing():
            mx1 = mx2 = modern
        try:
            makes: dict[str, Make] = {
                "mx1": mx1,
                "mx2": mx2,
                "mx3": modern,
                "mx4": partial(own, offer=PLAIN, identity="proxy2"),
                "mx5": partial(modern, identity="received"),
                "mx6": modern,
                "store": partial(modern, lmtp=True),
            }
            for name, make in makes.items():
                (folder / name).mkdir()
                self._upstreams.append(make(name, folder / name))
            one, two, three, _, _, six, store = self._upstreams
            yield Routes(self._upstreams, [[one], [two], [three], [three, six], [store]])
        finally:
            for upstream in self._upstreams:
                upstream.stop()
