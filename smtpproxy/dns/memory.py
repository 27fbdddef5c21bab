"""Answers remembered, and look-ups shared by those who ask the same."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.dns.names import NotFound, TryLater
from smtpproxy.tasks import start

T = TypeVar("T")

Ask = Callable[[], Coroutine[Any, Any, tuple[T, float]]]  # an answer and its seconds to live

log = Logger()

LONGEST = 3600.0  # seconds to remember an answer, whatever its TTL
NONE = 60.0  # seconds to remember that there is none, as that has no TTL
FAILED = 5.0  # seconds to remember that DNS fails
FRESH = 30.0  # seconds that an answer without a TTL counts as new
_KNOWN = 86400.0  # seconds that an answer is kept for when DNS fails
_SIZE = 10_000  # answers remembered


class Memory(Generic[T]):
    """Answers by question, at most `size` of them: the longest known goes first.

    `hits` counts questions that were answered from here, `misses` the others.
    """

    def __init__(self, clock: IReactorTime, size: int = _SIZE) -> None:
        self.hits = self.misses = 0
        self._clock = clock
        self._size = size
        self._answers: dict[str, tuple[T, float]] = {}  # with the time until it holds
        self._waiters: dict[str, list[Deferred[T]]] = {}  # for each question under way
        self._work: dict[str, Deferred[tuple[T, float]]] = {}

    def __len__(self) -> int:
        """How many answers are remembered."""
        return len(self._answers)

    async def get(self, key: str, ask: Ask[T]) -> T:
        """The answer remembered, else the one that `ask` finds, with its seconds to live.

        Cancelling it leaves the look-up to the others who wait for it.
        """
        known = self.recall(key)
        if known is not None:
            self.hits += 1
            return known
        self.misses += 1
        waiter: Deferred[T] = Deferred()
        if key in self._waiters:
            self._waiters[key].append(waiter)
            return await waiter
        self._waiters[key] = [waiter]
        work = start(ask())
        self._work[key] = work
        work.addCallbacks(self._answered, self._failed, callbackArgs=(key,), errbackArgs=(key,))
        return await waiter

    def recall(self, key: str) -> T | None:
        """The answer remembered, if it still holds."""
        answer, until = self._answers.get(key, (None, 0.0))
        return answer if self._clock.seconds() < until else None

    def keep(self, key: str, answer: T, seconds: float) -> None:
        self.forget(key)  # it becomes the newest
        if seconds > 0:
            self._answers[key] = (answer, self._clock.seconds() + seconds)
        if len(self._answers) > self._size:
            del self._answers[next(iter(self._answers))]

    def forget(self, key: str) -> None:
        self._answers.pop(key, None)

    def stop(self) -> None:
        """Cancel the look-ups under way."""
        for work in list(self._work.values()):
            work.cancel()

    def _answered(self, found: tuple[T, float], key: str) -> None:
        answer, seconds = found
        self.keep(key, answer, seconds)
        for waiter in self._over(key):
            waiter.callback(answer)

    def _failed(self, failure: Failure, key: str) -> None:
        for waiter in self._over(key):
            waiter.errback(failure)

    def _over(self, key: str) -> list[Deferred[T]]:
        del self._work[key]
        return self._waiters.pop(key)


class LongMemory(Generic[T]):
    """Answers about upstreams: while DNS fails, that of the last day serves.

    `reactor` provides time.  `timeout` is in seconds, for one look-up.
    """

    def __init__(self, reactor: Any, timeout: float) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self.memory: Memory[T | NotFound | TryLater] = Memory(reactor)
        self._known: Memory[T] = Memory(reactor)

    async def get(self, name: str, ask: Ask[T]) -> T:
        """The answer about `name`.

        Raises NotFound as `ask` does, or TryLater when that fails or takes longer than
        `timeout` and no answer of the last day is known.  Their text begins with `name`.
        """
        answer = await self.memory.get(name, lambda: self._ask(name, ask))
        if isinstance(answer, (NotFound, TryLater)):
            raise type(answer)(*answer.args)  # a new one: each raise adds to its traceback
        return answer

    def stop(self) -> None:
        """Cancel the look-ups under way."""
        self.memory.stop()

    async def _ask(self, name: str, ask: Ask[T]) -> tuple[T | NotFound | TryLater, float]:
        work = start(ask())
        work.addTimeout(self._timeout, self._reactor)
        try:
            answer, seconds = await work
        except NotFound as error:
            self._known.forget(name)
            return NotFound(f"{name}: {error}"), FAILED
        except TryLater as error:
            why = str(error)
        except TookTooLong:
            why = f"no answer within {self._timeout:g} s"
        except CancelledError:
            why = "stopping"
        except Exception as error:
            log.failure("looking up {name} failed", name=name)
            why = str(error)
        else:
            self._known.keep(name, answer, _KNOWN)
            return answer, seconds
        known = self._known.recall(name)
        return (TryLater(f"{name}: {why}"), FAILED) if known is None else (known, FRESH)
