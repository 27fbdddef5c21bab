"""Asking the addresses that failed, in the background, until they are well."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.deadlines import Deadline, Deadlines
from smtpproxy.tasks import start
from smtpproxy.upstream.connector import Connector
from smtpproxy.upstream.errors import UpstreamError
from smtpproxy.upstream.health import Health, Place, Trouble
from smtpproxy.upstream.standing import Standing, Standings

PATIENCE = 60.0  # seconds that one may take: nobody waits for it
AT_ONCE = 30  # places that are being asked
AGAIN = 1.0  # seconds until it is tried whether there is room for one more

log = Logger()


class Checks:
    """Has each place that failed greet us and answer EHLO, each time that this is due.

    What comes of it, the connector tells the health.  A server in maintenance is not asked.
    """

    def __init__(self, health: Health, standings: Standings, deadlines: Deadlines) -> None:
        self.connector: Connector | None = None  # that of the configuration in force
        self._health = health
        self._standings = standings
        self._deadlines = deadlines
        self._waiting: dict[Place, Deadline] = {}
        self._asking: dict[Place, Deferred[None]] = {}
        health.asked_for = self._watch

    def stop(self) -> None:
        """Ask no more."""
        for deadline in self._waiting.values():
            deadline.cancel()
        self._waiting.clear()
        self.connector = None
        for task in tuple(self._asking.values()):
            task.cancel()

    def _watch(self, trouble: Trouble) -> None:
        place = trouble.place
        if place not in self._waiting and place not in self._asking:
            self._wait(place, trouble.due - self._deadlines.seconds())

    def _wait(self, place: Place, seconds: float) -> None:
        self._waiting[place] = self._deadlines.add(seconds, partial(self._due, place))

    def _due(self, place: Place) -> None:
        del self._waiting[place]
        trouble = self._health.get(place)
        if trouble is None or self.connector is None:
            return
        standing = self._standings.of(trouble.upstream, trouble.server)
        if standing is Standing.MAINTENANCE or self._health.is_unwanted(trouble):
            self._health.forget(trouble)
        elif (left := trouble.due - self._deadlines.seconds()) > 0:
            self._wait(place, left)
        elif len(self._asking) >= AT_ONCE:
            self._wait(place, AGAIN)
        else:
            task = start(self._check(trouble, self.connector))
            self._asking[place] = task
            task.addErrback(_unless_cancelled)
            task.addBoth(self._asked, trouble)

    async def _check(self, trouble: Trouble, connector: Connector) -> None:
        trouble.asking = True
        try:
            await connector.check(trouble, PATIENCE)
        except UpstreamError:
            pass  # the health has heard of it
        finally:
            trouble.asking = False

    def _asked(self, _: object, trouble: Trouble) -> None:
        self._asking.pop(trouble.place, None)
        now = self._health.get(trouble.place)
        if now is None or self.connector is None:
            return
        if now.due <= self._deadlines.seconds():
            self._health.put_off(now)
        self._watch(now)


def _unless_cancelled(failure: Failure) -> None:
    if not failure.check(CancelledError):  # type: ignore[no-untyped-call]
        log.failure("checking an upstream failed", failure=failure)
