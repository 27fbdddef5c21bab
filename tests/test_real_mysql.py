"""smtpproxy before a real MariaDB that says where mail goes: hung, restarted, and changed."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from smtpproxy.request import request
from tests.support.mail_server import MailServer
from tests.support.mariadb import DATABASE, PASSWORD, USER, MariaDb
from tests.support.processes import short_folder
from tests.support.proxy import Proxy, row

TIMEOUT = 1.0  # seconds that a look-up may take
LATE = 0.9  # seconds more that it may take until the client hears of it
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
LOOKUP_FAILED = "451 4.3.0 The look-up of this recipient failed; try again later"


@pytest.fixture(scope="module")
def running() -> Iterator[MariaDb]:
    with short_folder() as folder, MariaDb(folder) as database:
        yield database


@pytest.fixture(scope="module")
def one() -> Iterator[MailServer]:
    with MailServer("one") as server:
        yield server


@pytest.fixture(scope="module")
def two() -> Iterator[MailServer]:
    with MailServer("two") as server:
        yield server


@pytest.fixture
def database(running: MariaDb, two: MailServer) -> MariaDb:
    """With mail for example.net at `two`."""
    running.sql("TRUNCATE routes")
    put(running, "example.net", two)
    return running


def put(database: MariaDb, pattern: str, server: MailServer) -> None:
    database.sql("REPLACE INTO routes VALUES (%s, %s, 0, '')", pattern, server.server)


@contextmanager
def proxy(folder: Path, database: MariaDb, one: MailServer, **settings: Any) -> Iterator[Proxy]:
    """Mail for example.com goes to `one`, by a file; all other mail where the database says."""
    mysql = {
        "type": "mysql",
        "host": "127.0.0.1",
        "port": database.port,
        "user": USER,
        "password": PASSWORD,
        "database": DATABASE,
        "query": "SELECT server, tls_verify FROM routes WHERE pattern = ?",
        "timeout": f"{TIMEOUT * 1000:.0f}ms",
        "cache_ttl": "0s",
        "cache_negative_ttl": "0s",
        **settings,
    }
    mappings = [{"type": "csv", "file": "mapping.csv"}, mysql]
    with Proxy(folder, [row("example.com", one.server)], mappings=mappings) as running:
        yield running


def rcpt(proxy: Proxy, address: str) -> tuple[str, float]:
    """What a client is told of a recipient, and after how many seconds."""
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        started = monotonic()
        code, text = client.rcpt(address)
        return f"{code} {text.decode()}", monotonic() - started


def send(proxy: Proxy, address: str) -> str:
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        code, text = client.rcpt(address)
        if code == 250:
            code, text = client.data(MESSAGE)
    return f"{code} {text.decode()}"


def test_mail_goes_where_the_database_says(folder, database, one, two) -> None:
    put(database, "o'ne%il\\@example.org", one)
    with proxy(folder, database, one) as running:
        before = len(two.messages)
        assert send(running, "alice@example.net") == "250 taken by two"
        assert two.messages[before:] == [MESSAGE]
        assert send(running, "alice@example.com") == "250 taken by one"
        assert send(running, r'"o\'ne%il\\"@example.org') == "250 taken by one"
        assert send(running, "\"' or '1'='1' -- \"@example.org") != "250 taken by one"
        assert send(running, "alice@unknown.test") == "550 5.7.1 Relay access denied"
        put(database, "example.net", one)
        assert send(running, "alice@example.net") == "250 taken by one"
        database.sql("DELETE FROM routes WHERE pattern = 'example.net'")
        assert send(running, "alice@example.net") == "550 5.7.1 Relay access denied"
        assert PASSWORD not in running.output


def test_a_database_that_hangs_costs_its_own_recipients_and_nobody_else(
    folder, database, one
) -> None:
    with proxy(folder, database, one) as running, ThreadPoolExecutor(30) as clients:
        assert rcpt(running, "alice@example.net")[0] == "250 two"
        database.hang()
        try:
            # More of them than there are connections to the database.
            hanging = [clients.submit(rcpt, running, "alice@example.net") for _ in range(20)]
            others = [rcpt(running, "alice@example.com") for _ in range(20)]
            told = [each.result() for each in hanging]
        finally:
            database.go_on()
        assert {reply for reply, _ in others} == {"250 one"}
        assert max(seconds for _, seconds in others) < LATE
        assert {reply for reply, _ in told} == {LOOKUP_FAILED}
        assert max(seconds for _, seconds in told) < TIMEOUT + LATE
        assert "no answer within 1 s" in running.output
        assert send(running, "alice@example.net") == "250 taken by two"


def test_a_database_that_hangs_does_not_hold_up_the_end(folder, database, one) -> None:
    with proxy(folder, database, one) as running:
        assert send(running, "alice@example.net") == "250 taken by two"
        database.hang()
        try:
            assert send(running, "alice@example.net") == LOOKUP_FAILED
            assert running.stop(seconds=10) == 0, "it had to be killed"
        finally:
            database.go_on()
        assert "Traceback" not in running.output


def test_a_database_that_is_restarted_costs_no_mail(folder, database, one) -> None:
    with proxy(folder, database, one) as running:
        for _ in range(3):
            assert send(running, "alice@example.net") == "250 taken by two"
            database.stop()
            database.start()
            replies = {send(running, "alice@example.net") for _ in range(6)}
            assert replies == {"250 taken by two"}
            assert database.kill_connections()
            replies = {send(running, "alice@example.net") for _ in range(6)}
            assert replies == {"250 taken by two"}


def test_a_database_that_is_down_is_no_lack_of_a_route(folder, database, one) -> None:
    with proxy(folder, database, one) as running:
        database.stop()
        try:
            assert send(running, "alice@example.net") == LOOKUP_FAILED
            assert send(running, "alice@unknown.test") == LOOKUP_FAILED
            assert send(running, "alice@example.com") == "250 taken by one"
        finally:
            database.start()
        assert send(running, "alice@example.net") == "250 taken by two"


def test_a_proxy_that_starts_before_its_database(folder, database, one) -> None:
    """As after a power cut: it starts, and finds the database once that is there."""
    database.stop()
    try:
        with proxy(folder, database, one) as running:
            assert send(running, "alice@example.com") == "250 taken by one"
            assert send(running, "alice@example.net") == LOOKUP_FAILED
            database.start()
            assert send(running, "alice@example.net") == "250 taken by two"
    finally:
        database.stop()
        database.start()


def test_a_known_answer_outlives_the_database_and_a_reload(folder, database, one, two) -> None:
    settings = {"cache_ttl": "50ms", "stale_for": "1h"}
    with proxy(folder, database, one, **settings) as running:
        assert send(running, "alice@example.net") == "250 taken by two"
        database.stop()
        try:
            assert send(running, "alice@example.net") == "250 taken by two"
            ask = partial(request, running.control, "lookup", 10, address="alice@example.net")
            running.wait_for(lambda: ask()["route"]["stale"], "the answer to be too old")
            assert send(running, "alice@unknown.test") == LOOKUP_FAILED
            assert request(running.control, "reload", 10)["taken"]
            assert send(running, "alice@example.net") == "250 taken by two"
        finally:
            database.start()
