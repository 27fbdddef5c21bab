"""The HTTP listener: who may have what, and that nothing that peers say is more than text."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from smtpproxy.config import Faults, load
from smtpproxy.control import ControlError
from smtpproxy.web import access, paths, site, style
from smtpproxy.web.access import Access
from smtpproxy.web.paths import Paths
from smtpproxy.web.site import BoundedSite
from tests.test_status import report

TOKEN = "0123456789abcdef"
EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>\udcff\x00\u202e&amp;"
HOSTS = frozenset({"localhost", "mx.example.net"})

UPSTREAM: dict[str, Any] = {
    "servers": ["a:25"],
    "tls": "may",
    "identity": "auto",
    "asking": None,
    "too_small": None,
    "connections": 1,
    "kept": 0,
    "waiting": 0,
    "heard": [
        {"server": "a:25", "address": "192.0.2.1", "by_mail": True, "age": 1.0, "offers": ["DSN"]}
    ],
    "failed": [],
    "standings": {},
    "troubles": [],
}
TROUBLE = {"server": "a:25", "address": "192.0.2.1", "down": True, "seconds": 9.0, "failures": 3}
TROUBLE |= {"reason": EVIL, "asked_in": 1.0}
SESSION = {
    "session": "0A",
    "client": f"{EVIL}[192.0.2.7]",
    "helo": EVIL,
    "tls": "none",
    "stage": "after MAIL",
    "age": 3.0,
    "transactions": 1,
    "upstreams": ["a:25"],
}
REFUSAL = {
    "time": 5.0,
    "session": "0A",
    "client": f"{EVIL}[192.0.2.7]",
    "stage": EVIL,
    "from": EVIL,
    "to": [EVIL],
    "reply": f"550 {EVIL}",
    "by": "upstream",
    "upstream": EVIL,
    "error": EVIL,
}
CALM = report(
    sessions={
        "count": 1,
        "most": 10,
        "earlier": 0,
        "list": [SESSION | {"client": "a[192.0.2.7]"}],
    },
    refusals=[],
    mappings=[{**report()["mappings"][0], "generation": 1}],
)
HOSTILE = report(
    domain="mx.example.net",
    sessions={"count": 1, "most": 10, "earlier": 1, "list": [SESSION]},
    refusals=[REFUSAL],
    servers={"a:25": {"messages": 1, "final": 1.0, "connect": 0.0, "tls": EVIL, "age": 9.0}},
    configuration={
        "generation": 1,
        "age": 1.0,
        "reload": {"taken": False, "lines": [EVIL], "time": 0.0},
    },
    mappings=[
        {
            "mapping": EVIL,
            "place": EVIL,
            "age": 7.0,
            "trouble": EVIL,
            "failing": True,
            "rows": 1,
            "generation": 2,
        }
    ],
    warnings=[EVIL],
)
HOSTILE_UPSTREAM = {
    **UPSTREAM,
    "troubles": [TROUBLE],
    "failed": [{"server": EVIL, "address": "", "reason": EVIL, "age": 1.0}],
    "heard": [{**UPSTREAM["heard"][0], "offers": [EVIL]}],
    "standings": {EVIL: "drain"},
}


class Program:
    """Answers as the running program would; `asked` is what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers = {
            "status": CALM,
            "upstreams": {"upstreams": [UPSTREAM], "listeners": []},
            "reload": {"taken": True, "lines": []},
            "upstream": {"name": "a:25", "standing": "drain", "upstreams": []},
            **answers,
        }

    async def ask(self, command: str, /, **members: Any) -> Any:
        self.asked.append((command, members))
        answer = self.answers[command]
        if isinstance(answer, Exception):
            raise answer
        return answer


def ask(
    path: str = "/",
    method: str = "GET",
    program: Program | None = None,
    token: str = "",
    local: bool = True,
    body: bytes = b"",
    hosts: frozenset[str] = HOSTS,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """The answer to one request: status, headers, body."""
    here = Paths((program or Program()).ask, Access(token, hosts, local))
    said = {"host": "localhost", **headers}
    if body:
        said["content-length"] = str(len(body))
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in said.items())
    transport = speak(here, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    raw, _, content = transport.value().partition(b"\r\n\r\n")
    first, *lines = raw.decode().split("\r\n")
    found = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), found, content


