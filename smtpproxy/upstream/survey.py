"""Asking upstreams in the background what they offer, before there is any mail for them."""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.upstream.connector import Connector
from smtpproxy.upstream.learnt import Learnt

AT_ONCE = 10  # upstreams that are being asked
PATIENCE = 60.0  # seconds that one address may take

log = Logger()


class Survey:
    """Asks those upstreams that were not heard for `every` seconds, each time it is told to.

    That one cannot be asked is noted with what is learnt of it, and is no trouble of mail's.
    """

    def __init__(self, connector: Connector, learnt: Learnt, every: float) -> None:
        self._connector = connector
        self._learnt = learnt
        self._every = every
        self._waiting: OrderedDict[Upstream, None] = OrderedDict()
        self._asking: set[Upstream] = set()
        self._workers: set[Deferred[None]] = set()

    def start(self) -> None:
        """Ask whom there is to ask by now, but for those that are being asked."""
        for upstream in self._learnt.due(self._every):
            if upstream not in self._asking:
                self._waiting[upstream] = None
        for _ in range(min(len(self._waiting), AT_ONCE - len(self._workers))):
            worker = Deferred.fromCoroutine(self._work())
            self._workers.add(worker)
            worker.addErrback(_cancelled)
            worker.addBoth(self._done, worker)

    def stop(self) -> None:
        """Give up whatever is under way."""
        self._waiting.clear()
        for worker in tuple(self._workers):
            worker.cancel()

    async def _work(self) -> None:
        while self._waiting:
            upstream, _ = self._waiting.popitem(last=False)
            self._asking.add(upstream)
            try:
                await self._ask(upstream)
            except CancelledError:
                raise
            except Exception:
                log.failure("asking {upstream} failed", upstream=str(upstream))
            finally:
                self._asking.discard(upstream)

    async def _ask(self, upstream: Upstream) -> None:
        def heard(server: Server, address: str, extensions: Extensions) -> None:
            self._learnt.heard(upstream, server, address, extensions, by_mail=False)

        def failed(server: Server, address: str, reason: str) -> None:
            self._learnt.failed(upstream, server, address, reason)

        self._learnt.asking(upstream)
        await self._connector.ask(upstream, PATIENCE, heard, failed)

    def _done(self, _: object, worker: Deferred[None]) -> None:
        self._workers.discard(worker)


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]
