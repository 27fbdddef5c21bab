"""Tasks: coroutines that run, each of them a Deferred of what it gives.

Twisted's own driver takes two Deferreds and a context of variables for each coroutine, and one
more Deferred for each wait.  Here a coroutine that waits is parked: whoever it waits for goes on
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import coroutine as awaitable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Task(Deferred[T], Generic[T]):
    """Runs a coroutine at once, up to its first wait; `start` makes it.

    It may wait for a Deferred, or be `parked`.  Cancelling it raises `CancelledError` where it
    waits, and it ends as it likes: a value that it gives all the same is not lost.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self._coroutine = coroutine
        self._waiting: Deferred[Any] | None = None  # for a Deferred, and not parked
        self._running = False
        self._interrupted = False  # while it ran: its next wait ends at once
        self._go_on(coroutine.send, None)

    def cancel(self) -> None:
        if self.called:
            super().cancel()
        else:
            self.interrupt()

    def interrupt(self) -> None:
        """Raise `CancelledError` where it waits."""
        if self._running:
            self._interrupted = True
        elif self._waiting is not None:
            self._waiting.cancel()
        else:
            self._go_on(self._coroutine.throw, CancelledError())

    def resume(self, error: Exception | None = None) -> None:
        """Go on where it is parked, or raise `error` there."""
        if error is None:
            self._go_on(self._coroutine.send, None)
        else:
            self._go_on(self._coroutine.throw, error)

    def _go_on(self, step: Callable[[Any], Any], argument: Any) -> None:
        global _current
        before, _current = _current, self
        self._running = True
        try:
            waiting = step(argument)
        except StopIteration as end:
            result = end.value
        except BaseException:
            result = Failure()  # type: ignore[no-untyped-call]
        else:
            self._running = False
            self._wait(waiting)
            return
        finally:
            _current = before
        self.callback(result)

    def _wait(self, waiting: Deferred[Any] | None) -> None:
        if waiting is not None:
            self._waiting = waiting
            waiting.addBoth(self._fired)
        if self._interrupted:
            self._interrupted = False
            self.interrupt()

    def _fired(self, result: object) -> None:
        self._waiting = None
        if isinstance(result, Failure):
            self._go_on(result.throwExceptionIntoGenerator, self._coroutine)
        else:
            self._go_on(self._coroutine.send, None)  # it takes the result from the Deferred itself


_current: Task[Any] | None = None


def start(coroutine: Coroutine[Any, Any, T]) -> Task[T]:
    """Run `coroutine`, now and whenever what it waits for is there."""
    return Task(coroutine)


def current() -> Task[Any]:
    """The task that runs now."""
    assert _current is not None, "a wait outside of any task: `tasks.start` runs a coroutine"
    return _current


@awaitable
def parked() -> Generator[None, None, None]:
    """Wait until somebody calls `resume` of the `current` task."""
    yield
