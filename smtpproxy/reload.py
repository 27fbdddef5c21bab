"""Files of rows that are edited while the program runs.

A change is noticed by looking at the file once a second (a rename and a switched symbolic
link show as well, on network mounts too), and taken once the file has stood still for a
look.  Reading is done in a thread.  A file with faults changes nothing, nor does one
that would drop too many keys at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.faults import Faults
from smtpproxy.periodic import Periodic
from smtpproxy.threads import Stopped, Threads, Wanted
from smtpproxy.watched import WatchedFile

MOST_TOLD = 100  # faults of one file
LOOK_EVERY = 1.0  # seconds
GIVE_WAY = 0.0005
"""Seconds that the loop waits for a thread that computes.

It may have to wait some ten times for a reply: with Python's 5 ms, sessions feel a reload.
"""

log = Logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: `ok`, and a sentence or more, for the log and the command."""

    file: str
    ok: bool
    lines: tuple[str, ...]


@dataclass(slots=True)
class _Turn:
    """A reload to come, and who waits for it."""

    force: bool = False
    waiters: list[Deferred[list[Outcome]]] = field(default_factory=list)

    def tell(self, tell: Callable[[Deferred[list[Outcome]]], object]) -> None:
        for waiter in self.waiters:
            if not waiter.called:
                tell(waiter)


class Reloader:
    """Looks after the files of all mappings."""

    def __init__(
        self,
        files: Sequence[WatchedFile],
        threads: Threads,
        clock: IReactorTime,
        told: Callable[[Outcome], object],
    ) -> None:
        """`told` hears of each file that was read."""
        self._files = files
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

    async def reload(self, force: bool = False) -> list[Outcome]:
        """Read every file now, changed or not; with `force`, take one that drops many keys.

        Those who ask while one reload waits for its turn share it.
        """
        turn = self._next or _Turn()
        turn.force = turn.force or force
        waiter: Deferred[list[Outcome]] = Deferred()
        turn.waiters.append(waiter)
        if turn is not self._next:
            self._next = turn
            Deferred.fromCoroutine(self._all(turn))
        return await waiter

    async def _all(self, turn: _Turn) -> None:
        await self._lock.acquire()
        self._next = None
        try:
            files = self._files
            outcomes = [await self._read(file, turn.force) or _unread(file) for file in files]
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            turn.tell(lambda waiter: waiter.errback(failure))
        else:
            turn.tell(lambda waiter: waiter.callback(outcomes))
        finally:
            self._lock.release()

    async def _look(self) -> None:
        """Take what has changed since the last look."""
        await self._lock.acquire()
        try:
            for file in self._files:
                if await self._threads.run(_changed(file)):
                    await self._read(file, force=False)
        finally:
            self._lock.release()

    async def _read(self, file: WatchedFile, force: bool) -> Outcome | None:
        """Read one file and take what it says; None where it is being written."""
        try:
            change = await self._threads.run(lambda _: file.read(force))
        except Faults as error:
            stays = f"{file}: not taken for its faults; the old content stays in force"
            told = list(map(str, error.faults[:MOST_TOLD]))
            if len(error.faults) > MOST_TOLD:
                told.append(f"{file}: and {len(error.faults) - MOST_TOLD} more faults")
            return self._tell(Outcome(str(file), False, (*told, stays)))
        except Stopped:
            raise
        except Exception as error:  # a fault of ours, or no memory: the other files are read
            log.failure("reading {file} failed", file=file)
            return self._tell(Outcome(str(file), False, (f"{file}: cannot be read: {error!r}",)))
        if change is None:
            return None
        if change.refused:
            await self._threads.run(lambda _: change.content.discard())
            text = (
                f"{file}: NOT TAKEN: it would drop {change.dropped} of {change.before} keys, more "
                "than max_shrink allows; the old content stays in force. If that is meant: "
                "smtpproxy reload --force"
            )
            return self._tell(Outcome(str(file), False, (text,)))
        old = file.take(change)
        await self._threads.run(lambda _: old.discard())
        text = f"{file}: {len(file)} rows in force, {change.before} before"
        return self._tell(Outcome(str(file), True, (text,)))

    def _tell(self, outcome: Outcome) -> Outcome:
        self._told(outcome)
        return outcome


def _unread(file: WatchedFile) -> Outcome:
    text = f"{file}: is being written; it is read again once it stands still"
    return Outcome(str(file), False, (text,))


def _changed(file: WatchedFile) -> Callable[[Wanted], bool]:
    return lambda _: file.changed()