def speak(here: Paths, data: bytes) -> StringTransport:
    channel = BoundedSite(here, Clock()).buildProtocol(IPv4Address("TCP", "127.0.0.1", 40000))
    transport = StringTransport()
    transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
    channel.makeConnection(transport)
    channel.dataReceived(data)
    return transport


# What there is


def test_the_page() -> None:
    status, headers, body = ask("/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["server"] == "smtpproxy"
    assert b"mx.test" in body
    assert body.startswith(b"<!DOCTYPE html>\n<html")


def test_status_as_json() -> None:
    status, headers, body = ask("/status.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {**CALM, "upstreams": [UPSTREAM], "listeners": []}


def test_healthz_asks_nobody() -> None:
    program = Program()
    assert ask("/healthz", program=program)[::2] == (200, b"ok\n")
    assert program.asked == []


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [
        (CALM, 200, b"ready\n"),
        (report(ready=False, stopping=True), 503, b"stopping\n"),
        (report(ready=False), 503, b"not listening\n"),
        (ControlError("no worker serves"), 503, b"no worker serves\n"),
    ],
)
def test_readyz(said: Any, status: int, text: bytes) -> None:
    assert ask("/readyz", program=Program(status=said))[::2] == (status, text)


def test_metrics() -> None:
    status, headers, body = ask("/metrics", program=Program(metrics={"metrics": []}))
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert body is not None


def test_head_has_no_body() -> None:
    status, headers, body = ask("/healthz", "HEAD")
    assert (status, headers["content-length"], body) == (200, "3", b"")


@pytest.mark.parametrize("path", ["/x", "/status", "/../etc/passwd", "/%2e%2e", "//", "/healthz/"])
def test_there_is_nothing_else(path: str) -> None:
    assert ask(path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_what_is_read_is_only_read(method: str) -> None:
    assert ask("/status.json", method)[0] == 405


def test_many_who_ask_at_once_cost_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(paths, "monotonic", lambda: clock[0])
    program = Program()
    here = Paths(program.ask, Access("", HOSTS, local=True))
    request = b"GET /status.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for _ in range(5):
        assert b"200 OK" in speak(here, request).value()
    assert len(program.asked) == 2
    clock[0] += 1
    speak(here, request)
    assert len(program.asked) == 4


def test_a_fault_of_ours_is_logged_and_not_shown() -> None:
    with capturedLogs() as logged:
        status, _, body = ask(program=Program(status=RuntimeError("secret")))
    assert status == 500
    assert b"secret" not in body
    assert [event for event in logged if "log_failure" in event]


# A box to look an address up

FOUND = {
    "address": "a@example.com",
    "percentile": 7,
    "answer": "found",
    "route": {
        "mapping": "csv m",
        "key": "example.com",
        "place": "m:2",
        "servers": ["a:25"],
        "tls": "may",
        "identity": "auto",
        "percent": 100,
        "shadow": None,
        "age": 12.0,
        "stale": True,
    },
}
FOUND["steps"] = [
    {"mapping": "csv m", "keys": ["a@example.com", "example.com"], "answer": "found"}
    | {"route": FOUND["route"], "passed": []}
]


def test_lookup() -> None:
    program = Program(lookup=FOUND)
    status, _, body = ask("/lookup?address=+a%40example.com+", program=program)
    assert program.asked == [("lookup", {"address": "a@example.com"})]
    text = texts(body)
    assert status == 200
    assert "has a route" in text
    assert "m:2, from the cache, 12 s old, STALE: the database fails" in text
    assert json.loads(ask("/lookup.json?address=x", program=program)[2]) == FOUND


def test_what_is_no_address_is_shown_as_it_was_typed() -> None:
    program = Program(lookup=ControlError(f"{EVIL!r} is no address"))
    status, _, body = ask(f"/lookup?address={'%3Cscript%3E%22%27%26'}", program=program)
    assert status == 400
    assert inputs(body)["address"] == "<script>\"'&"
    assert ask("/lookup.json", program=program)[0] == 400


@pytest.mark.parametrize("answer", ["no_route", "refused", "try_again"])
def test_other_answers(answer: str) -> None:
    said = {**FOUND, "answer": answer, "reply": EVIL, "wait": 0, "reason": EVIL, "route": None}
    said["steps"] = [{"mapping": EVIL, "keys": [EVIL], "answer": answer, "passed": []}]
    harmless(ask("/lookup?address=x", program=Program(lookup=said))[2])


# What peers say is text (promise 7)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(body: bytes) -> Tags:
    parser = Tags()
    parser.feed(body.decode())
    return parser


def texts(body: bytes) -> list[str]:
    return parsed(body).texts


def inputs(body: bytes) -> dict[str, str]:
    found = (attributes for tag, attributes in parsed(body).tags if tag == "input")
    return {str(each["name"]): str(each["value"]) for each in found}


def harmless(body: bytes) -> None:
    """There are no tags and attributes but our own."""
    page = parsed(body)
    assert "img" not in {tag for tag, _ in page.tags}
    assert len([tag for tag, _ in page.tags if tag == "script"]) <= 1
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        target = attributes.get("href") or attributes.get("action") or "/"
        assert target.startswith("/"), target


def test_nothing_that_peers_say_is_markup() -> None:
    upstreams = {"upstreams": [HOSTILE_UPSTREAM], "listeners": []}
    status, _, body = ask(program=Program(status=HOSTILE, upstreams=upstreams))
    assert status == 200
    harmless(body)
    assert sum("<script>alert('x')</script>" in text for text in texts(body)) > 10
    json.loads(ask("/status.json", program=Program(status=HOSTILE, upstreams=upstreams))[2])


def test_the_page_is_not_long_whatever_there_is() -> None:
    many = CALM | {
        "sessions": {"count": 10_000, "most": 10_000, "earlier": 0, "list": [SESSION] * 200},
        "refusals": [REFUSAL] * 100,
        "rates": {name: list(range(60)) for name in report()["rates"]},
    }
    upstreams = {"upstreams": [HOSTILE_UPSTREAM] * 1000, "listeners": []}
    _, _, body = ask(program=Program(status=many, upstreams=upstreams))
    assert len(body) < 600_000
    assert "and 9950 more" in texts(body)


def test_only_our_own_style_and_script_count() -> None:
    """What the policy has the hashes of is what stands in the page, which escapes neither."""
    _, headers, body = ask()
    assert not set("<>&") & set(style.STYLE + style.SCRIPT)
    found = re.findall(r"<(script|style)>(.*?)</\1>", body.decode(), re.DOTALL)
    assert found == [("style", style.STYLE), ("script", style.SCRIPT)]
    policy = ask(program=Program())[1]["content-security-policy"]
    assert policy == style.POLICY.lower()
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in body.decode().replace('http-equiv="refresh"', "")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


# Under which name


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:9025",
        "LOCALHOST.",
        "127.0.0.1:9025",
        "[::1]",
        "[2001:db8::1]:9025",
        "mx.example.net",
    ],
)
def test_names_that_are_ours(host: str) -> None:
    assert ask("/healthz", host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.test", "evil.test:9025", "localhost.evil.test", "127.0.0.1.evil.test", "", "mx", "::x"],
)
@pytest.mark.parametrize("path", ["/", "/status.json", "/healthz", "/metrics", "/reload"])
def test_a_name_of_elsewhere_is_not(host: str, path: str) -> None:
    """DNS rebinding: somebody's page has its own name lead to this host."""
    program = Program(metrics={})
    assert ask(path, program=program, host=host)[0] == 421
    assert program.asked == []


