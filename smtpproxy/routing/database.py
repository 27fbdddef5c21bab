"""Tables in databases: asked in threads, with a deadline, and once more on a lost connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import local
from typing import Generic, Protocol, TypeVar

from twisted.internet.interfaces import IReactorFromThreads

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.routing.answers import Row
from smtpproxy.routing.keyed import Hit, LookupFailed, Wrong
from smtpproxy.routing.sql import names_of, row_of
from smtpproxy.threads import Busy, Stopped, Threads, Wanted

C = TypeVar("C")  # a connection
T = TypeVar("T")

_NOBODY = "nobody@check.invalid"  # RFC 2606: no such domain
_MOST = 10_000  # rows that are read to learn the upstreams
_LONGEST = 300  # characters of what a server says


class Database(Protocol[C]):
    """A kind of database, and what is asked of it.

    `str()` says which one it is, without its password.  All but the three attributes is
    called in threads, and may raise what it likes.
    """

    @property
    def query(self) -> str:
        """With a place for the key, as `select` takes it."""

    @property
    def upstreams_query(self) -> str:
        """Gives a row for each upstream; "" for none."""

    @property
    def timeout(self) -> float:
        """Seconds that a look-up may take."""

    def connect(self) -> C: ...

    def close(self, connection: C) -> None: ...

    def select(
        self, connection: C, query: str, key: str | None, most: int, wanted: Wanted
    ) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        """The names of the columns and the first `most` rows.

        `key` is bound to the query's placeholder, which is not there for None.  May end with
        any exception once it is not `wanted`.
        """

    def lost(self, error: Exception) -> bool:
        """`error` says that the connection is no more, and a new one may do."""

    def words(self, error: Exception) -> str:
        """What went wrong, for an administrator."""


class DatabaseTable(Generic[C]):
    """The rows that a database gives for a key: of several, the first counts.

    It has at most `threads` threads and as many connections, which are its own, so that a
    database that hangs slows no other table.  `backlog` is how many look-ups may wait.
    """

    def __init__(
        self,
        database: Database[C],
        reactor: IReactorFromThreads,
        deadlines: Deadlines,
        threads: int = 4,
        backlog: int = 1000,
    ) -> None:
        self._database = database
        self._deadlines = deadlines
        self._threads = Threads(reactor, str(database), threads, backlog, self._disconnect)
        self._own = local()  # each thread's connection
        self._listed: Sequence[Row] = ()
        self._lists_all = False

    def __repr__(self) -> str:
        return f"<DatabaseTable {self._database}>"

    def __str__(self) -> str:
        return str(self._database)

    async def find(self, keys: Sequence[str]) -> Mapping[str, Hit | Wrong]:
        return await self._limited(lambda c, wanted: self._hits(c, keys, wanted))

    def listed(self) -> Iterable[Row]:
        """Those that `refresh` found last."""
        return self._listed

    @property
    def lists_all(self) -> bool:
        """There is a query for the upstreams, which had a last row."""
        return self._lists_all

    async def refresh(self) -> None:
        """Learn the upstreams, where there is a query for them; raises `LookupFailed`."""
        if self._database.upstreams_query:
            self._listed, self._lists_all = await self._limited(self._list)

    async def check(self) -> None:
        """Try out what the configuration says; raises `LookupFailed` with what is wrong."""
        for found in (await self.find([_NOBODY])).values():
            if isinstance(found, Wrong):
                raise LookupFailed(found.reason)
        await self.refresh()

    def stop(self) -> None:
        """Give up the look-ups under way, and close the connections, without waiting for it."""
        self._threads.stop()

    async def _limited(self, ask: Callable[[C, Wanted], T]) -> T:
        try:
            work = self._threads.run(lambda wanted: self._ask(ask, wanted))
            return await self._deadlines.limit(work, self._database.timeout)
        except TimedOut as error:
            reason = f"no answer within {error.seconds:g} s"
        except Busy:
            reason = "too many look-ups wait for it"
        except Stopped:
            reason = "stopping"
        except LookupFailed as error:
            reason = str(error)
        raise LookupFailed(f"{self._database}: {reason}")

    # From here on in a thread

    def _ask(self, ask: Callable[[C, Wanted], T], wanted: Wanted) -> T:
        for again in (True, False):
            try:
                return ask(self._connection(), wanted)
            except LookupFailed:  # of what was read: the connection is good
                raise
            except Exception as error:
                self._disconnect()
                if not (again and wanted() and self._database.lost(error)):
                    raise LookupFailed(_line(self._database.words(error))) from None
        raise AssertionError("the second attempt returns or raises")

    def _connection(self) -> C:
        connection: C | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._database.connect()
        return connection

    def _disconnect(self) -> None:
        connection: C | None = getattr(self._own, "connection", None)
        self._own.connection = None
        if connection is not None:
            self._database.close(connection)

    def _hits(self, connection: C, keys: Sequence[str], wanted: Wanted) -> dict[str, Hit | Wrong]:
        hits: dict[str, Hit | Wrong] = {}
        for key in keys:
            if not wanted():
                break
            read = self._database.select(connection, self._database.query, key, 1, wanted)
            try:
                for row in _rows(*read):
                    hits[key] = Hit(row, str(self._database))
            except LookupFailed as error:  # which is no trouble of other keys
                hits[key] = Wrong(f"{self._database}: {error}")
        return hits

    def _list(self, connection: C, wanted: Wanted) -> tuple[tuple[Row, ...], bool]:
        """The rows of the query for upstreams, each once, and whether these are all."""
        query = self._database.upstreams_query
        columns, rows = self._database.select(connection, query, None, _MOST, wanted)
        return tuple(dict.fromkeys(_rows(columns, rows))), len(rows) < _MOST


def _rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[Row]:
    """What was read, without rows that have no server; raises `LookupFailed` where it is wrong."""
    names = names_of(columns)
    return [row for values in rows if (row := row_of(names, values))]


def _line(text: str) -> str:
    """`text` in one line of a length that a log can bear."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
