"""Rows in SQLite files."""

from __future__ import annotations

import sqlite3

import pytest

from smtpproxy.deadlines import Deadlines
from smtpproxy.routing import LookupFailed, Row, Tls, Upstream, Wrong, upstreams_in
from smtpproxy.routing.database import DatabaseTable
from smtpproxy.routing.servers import Server
from smtpproxy.routing.sqlite import Sqlite
from tests.support.turns import Turns

QUERY = "SELECT server, tls_verify FROM routes WHERE pattern = ?"
ODD = [
    "o'neil@example.com",
    '"a b"@example.com',
    "100%@example.com",
    "%s@example.com",
    "a\\'b@example.com",
    "?@example.com",
    "' OR '1'='1' -- @example.com",
    "jörg@xn--bcher-kva.example",
    "用户@example.com",
    "\U0001f4ee@example.com",
    "x" * 300 + "@" + "y" * 19,
]


def upstream(host, tls=Tls.OFFERED):
    return Upstream((Server(host),), tls)


def write(file, *rows, column="pattern"):
    with sqlite3.connect(file) as database:
        database.execute(f"CREATE TABLE routes ({column} TEXT PRIMARY KEY, server, tls_verify)")
        database.executemany("INSERT INTO routes VALUES (?, ?, ?)", rows)
    database.close()


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "100% of #1?"  # no part of it may be taken for an option of the URI
    folder.mkdir()
    file = folder / "routes.db"
    write(
        file,
        ("a@example.com", "one.test", 1),
        ("example.com", "two.test", 0),
        ("none.test", None, 1),
        *((key, f"n{number}.test", 1) for number, key in enumerate(ODD)),
    )
    return file


@pytest.fixture
def reactor():
    return Turns()


@pytest.fixture
def make(reactor):
    tables: list[DatabaseTable] = []

    def make(file, query=QUERY, **more) -> DatabaseTable:
        database = Sqlite(file, query, **more)
        tables.append(DatabaseTable(database, reactor, Deadlines(reactor)))
        return tables[-1]

    yield make
    for table in tables:
        table.stop()


@pytest.fixture
def failure(reactor):
    def failure(work) -> str:
        with pytest.raises(LookupFailed) as caught:
            reactor.until(work)
        return str(caught.value)

    return failure


def test_rows_by_key(reactor, make, file):
    hits = reactor.until(make(file).find(["x@example.com", "a@example.com", "example.com", "*"]))
    assert {key: hit.row for key, hit in hits.items()} == {
        "a@example.com": Row(upstream("one.test")),
        "example.com": Row(upstream("two.test", Tls.MAY)),
    }
    assert hits["example.com"].place == "routes.db"


def test_a_row_without_a_server_is_no_row(reactor, make, file):
    assert reactor.until(make(file).find(["none.test"])) == {}


def test_a_row_that_is_not_utf_8_is_wrong_and_nothing_else(reactor, make, file):
    with sqlite3.connect(file) as connection:
        connection.execute(
            "UPDATE routes SET server = CAST(x'ff' AS TEXT) WHERE pattern = ?", ["example.com"]
        )
    hits = reactor.until(make(file).find(["example.com", "a@example.com"]))
    assert hits["a@example.com"].row == Row(upstream("one.test"))
    assert hits["example.com"] == Wrong("routes.db: b'\\xff' in a row is not UTF-8")


@pytest.mark.parametrize("query", [QUERY, QUERY.replace("?", "%s")])
def test_odd_keys_find_their_own_row(reactor, make, file, query):
    hits = reactor.until(make(file, query).find(ODD))
    assert {key: hit.row.upstream for key, hit in hits.items()} == {
        key: upstream(f"n{number}.test") for number, key in enumerate(ODD)
    }


def test_the_first_of_many_rows(reactor, make, file):
    table = make(file, "SELECT server FROM routes WHERE ? <> pattern ORDER BY server DESC")
    assert reactor.until(table.find(["x"]))["x"].row.upstream == upstream("two.test")


