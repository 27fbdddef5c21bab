"""smtpproxy lookup, without a running program."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from smtpproxy.cli import explaining, main, probe
from smtpproxy.cli.visiting import Attempt
from smtpproxy.cli.wording import harmless
from smtpproxy.explain import explained
from smtpproxy.routing import (
    Explanation,
    Found,
    NoRoute,
    Refused,
    Route,
    Step,
    TryAgain,
    Upstream,
    parse_row,
    parse_servers,
)
from smtpproxy.routing.answers import Question
from smtpproxy.smtp.errors import ProtocolError
from smtpproxy.smtp.paths import parse_path
from smtpproxy.smtp.replies import Reply, ReplyReader
from smtpproxy.upstream import Unreachable

CONFIG = """
domain = "mx.example.net"
recipient_delimiter = "+"
[[listeners]]
listen = "127.0.0.1:2525"
[[mappings]]
type = "csv"
file = "one.csv"
[[mappings]]
type = "csv"
file = "two.csv"
"""

BY_FILES = "answered by the files and databases themselves (control is not set)\n"


@pytest.fixture
def ask(tmp_path, capsys):
    """Run it; status, output and errors."""
    (tmp_path / "smtpproxy.toml").write_text(CONFIG)
    (tmp_path / "one.csv").write_text("pattern;server\nalice@example.com;mx1.test\n")
    (tmp_path / "two.csv").write_text(
        "pattern;server;tls_verify\n\n# a comment\n"
        "example.com;[2001:db8::1]:2525;false\nmx.example.net;mx2.test\n"
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["lookup", "--config", str(tmp_path / "smtpproxy.toml"), *arguments])
        said = capsys.readouterr()
        return status, *(text.replace(f"{tmp_path}/", "") for text in said)

    return run


def test_found_by_the_address_without_its_suffix(ask):
    assert ask("Alice+News@Example.COM") == (
        0,
        f"{BY_FILES}csv one.csv\n"
        "  alice+news@example.com  no row\n"
        "  alice@example.com       one.csv:2\n"
        "Alice+News@Example.COM goes to mx1.test:25\n"
        "  tls       TLS where offered; its certificate must verify\n"
        "  identity  XCLIENT where offered\n",
        "",
    )


def test_found_in_the_second_mapping(ask):
    assert ask("bob@example.com") == (
        0,
        f"{BY_FILES}csv one.csv\n"
        "  bob@example.com  no row\n"
        "  example.com      no row\n"
        "  *                no row\n"
        "csv two.csv\n"
        "  bob@example.com  no row\n"
        "  example.com      two.csv:4\n"
        "bob@example.com goes to [2001:db8::1]:2525\n"
        "  tls       TLS where offered; its certificate need not verify\n"
        "  identity  XCLIENT where offered\n",
        "",
    )


def test_no_route(ask):
    status, out, err = ask("alice@example.org")
    assert (status, err) == (1, "")
    assert out.endswith("alice@example.org has no route: refused with 550 5.7.1\n")


@pytest.mark.parametrize("address", ["postmaster", "<Postmaster>"])
def test_postmaster_is_of_this_server(ask, address):
    status, out, _ = ask(address)
    assert status == 0
    assert "  mx.example.net  two.csv:5\n" in out


def test_angle_brackets_as_from_a_log(ask):
    status, out, _ = ask("<bob@example.com>")
    assert status == 0
    assert "\nbob@example.com goes to " in out


@pytest.mark.parametrize("address", ["", "<>", "alice", "a b@example.com", "a@b@c", "a\n@b"])
def test_what_is_no_address(ask, address):
    status, out, err = ask(address)
    assert (status, out) == (2, "")
    assert err == f"{address!r} is no address: give user@example.com, or postmaster\n"


@pytest.mark.parametrize("address", ["\udcff@example.com", "<a@\udcff.test>", "\ud800@x.test"])
def test_what_is_not_utf8_is_no_address(ask, address):
    """A byte of the command line that is no UTF-8 comes as a lone surrogate."""
    assert ask(address) == (2, "", f"{address!r} is not UTF-8\n")


def test_a_probe_of_what_is_not_utf8(ask, tmp_path, capsys):
    config = str(tmp_path / "smtpproxy.toml")
    assert main(["probe", "--config", config, "\udcff@example.com"]) == 2
    assert capsys.readouterr().err.startswith("neither a recipient nor a server: ")


def test_faults_are_no_answer(ask, tmp_path):
    (tmp_path / "two.csv").write_text("pattern;server\n*@a;mx1.test\nexample.com;:\n")
    status, out, err = ask("--json", "alice@example.com")
    assert (status, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["two.csv:2", "two.csv:3"]


def test_as_json(ask):
    status, out, _ = ask("--json", "--offline", "bob@example.com")
    assert status == 0
    route = {
        "mapping": "csv two.csv",
        "key": "example.com",
        "place": "two.csv:4",
        "servers": ["[2001:db8::1]:2525"],
        "tls": "may",
        "identity": "auto",
        "percent": 100,
        "shadow": None,
        "age": None,
        "stale": False,
    }
    assert json.loads(out) == {
        "address": "bob@example.com",
        "percentile": 88,
        "steps": [
            {
                "mapping": "csv one.csv",
                "keys": ["bob@example.com", "example.com", "*"],
                "answer": "no_route",
                "passed": [],
            },
            {
                "mapping": "csv two.csv",
                "keys": ["bob@example.com", "example.com"],
                "answer": "found",
                "route": route,
                "passed": [],
            },
        ],
        "answer": "found",
        "route": route,
        "passed": [],
        "answered_by": "files",
        "because": "--offline",
    }


def test_no_route_as_json(ask):
    status, out, _ = ask("--json", "bob@example.org")
    assert status == 1
    assert json.loads(out)["answer"] == "no_route"
    assert "route" not in json.loads(out)


def test_nobody_at_the_control_socket(ask, tmp_path):
    (tmp_path / "smtpproxy.toml").write_text(f'control = "no.sock"\n{CONFIG}')
    status, out, err = ask("alice@example.com")
    assert (status, err) == (0, "")
    assert out.startswith(
        "answered by the files and databases themselves "
        "(no.sock: smtpproxy does not run, or has no control socket)\n"
    )


def child(tmp_path, *arguments):
    """As a process of its own, for what has a reactor; status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "smtpproxy", "lookup", "--config", "smtpproxy.toml", *arguments],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout.replace(f"{tmp_path}/", ""), done.stderr


