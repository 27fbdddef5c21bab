"""Rows in a real MariaDB: odd keys, faults of the settings, and faults of the server."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import pytest
from pymysql.err import OperationalError
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults

from smtpproxy.deadlines import Deadlines
from smtpproxy.faults import Faults
from smtpproxy.routing import (
    Found,
    KeyedMapping,
    LookupFailed,
    Question,
    Row,
    Tls,
    TryAgain,
    Upstream,
    upstreams_in,
)
from smtpproxy.routing.database import DatabaseTable
from smtpproxy.routing.mysql import Mysql, MysqlServer
from smtpproxy.routing.servers import Server
from smtpproxy.smtp.paths import parse_path
from smtpproxy.tasks import start
from tests.support.certificates import Authority, Certificate
from tests.support.mariadb import DATABASE, PASSWORD, USER, MariaDb
from tests.support.processes import short_folder, wait_until
from tests.support.trial import TestCase
from tests.support.turns import Turns

real_reactor: Any = _reactor

DOCS = Path(__file__).parents[1] / "docs" / "databases.md"

QUERY = "SELECT server, tls_verify FROM routes WHERE pattern = ?"
ODD = [
    "o'neil@example.com",
    '"a b"@example.com',
    "100%@example.com",
    "%s@example.com",
    "%(x)s@example.com",
    "?@example.com",
    "a\\@example.com",
    "a\\'b@example.com",
    "' or '1'='1' -- @example.com",
    "\\' or 1=1 -- @example.com",
    '" or ""="@example.com',
    "jörg@xn--bcher-kva.example",
    "jorg@xn--bcher-kva.example",
    "用户@example.com",
    "\U0001f4ee@example.com",
    "x" * 300 + "@" + "y" * 19,
]


def upstream(host, tls=Tls.OFFERED):
    return Upstream((Server(host),), tls)


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.certificate("db.test", "127.0.0.1")


@pytest.fixture(scope="module")
def running_mariadb(certificate: Certificate) -> Iterator[MariaDb]:
    options = (f"--ssl-cert={certificate.chain}", f"--ssl-key={certificate.key}")
    with short_folder() as folder, MariaDb(folder, *options) as database:
        yield database


@pytest.fixture
def mariadb(running_mariadb: MariaDb) -> MariaDb:
    """With two rows, and one without a server."""
    running_mariadb.sql("TRUNCATE routes")
    running_mariadb.many(
        "INSERT INTO routes (pattern, server, tls_verify) VALUES (%s, %s, %s)",
        [
            ("a@example.com", "one.test", True),
            ("example.com", "two.test", False),
            ("none.test", None, True),
            ("empty.test", "", True),
        ],
    )
    return running_mariadb


@pytest.fixture
def server(mariadb):
    """How the server is reached; arguments are what differs."""

    def server(**more) -> MysqlServer:
        ways = {"host": "127.0.0.1", "port": mariadb.port, "database": DATABASE}
        return MysqlServer(**{**ways, "user": USER, "password": PASSWORD, **more})

    return server


@pytest.fixture
def reactor():
    return Turns()


@pytest.fixture
def make(reactor, server):
    tables: list[DatabaseTable] = []

    def make(query=QUERY, upstreams_query="", threads=4, **more) -> DatabaseTable:
        database = Mysql(server(**more), query, upstreams_query)
        tables.append(DatabaseTable(database, reactor, Deadlines(reactor), threads))
        return tables[-1]

    yield make
    for table in tables:
        table.stop()


@pytest.fixture
def find(reactor):
    """The upstreams by key."""

    def find(table, *keys) -> dict[str, Upstream]:
        return {k: hit.row.upstream for k, hit in reactor.until(table.find(keys)).items()}

    return find


@pytest.fixture
def failure(reactor):
    """The text that some work fails with, which never has the password in it."""

    def failure(work) -> str:
        with pytest.raises(LookupFailed) as caught:
            reactor.until(work)
        assert PASSWORD not in f"{caught.value} {caught.value!r}"
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return failure


# What is found


def test_rows_by_key(reactor, make, mariadb):
    hits = reactor.until(make().find(["x@example.com", "a@example.com", "example.com", "*"]))
    assert {key: hit.row for key, hit in hits.items()} == {
        "a@example.com": Row(upstream("one.test")),
        "example.com": Row(upstream("two.test", Tls.MAY)),
    }
    assert hits["example.com"].place == f"127.0.0.1:{mariadb.port}/smtpproxy"


def test_a_change_is_seen_by_the_next_look_up(make, find, mariadb):
    table = make(threads=1)
    assert find(table, "a@example.com") == {"a@example.com": upstream("one.test")}
    mariadb.sql("UPDATE routes SET server = 'three.test' WHERE pattern = 'a@example.com'")
    assert find(table, "a@example.com") == {"a@example.com": upstream("three.test")}


def test_null_and_empty_servers_are_no_rows(make, find):
    assert find(make(), "none.test", "empty.test", "example.com").keys() == {"example.com"}


@pytest.mark.parametrize("query", [QUERY, QUERY.replace("?", "%s")])
@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,PIPES_AS_CONCAT"])
def test_odd_keys_find_their_own_row(make, find, mariadb, query, mode, request):
    before = mariadb.sql("SELECT @@GLOBAL.sql_mode")[0][0]
    request.addfinalizer(lambda: mariadb.sql("SET GLOBAL sql_mode = %s", before))
    mariadb.many(
        "INSERT INTO routes (pattern, server) VALUES (%s, %s)",
        [(key, f"n{number}.test") for number, key in enumerate(ODD)],
    )
    mariadb.sql("SET GLOBAL sql_mode = %s", mode)
    assert find(make(query), *ODD) == {
        key: upstream(f"n{number}.test") for number, key in enumerate(ODD)
    }


def test_odd_keys_without_a_row_find_none(make, find):
    assert find(make(), *ODD) == {}


def test_a_percent_sign_in_the_query_is_one(make, find):
    query = "SELECT server FROM routes WHERE server LIKE '%.test' AND 7 % 4 = 3 AND pattern = ?"
    assert find(make(query), "a@example.com") == {"a@example.com": upstream("one.test")}
    query = "SELECT server FROM routes WHERE pattern LIKE '%s' AND pattern = ?"
    assert find(make(query), "a@example.com") == {}


def test_the_first_of_many_rows_and_not_all_of_them(make, find, mariadb, server):
    mariadb.many(
        "INSERT INTO routes (pattern, server) VALUES (%s, %s)",
        [(f"{number:05}.test", f"n{number}.test") for number in range(12_000)],
    )
    query = "SELECT server FROM routes WHERE pattern <> ? ORDER BY pattern"
    assert find(make(query), "x", "00000.test") == {
        "x": upstream("n0.test"),
        "00000.test": upstream("n1.test"),
    }
    database = Mysql(server(), query)
    connection = database.connect()
    assert len(database.select(connection, database.query, "x", 10**6, lambda: True)[1]) == 10_000
    database.close(connection)


def test_further_columns_of_whatever_type(reactor, make):
    query = (
        "SELECT server AS SERVER, b'0' AS tls_verify, 25.00 AS percent, 'three.test' AS shadow,"
        " NOW() AS note FROM routes WHERE pattern = ?"
    )
    hits = reactor.until(make(query).find(["a@example.com"]))
    expected = Row(upstream("one.test", Tls.MAY), 25, upstream("three.test", Tls.MAY))
    assert hits["a@example.com"].row == expected


def test_upstreams_and_that_a_percent_sign_is_one_there_too(reactor, make):
    table = make(upstreams_query="SELECT DISTINCT server FROM routes WHERE server LIKE '%.test'")
    reactor.until(table.check())
    assert set(upstreams_in(table.listed())) == {upstream("one.test"), upstream("two.test")}


def test_unix_socket(make, find, mariadb):
    table = make(unix_socket=str(mariadb.socket), host="nowhere.invalid", port=1)
    assert find(table, "a@example.com") == {"a@example.com": upstream("one.test")}
    assert str(mariadb.socket) in repr(table)


# What an administrator got wrong


def question(address: str) -> Question:
    path = parse_path(address)
    assert path
    return Question(path)


def test_a_wrong_row_is_trouble_of_those_who_need_it(reactor, make, mariadb):
    mariadb.sql("REPLACE INTO routes (pattern, server) VALUES ('*', 'one.test:99999')")
    mapping = KeyedMapping("m", make())
    found = reactor.until(mapping.lookup(question("a@example.com")))
    assert isinstance(found, Found) and found.route.upstream == upstream("one.test")
    failed = reactor.until(mapping.lookup(question("a@unknown.test")))
    assert isinstance(failed, TryAgain)
    assert "a row is wrong: server: '99999' is not a port" in failed.reason


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"password": "wrong"}, "Access denied for user 'smtpproxy'"),
        ({"password": ""}, "check user and password"),
        ({"database": "mysql"}, "GRANT SELECT"),
        ({"port": 1}, "is it running, and can it be reached from here?"),
        ({"unix_socket": "/nowhere/my.sock"}, "No such file or directory"),
        ({"host": "nowhere.invalid"}, "Can't connect"),
        ({"query": "SELECT server FROM routes WHERE ptrn = ?"}, "Unknown column 'ptrn'"),
        ({"query": "SELECT server FROM roads WHERE pattern = ?"}, "GRANT SELECT"),
        ({"query": "SELECT server FROM routes\nWHER pattern = ?"}, "near 'pattern = "),
        ({"query": "SELECT * FROM routes WHERE pattern = ?"}, "unknown column 'pattern'"),
        ({"query": "SELECT server AS host FROM routes WHERE pattern = ?"}, "the query may give"),
        ({"query": "SELECT tls_verify FROM routes WHERE pattern = ?"}, "no column server"),
        ({"query": "DELETE FROM routes WHERE pattern = ?"}, "DELETE command denied"),
        ({"query": "SET @x = ?"}, "no column server"),
        ({"upstreams_query": "SELECT server FROM roads"}, "roads"),
    ],
)
def test_check_says_what_is_wrong(make, settings, said, failure):
    assert said in failure(make(**settings).check())


def test_check_says_that_there_is_no_such_table(make, mariadb, failure, request):
    request.addfinalizer(lambda: mariadb.sql(f"REVOKE ALL ON {DATABASE}.* FROM {USER}@'%'"))
    mariadb.sql(f"GRANT SELECT ON {DATABASE}.* TO {USER}@'%'")
    query = "SELECT server FROM roads WHERE pattern = ?"
    assert "Table 'smtpproxy.roads' doesn't exist (1146)" in failure(make(query).check())


def test_check_of_what_is_right(reactor, make):
    reactor.until(make().check())


def test_queries_and_authorities_are_checked_when_it_is_made(server, tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        Mysql(server(), "SELECT server FROM routes")
    with pytest.raises(ValueError, match="write none"):
        Mysql(server(), QUERY, QUERY)
    (tmp_path / "empty.pem").touch()
    for name, said in (
        ("empty.pem", "is no file of certif"),
        ("none.pem", "there is no such file"),
    ):
        with pytest.raises(Faults, match=said):
            Mysql(server(tls=True, tls_ca=str(tmp_path / name)), QUERY)


def test_the_password_is_in_no_repr(server, make):
    table = make()
    assert PASSWORD not in f"{server()!r} {server()} {table!r} {Mysql(server(), QUERY)!r}"
    assert "secret" not in repr(server())


# TLS


def cipher(settings: MysqlServer) -> str:
    """What the connection is encrypted with, "" for nothing."""
    database = Mysql(settings, QUERY)
    connection = database.connect()
    _, rows = database.select(connection, "SHOW STATUS LIKE 'Ssl_cipher'", None, 1, lambda: True)
    database.close(connection)
    return str(rows[0][1])


def test_tls_and_its_absence(server, authority):
    assert cipher(server(tls=True, tls_ca=str(authority.file)))
    assert cipher(server(tls=True, tls_verify=False))
    assert cipher(server()) == ""


def test_tls_over_the_unix_socket_is_none(server, mariadb):
    assert cipher(server(tls=True, unix_socket=str(mariadb.socket))) == ""


def test_a_certificate_that_does_not_verify_is_refused(make, authority, failure):
    assert "certificate verify failed" in failure(make(tls=True).check())
    said = failure(make(tls=True, tls_ca=str(authority.file), host="localhost").check())
    assert "Hostname mismatch" in said


def test_there_is_no_way_back_to_clear_text(make, mariadb, failure, authority, request):
    def restart(*options):
        mariadb.stop()
        mariadb.start(*options)

    request.addfinalizer(restart)
    restart("--skip-ssl")
    for settings in ({"tls_verify": False}, {"tls_ca": str(authority.file)}):
        said = failure(make(tls=True, **settings).check())
        assert "the server doesn't support it (2026); switch TLS on at the server" in said


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"dialog"])
def test_the_password_is_not_sent_in_clear_to_who_asks_for_it(make, failure, plugin):
    heard: list[bytes] = []
    impostor = socket.create_server(("127.0.0.1", 0))
    thread = Thread(target=pretend, args=(impostor, plugin, heard))
    thread.start()
    said = failure(make(port=impostor.getsockname()[1]).check())
    thread.join(10)
    impostor.close()
    assert "the server wants the password in clear; that takes TLS that verifies" in said
    assert USER.encode() in b"".join(heard)
    assert PASSWORD.encode() not in b"".join(heard)


def pretend(impostor: socket.socket, plugin: bytes, heard: list[bytes]) -> None:
    """Be a server that asks one client for its password by this plugin."""

    def packet(number: int, payload: bytes) -> bytes:
        return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload

    connection, _ = impostor.accept()
    with connection:
        salt = b"12345678", b"123456789012\0"
        greeting = b"\x0a8.0.1\0" + struct.pack("<I", 1) + salt[0] + b"\0\xff\xf7\x2d\2\0\x08\0\x15"
        connection.sendall(packet(0, greeting + b"\0" * 10 + salt[1] + b"mysql_native_password\0"))
        heard.append(connection.recv(4096))
        connection.sendall(packet(2, b"\xfe" + plugin + b"\0" + b"\5Password: "))
        while data := connection.recv(4096):
            heard.append(data)


# When the server fails


def many(table: DatabaseTable, number: int = 40) -> Deferred:
    """So many look-ups at once."""
    return gatherResults(
        [start(table.find(["a@example.com"])) for _ in range(number)],
        consumeErrors=True,
    )


def all_found(hits: list) -> bool:
    return all(each.keys() == {"a@example.com"} for each in hits)


def test_many_look_ups_at_once_over_few_connections(reactor, make, mariadb):
    assert all_found(reactor.until(many(make(threads=3), 200)))
    assert 1 <= len(mariadb.connections()) <= 3


def test_connections_that_were_ended_are_replaced_without_a_failure(reactor, make, mariadb):
    table = make()
    for _ in range(3):
        assert all_found(reactor.until(many(table)))
        assert mariadb.kill_connections() >= 1
    assert all_found(reactor.until(many(table)))


def test_a_connection_ended_in_the_middle_of_a_query(reactor, make, mariadb):
    query = "SELECT server FROM routes WHERE pattern = ? AND GET_LOCK('gate', 30) IS NOT NULL"
    waiting = "SELECT id FROM information_schema.processlist WHERE state = 'User lock'"
    with mariadb.connection() as gate:
        gate.query("SELECT GET_LOCK('gate', 0)")
        work = start(make(query).find(["a@example.com"]))
        ((number,),) = wait_until(lambda: mariadb.sql(waiting), 10, "the query to run")
        mariadb.sql(f"KILL {number}")
    assert reactor.until(work).keys() == {"a@example.com"}


def test_a_restarted_server_is_found_again_without_a_failure(reactor, make, mariadb, failure):
    table = make()
    reactor.until(many(table))
    mariadb.stop()
    mariadb.start()
    assert all_found(reactor.until(many(table)))
    mariadb.stop()
    assert "Can't connect to MySQL server" in failure(table.find(["a@example.com"]))
    mariadb.start()
    assert all_found(reactor.until(many(table)))


def test_a_server_that_hangs_is_given_up_and_found_again(reactor, make, mariadb, failure, request):
    table, other = make(), make(timeout=0.1)
    reactor.until(many(table))
    request.addfinalizer(mariadb.go_on)
    mariadb.hang()
    work = [start(table.find(["a@example.com"])) for _ in range(12)]
    reactor.pump([0.25] * 22)
    for each in work:
        assert failure(each).endswith("/smtpproxy: no answer within 5 s")
    # Nor do its threads hang for ever: here the socket's own deadline comes first.
    assert failure(other.find(["a@example.com"])).endswith("no answer within 0.1 s")
    mariadb.go_on()
    assert all_found(reactor.until(many(table)))


def test_one_that_never_answers_is_not_asked_twice(make, failure):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        table = make(port=silent.getsockname()[1], timeout=0.1)
        assert failure(table.find(["a@example.com"])).endswith("no answer within 0.1 s")
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


class OnARealReactor(TestCase):
    """The deadline by a real clock, which the machine's own threads and timers keep."""

    timeout = 30

    @pytest.fixture(autouse=True)
    def _given(self, server, mariadb):
        self.server = server
        self.mariadb = mariadb

    async def test_a_server_that_hangs_is_given_up_within_the_deadline(self):
        deadlines = Deadlines(real_reactor)
        table = DatabaseTable(Mysql(self.server(timeout=0.5), QUERY), real_reactor, deadlines)
        self.addCleanup(table.stop)
        self.addCleanup(deadlines.stop)
        self.assertTrue(all_found(await many(table)))
        self.mariadb.hang()
        self.addCleanup(self.mariadb.go_on)
        before = monotonic()
        for failed in [start(table.find(["a@example.com"])) for _ in range(12)]:
            with self.assertRaisesRegex(LookupFailed, "no answer within 0.5 s"):
                await failed
        self.assertLess(monotonic() - before, 4, "one behind the other")
        self.mariadb.go_on()
        self.assertTrue(all_found(await many(table)))


