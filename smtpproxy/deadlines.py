"""Deadlines: every wait has one, and one timer serves them all.

A timer of the reactor's for each command would cost a session about 5 % of its
time, and nearly all of them are cancelled unused.  Here a wait is an entry in a
dictionary, and one periodic sweep looks for those that are due.  A deadline is
never early, and late by at most `resolution` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

T = TypeVar("T")

log = Logger()


class TimedOut(Exception):
    """Something took longer than the `seconds` it had."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not done within {seconds:g} s")
        self.seconds = seconds


class Deadline:
    """One wait: `due` is the time, on the clock of its `Deadlines`, when `callback` is called."""

    __slots__ = ("_waits", "callback", "due")

    def __init__(
        self, due: float, callback: Callable[[], object], waits: dict[Deadline, None]
    ) -> None:
        self.due = due
        self.callback = callback
        self._waits = waits

    @property
    def active(self) -> bool:
        """True until it is called or cancelled."""
        return self in self._waits

    def cancel(self) -> None:
        """Do not call back.  Does nothing when it is over already."""
        self._waits.pop(self, None)


class Deadlines:
    """All waits of one process, by the time of `clock`.

    The sweep runs only while something waits.
    """

    def __init__(self, clock: IReactorTime, resolution: float = 0.25) -> None:
        self._clock = clock
        self.seconds: Callable[[], float] = clock.seconds  # the time that all of them go by
        self._resolution = resolution
        self._waits: dict[Deadline, None] = {}  # in the order of adding
        self._earliest = inf  # nothing is due before it: most sweeps end there
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._waits)

    def __repr__(self) -> str:
        return f"<Deadlines: {len(self)} waiting>"

    def add(self, seconds: float, callback: Callable[[], object]) -> Deadline:
        """Call `callback` in `seconds` (or up to `resolution` later), unless cancelled before.

        It is never called from within this call, even where `seconds` is 0.
        """
        due = self._clock.seconds() + seconds
        deadline = Deadline(due, callback, self._waits)
        self._waits[deadline] = None
        if due < self._earliest:
            self._earliest = due
        if self._timer is None:
            self._timer = self._clock.callLater(self._resolution, self._sweep)
        return deadline

    async def turn(self) -> None:
        """Let all else that is ready go first."""
        over: Deferred[None] = Deferred()
        call = self._clock.callLater(0, over.callback, None)
        try:
            await over
        finally:
            if call.active():
                call.cancel()

    async def limit(self, work: Coroutine[Any, Any, T] | Deferred[T], seconds: float) -> T:
        """What `work` gives, if it is done within `seconds`; else it is cancelled.

        Raises `TimedOut` once the cancelled work has ended, whatever exception it
        ended with.  Work that gives a value in spite of it has that value returned:
        it may be something that must be closed.  Cancelling who waits for this
        cancels the work too, and is no `TimedOut`.
        """
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            deferred.cancel()

        deadline = self.add(seconds, expire)
        try:
            return await deferred
        except Exception as error:
            if expired:
                raise TimedOut(seconds) from error
            raise
        finally:
            deadline.cancel()

    async def sleep(self, seconds: float) -> None:
        """Wait, at least so long."""
        if seconds > 0:
            over: Deferred[None] = Deferred()
            deadline = self.add(seconds, lambda: over.callback(None))
            try:
                await over
            finally:
                deadline.cancel()

    def stop(self) -> None:
        """Forget all waits; none of them is called back."""
        self._waits.clear()
        self._earliest = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        if now >= self._earliest:
            due = [deadline for deadline in self._waits if deadline.due <= now]
            self._earliest = inf  # those that a callback adds lower it again
            for deadline in sorted(due, key=lambda deadline: deadline.due):
                if not deadline.active:  # cancelled by one of the callbacks before
                    continue
                deadline.cancel()
                try:
                    deadline.callback()
                except Exception:  # one session's fault must not cost the others their deadline
                    log.failure("the callback of a deadline failed")
            self._earliest = min((deadline.due for deadline in self._waits), default=inf)
        if self._waits and self._timer is None:
            self._timer = self._clock.callLater(self._resolution, self._sweep)
