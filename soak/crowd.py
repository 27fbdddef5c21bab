"""All clients, each in a thread, until they are told to stop."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Self

from soak import hostile
from soak.conversation import Conversation, Ended
from soak.ledger import Ledger
from soak.plans import Visit, lot, source, visit
from soak.wire import PATIENCE, HungUp, Left, NoAnswer, Wire, context

HOSTILE = 0.12  # of all sessions
FORGIVEN = 5.0  # seconds after a worker was killed in which it is no wonder to be hung up on
THINK = 0.4  # seconds between two sessions of a client, at most


class Crowd:
    """`counts`: sessions, by how they ended."""

    def __init__(self, ledger: Ledger, ports: tuple[int, int], clients: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._ledger = ledger
        self._smtp, self._lmtp = ports
        self._seed = seed
        self._tls = context()
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let them come to an end."""
        self._stopping.set()
        until = time.monotonic() + 2 * PATIENCE
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        if stuck := sum(thread.is_alive() for thread in self._threads):
            self._ledger.violation("stuck", f"{stuck} clients never came to an end")

    def _run(self, client: int) -> None:
        for number in range(10**9):
            rng = lot(self._seed, client, number)
            if self._stopping.wait(rng.random() * THINK):
                return
            try:
                if rng.random() < HOSTILE:
                    hostile.attack(self._smtp, source(rng), rng, self._ledger)
                    end = "hostile"
                else:
                    end = self._visit(visit(rng))
            except Exception as error:
                self._ledger.violation("a client failed", f"{client}/{number}: {error!r}")
                end = "failed"
            with self._counting:
                self.counts[end] += 1

    def _visit(self, plan: Visit) -> str:
        """One session; how it ended."""
        port = self._lmtp if plan.lmtp else self._smtp
        try:
            wire = Wire(port, plan.source, plan.fuse, plan.leaving, plan.pause)
        except HungUp:
            time.sleep(0.5)
            return "found nobody there"
        conversation = Conversation(plan, wire, self._ledger, self._tls, self._seed)
        try:
            conversation.hold()
        except Ended:
            return "were ended by a 421"
        except Left:
            return "left in the middle"
        except HungUp as error:
            slain = time.monotonic() - self._ledger.slain < FORGIVEN
            if (number := conversation.waits_for) is not None and not slain:
                self._ledger.violation("no answer to the end", f"{plan.source}: {error}", number)
            return "were hung up on"
        except NoAnswer as error:
            number = conversation.waits_for
            self._ledger.violation("no answer in time", f"{plan.source}: {error}", number)
            return "had no answer in time"
        finally:
            wire.close()
        return "came to their end"
