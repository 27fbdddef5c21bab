"""smtpproxy lookup."""

from __future__ import annotations

import json

import pytest

from smtpproxy.cli import lookup, main
from smtpproxy.routing import Router, TryAgain

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
        "csv one.csv\n"
        "  alice+news@example.com  no row\n"
        "  alice@example.com       one.csv:2\n"
        "Alice+News@Example.COM goes to mx1.test:25 "
        "(TLS where offered; its certificate must verify)\n",
        "",
    )


def test_found_in_the_second_mapping(ask):
    assert ask("bob@example.com") == (
        0,
        "csv one.csv\n"
        "  bob@example.com  no row\n"
        "  example.com      no row\n"
        "csv two.csv\n"
        "  bob@example.com  no row\n"
        "  example.com      two.csv:4\n"
        "bob@example.com goes to [2001:db8::1]:2525 "
        "(TLS where offered; its certificate need not verify)\n",
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
    assert out.endswith("verify)\n")


@pytest.mark.parametrize("address", ["", "<>", "alice", "a b@example.com", "a@b@c", "a\n@b"])
def test_what_is_no_address(ask, address):
    status, out, err = ask(address)
    assert (status, out) == (2, "")
    assert err == f"{address!r} is no address: give user@example.com, or postmaster\n"


def test_faults_are_no_answer(ask, tmp_path):
    (tmp_path / "two.csv").write_text("pattern;server\n*;mx1.test\nexample.com;:\n")
    status, out, err = ask("--json", "alice@example.com")
    assert (status, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["two.csv:2", "two.csv:3"]


def test_as_json(ask):
    status, out, _ = ask("--json", "bob@example.com")
    assert status == 0
    assert json.loads(out) == {
        "address": "bob@example.com",
        "answer": "found",
        "steps": [
            {
                "mapping": "csv one.csv",
                "keys": ["bob@example.com", "example.com"],
                "answer": "no_route",
            },
            {
                "mapping": "csv two.csv",
                "keys": ["bob@example.com", "example.com"],
                "answer": "found",
            },
        ],
        "route": {
            "host": "2001:db8::1",
            "port": 2525,
            "tls_verify": False,
            "mapping": "csv two.csv",
            "key": "example.com",
            "place": "two.csv:4",
        },
    }


def test_no_route_as_json(ask):
    status, out, _ = ask("--json", "bob@example.org")
    assert status == 1
    assert json.loads(out)["answer"] == "no_route"
    assert "route" not in json.loads(out)


class Down:
    """A mapping that cannot answer now."""

    name = "sql"

    async def lookup(self, keys):
        return TryAgain("the database is down")

    def upstreams(self):
        return ()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_mapping_that_fails_is_no_missing_route(ask, monkeypatch, form):
    monkeypatch.setattr(lookup, "open_router", lambda config: Router([Down()], "", "mx.test"))
    status, out, err = ask(*form, "alice@example.com")
    assert status == 2
    assert "the database is down" in out
    assert "451 4.3.0" in err
    if form:
        assert json.loads(out)["answer"] == "try_again"
