"""The settings of each kind of mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smtpproxy.chain import Loop, open_chain
from smtpproxy.config import (
    Config,
    CsvMapping,
    Faults,
    HttpMapping,
    MysqlMapping,
    RegexMapping,
    SqliteMapping,
    StaticMapping,
    load,
)

HEAD = 'domain = "mx.test"\nlisteners = [{listen = ":25"}]\n[[mappings]]\n'
QUERY = 'query = "SELECT server FROM routes WHERE pattern = ?"\n'
NEEDED = {
    "csv": 'type = "csv"\nfile = "mapping.csv"\n',
    "static": 'type = "static"\nserver = "mx1.test"\n',
    "regex": 'type = "regex"\nfile = "patterns.csv"\n',
    "mysql": f'type = "mysql"\ndatabase = "smtpproxy"\n{QUERY}',
    "sqlite": f'type = "sqlite"\nfile = "routes.db"\n{QUERY}',
    "http": 'type = "http"\nurl = "http://127.0.0.1:8080/route"\n',
}
SECRET = "hunter2"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> Config:
    path = Path("smtpproxy.toml")
    path.write_text(HEAD + text)
    return load(path, {})


def only(text: str) -> Any:
    (mapping,) = read(text).mappings
    return mapping


def faults(text: str) -> list[str]:
    with pytest.raises(Faults) as caught:
        read(text)
    return [str(fault) for fault in caught.value.faults]


def test_csv(folder):
    assert only(NEEDED["csv"]) == CsvMapping(type="csv", file=f"{folder}/mapping.csv")
    mapping = only(NEEDED["csv"] + 'parent_domains = true\nmax_shrink = "5%"\n')
    assert (mapping.parent_domains, mapping.max_shrink) == (True, 0.05)


def test_static(folder):
    text = 'type = "static"\nserver = "mx1.test:2525*2,[2001:db8::1]*1"\n'
    mapping = only(f'{text}tls = "encrypt"\nidentity = "proxy2"\n')
    assert isinstance(mapping, StaticMapping)
    assert (mapping.tls, mapping.identity) == ("encrypt", "proxy2")


def test_regex(folder):
    mapping = only(NEEDED["regex"])
    assert isinstance(mapping, RegexMapping)
    assert (mapping.file, mapping.timeout) == (f"{folder}/patterns.csv", 0.01)


def test_mysql(folder):
    mapping = only(NEEDED["mysql"])
    assert isinstance(mapping, MysqlMapping)
    assert (mapping.host, mapping.port, mapping.user) == ("localhost", 3306, "smtpproxy")
    assert (mapping.cache_ttl, mapping.cache_negative_ttl) == (60.0, 30.0)
    assert (mapping.stale_for, mapping.timeout, mapping.connections) == (0.0, 5.0, 4)
    mapping = only(
        f'{NEEDED["mysql"]}host = "db.test"\nport = 3307\nuser = "reader"\n'
        'password_file = "password"\ntls = true\ntls_ca = "ca.pem"\ntls_verify = false\n'
        'cache_ttl = "0s"\nstale_for = "1d"\nparent_domains = true\n'
        'upstreams_query = "SELECT DISTINCT server FROM routes"\n'
    )
    assert mapping.password_file == f"{folder}/password"
    assert mapping.tls_ca == f"{folder}/ca.pem"
    assert (mapping.cache_ttl, mapping.stale_for) == (0.0, 86400.0)


def test_sqlite(folder):
    mapping = only(NEEDED["sqlite"])
    assert isinstance(mapping, SqliteMapping)
    assert mapping.file == f"{folder}/routes.db"


def test_http(folder):
    mapping = only(NEEDED["http"])
    assert isinstance(mapping, HttpMapping)
    assert (mapping.protocol, mapping.headers, mapping.connections) == ("json", {}, 10)
    mapping = only(
        f'{NEEDED["http"]}protocol = "nginx"\nheaders = {{ X-Auth-Key = "secret" }}\n'
        'tls = "may"\nidentity = "none"\ntimeout = "60s"\n'
    )
    assert mapping.headers == {"X-Auth-Key": "secret"}


@pytest.mark.parametrize(
    ("kind", "line", "fault"),
    [
        ("csv", 'max_shrink = "110%"', 'max_shrink: "110%" is not a percentage: write "50%", at'),
        ("csv", "max_shrink = 50", 'max_shrink: must be a percentage in quotes, such as "50%"'),
        ("csv", "max_shrink = 0.5", 'max_shrink: must be a percentage in quotes, such as "50%"'),
        ("csv", 'parent_domains = "yes"', "parent_domains: must be true or false, without quotes"),
        ("static", 'tls = "always"', 'tls: must be "", "none", "may", "encrypt" or "verify", not'),
        ("static", 'identity = "xforward"', 'identity: must be "auto", "xclient", "proxy1", '),
        ("regex", 'timeout = "0s"', 'timeout: "0s" is too short'),
        ("mysql", "port = 0", "port: must be from 1 to 65535, not 0"),
        ("mysql", "port = 65536", "port: must be from 1 to 65535, not 65536"),
        ("mysql", 'user = ""', "user: must not be empty"),
        ("mysql", 'tls_ca = "ca.pem"', "tls_ca: counts for TLS alone: add tls = true"),
        ("mysql", 'upstreams_query = "SELECT ?"', "upstreams_query: there is a ? in it; nothing"),
        ("mysql", "cache_size = 0", "cache_size: must be at least 1, not 0"),
        ("mysql", 'cache_ttl = "0"', 'cache_ttl: 0 has no unit: write "0s" for seconds'),
        ("mysql", "cache_ttl = 0", 'cache_ttl: 0 has no unit: write "0s" for seconds'),
        ("mysql", "threads = 3", "threads: there is no such setting here; "),
        ("sqlite", 'stale_for = "8d"', 'stale_for: "8d" is too long: at most "7d"'),
        ("sqlite", 'host = "db"', "host: there is no such setting here; known: type, file, query"),
        ("http", 'protocol = "xml"', 'protocol: must be "json" or "nginx", not "xml"'),
        ("http", "headers = 3", "headers: must be a table, not what it is"),
        ("http", 'headers = {"a b" = "x"}', "headers: 'a b' is not the name of a header"),
        ("http", 'headers = {Te = "x"}', "headers: Te is for the connection; leave it out"),
    ],
)
def test_one_wrong_line_is_one_fault(folder, kind, line, fault):
    text = NEEDED[kind]
    (found,) = faults(f"{text}{line}\n")
    number = 4 + text.count("\n")
    assert found.startswith(f"smtpproxy.toml:{number}: mappings[0].{fault}")


@pytest.mark.parametrize("kind", ["mysql", "sqlite"])
@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("SELECT server FROM routes", "there is no ? in it; write one"),
        ("SELECT server FROM routes WHERE pattern = '?'", "the ? is in quotes or in a comment"),
        ("SELECT ?, ?", "there are 2 ? in it"),
        ("SELECT 'x = ?", 'what begins at "\'x = ?" has no end'),
        ("", "must not be empty"),
    ],
)
def test_a_query_has_one_place_for_the_key(folder, kind, query, fault):
    (found,) = faults(NEEDED[kind].replace(QUERY, f'query = "{query}"\n'))
    assert found.startswith(f"smtpproxy.toml:6: mappings[0].query: {fault}")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("csv", ["file"]),
        ("regex", ["file"]),
        ("mysql", ["database", "query"]),
        ("sqlite", ["file", "query"]),
        ("http", ["url"]),
        ("static", ["server"]),
    ],
)
def test_what_is_needed(folder, kind, missing):
    found = faults(f'type = "{kind}"\n')
    assert [fault.partition(" = ")[0] for fault in found] == [
        f"smtpproxy.toml:3: mappings[0].{name}: is missing: add {name}" for name in missing
    ]


def test_two_ways_to_say_one_thing(folder):
    for kind in ("static", "http"):
        ways = 'protocol = "nginx"\n' if kind == "http" else ""
        (found,) = faults(f'{NEEDED[kind]}{ways}tls_verify = true\ntls = "may"\n')
        assert found == (
            "smtpproxy.toml:3: mappings[0]: tls stands beside tls_verify: leave one of the two out"
        )
    (found,) = faults(f'{NEEDED["mysql"]}password = "{SECRET}"\npassword_file = "file"\n')
    assert found == (
        "smtpproxy.toml:8: mappings[0].password_file: stands beside password: "
        "leave one of the two out"
    )


def test_what_counts_for_nothing_is_a_fault(folder):
    (found,) = faults(f'{NEEDED["http"]}tls = "verify"\n')
    assert found == (
        'smtpproxy.toml:3: mappings[0]: tls is for protocol = "nginx": '
        'with "json" the service says it'
    )


@pytest.mark.parametrize(
    "text",
    [
        f'{NEEDED["mysql"]}password = ["{SECRET}"]\nport = 0',
        f"{NEEDED['mysql'].replace('?', '')}password = 2\n#{SECRET}",
        f'{NEEDED["mysql"]}password = "{SECRET}"\nport = 0',
        f'{NEEDED["mysql"]}password = "{SECRET}"\npassword_file = "b"',
        f'{NEEDED["mysql"]}pasword = "{SECRET}"',
        f'type = "http"\nurl = "http://user:{SECRET}@127.0.0.1/"\n',
        f'type = "http"\nurl = "ftp://127.0.0.1/?{SECRET}"\n',
        f'type = "http"\nurl = ["{SECRET}"]\n',
        f'{NEEDED["http"]}headers = {{X-Key = ["{SECRET}"]}}\n',
        f'{NEEDED["http"]}headers = {{X-Key = "{SECRET}\u00fc"}}\n',
        f'{NEEDED["http"]}headers = "{SECRET}"\n',
    ],
)
def test_a_secret_is_in_no_fault(folder, text):
    found = faults(text)
    assert found
    assert SECRET not in "".join(found)


def test_a_number_is_no_password_and_is_not_shown(folder):
    (found,) = faults(f"{NEEDED['mysql']}password = 987654\n")
    assert found == (
        "smtpproxy.toml:7: mappings[0].password: must be a text in quotes, not what it is"
    )


def test_a_secret_is_in_no_repr(folder):
    config = read(
        f'{NEEDED["mysql"]}password = "{SECRET}"\n[[mappings]]\n'
        f'type = "http"\nurl = "http://127.0.0.1/?{SECRET}"\nheaders = {{X-Key = "{SECRET}"}}\n'
    )
    assert SECRET not in repr(config)
    assert SECRET not in str(config)
    port: Any = SECRET
    with pytest.raises(ValueError, match="port") as caught:
        MysqlMapping(type="mysql", database="d", query="?", password=SECRET, port=port)
    assert SECRET not in str(caught.value)


class NoReactor:
    """What a database asks of a reactor before it is asked anything itself."""

    def seconds(self) -> float:
        return 0.0


def opening(config: Config) -> list[str]:
    """The faults of what a configuration names."""
    from smtpproxy.deadlines import Deadlines

    reactor: Any = NoReactor()
    with pytest.raises(Faults) as caught:
        open_chain(config, lambda: Loop(reactor, Deadlines(reactor)))
    return [str(fault) for fault in caught.value.faults]


MISSING = "there is no such file"


def test_all_that_is_wrong_with_the_files(folder):
    Path("patterns.csv").write_text("pattern;server\n(;mx1.test\n")
    Path("ca.pem").write_text("nonsense")
    mysql = NEEDED["mysql"]
    config = read(
        "[[mappings]]\n".join(
            [
                *(NEEDED["csv"], NEEDED["regex"], NEEDED["sqlite"]),
                f'{mysql}password_file = "none"\n',
                f'{mysql}tls = true\ntls_ca = "ca.pem"\n',
            ]
        )
    )
    csv, regex, sqlite, password, authorities = opening(config)
    assert csv == f"smtpproxy.toml:5: mappings[0].file: {folder}/mapping.csv: {MISSING}"
    assert regex.startswith(f"{folder}/patterns.csv:2: ")
    assert sqlite == (
        f"smtpproxy.toml:11: mappings[2].file: {folder}/routes.db: {MISSING}: "
        "make the database first"
    )
    assert password == f"smtpproxy.toml:17: mappings[3].password_file: {folder}/none: {MISSING}"
    assert authorities.startswith(
        f"smtpproxy.toml:23: mappings[4].tls_ca: {folder}/ca.pem: is no file of certificates"
    )


@pytest.mark.parametrize("content", ["secret\n", "secret\r\n", "secret"])
def test_the_password_in_a_file(folder, content):
    """Its line end is no part of it."""
    from smtpproxy.opening import _password

    Path("password").write_bytes(content.encode())
    assert _password(only(NEEDED["mysql"] + 'password_file = "password"\n')) == "secret"


def test_files_need_no_loop(folder):
    Path("mapping.csv").write_text("pattern;server\nexample.com;mx1.test\n")
    Path("patterns.csv").write_text("pattern;server\n.*@a;mx2.test\n")
    config = read("[[mappings]]\n".join([NEEDED["csv"], NEEDED["regex"], NEEDED["static"]]))

    def none() -> Loop:
        raise AssertionError("not needed")

    chain = open_chain(config, none)
    assert [mapping.name.split()[0] for mapping in chain.router.mappings] == [
        *("csv", "regex", "static")
    ]
    assert [str(file) for file in chain.files] == [
        *(f"{folder}/mapping.csv", f"{folder}/patterns.csv")
    ]


def test_a_query_is_kept_as_it_is_written(folder):
    assert only(NEEDED["sqlite"]).query == "SELECT server FROM routes WHERE pattern = ?"
