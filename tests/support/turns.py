"""A reactor for code that works in threads: it turns only when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpproxy.tasks import start

T = TypeVar("T")


@implementer(IReactorFromThreads)
class Turns(Clock):
    """A clock, with what threads want to be called."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(self, call: Callable[..., object], *args: Any, **named: Any) -> None:
        self._calls.put(lambda: call(*args, **named))

    def turn(self, seconds: float = 10) -> None:
        """Do the next call from a thread, which must come within `seconds` of real time."""
        try:
            self._calls.get(timeout=seconds)()
        except Empty:
            raise AssertionError(f"no thread was done within {seconds:g} s") from None

    def until(self, work: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """What `work` gives, by as many turns as it takes; raises as it does."""
        deferred = work if isinstance(work, Deferred) else start(work)
        ended: list[Any] = []
        deferred.addBoth(ended.append)
        while not ended:
            self.turn()
        if isinstance(ended[0], Failure):
            ended[0].raiseException()
        given: T = ended[0]
        return given