def test_upstreams(reactor, make, file):
    table = make(file, upstreams_query="SELECT DISTINCT server FROM routes WHERE pattern LIKE 'a%'")
    reactor.until(table.check())
    assert set(upstreams_in(table.listed())) == {upstream("one.test"), upstream("n4.test")}


def test_a_file_that_is_missing_is_told_and_found_once_it_is_there(
    reactor, make, tmp_path, failure
):
    file = tmp_path / "later.db"
    table = make(file)
    said = failure(table.check())
    assert said == f"later.db: {file} cannot be read: No such file or directory"
    assert not file.exists()
    write(file, ("a", "one.test", 1))
    assert "a" in reactor.until(table.find(["a"]))


def test_it_is_never_written_to(make, file, failure):
    said = failure(make(file, "DELETE FROM routes WHERE pattern = ?").check())
    assert said == f"routes.db: {file}: attempt to write a readonly database"


def test_a_replaced_file_is_read_anew(reactor, make, file):
    table = make(file)
    assert "a@example.com" in reactor.until(table.find(["a@example.com"]))
    write(file.with_suffix(".new"), ("b@example.com", "three.test", 1))
    file.with_suffix(".new").rename(file)
    hits = reactor.until(table.find(["a@example.com", "b@example.com"]))
    assert set(hits) == {"b@example.com"}


def test_rows_written_by_others_are_seen_at_once(reactor, make, file):
    table = make(file)
    assert reactor.until(table.find(["new"])) == {}
    with sqlite3.connect(file) as writer:
        writer.execute("INSERT INTO routes VALUES ('new', 'three.test', 1)")
    writer.close()
    assert "new" in reactor.until(table.find(["new"]))


def test_a_file_that_is_locked_is_a_failure_and_then_none(reactor, make, file, failure):
    table = make(file, timeout=0.05)
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert failure(table.find(["a@example.com"])) == f"routes.db: {file}: database is locked"
    writer.execute("COMMIT")
    writer.close()
    assert "a@example.com" in reactor.until(table.find(["a@example.com"]))


def test_a_look_up_leaves_no_lock(reactor, make, file):
    table = make(file, "SELECT server FROM routes WHERE pattern <> ?")
    reactor.until(table.find(["x"]))
    writer = sqlite3.connect(file, timeout=0, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    writer.close()


def test_a_query_without_an_end_is_given_up(file):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    database = Sqlite(file, f"{endless} SELECT 1 FROM n WHERE i = -length(?)")
    connection = database.connect()
    looks = iter((True, True, False))
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        database.select(connection, database.query, "x", 1, lambda: next(looks))
    assert list(looks) == []
    database.close(connection)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT server FROM routes WHERE key = ?", "no such column: key"),
        ("SELECT server FROM roads WHERE pattern = ?", "no such table: roads"),
        ("SELEC server FROM routes WHERE pattern = ?", "syntax error"),
        ("SELECT * FROM routes WHERE pattern = ?", "unknown column 'pattern'"),
        ("SELECT server AS host FROM routes WHERE pattern = ?", "unknown column 'host'"),
        ("PRAGMA user_version -- ?\n = %s", "syntax error"),
    ],
)
def test_a_wrong_query_is_told(make, file, query, said, failure):
    assert said in failure(make(file, query).check())


def test_what_is_no_database_is_told(make, tmp_path, failure):
    file = tmp_path / "mapping.csv"
    file.write_text("pattern;server\n" * 100)
    assert "file is not a database" in failure(make(file).check())


def test_queries_are_checked_when_it_is_made(file):
    with pytest.raises(ValueError, match="there is no"):
        Sqlite(file, "SELECT server FROM routes")
    with pytest.raises(ValueError, match="write none"):
        Sqlite(file, QUERY, QUERY)
