"""The commands, with a real MariaDB behind them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mariadb import DATABASE, PASSWORD, USER, MariaDb
from tests.support.processes import short_folder
from tests.support.proxy import Proxy

QUERY = "SELECT server, tls_verify FROM routes WHERE pattern = ?"


@pytest.fixture(scope="module")
def database():
    with short_folder() as path, MariaDb(path) as it:
        it.sql("INSERT INTO routes (pattern, server) VALUES ('example.com', 'mx1.test')")
        yield it


@pytest.fixture(scope="module")
def proxy_folder(database):
    with short_folder() as path:
        (path / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
        mapping = {
            "type": "mysql",
            "host": "127.0.0.1",
            "port": database.port,
            "user": USER,
            "password_file": "password",
            "database": DATABASE,
            "query": QUERY,
            "upstreams_query": "SELECT DISTINCT server FROM routes",
        }
        with Proxy(path, [], control="control", mappings=[mapping]):
            yield path


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    """A command, as a child process: its status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "smtpproxy", "--config", folder / "smtpproxy.toml", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_check(proxy_folder, database):
    status, out, err = run(proxy_folder, "check")
    assert (status, err) == (0, "")
    place = f"mysql 127.0.0.1:{database.port}/{DATABASE}"
    assert f"  mapping   {place}: answers, and lists 1 upstream\n" in out


def test_lookup_by_the_running_program_tells_of_the_cache(proxy_folder):
    first = run(proxy_folder, "lookup", "--json", "alice@example.com")
    again = run(proxy_folder, "lookup", "--json", "alice@example.com")
    assert (first[0], again[0]) == (0, 0)
    before, after = (json.loads(out) for _, out, _ in (first, again))
    assert (before["answered_by"], before["route"]["age"]) == ("program", None)
    assert after["route"]["age"] >= 0.0
    _, out, _ = run(proxy_folder, "lookup", "alice@example.com")
    assert ", from the cache, " in out
    assert run(proxy_folder, "reload")[:2] == (
        0,
        "configuration in force, as it was\n",
    )
    _, out, _ = run(proxy_folder, "lookup", "alice@example.com")
    assert "from the cache" not in out


def test_lookup_offline_asks_the_database(proxy_folder):
    status, out, err = run(proxy_folder, "lookup", "--offline", "alice@example.com")
    assert (status, err) == (0, "")
    assert "from the cache" not in out
    assert "alice@example.com goes to mx1.test:25\n" in out


def test_a_database_that_hangs(proxy_folder, database):
    """Each command ends by the deadline of a look-up, and says why."""
    file = proxy_folder / "smtpproxy.toml"
    before = file.read_text()
    file.write_text(before.replace("query = ", 'timeout = "500ms", query = ', 1))
    database.hang()
    try:
        status, out, err = run(proxy_folder, "check")
        assert (status, out) == (1, "")
        assert err.startswith(
            f"{file}:4: mappings[0]: 127.0.0.1:{database.port}/{DATABASE}: no answer"
        )
        status, _, err = run(proxy_folder, "lookup", "--offline", "alice@example.com")
        assert status == 2
        assert "no answer within 0.5 s" in err
        assert PASSWORD not in err
    finally:
        database.go_on()
        file.write_text(before)


def test_a_wrong_password(proxy_folder):
    password = proxy_folder / "password"
    before = password.read_bytes()
    password.write_text("wrong secret")
    try:
        status, _, err = run(proxy_folder, "check")
        assert status == 1
        assert "(1045); check user and password" in err
        assert "wrong secret" not in err
    finally:
        password.write_bytes(before)
