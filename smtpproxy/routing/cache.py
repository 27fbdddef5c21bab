"""What a table said, remembered for each key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from smtpproxy.routing.answers import Row
from smtpproxy.routing.keyed import Hit, LookupFailed, Table, Wrong
from smtpproxy.tasks import start
from smtpproxy.values import value

_REST = 5.0  # seconds in which a table that failed is not asked for what is known

log = Logger()


@value
class _Known:
    """What the table said, None where it has no row, when that was, and before what `expire`."""

    hit: Hit | None
    since: float
    era: int


class CachedTable:
    """Asks `table` for what it did not say lately.

    A row is remembered for `ttl` seconds, and that there is none for `negative_ttl`; of at
    most `size` keys, those asked for last.  Look-ups under way for the same key share one
    query.  A row that is wrong is not remembered: once corrected, it counts.

    When the table fails, what it said counts for `stale_for` seconds more: it comes with the
    `LookupFailed`.  Then the table is let rest for some seconds, so that no mail waits for
    one that hangs.

    `hits` counts look-ups that need not ask the table, `misses` the others.
    """

    def __init__(
        self,
        table: Table,
        clock: IReactorTime,
        ttl: float = 60.0,
        negative_ttl: float = 30.0,
        size: int = 50_000,
        stale_for: float = 0.0,
    ) -> None:
        self.table = table
        self._clock = clock
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._size = size
        self._stale_for = stale_for
        self.hits = self.misses = 0
        self._known: OrderedDict[str, _Known] = OrderedDict()  # asked for last, at the end
        self._asked: dict[str, _Query] = {}  # those under way
        self._era = 0  # grows when all is to be asked for again
        self._resting_until = 0.0
        self._failure = ""  # how the table fails, while it does

    def __len__(self) -> int:
        """The number of keys remembered."""
        return len(self._known)

    def __repr__(self) -> str:
        return f"<CachedTable of {self.table!r}: {len(self)} keys>"

    async def find(self, keys: Sequence[str]) -> Mapping[str, Hit | Wrong]:
        now = self._clock.seconds()
        hits, missing = self._remembered(keys, now)
        if not missing:
            self.hits += 1
            return hits
        self.misses += 1
        if now < self._resting_until and (known := self._last_known(keys, now)):
            raise LookupFailed(self._failure, known)
        try:
            return {**hits, **await self._answers(missing)}
        except LookupFailed as error:
            known = self._last_known(keys, self._clock.seconds())
            raise LookupFailed(str(error), known) from None

    def listed(self) -> Iterable[Row]:
        return self.table.listed()

    @property
    def lists_all(self) -> bool:
        return self.table.lists_all

    def forget(self, key: str) -> None:
        """Ask the table for this key when it is needed next."""
        self._known.pop(key, None)
        self._asked.pop(key, None)

    def expire(self) -> None:
        """Ask the table for all keys when they are needed next, even one that rests.

        What is known is kept for when it fails.
        """
        self._era += 1
        self._resting_until = 0.0
        self._asked.clear()

    def stop(self) -> None:
        """Give up the look-ups under way."""
        for query in set(self._asked.values()):
            query.cancel()

    def _remembered(self, keys: Sequence[str], now: float) -> tuple[dict[str, Hit], list[str]]:
        """What is known of `keys` and new enough, and those of which nothing is."""
        hits: dict[str, Hit] = {}
        missing: list[str] = []
        for key in keys:
            known = self._known.get(key)
            if known is None or not self._is_fresh(known, now):
                missing.append(key)
                continue
            self._known.move_to_end(key)
            if known.hit is not None:
                hits[key] = Hit(known.hit.row, known.hit.place, now - known.since)
        return hits, missing

    def _last_known(self, keys: Sequence[str], now: float) -> dict[str, Hit]:
        """The same of a table that fails, up to the first key of which nothing is known.

        None may be skipped: a row of its own could send the mail elsewhere.
        """
        hits: dict[str, Hit] = {}
        for key in keys:
            known = self._known.get(key)
            if known is None:
                break
            stale = not self._is_fresh(known, now)
            if stale and not self._counts_on(known, now):
                break
            self._known.move_to_end(key)
            if (hit := known.hit) is not None:
                hits[key] = Hit(hit.row, hit.place, now - known.since, stale)
        return hits

    def _is_fresh(self, known: _Known, now: float) -> bool:
        return known.era == self._era and now < self._expires(known)

    def _counts_on(self, known: _Known, now: float) -> bool:
        return self._stale_for > 0 and now < self._expires(known) + self._stale_for

    def _expires(self, known: _Known) -> float:
        return known.since + (self._negative_ttl if known.hit is None else self._ttl)

    async def _answers(self, keys: Sequence[str]) -> dict[str, Hit | Wrong]:
        """What the table says of `keys`, in queries of others where those are under way."""
        queries = {self._asked[key] for key in keys if key in self._asked}
        if mine := [key for key in dict.fromkeys(keys) if key not in self._asked]:
            queries.add(self._start(mine))
        found: dict[str, Hit | Wrong] = {}
        for query in queries:
            found.update(await query.answer())
        return {key: found[key] for key in keys if key in found}

    def _start(self, keys: Sequence[str]) -> _Query:
        """Ask the table, for whoever waits: one who gives up takes nothing from the others."""
        query = _Query(keys)
        self._asked.update(dict.fromkeys(keys, query))
        query.work = start(self._ask(query))
        return query

    async def _ask(self, query: _Query) -> None:
        found: Mapping[str, Hit | Wrong] | LookupFailed
        try:
            hits = await self.table.find(query.keys)
            found = {key: hit for key in query.keys if (hit := hits.get(key)) is not None}
            self._works()
        except LookupFailed as error:
            found = error
            self._fails(error)
        except CancelledError:
            found = LookupFailed("stopping")
        except Exception as error:
            log.failure("looking up {keys} failed", keys=query.keys)
            found = LookupFailed(f"{type(error).__name__}: {error}")
        now = self._clock.seconds()
        for key in query.keys:
            if self._asked.get(key) is query:  # else it was to be forgotten in the meantime
                del self._asked[key]
                if not isinstance(found, LookupFailed):
                    self._keep(key, found.get(key), now)
        query.end(found)

    def _keep(self, key: str, said: Hit | Wrong | None, now: float) -> None:
        if isinstance(said, Wrong):
            self._known.pop(key, None)
            return
        self._known[key] = _Known(said, now, self._era)
        self._known.move_to_end(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)

    def _fails(self, error: LookupFailed) -> None:
        self._resting_until = self._clock.seconds() + _REST
        if self._stale_for and not self._failure:
            log.warn("{error}: what is known already counts on, for now", error=error)
        self._failure = str(error)

    def _works(self) -> None:
        self._resting_until = 0.0
        if self._stale_for and self._failure:
            log.info("{table} can be asked again", table=self.table)
        self._failure = ""


class _Query:
    """One question under way, and those who wait for its answer."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.work: Deferred[None] | None = None
        self._waiters: list[Deferred[Mapping[str, Hit | Wrong]]] = []
        self._found: Mapping[str, Hit | Wrong] | LookupFailed | None = None

    def answer(self) -> Deferred[Mapping[str, Hit | Wrong]]:
        """What the table says; fails with `LookupFailed`."""
        waiter: Deferred[Mapping[str, Hit | Wrong]] = Deferred()
        self._waiters.append(waiter)
        self._tell()
        return waiter

    def end(self, found: Mapping[str, Hit | Wrong] | LookupFailed) -> None:
        self._found = found
        self._tell()

    def cancel(self) -> None:
        if self.work is not None:
            self.work.cancel()

    def _tell(self) -> None:
        if self._found is None:
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if isinstance(self._found, LookupFailed):
                waiter.errback(LookupFailed(*self._found.args))  # each raise adds to a traceback
            else:
                waiter.callback(self._found)