SQLITE = """
[[mappings]]
type = "sqlite"
file = "routes.db"
query = "SELECT server, shadow FROM routes WHERE pattern = ?"
"""


def test_a_database(ask, tmp_path):
    """With a reactor, which nothing else here has."""
    (tmp_path / "smtpproxy.toml").write_text(CONFIG + SQLITE)
    with sqlite3.connect(tmp_path / "routes.db") as routes:
        routes.execute("CREATE TABLE routes (pattern TEXT PRIMARY KEY, server TEXT, shadow TEXT)")
        routes.execute("INSERT INTO routes VALUES ('example.org', 'a.test,b.test', 'c.test')")
    status, out, err = child(tmp_path, "alice@example.org")
    assert (status, err) == (0, "")
    assert out.endswith(
        "sqlite routes.db\n"
        "  alice@example.org  no row\n"
        "  example.org        routes.db\n"
        "alice@example.org goes to a.test:25,b.test:25\n"
        "  tls       TLS where offered; its certificate must verify\n"
        "  identity  XCLIENT where offered\n"
        "  shadow    c.test:25: is asked as well, and gets no mail\n"
    )
    assert child(tmp_path, "alice@example.net")[0] == 1


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_mapping_that_fails_is_no_missing_route(ask, tmp_path, form):
    (tmp_path / "smtpproxy.toml").write_text(CONFIG + SQLITE)
    (tmp_path / "routes.db").write_text("")
    status, out, err = child(tmp_path, *form, "alice@example.org")
    assert status == 2
    assert "no such table: routes" in out
    assert "451 4.3.0" in err
    if form:
        assert json.loads(out)["answer"] == "try_again"


