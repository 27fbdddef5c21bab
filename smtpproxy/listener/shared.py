"""What several processes, on one machine or many, count together of each client.

Each of them tells a store how many sessions a client has with it and what it counted since, and
hears what all of them have.  A new session waits for that, the rest is told a moment later.  Where
the store fails or is slow, each process counts for itself: nothing ever depends on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.listener.visitors import Visitor, Visitors
from smtpproxy.smtp.replies import Reply
from smtpproxy.store import LASTING, Known, News, StoreFailed
from smtpproxy.tasks import Task, current, start
from smtpproxy.values import value

T = TypeVar("T")

LONGEST = 0.1  # seconds that an answer of the store may take
TELL_AFTER = 0.1  # seconds after which is told what nobody waits for
TELL_ANEW = LASTING / 3  # seconds after which the sessions that are there are told again
TRY_AGAIN = 5.0  # seconds after which a store that failed is asked again
AT_ONCE = 500  # clients in one exchange, so that none takes the store long

log = Logger()


@value
class _Told:
    """One client in an exchange, and who waits for what is known of it."""

    visitor: Visitor
    added: list[int]
    askers: list[Deferred[bool]]

    def news(self) -> News:
        connections, messages, recipients = self.added
        visitor = self.visitor
        return News(visitor.network, visitor.sessions, (connections, messages, recipients))


class Store(Protocol):
    """Where the counts are; each of its methods raises `StoreFailed`, and may be cancelled."""

    async def open(self) -> None:
        """Connect, with a deadline of its own."""

    async def exchange(self, news: Sequence[News]) -> list[Known]:
        """Tell, and hear of the same clients."""

    def close(self) -> None:
        """Be connected no more, at once."""


class Shared:
    """What this process tells, and hears of the others."""

    def __init__(
        self,
        store: Store,
        visitors: Visitors,
        clock: IReactorTime,
        note: Callable[[bool, str], object],
    ) -> None:
        """`note` gets a line when sharing begins and ends, and whether that is well."""
        self.well = False  # the store answers, and in time
        self._store = store
        self._visitors = visitors
        self._clock = clock
        self._note = note
        self._noted: bool | None = None  # what was said of it last
        self._news: dict[Visitor, list[int]] = {}
        self._asking: dict[Visitor, list[Deferred[bool]]] = {}
        self._due = False  # the news have waited long enough
        self._wake: Deferred[None] | None = None
        self._calls: dict[Callable[[], None], IDelayedCall] = {}
        self._task: Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Shared: {self._store}, {'well' if self.well else 'not well'}>"

    def start(self) -> None:
        """Connect to the store, and stay so."""
        self._task = start(self._live())
        self._task.addErrback(_stopped)

    def stop(self) -> None:
        """Count alone from now on."""
        if self._task is not None:
            self._task.cancel()

    # What the visitors say.

    async def refusal(self, visitor: Visitor) -> Reply | None:
        """Why a session of a client, which has just begun, may not go on, as others know."""
        if not self.well:
            return None
        answer: Deferred[bool] = Deferred()
        self._asking.setdefault(visitor, []).append(answer)
        self._wake_up()
        return visitor.excess() if await answer else None

    def changed(self, visitor: Visitor) -> None:
        """It has more or fewer sessions than before."""
        if self.well:
            self._news_of(visitor)

    def counted(self, visitor: Visitor, what: int) -> None:
        """One more of it: of `News.added`, the one with that index."""
        if self.well:
            self._news_of(visitor)[what] += 1

    def _news_of(self, visitor: Visitor) -> list[int]:
        news = self._news.get(visitor)
        if news is None:
            news = self._news[visitor] = [0, 0, 0]
            self._later(TELL_AFTER, self._tell)
        return news

    # One exchange after the other.

    async def _live(self) -> None:
        try:
            while True:
                try:
                    await self._share()
                except StoreFailed as error:
                    self._lost(str(error))
                except CancelledError:
                    raise
                except Exception:
                    log.failure("sharing the limits failed")
                    self._lost("for a reason that is in the log")
                self._store.close()
                self._later(TRY_AGAIN, self._wake_up)
                await self._woken()
        finally:
            self._lost()
            for call in self._calls.values():
                call.cancel()
            self._calls.clear()
            self._store.close()

    async def _share(self) -> None:
        """As long as all is well; raises `StoreFailed`."""
        await self._store.open()
        await self._in_time(self._store.exchange([]))
        self.well = True
        self._say(True, f"limits are shared through {self._store}")
        self._tell_anew()
        while True:
            if not self._asking and not self._due:
                await self._woken()
            await self._exchange(self._batch())

    def _batch(self) -> list[_Told]:
        """What is told now; those that somebody waits for come first."""
        chosen = dict.fromkeys(islice(self._asking, AT_ONCE))
        chosen |= dict.fromkeys(islice(self._news, AT_ONCE - len(chosen)))
        batch = [
            _Told(each, self._news.pop(each, [0, 0, 0]), self._asking.pop(each, []))
            for each in chosen
        ]
        self._due = self._due and bool(self._news)
        return batch

    async def _exchange(self, batch: Sequence[_Told]) -> None:
        heard = False
        try:
            known = await self._in_time(self._store.exchange([each.news() for each in batch]))
            for told, each in zip(batch, known, strict=True):
                untold = self._news.get(told.visitor, (0, 0, 0))
                told.visitor.hears(each.elsewhere, each.counts, untold, each.seconds)
            heard = True
        finally:
            for told in batch:
                _answer(told.askers, heard)

    async def _in_time(self, work: Awaitable[T]) -> T:
        """What `work` gives; raises `StoreFailed` where that takes too long.

        If this process was busy all that time, the answer may lie there unread: it is given one
        more turn.
        """
        task, late = current(), False
        calls: list[IDelayedCall] = []

        def expire() -> None:
            nonlocal late
            late = True
            task.interrupt()

        def one_more_turn() -> None:
            calls.append(self._clock.callLater(0, expire))

        calls.append(self._clock.callLater(LONGEST, one_more_turn))
        try:
            return await work
        except CancelledError:
            if late:
                raise StoreFailed(f"no answer within {LONGEST:g} s") from None
            raise
        finally:
            for call in calls:
                if call.active():
                    call.cancel()

    def _lost(self, reason: str = "") -> None:
        """Nobody waits any more, and what others have does not count; with a reason, say so."""
        self.well = False
        self._news.clear()
        self._due = False
        asking, self._asking = self._asking, {}
        for askers in asking.values():
            _answer(askers, False)
        if reason:
            self._say(False, f"limits are not shared, {self._store}: {reason}")

    def _say(self, well: bool, text: str) -> None:
        if well is not self._noted:
            self._noted = well
            self._note(well, text)

    # What goes by time.

    def _tell(self) -> None:
        if self.well:
            self._due = bool(self._news)
            self._wake_up()

    def _tell_anew(self) -> None:
        """Say of all that have sessions that they still have them."""
        if self.well:
            for visitor in self._visitors.present():
                self._news.setdefault(visitor, [0, 0, 0])
            self._due = bool(self._news)
            self._wake_up()
            self._later(TELL_ANEW, self._tell_anew)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it then, unless it is to be called anyway."""

        def now() -> None:
            del self._calls[call]
            call()

        if call not in self._calls:
            self._calls[call] = self._clock.callLater(seconds, now)

    async def _woken(self) -> None:
        self._wake = Deferred()
        try:
            await self._wake
        finally:
            self._wake = None

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.called:
            self._wake.callback(None)


def _stopped(failure: Failure) -> None:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]


def _answer(askers: Sequence[Deferred[bool]], answer: bool) -> None:
    for each in askers:
        each.callback(answer)  # one that was cancelled hears nothing