def test_a_check_without_a_name() -> None:
    here = Paths(Program().ask, Access("", HOSTS, local=True))
    assert b"200 OK" in speak(here, b"GET /healthz HTTP/1.0\r\n\r\n").value()


# The token

BEARER = f"Bearer {TOKEN}"
BASIC = f"Basic {b64encode(f'me:{TOKEN}'.encode()).decode()}"
DRAIN = b"standing=drain&name=a%3A25"
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("said", ["", "Bearer", "Bearer ", "Bearer  "])
def test_no_token_is_not_an_empty_one(said: str) -> None:
    assert not Access("", HOSTS, local=False).may_change(said)


def test_without_a_token_nothing_is_changed() -> None:
    program = Program()
    for path in ("/reload", "/upstream"):
        assert ask(path, "POST", program, authorization="Bearer ")[0] == 403
        assert ask(path, "GET", program)[0] == 405
    assert program.asked == []


@pytest.mark.parametrize(
    "said", ["", "Bearer", "Bearer x", f"Bearer {TOKEN}x", BASIC, TOKEN, "Bearer \xff"]
)
def test_with_another_token_neither(said: str) -> None:
    """Nor with a password: a browser sends that by itself, for whatever page."""
    program = Program()
    status, headers, _ = ask("/reload", "POST", program, TOKEN, authorization=said)
    assert (status, headers["www-authenticate"]) == (401, "bearer")
    assert program.asked == []


