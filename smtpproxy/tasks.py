"""Tasks: coroutines that run, each of them a Deferred of what it gives.

Twisted's own driver takes two Deferreds and a context of variables for each coroutine, and one
more Deferred for each wait.  Here a coroutine that waits is parked: whoever it waits for goes on
with it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Routine:
    """Runs a coroutine once it is told to `begin`, at once up to the first wait.

    The coroutine may wait for a Deferred, or park: by the bare `yield` of a generator that
    `types.coroutine` made awaitable.  Then `resume` goes on with it.
    """

    __slots__ = ("_coroutine", "_interrupted", "_running", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._waiting: Deferred[Any] | None = None  # for a Deferred, and not parked
        self._running = False  # and never to run again, once it has ended
        self._interrupted = False  # while it ran: its next wait ends at once

    def begin(self) -> None:
        """Run; to be called once."""
        self.resume()

    def ended(self, result: Any) -> None:
        """The coroutine gave `result`, or raised what is in a Failure."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Raise `CancelledError` where it waits."""
        if self._running:
            self._interrupted = True
        elif self._waiting is not None:
            self._waiting.cancel()
        else:
            self.resume(CancelledError())

    def resume(self, error: BaseException | None = None) -> None:
        """Go on where it is parked, or raise `error` there."""
        global _current
        before, _current = _current, self
        self._running = True
        try:
            if error is None:
                waiting = self._coroutine.send(None)
            else:
                waiting = self._coroutine.throw(error)
        except StopIteration as end:
            result = end.value
        except BaseException:
            result = Failure()  # type: ignore[no-untyped-call]
        else:
            self._running = False
            if waiting is not None:
                self._waiting = waiting
                waiting.addBoth(self._fired)
            if self._interrupted:
                self._interrupted = False
                self.interrupt()
            return
        finally:
            _current = before
        self.ended(result)

    def _fired(self, result: object) -> None:
        self._waiting = None
        if isinstance(result, Failure):
            assert result.value is not None
            self.resume(result.value.with_traceback(result.tb))
        else:
            self.resume()  # it takes the result from the Deferred itself


class Task(Deferred[T], Routine, Generic[T]):
    """A routine as a Deferred; `start` makes it.

    Cancelling it raises `CancelledError` where it waits, and it ends as it likes: a value that it
    gives all the same is not lost.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        Deferred.__init__(self)
        Routine.__init__(self, coroutine)
        self.begin()

    def cancel(self) -> None:
        if self.called:
            super().cancel()
        else:
            self.interrupt()

    def ended(self, result: T | Failure) -> None:
        self.callback(result)


_current: Routine | None = None


def start(coroutine: Coroutine[Any, Any, T]) -> Task[T]:
    """Run `coroutine`, now and whenever what it waits for is there."""
    return Task(coroutine)


def current() -> Routine:
    """The routine that runs now."""
    assert _current is not None, "a wait outside of any task: `tasks.start` runs a coroutine"
    return _current
