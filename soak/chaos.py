"""What happens meanwhile: servers die and freeze, rows move, the proxy reloads and restarts."""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Self

from soak.ledger import Ledger
from soak.proxied import Proxied, Routes
from soak.upstreams import Upstream

PAUSE = 2.0  # seconds between two blows, on average
DOWN = 3.0  # seconds that a server is away, at most


class Chaos:
    """One blow after the other, in a thread.  `counts`: of each kind.

    `restarts`: when the proxy is restarted, in seconds from the start.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        proxy: Proxied,
        routes: Routes,
        ledger: Ledger,
        rng: Random,
        restarts: Sequence[float],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._upstreams = upstreams
        self._proxy = proxy
        self._routes = routes
        self._ledger = ledger
        self._rng = rng
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._start = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        for seconds in restarts:
            self._after(seconds, self._restart)
        self._after(PAUSE, self._blow)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more of it; all servers are up again."""
        self._stopping.set()
        self._thread.join()
        for upstream in self._upstreams:
            self._revive(upstream)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                at, _, act = self._agenda[0]
                if self._stopping.wait(max(at - time.monotonic(), 0)):
                    return
                heapq.heappop(self._agenda)
                act()
        except Exception as error:
            self._ledger.violation("the chaos failed", repr(error))

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._order), act))

    def _blow(self) -> None:
        acts = (self._kill, self._freeze, self._move, self._reload, self._renew, self._slay)
        self._rng.choices(acts, (8, 4, 6, 3, 1, 2 if self._proxy.workers else 0))[0]()
        self._after(self._rng.uniform(0.2, 2 * PAUSE), self._blow)

    def _kill(self) -> None:
        upstream = self._rng.choice(self._upstreams)
        if upstream.up and not upstream.frozen:
            upstream.kill()
            self.counts[f"kills of {upstream.name}"] += 1
            self._after(self._rng.uniform(0.3, DOWN), lambda: self._revive(upstream))

    def _freeze(self) -> None:
        upstream = self._rng.choice(self._upstreams)
        if upstream.up and not upstream.frozen:
            upstream.freeze()
            self.counts["freezes"] += 1
            self._after(self._rng.uniform(0.3, DOWN), lambda: self._revive(upstream))

    def _revive(self, upstream: Upstream) -> None:
        if upstream.frozen:
            upstream.thaw()
        if not upstream.up:
            upstream.start()

    def _move(self) -> None:
        self._routes.move(self._rng)
        self._proxy.write_rows()
        self.counts["moves of rows"] += 1

    def _reload(self) -> None:
        os.kill(self._proxy.pid, signal.SIGHUP)
        self.counts["reloads"] += 1

    def _renew(self) -> None:
        self._proxy.renew()
        self.counts["new certificates"] += 1

    def _slay(self) -> None:
        """Who is hung up on by this may have been about to hear of its message."""
        self._ledger.slain = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(self._rng.choice(self._proxy.workers), signal.SIGKILL)
        self.counts["kills of workers"] += 1

    def _restart(self) -> None:
        fault = self._proxy.restart()
        self.counts["restarts"] += 1
        if fault:
            self._ledger.violation("a bad restart", fault)