def test_drain_and_reload() -> None:
    program = Program()
    wanted: dict[str, Any] = {"program": program, "token": TOKEN, "authorization": BEARER}
    assert ask("/upstream", "POST", body=DRAIN, content_type=FORM, **wanted)[0] == 200
    body = json.dumps({"standing": "enabled", "name": "a:25"}).encode()
    ask("/upstream", "POST", body=body, content_type="application/json", **wanted)
    ask("/reload", "POST", body=b"force=true", content_type=FORM, **wanted)
    status, _, answer = ask("/reload", "POST", **wanted)
    assert (status, json.loads(answer)) == (200, {"taken": True, "lines": []})
    assert program.asked == [
        ("upstream", {"standing": "drain", "name": "a:25"}),
        ("upstream", {"standing": "enabled", "name": "a:25"}),
        ("reload", {"force": True}),
        ("reload", {}),
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/reload", b'{"command": "x"}'),
        ("/reload", b"[]"),
        ("/reload", b"{"),
        ("/reload", b"[" * 9000),
        ("/upstream", b'{"name": "a", "standing": "drain", "self": 1}'),
    ],
)
def test_what_is_no_request(path: str, body: bytes) -> None:
    program = Program()
    wanted: dict[str, Any] = {"token": TOKEN, "authorization": BEARER}
    status, _, _ = ask(path, "POST", program, body=body, content_type="application/json", **wanted)
    assert status == 400
    assert program.asked == []


def test_what_the_program_refuses() -> None:
    program = Program(upstream=ControlError("no such standing"))
    wanted: dict[str, Any] = {"token": TOKEN, "authorization": BEARER, "content_type": FORM}
    status, _, body = ask("/upstream", "POST", program, body=DRAIN, **wanted)
    assert (status, json.loads(body)) == (400, {"error": "no such standing"})


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/lookup", "/lookup.json"])
def test_from_elsewhere_reading_needs_it_too(path: str) -> None:
    program = Program(metrics={"metrics": []}, lookup=FOUND)
    wanted: dict[str, Any] = {"program": program, "token": TOKEN, "local": False}
    status, headers, _ = ask(path, **wanted)
    assert (status, headers["www-authenticate"][:5]) == (401, "basic")
    assert program.asked == []
    for said in (BEARER, BASIC):
        assert ask(path, authorization=said, **wanted)[0] == 200
    for said in ("Basic x", "Basic ===", f"Basic {b64encode(b'me:x').decode()}", "Digest x"):
        assert ask(path, authorization=said, **wanted)[0] == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_checks_need_none(path: str) -> None:
    assert ask(path, token=TOKEN, local=False)[0] == 200


# What is bounded


def test_a_body_that_is_too_large_is_cut_off() -> None:
    here = Paths(Program().ask, Access(TOKEN, HOSTS, local=True))
    head = "POST /reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
    transport = speak(here, head.encode() + b"x" * (site.MOST_BODY + 1))
    assert transport.disconnecting
    assert b"200" not in transport.value()


def test_so_is_one_in_chunks() -> None:
    here = Paths(Program().ask, Access(TOKEN, HOSTS, local=True))
    head = "POST /reload HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    transport = speak(here, head.encode() + chunk * (site.MOST_BODY // 4096 + 1))
    assert transport.disconnecting