# What the schema and the documentation promise


def test_the_table_takes_no_key_that_nothing_would_find(mariadb):
    keys = ("Alice@example.com", "JÖRG@example.com", "new.test ", " new.test", "", "@new.test")
    for key in keys:
        with pytest.raises(OperationalError, match="CONSTRAINT"):
            mariadb.sql("INSERT INTO routes (pattern, server) VALUES (%s, 'one.test')", key)


def test_the_user_may_read_and_nothing_else(mariadb):
    grants = " ".join(grant for (grant,) in mariadb.sql(f"SHOW GRANTS FOR {USER}@'%'"))
    allowed = re.findall(r"GRANT (.*?) ON (\S+)", grants)
    assert [each for each in allowed if "FUNCTION" not in each[1]] == [
        ("USAGE", "*.*"),
        ("SELECT", "`smtpproxy`.`routes`"),
    ]


def test_what_is_documented(reactor, make, find, mariadb):
    text = DOCS.read_text()
    statements = "\n".join(re.findall(r"^```sql\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    mariadb.sql("TRUNCATE routes")
    subprocess.run(
        [
            "mariadb",
            "--no-defaults",
            "--skip-ssl",
            "-uroot",
            f"--socket={mariadb.socket}",
            DATABASE,
        ],
        input=statements.encode(),
        check=True,
        timeout=20,
    )
    mariadb.sql(f"GRANT SELECT ON {DATABASE}.hosts TO {USER}@'%'")
    simple, view = re.findall(r'^query = "(.*pattern = .*|.*mailhost.*)"$', text, re.MULTILINE)[:2]
    (upstreams,) = re.findall(r'^upstreams_query = "(.*)"$', text, re.MULTILINE)
    for query in (simple, view):
        assert find(make(query), "alice@example.com", "example.com").keys() == {"example.com"}
    table = make(simple, upstreams)
    reactor.until(table.check())
    assert [str(each) for each in upstreams_in(table.listed())] == [
        "old.example.net:2525",
        "[2001:db8::25]:25",
    ]
