"""Work that blocks, in threads of its own.

The reactor's threads are not for it: a server that hangs would take those that others need.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

T = TypeVar("T")

Wanted = Callable[[], bool]  # False once nobody waits for the work any more


class Busy(Exception):
    """Too much work waits for a thread."""


class Stopped(Exception):
    """There are no threads any more."""


class Threads:
    """At most `most` threads, each started when there is work for it.

    At most `backlog` further pieces of work wait.  `leave` is the last thing that each
    thread calls.  The threads do not hold up the end of the process.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        name: str,
        most: int = 4,
        backlog: int = 1000,
        leave: Callable[[], object] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._name = name
        self._most = most
        self._backlog = backlog
        self._leave = leave
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._unfinished: set[_Work] = set()
        self._started = 0
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Threads {self._name}: {self._started} of {self._most}, {len(self)} to do>"

    def __len__(self) -> int:
        """How much is to do: under way, waiting, or given up and not yet thrown away."""
        return len(self._unfinished)

    def run(self, do: Callable[[Wanted], T]) -> Deferred[T]:
        """What `do` gives in one of the threads.

        Cancelling it gives the work up.  What waits for a thread is then not begun, and what
        is under way is told so by the function it was given.  Raises `Busy` or `Stopped`.
        """
        if self._stopped:
            raise Stopped
        if len(self) >= self._most + self._backlog:
            raise Busy
        if len(self) >= self._started < self._most:  # else one of them has nothing to do
            self._start()
        done: Deferred[T] = Deferred()
        work = _Work(do, done)
        self._unfinished.add(work)
        self._queue.put(work)
        return done

    def stop(self) -> None:
        """Give up all work, at once; who waits for it gets `Stopped`."""
        self._stopped = True
        for _ in range(self._started):
            self._queue.put(None)
        for work in self._unfinished:
            work.fail(Stopped())

    def _start(self) -> None:
        thread = Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more
            if not self._started:
                raise Busy from None
        else:
            self._started += 1

    def _run(self) -> None:
        """One thread: take work until there is a None."""
        while (work := self._queue.get()) is not None:
            work.run()
            self._reactor.callFromThread(self._over, work)
        self._leave()

    def _over(self, work: _Work) -> None:
        self._unfinished.discard(work)
        work.tell()


class _Work:
    """Something to do, with how it ended; `run` alone is called in a thread."""

    __slots__ = ("_do", "_done", "_error", "_given")

    def __init__(self, do: Callable[[Wanted], Any], done: Deferred[Any]) -> None:
        self._do = do
        self._done = done
        self._given: Any = None
        self._error: Exception | None = None

    def wanted(self) -> bool:
        return not self._done.called

    def run(self) -> None:
        if self.wanted():
            try:
                self._given = self._do(self.wanted)
            except Exception as error:
                self._error = error

    def tell(self) -> None:
        if self._error is not None:
            self.fail(self._error)
        elif self.wanted():
            self._done.callback(self._given)

    def fail(self, error: Exception) -> None:
        if self.wanted():
            self._done.errback(error)
