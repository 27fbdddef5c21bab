"""Look-ups in MariaDB and SQLite, asked anew and remembered.

`python -m bench.databases ROWS` does it once and says the figures as JSON.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import react

from bench import rows
from bench.figures import Figure, say
from smtpproxy.deadlines import Deadlines
from smtpproxy.routing import Found, KeyedMapping, Router
from smtpproxy.routing.cache import CachedTable
from smtpproxy.routing.database import Database, DatabaseTable
from smtpproxy.routing.mysql import Mysql, MysqlServer
from smtpproxy.routing.sqlite import Sqlite
from smtpproxy.smtp.paths import Path
from smtpproxy.tasks import start
from tests.support.mariadb import DATABASE, PASSWORD, USER, MariaDb
from tests.support.processes import short_folder

LOOKUPS = 2000
TOGETHER = 20
QUERY = "SELECT server, tls_verify FROM routes WHERE pattern = ?"


async def measure(count: int) -> list[Figure]:
    """Look up some of `count` rows in each kind of database."""
    with short_folder() as folder:
        figures = await _lookups("sqlite", _sqlite(folder, count), count)
        with MariaDb(folder) as mariadb:
            _fill(mariadb, count)
            for how, server in {
                "over TCP": MysqlServer("127.0.0.1", mariadb.port),
                "over its Unix socket": MysqlServer(unix_socket=str(mariadb.socket)),
            }.items():
                database = Mysql(_for_the_user(server), QUERY)
                figures += await _lookups(f"mysql {how}", database, count)
    return figures


def _for_the_user(server: MysqlServer) -> MysqlServer:
    return MysqlServer(
        server.host, server.port, server.unix_socket, USER, PASSWORD, database=DATABASE
    )


def _fill(mariadb: MariaDb, count: int) -> None:
    some: list[tuple[str, str]] = []
    for row in rows.rows(count, "mx0.example.net"):
        some.append(row)
        if len(some) == 10_000:
            mariadb.many("INSERT INTO routes (pattern, server) VALUES (%s, %s)", some)
            some.clear()
    if some:
        mariadb.many("INSERT INTO routes (pattern, server) VALUES (%s, %s)", some)


def _sqlite(folder: FilePath, count: int) -> Sqlite:
    file = folder / "routes.sqlite"
    columns = "pattern TEXT PRIMARY KEY, server TEXT, tls_verify INTEGER DEFAULT 1"
    with sqlite3.connect(file) as connection:
        connection.execute(f"CREATE TABLE routes ({columns}) WITHOUT ROWID")
        connection.executemany(
            "INSERT INTO routes (pattern, server) VALUES (?, ?)",
            rows.rows(count, "mx0.example.net"),
        )
    connection.close()
    return Sqlite(file, QUERY)


async def _lookups(kind: str, database: Database[Any], count: int) -> list[Figure]:
    loop: Any = reactor
    deadlines = Deadlines(loop)
    table = DatabaseTable(database, loop, deadlines)
    cache = CachedTable(table, loop, ttl=3600, negative_ttl=3600)
    router = Router([KeyedMapping(kind, cache)], "+", "mx.example.net")
    addresses = [Path(*rows.pattern(n).split("@")) for n in _some(count)]
    await table.check()
    try:
        return [
            Figure(f"{kind}: look-up, {what}", "\u00b5s", (await _time(router, part, together),))
            for what, part, together in (
                ("asked one by one", addresses[::2], 1),
                (f"asked {TOGETHER} at a time", addresses[1::2], TOGETHER),
                ("remembered", addresses, 1),
            )
        ]
    finally:
        cache.stop()
        table.stop()
        deadlines.stop()


def _some(count: int) -> list[int]:
    """The numbers of some rows that are addresses, none of a domain twice."""
    step = max(count // LOOKUPS // rows.PER_DOMAIN, 1) * rows.PER_DOMAIN
    return list(range(1, count, step))


async def _time(router: Router, recipients: Sequence[Path], together: int) -> float:
    """Microseconds for one of them."""
    began = time.perf_counter()
    for first in range(0, len(recipients), together):
        part = recipients[first : first + together]
        lookups = [start(router.route(each)) for each in part]
        answers = await gatherResults(lookups)
        assert all(isinstance(answer, Found) for answer in answers)
    return (time.perf_counter() - began) / len(recipients) * 1e6


async def _main(_: object) -> None:
    say(await measure(int(sys.argv[1])))


if __name__ == "__main__":
    react(lambda loop: start(_main(loop)))
