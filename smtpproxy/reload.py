"""Reloading: of all when it is asked for, and of those files that have changed by themselves.

Files are looked at once a second, and taken once they have stood still for a look.  Reading is
done in a thread.  What has faults changes nothing, nor does a file of rows that would drop too
many keys at once.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.faults import Faults
from smtpproxy.periodic import Periodic
from smtpproxy.request import ControlError
from smtpproxy.tasks import start
from smtpproxy.threads import Stopped, Threads, Wanted
from smtpproxy.values import value
from smtpproxy.watched import MOST_TOLD, Watched

LOOK_EVERY = 1.0  # seconds
GIVE_WAY = 0.0005
"""Seconds that the loop waits for a thread that computes.

It may have to wait some ten times for a reply: with Python's 5 ms, sessions feel a reload.
"""

log = Logger()


@value
class Outcome:
    """What became of it: `ok`, and a sentence or more, for the log and the command.

    `warnings` are of what was taken all the same.
    """

    ok: bool
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {"taken": self.ok, "lines": [*self.lines, *self.warnings]}

    def warning(self, text: str) -> Outcome:
        """The same, with one more warning, unless that is ""."""
        return replace(self, warnings=(*self.warnings, text)) if text else self


Renew = Callable[[bool], Awaitable[Outcome]]  # with True, also what drops many keys; never raises


@dataclass(slots=True)
class _Turn:
    """A reload to come, and who waits for it."""

    force: bool = False
    waiters: list[Deferred[Outcome]] = field(default_factory=list)

    def tell(self, tell: Callable[[Deferred[Outcome]], object]) -> None:
        for waiter in self.waiters:
            if not waiter.called:
                tell(waiter)


class Reloader:
    """Does one thing at a time: a reload, or a look at the files that are watched."""

    def __init__(
        self,
        watched: Callable[[], Iterable[Watched]],
        renew: Renew,
        threads: Threads,
        clock: IReactorTime,
        told: Callable[[Outcome], object],
    ) -> None:
        """`renew` is one reload of everything; `told` hears of what is read."""
        self._watched = watched
        self._renew = renew
        self._threads = threads
        self._told = told
        self._lock = DeferredLock()
        self._next: _Turn | None = None  # the reload that waits
        self._looking = Periodic(clock, LOOK_EVERY, self._look, "looking for changed files")

    def start(self) -> None:
        sys.setswitchinterval(GIVE_WAY)
        self._looking.start(now=False)

    def stop(self) -> None:
        self._looking.stop()
        self._threads.stop()

    async def reload(self, force: bool = False) -> Outcome:
        """Read all now, changed or not; with `force`, also a file that drops many keys.

        Those who ask while one reload waits for its turn share it.
        """
        turn = self._next or _Turn()
        turn.force = turn.force or force
        waiter: Deferred[Outcome] = Deferred()
        turn.waiters.append(waiter)
        if turn is not self._next:
            self._next = turn
            start(self._take_turn(turn))
        return await waiter

    async def command(self, force: bool = False) -> Mapping[str, Any]:
        """As `reload`, for who asks through the control socket; raises `ControlError`."""
        if not isinstance(force, bool):
            raise ControlError("force must be true or false")
        try:
            return (await self.reload(force)).told()
        except Stopped:
            raise ControlError("smtpproxy is stopping") from None

    async def _take_turn(self, turn: _Turn) -> None:
        await self._lock.acquire()
        self._next = None
        try:
            outcome = self._tell(await self._renew(turn.force))
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            turn.tell(lambda waiter: waiter.errback(failure))
        else:
            turn.tell(lambda waiter: waiter.callback(outcome))
        finally:
            self._lock.release()

    async def _look(self) -> None:
        """Take what has changed since the last look."""
        await self._lock.acquire()
        try:
            for each in tuple(self._watched()):
                if await self._threads.run(_changed(each)):
                    await self._read(each)
        finally:
            self._lock.release()

    async def _read(self, watched: Watched) -> None:
        """Read one, and take what it says, unless it is being written."""
        try:
            change = await self._threads.run(lambda _: watched.read())
        except Faults as error:
            self._tell(Outcome(False, (*_told(watched, error), _not_taken(watched))))
            return
        except Stopped:
            raise
        except Exception as error:  # a fault of ours, or no memory: the others are read
            log.failure("reading {watched} failed", watched=watched)
            self._tell(Outcome(False, (f"{watched}: cannot be read: {error!r}",)))
            return
        if change is None:
            return
        if change.refused:
            outcome = Outcome(False, (f"{watched}: NOT TAKEN: {change.refused}",))
        else:
            outcome = Outcome(True, tuple(change.take()), tuple(map(str, change.warnings)))
        await self._threads.run(lambda _: change.discard())
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> Outcome:
        self._told(outcome)
        return outcome


def _told(watched: Watched, error: Faults) -> Sequence[str]:
    told = list(map(str, error.faults[:MOST_TOLD]))
    if len(error.faults) > MOST_TOLD:
        told.append(f"{watched}: and {len(error.faults) - MOST_TOLD} more faults")
    return told


def _not_taken(watched: Watched) -> str:
    return f"{watched}: not taken for its faults; {watched.stays}"


def _changed(watched: Watched) -> Callable[[Wanted], bool]:
    return lambda _: watched.changed()
