"""Rows in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from smtpproxy.routing.sql import SQLITE, keyed_query, keyless_query
from smtpproxy.threads import Wanted

_STEPS = 10_000  # of SQLite's machine, between two looks at whether it is still wanted
_LOCKED = 0.8  # of the time for a look-up may go into waiting for whoever writes


class Connection(NamedTuple):
    """`file` is what was opened: its device and number."""

    sqlite: sqlite3.Connection
    file: tuple[int, int]


class _Replaced(Exception):
    """There is another file by that name now."""


class Sqlite:
    """A `Database`: a file, only ever read, with the queries for it.

    `timeout` is in seconds, for a look-up.  Raises `ValueError` for a query without its one
    placeholder.
    """

    def __init__(
        self, file: Path, query: str, upstreams_query: str = "", timeout: float = 5.0
    ) -> None:
        self.timeout = timeout
        self.query = keyed_query(query, SQLITE)
        self.upstreams_query = keyless_query(upstreams_query, SQLITE)
        self._file = file.absolute()

    def __str__(self) -> str:
        return self._file.name

    def connect(self) -> Connection:
        # Read before it is opened: replaced between the two, it is opened once more.
        file = self._which()
        path = quote(os.fspath(self._file))
        sqlite = sqlite3.connect(f"file:{path}?mode=ro", timeout=self.timeout * _LOCKED, uri=True)
        sqlite.text_factory = bytes  # what is not UTF-8 is a wrong row, not a failing file
        return Connection(sqlite, file)

    def close(self, connection: Connection) -> None:
        connection.sqlite.close()

    def select(
        self, connection: Connection, query: str, key: str | None, most: int, wanted: Wanted
    ) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        if self._which() != connection.file:
            raise _Replaced
        connection.sqlite.set_progress_handler(lambda: not wanted(), _STEPS)
        cursor = connection.sqlite.execute(query, () if key is None else (key,))
        try:
            return [column[0] for column in cursor.description or ()], cursor.fetchmany(most)
        finally:
            cursor.close()  # what is left open keeps the file locked

    def lost(self, error: Exception) -> bool:
        return isinstance(error, _Replaced)

    def words(self, error: Exception) -> str:
        if isinstance(error, OSError):
            return f"{self._file} cannot be read: {error.strerror}"
        if isinstance(error, sqlite3.Error):
            return f"{self._file}: {error}"
        return f"{type(error).__name__}: {error}"

    def _which(self) -> tuple[int, int]:
        found = self._file.stat()
        return found.st_dev, found.st_ino
