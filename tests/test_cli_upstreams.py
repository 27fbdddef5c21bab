"""smtpproxy upstreams: how the answer of the running program reads."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import pytest

from smtpproxy.cli import upstreams

WAYS = "(TLS where offered; its certificate must verify; identity: XCLIENT where offered)"
LISTENER = {
    "listener": ":25",
    "announces": ["PIPELINING", "STARTTLS"],
    "announces_after_starttls": ["PIPELINING", "REQUIRETLS"],
    "size_of": None,
    "withholds": {"DSN": "one.test:25 does not offer it"},
}
LISTENER_SAID = [
    "listener :25",
    "  announces PIPELINING, STARTTLS",
    "  after STARTTLS also REQUIRETLS",
    "  not DSN: one.test:25 does not offer it",
]


def upstream(
    *heard: dict[str, Any],
    failed: Any = (),
    asking: float | None = None,
    too_small: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "servers": ["one.test:25"],
        "tls": "verify where offered",
        "identity": "auto",
        "heard": list(heard),
        "failed": list(failed),
        "asking": asking,
        "too_small": too_small,
        "connections": 0,
        "waiting": 0,
        "kept": 0,
        "standings": {},
        "troubles": [],
        **more,
    }


def heard(
    *offers: str,
    age: float = 5.0,
    by_mail: bool = True,
    address: str = "192.0.2.1",
    server: str = "one.test:25",
) -> dict[str, Any]:
    return {
        "server": server,
        "address": address,
        "by_mail": by_mail,
        "age": age,
        "offers": list(offers),
    }


def failed(address: str = "192.0.2.2", reason: str = "no answer in 15 s") -> dict[str, Any]:
    return {"server": "one.test:25", "address": address, "reason": reason, "age": 90.0}


def trouble(down: bool) -> dict[str, Any]:
    return {
        "server": "one.test:25",
        "address": "192.0.2.1",
        "down": down,
        "seconds": 250.0,
        "failures": 12,
        "reason": "Connection refused",
        "asked_in": 20.0,
    }


def said(answer: Any, monkeypatch: Any, capsys: Any, as_json: bool = False) -> tuple[int, str]:
    monkeypatch.setattr(upstreams, "ask", lambda *_: answer)
    return upstreams.run(Namespace(json=as_json)), capsys.readouterr().out


CASES = [
    ("never heard", upstream(), 1, ["  not heard of yet"]),
    ("being asked", upstream(asking=12.3), 1, ["  being asked for 12 seconds"]),
    (
        "being asked again",
        upstream(failed=[failed()], asking=1.0),
        1,
        [
            "  192.0.2.2, not heard 90 seconds ago: no answer in 15 s",
            "  being asked for 1 second",
        ],
    ),
    (
        "a long keyword hides no other",
        upstream(heard("X" * 3000, "DSN")),
        0,
        [f"  192.0.2.1, heard 5 seconds ago: {'X' * 197}..., DSN"],
    ),
    (
        "many keywords",
        upstream(heard(*(f"X{number}" for number in range(5000)))),
        0,
        [
            "  192.0.2.1, heard 5 seconds ago: "
            + ", ".join(f"X{number}" for number in range(100))
            + ", 4900 more"
        ],
    ),
    (
        "a size that no server may have",
        upstream(heard("SIZE 1"), too_small=1),
        0,
        [
            "  192.0.2.1, heard 5 seconds ago: SIZE 1",
            "  SIZE 1 is too small: RFC 5321 has every server take 65536; not announced",
        ],
    ),
    (
        "heard",
        upstream(heard("PIPELINING", "SIZE 1000")),
        0,
        ["  192.0.2.1, heard 5 seconds ago: PIPELINING, SIZE 1000"],
    ),
    (
        "offers nothing",
        upstream(heard(age=1.2)),
        0,
        ["  192.0.2.1, heard 1 second ago: no extensions"],
    ),
    (
        "the same with and without a client",
        upstream(heard("DSN", age=300, by_mail=False), heard("DSN", age=7300)),
        0,
        ["  192.0.2.1, heard 2 hours ago: DSN"],
    ),
    (
        "not the same",
        upstream(heard("DSN", age=300, by_mail=False), heard("AUTH PLAIN", age=180000)),
        0,
        ["  192.0.2.1, asked 5 minutes ago: DSN", "  192.0.2.1, by mail 2 days ago: AUTH PLAIN"],
    ),
    (
        "one of two does not answer",
        upstream(heard("DSN"), failed=[failed()]),
        1,
        [
            "  192.0.2.1, heard 5 seconds ago: DSN",
            "  192.0.2.2, not heard 90 seconds ago: no answer in 15 s",
        ],
    ),
    (
        "without an address",
        upstream(failed=[failed("", "one.test has no address")]),
        1,
        ["  one.test:25, not heard 90 seconds ago: one.test has no address"],
    ),
    (
        "a server of several",
        upstream(heard("DSN", server="two.test:26")),
        0,
        ["  two.test:26 at 192.0.2.1, heard 5 seconds ago: DSN"],
    ),
    (
        "in use",
        upstream(heard("DSN"), connections=3, kept=1, waiting=2),
        0,
        [
            "  3 connections, 1 of them kept, 2 clients waiting",
            "  192.0.2.1, heard 5 seconds ago: DSN",
        ],
    ),
    (
        "drains",
        upstream(heard("DSN"), standings={"one.test:25": "drain"}),
        0,
        ["  DRAIN: one.test:25", "  192.0.2.1, heard 5 seconds ago: DSN"],
    ),
    (
        "is down",
        upstream(heard("DSN"), troubles=[trouble(True)]),
        1,
        [
            "  192.0.2.1 DOWN for 4 minutes, failed 12 times: Connection refused; "
            "asked again in 20 seconds",
            "  192.0.2.1, heard 5 seconds ago: DSN",
        ],
    ),
    (
        "fails",
        upstream(heard("DSN"), troubles=[trouble(False)]),
        0,
        [
            "  192.0.2.1 failing for 4 minutes, failed 12 times: Connection refused; "
            "asked again in 20 seconds",
            "  192.0.2.1, heard 5 seconds ago: DSN",
        ],
    ),
    (
        "has hardly begun to fail",
        upstream(heard("DSN"), troubles=[{**trouble(False), "seconds": 1.0, "failures": 0}]),
        0,
        [
            "  192.0.2.1 failing for 1 second: Connection refused; asked again in 20 seconds",
            "  192.0.2.1, heard 5 seconds ago: DSN",
        ],
    ),
    (
        "what could drive a terminal",
        upstream(heard("X \x1b[2J")),
        0,
        [r"  192.0.2.1, heard 5 seconds ago: X \x1b[2J"],
    ),
]


@pytest.mark.parametrize(
    ("what", "each", "status", "lines"), CASES, ids=[case[0] for case in CASES]
)
def test_an_upstream(what, each, status, lines, monkeypatch, capsys):
    answer = {"upstreams": [each], "listeners": [LISTENER]}
    printed = [f"one.test:25 {WAYS}", *lines, *LISTENER_SAID]
    assert said(answer, monkeypatch, capsys) == (status, "\n".join([*printed, ""]))


@pytest.mark.parametrize(
    ("whose", "said_of_it"),
    [("one.test:25", "one.test:25 takes no more"), (None, "limits.max_message_bytes")],
)
def test_whose_limit_is_announced(whose, said_of_it, monkeypatch, capsys):
    listener = {**LISTENER, "announces": ["PIPELINING", "SIZE 70000"], "size_of": whose}
    _, printed = said({"upstreams": [], "listeners": [listener]}, monkeypatch, capsys)
    assert f"  announces PIPELINING, SIZE 70000\n  SIZE 70000: {said_of_it}\n" in printed


def test_no_upstream_and_no_certificate(monkeypatch, capsys):
    listener = {**LISTENER, "announces_after_starttls": None}
    printed = ["no upstream is known", *LISTENER_SAID[:2], LISTENER_SAID[3], ""]
    answer = {"upstreams": [], "listeners": [listener]}
    assert said(answer, monkeypatch, capsys) == (0, "\n".join(printed))


def test_json(monkeypatch, capsys):
    answer = {"upstreams": [upstream()], "listeners": [LISTENER]}
    status, printed = said(answer, monkeypatch, capsys, as_json=True)
    assert (status, json.loads(printed)) == (1, answer)


def test_nobody_answers(monkeypatch, capsys):
    assert said(None, monkeypatch, capsys) == (2, "")