def test_connections_are_counted() -> None:
    here = BoundedSite(Paths(Program().ask, Access("", HOSTS, local=True)), Clock())
    address = IPv4Address("TCP", "127.0.0.1", 40000)
    channels = [here.buildProtocol(address) for _ in range(site.MOST_CONNECTIONS)]
    assert here.buildProtocol(address) is None
    channels[0].makeConnection(StringTransport())
    channels[0].connectionLost(None)
    assert here.buildProtocol(address) is not None


def test_who_asks_nothing_is_cut_off() -> None:
    clock = Clock()
    channel = BoundedSite(Paths(Program().ask, Access("", HOSTS, local=True)), clock).buildProtocol(
        IPv4Address("TCP", "127.0.0.1", 40000)
    )
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(b"GET / HTTP/1.1\r\n")
    clock.advance(site.IDLE_TIME + 1)
    assert transport.disconnecting


def test_who_asks_drop_by_drop_is_cut_off() -> None:
    clock = Clock()
    here = BoundedSite(Paths(Program().ask, Access("", HOSTS, local=True)), clock)
    channel = here.buildProtocol(IPv4Address("TCP", "127.0.0.1", 40000))
    transport = StringTransport()
    channel.makeConnection(transport)
    for _ in range(int(site.LIFE / 15)):
        channel.dataReceived(b"x")
        assert not transport.disconnected
        clock.advance(15)
    assert transport.disconnected


# Settings

MAPPING = '[[mappings]]\ntype = "static"\nserver = "a.test"\n'


def settings(folder: Path, http: str) -> Any:
    file = folder / "smtpproxy.toml"
    text = f'domain = "MX.example.net"\nlisteners = [{{listen = ":25"}}]\n{MAPPING}[http]\n{http}\n'
    file.write_text(text)
    return load(file, {})


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("", True),
        ("127.0.0.1:9025", True),
        ("127.9.9.9:9025", True),
        ("[::1]:9025", True),
        ("unix:http", True),
        (":9025", False),
        ("0.0.0.0:9025", False),
        ("192.0.2.1:9025", False),
        ("systemd:http", False),
    ],
)
def test_who_can_reach_it(listen: str, local: bool, tmp_path: Path) -> None:
    config = settings(tmp_path, f'listen = "{listen}"')
    assert access.access_of(config).local is local
    warnings = list(map(str, access.warnings(config)))
    assert [text.partition(": ")[0] for text in warnings] == (
        [] if local else [f"{tmp_path}/smtpproxy.toml:7"]
    )
    with_token = settings(tmp_path, f'listen = "{listen}"\ntoken = "{TOKEN}"')
    assert access.warnings(with_token) == []
    assert access.access_of(config).hosts == {"localhost", "mx.example.net"}


def test_a_token_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    config = settings(tmp_path, 'token_file = "token"\nhosts = ["Status.example.net"]')
    found = access.access_of(config)
    assert (found.token, found.named("status.example.net:80")) == (TOKEN, True)
    for text in ("", "short", "with a blank in the middle of it"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(Faults, match="must be 16 to 256"):
            access.access_of(config)
    (tmp_path / "token").unlink()
    with pytest.raises(Faults, match="cannot be read: No such file"):
        access.access_of(config)


@pytest.mark.parametrize(
    ("http", "text"),
    [
        ('token = "swordfish"', "http.token: must be 16 to 256"),
        (f'token = "{TOKEN}"\ntoken_file = "x"', "http.token_file: stands beside token"),
        ('listen = ":25"', 'http.listen: ":25" is taken by the listener on ":25"'),
        ('listen = "9025"', 'http.listen: "9025" has no port'),
        ('hosts = ["a b"]', "no domain name"),
    ],
)
def test_faults(http: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(Faults) as raised:
        settings(tmp_path, http)
    assert text in str(raised.value)
    assert "swordfish" not in "".join(each.text for each in raised.value.faults)


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    assert TOKEN not in repr(settings(tmp_path, f'token = "{TOKEN}"').http)