class Refusing(BaseHTTPRequestHandler):
    """A service written for nginx that refuses every recipient."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Auth-Status", "No such user")
        self.send_header("Auth-Error-Code", "550 5.1.1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words):
        pass


def test_a_service_that_refuses(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Refusing) as service:
        Thread(target=service.serve_forever, args=[0.05], daemon=True).start()
        (tmp_path / "smtpproxy.toml").write_text(
            'domain = "mx.test"\nlisteners = [{listen = ":25"}]\n[[mappings]]\ntype = "http"\n'
            f'url = "http://127.0.0.1:{service.server_port}/auth"\nprotocol = "nginx"\n'
        )
        status, out, err = child(tmp_path, "alice@example.org")
        service.shutdown()
    assert (status, err) == (1, "")
    assert out.endswith("is refused by the mapping: 550 5.1.1 No such user\n")


UPSTREAM = Upstream(parse_servers("mx1.test"))
QUESTION = Question(parse_path("alice@example.com"))  # type: ignore[arg-type]


def words(answer, keys=("alice@example.com", "example.com", "*")) -> list[str]:
    """All that is printed of an answer, of one mapping."""
    said = explained(Explanation(QUESTION, (Step("a mapping", keys, answer),), answer))
    said = json.loads(json.dumps(said))
    more = list(explaining.details(said)) if said["answer"] == "found" else []
    return [*list(explaining.steps(said))[1:], explaining.outcome(said), *more]


def route(key, place, age=None, stale=False, **columns):
    return Route(parse_row(columns), "a mapping", key, place, age, stale)


def test_percent_and_the_rows_passed_over():
    part = route("alice@example.com", "a.csv:2", server="a.test", percent="10")
    rest = route("example.com", "a.csv:3", server="b.test", percent="99", tls="encrypt")
    assert QUESTION.percentile == 63
    assert words(Found(rest, (part,)), ("alice@example.com", "example.com")) == [
        "  alice@example.com  a.csv:2, passed over: "
        "for 10 % of the addresses, and not for this one",
        "  example.com        a.csv:3",
        "alice@example.com goes to b.test:25",
        "  tls       TLS always; its certificate need not verify",
        "  identity  XCLIENT where offered",
        "  percent   99: this address is number 63 of 0 to 99",
    ]
    assert words(NoRoute((part,)))[0].endswith("and not for this one")


@pytest.mark.parametrize(
    ("server", "tls", "said"),
    [
        ("lmtp:a.test", "", "TLS where offered; its certificate must verify"),
        ("lmtp:unix:/run/lmtp", "", "no TLS on a Unix socket"),
        ("unix:/run/smtp", "may", "no TLS on a Unix socket"),
        ("unix:/run/smtp", "encrypt", "TLS always; its certificate need not verify"),
        (
            "lmtp:unix:/run/lmtp,a.test",
            "may",
            "TLS where offered; its certificate need not verify; no TLS on a Unix socket",
        ),
    ],
)
def test_tls_on_unix_sockets(server, tls, said):
    found = Found(route("*", "a.csv:2", server=server, tls=tls))
    assert f"  tls       {said}" in words(found, ("*",))


def test_the_cache():
    known = route("*", "db", age=12.4, server="a.test", identity="proxy2")
    assert words(Found(known), ("*",))[:3] == [
        "  *  db, from the cache, 12 seconds old",
        "alice@example.com goes to a.test:25",
        "  tls       TLS where offered; its certificate must verify",
    ]
    stale = route("*", "db", age=1.0, stale=True, server="a.test")
    assert words(Found(stale), ("*",))[0] == (
        "  *  db, from the cache, 1 second old, STALE: the database fails"
    )


def test_refused_by_a_service():
    answer = Refused(Reply.of(550, "5.1.1", "No such user"), wait=3.0)
    assert words(answer, ("alice@example.com",)) == [
        "  alice@example.com  refused",
        "alice@example.com is refused by the mapping, after 3 s: 550 5.1.1 No such user",
    ]


@pytest.mark.parametrize(
    ("said", "readable"),
    [
        (b"\xf6\x00 C:\\", r"not an SMTP reply: b'\xf6\x00 C:\\'"),
        (b"a\xf6", r"not an SMTP reply: b'a\xf6'"),
    ],
)
def test_garbage_is_escaped_but_once(said, readable):
    """As a probe shows it."""
    reader = ReplyReader()
    reader.feed(said + b"\n")
    with pytest.raises(ProtocolError) as raised:
        reader.next_reply()
    (shown,) = [text for name, text in probe._facts(failed(str(raised.value)), UPSTREAM)]
    assert shown.startswith(f"would not take mail: {readable}; clients are told 451 ")


def failed(why: str) -> Attempt:
    return Attempt(UPSTREAM.servers[0], "192.0.2.25", (), Unreachable(why))


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("grün \\xf6", r"grün \xf6"),
        ("\x1b[2J\r\n\u2028", r"\x1b[2J\r\n\u2028"),
        ("\udcff\\", r"\udcff" + "\\"),
        ("x" * 2000, "x" * 997 + "..."),
    ],
)
def test_what_others_say_is_readable_and_harmless(text, readable):
    assert harmless(text) == readable


def test_what_fails_cannot_drive_the_terminal():
    said = words(TryAgain("db: \x1b[2Jgone"), ("alice@example.com",))
    assert said[0] == "  alice@example.com  no answer"
    assert "gone" in said[1]
    assert "\x1b" not in "".join(said)
