"""Asking upstreams in the background what they offer, before there is any mail for them."""

from __future__ import annotations

from collections import deque
from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.tasks import start
from smtpproxy.upstream.connector import Connector
from smtpproxy.upstream.learnt import Learnt

PATIENCE = 15.0  # seconds that one address may take
IN_ALL = 60.0  # seconds that all addresses of one upstream may take

AT_ONCE = 20  # upstreams that are being asked, without the slow ones
SLOW = 2.0  # seconds after which one leaves its turn to the next, while it is still waited for
MOST = 60  # with the slow ones; look-ups of their names must leave room for those of mail
MOST_FAILING = 30  # of those that failed the last time

log = Logger()


class Survey:
    """Asks those upstreams that were not heard for `every` seconds, each time it is told to.

    That one cannot be asked is noted with what is learnt of it, and is no trouble of mail's.
    However many there are that say nothing, the others have their turn: a mute one has it for a
    short time, and one that failed the last time has it after all others.
    """

    def __init__(
        self, connector: Connector, learnt: Learnt, deadlines: Deadlines, every: float
    ) -> None:
        self._connector = connector
        self._learnt = learnt
        self._deadlines = deadlines
        self._every = every
        self._waiting: deque[Upstream] = deque()
        self._asking: set[Upstream] = set()
        self._slow: set[Upstream] = set()  # of those that are being asked
        self._failing: set[Upstream] = set()  # the same
        self._workers: set[Deferred[None]] = set()

    def start(self) -> None:
        """Ask whom there is to ask by now, but for those that are being asked."""
        due = self._learnt.due(self._every)
        self._waiting = deque(each for each in due if each not in self._asking)
        self._go_on()

    def stop(self) -> None:
        """Give up whatever is under way."""
        self._waiting.clear()
        for worker in tuple(self._workers):
            worker.cancel()

    def _go_on(self) -> None:
        while self._is_free():
            worker = start(self._work())
            self._workers.add(worker)
            worker.addErrback(_cancelled)
            worker.addBoth(self._done, worker)

    def _is_free(self) -> bool:
        """Whether the next one that waits may be asked."""
        if not self._waiting or len(self._asking) >= MOST:
            return False
        if len(self._asking) - len(self._slow) >= AT_ONCE:
            return False
        return len(self._failing) < MOST_FAILING or not self._learnt.is_failing(self._waiting[0])

    async def _work(self) -> None:
        while self._is_free():
            upstream = self._waiting.popleft()
            self._asking.add(upstream)
            if self._learnt.is_failing(upstream):
                self._failing.add(upstream)
            slow = self._deadlines.add(SLOW, partial(self._is_slow, upstream))
            try:
                await self._ask(upstream)
            except CancelledError:
                raise
            except Exception:
                log.failure("asking {upstream} failed", upstream=str(upstream))
                self._learnt.asked(upstream, all_of_it=False)
            finally:
                slow.cancel()
                for each in (self._asking, self._slow, self._failing):
                    each.discard(upstream)

    def _is_slow(self, upstream: Upstream) -> None:
        self._slow.add(upstream)
        self._go_on()

    async def _ask(self, upstream: Upstream) -> None:
        def heard(server: Server, address: str, extensions: Extensions) -> None:
            self._learnt.heard(upstream, server, address, extensions, by_mail=False)

        def failed(server: Server, address: str, reason: str) -> None:
            self._learnt.failed(upstream, server, address, reason)

        self._learnt.asking(upstream)
        asking = self._connector.ask(upstream, PATIENCE, heard, failed)
        try:
            await self._deadlines.limit(asking, IN_ALL)
        except TimedOut:
            failed(upstream.servers[0], "", f"not all addresses were asked in {IN_ALL:.0f} s")
            self._learnt.asked(upstream, all_of_it=False)
        else:
            self._learnt.asked(upstream, all_of_it=True)

    def _done(self, _: object, worker: Deferred[None]) -> None:
        self._workers.discard(worker)


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]
