"""Deadlines: every wait has one, and one timer serves them all.

A timer of the reactor's for each command would cost a session about 5 % of its
time, and nearly all of them are cancelled unused.  Here a wait is an entry in a
dictionary, and one periodic sweep looks for those that are due.  A deadline is
never early, and late by at most `resolution` seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from math import inf
from types import coroutine as awaitable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from smtpproxy.tasks import Routine, current

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

    def __init__(self, callback: Callable[[], object], waits: dict[Due, None]) -> None:
        self.due = inf
        self.callback = callback
        self._waits = waits

    @property
    def active(self) -> bool:
        """True until it is called or cancelled."""
        return self in self._waits

    def cancel(self) -> None:
        """Do not call back.  Does nothing when it is over already."""
        self._waits.pop(self, None)


class Waiter:
    """One task waits with it, for one of several things at a time."""

    __slots__ = ("_awaited", "_deadlines", "_seconds", "_task", "due")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._task: Routine | None = None
        self._awaited: object = None
        self._seconds = 0.0
        self.due = inf

    @awaitable
    def wait(self, seconds: float, awaited: object = None) -> Generator[None, None, None]:
        """Wait until `awaited` happens; raises `TimedOut`, or the error that it ends in."""
        self.begin(seconds, awaited)
        try:
            yield
        finally:
            self.end()

    def begin(self, seconds: float, awaited: object = None) -> None:
        """The current task parks next, to wait for that; then `end`."""
        assert self._task is None, "two tasks wait with the same"
        self._task = current()
        self._awaited = awaited
        self._seconds = seconds
        self._deadlines.watch(self, seconds)

    def end(self) -> None:
        """It waits no longer."""
        self._task = None
        self._deadlines.forget(self)

    def fire(self, awaited: object = None, error: Exception | None = None) -> None:
        """It has happened, or never will; nothing to who waits for something else."""
        if self._task is not None and self._awaited is awaited:
            self._task.resume(error)

    def callback(self) -> None:
        """The deadline is over."""
        self.fire(self._awaited, TimedOut(self._seconds))


class _Limit:
    """A wait that is over once the task was interrupted for it."""

    __slots__ = ("_task", "due", "expired")

    def __init__(self, task: Routine) -> None:
        self._task = task
        self.due = inf
        self.expired = False

    def callback(self) -> None:
        self.expired = True
        self._task.interrupt()


class Due(Protocol):
    """Something with a deadline: `callback` is called once the time is `due`."""

    due: float

    @property
    def callback(self) -> Callable[[], object]: ...


class Deadlines:
    """All waits of one process, by the time of `clock`.

    The sweep runs only while something waits.
    """

    def __init__(self, clock: IReactorTime, resolution: float = 0.25) -> None:
        self._clock = clock
        self.seconds: Callable[[], float] = clock.seconds  # the time that all of them go by
        self._resolution = resolution
        self._waits: dict[Due, None] = {}  # in the order of adding
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
        deadline = Deadline(callback, self._waits)
        self.watch(deadline, seconds)
        return deadline

    def watch(self, due: Due, seconds: float) -> None:
        """As `add`, for who keeps what it waits with; until `forget`."""
        due.due = self.seconds() + seconds
        self._waits[due] = None
        if due.due < self._earliest:
            self._earliest = due.due
        if self._timer is None:
            self._timer = self._clock.callLater(self._resolution, self._sweep)

    def forget(self, due: Due) -> None:
        """Do not call it back; does nothing when it is over already."""
        self._waits.pop(due, None)

    async def turn(self) -> None:
        """Let all else that is ready go first."""
        over: Deferred[None] = Deferred()
        call = self._clock.callLater(0, over.callback, None)
        try:
            await over
        finally:
            if call.active():
                call.cancel()

    async def limit(self, work: Awaitable[T], seconds: float) -> T:
        """What `work` gives, if it is done within `seconds`; else it is interrupted.

        Raises `TimedOut` once the interrupted work has ended, whatever exception it
        ended with.  Work that gives a value in spite of it has that value returned:
        it may be something that must be closed.  Cancelling the task that waits for this
        interrupts the work too, and is no `TimedOut`.
        """
        limit = _Limit(current())
        self.watch(limit, seconds)
        try:
            return await work
        except Exception as error:
            if limit.expired:
                raise TimedOut(seconds) from error
            raise
        finally:
            self.forget(limit)

    async def sleep(self, seconds: float) -> None:
        """Wait, at least so long."""
        if seconds > 0:
            with suppress(TimedOut):
                await Waiter(self).wait(seconds)

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
            over = [each for each in self._waits if each.due <= now]
            self._earliest = inf  # those that a callback adds lower it again
            for deadline in sorted(over, key=lambda each: each.due):
                # One of the callbacks before has cancelled it, or begun another wait with it.
                if deadline not in self._waits or deadline.due > now:
                    continue
                self.forget(deadline)
                try:
                    deadline.callback()
                except Exception:  # one session's fault must not cost the others their deadline
                    log.failure("the callback of a deadline failed")
            self._earliest = min((deadline.due for deadline in self._waits), default=inf)
        if self._waits and self._timer is None:
            self._timer = self._clock.callLater(self._resolution, self._sweep)
