"""Work that is done again and again, and goes on when it fails once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.tasks import start
from smtpproxy.threads import Stopped

log = Logger()


class Periodic:
    """Does `work`, which `what` names, every so many `seconds`, one at a time.

    A failure is logged, and is not the last turn; `Stopped` is none.
    """

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        work: Callable[[], Coroutine[Any, Any, None]],
        what: str,
    ) -> None:
        self._seconds = seconds
        self._work = work
        self._what = what
        self._clock = clock
        self._looping: LoopingCall | None = None

    def start(self, now: bool) -> None:
        """Begin, with the first turn at once or after the first `seconds`."""
        self._looping = LoopingCall(self._turn)
        self._looping.clock = self._clock
        self._looping.start(self._seconds, now)

    def reset(self) -> None:
        """Have the next turn now, where it was started and none is under way."""
        if self._looping is not None and self._looping.call is not None:
            self._looping.call.reset(0)

    @property
    def running(self) -> bool:
        """Started, and not stopped."""
        return self._looping is not None and self._looping.running

    def stop(self) -> None:
        """No further turns; does nothing where it was not started."""
        looping, self._looping = self._looping, None
        if looping is not None and looping.running:
            looping.stop()

    def _turn(self) -> Deferred[None]:
        return start(self._work()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(Stopped):  # type: ignore[no-untyped-call]
            log.failure("{what} failed", failure=failure, what=self._what)
