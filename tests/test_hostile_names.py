"""What a peer calls itself, whom it writes to and what it answers: hostile texts × where they go.

Each place has a form of its own, and whatever the text, what is written there has that form.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path as FilePath
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pymysql
import pytest

from smtpproxy.events import Event
from smtpproxy.logs.json_lines import JsonShape
from smtpproxy.logs.levels import Level, level_of
from smtpproxy.logs.text import TextShape
from smtpproxy.mail import Client, Peer
from smtpproxy.relay.received import received_line
from smtpproxy.routing import Identity, Question
from smtpproxy.routing.http_json import JsonDialect
from smtpproxy.routing.http_nginx import NginxDialect
from smtpproxy.routing.http_url import parse_url
from smtpproxy.routing.mysql import Mysql, MysqlServer
from smtpproxy.routing.sqlite import Sqlite
from smtpproxy.smtp.paths import Path
from smtpproxy.smtp.proxy_header import version1, version2
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.xclient import MAX_COMMAND, commands
from smtpproxy.upstream.handshake import attributes
from tests.support.dialogue import ONE, Settings, World
from tests.support.dialogue import upstream as an_upstream
from tests.support.ends import read_replies
from tests.support.log_events import SAMPLES
from tests.support.scripted import Message, Script, ScriptedUpstream

PEER = Peer("192.0.2.9", 40000, "198.51.100.1", 25)
KEY = "pattern"
QUERY = "SELECT server FROM routes WHERE pattern = ?"

TEXTS = {
    "CR LF": "a\r\nRCPT TO:<evil@example.org>\r\n",
    "LF": "a\nX-Evil: yes\n\nbody",
    "CR": "a\rADDR=203.0.113.66",
    "folded": "a\r\n\tb\r\n c",
    "NUL": "a\0b",
    "equals": "a=b ADDR=203.0.113.66 status=sent",
    "plus": "a+0D+0Ab+2B",
    "blanks": " a  b\t",
    "8-bit": "\xe9\xfc\xdf",
    "octets": b"\xe9\xff\x80\xc0\x80".decode("utf-8", "surrogateescape"),
    "half a character": "\ud800a\udfff",
    "64 KB": "a" * 65536,
    "64 KB of line ends": "\r\n" * 32768,
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "terminal": "\x1b]0;evil\x07\x1b[2J\x9b31m\x08\x7f",
    "right to left": "a\u202eb\u200bc\ufeff",
    "wide": "\uff1d\uff0b\uff20\uff0e\u3002\uff1c",
    "quotes": "'\"`<>()[]{};,\\",
    "SQL": "' OR ''=''; DROP TABLE routes; -- \\' /* ? %s",
    "percent": "%0d%0aX-Evil:%20yes&recipient=evil@example.org#%s%(a)s{0}",
    "log line": "x] Nov 20 06:44:22 mx smtpproxy/smtpd[1]: a: client=evil, to=<x>, session=0",
    "header": "evil.test (trusted [127.0.0.1])\r\n\tby mx with ESMTP; (",
    "nothing": "",
    "brackets": "[UNAVAILABLE]",
}


@pytest.fixture(params=TEXTS)
def text(request: pytest.FixtureRequest) -> str:
    return TEXTS[request.param]


def client(text: str) -> Client:
    return Client(PEER, name=text, helo=text, login=text)


def question(text: str) -> Question:
    """One whose every part is that text, as no parser would let it through."""
    path = Path(text or "a", text or "b")
    return Question(path, "+", "mx.example.net", path, client(text))


# What is told of a client


def test_xclient(text: str) -> None:
    said = attributes(client(text))
    lines = commands(said, {*said, "LOGIN"})
    words = [word for line in lines for word in line.removesuffix(b"\r\n").split(b" ")[1:]]
    for line in lines:
        assert len(line) <= MAX_COMMAND
        assert re.fullmatch(rb"XCLIENT(?: [A-Z]+=(?:[!-*,-<>-~]|\+[0-9A-F]{2})*)+\r\n", line), line
    names = [word.partition(b"=")[0] for word in words]
    assert len(names) == len(set(names))
    assert [word for word in words if word.startswith(b"ADDR")] == [b"ADDR=192.0.2.9"]


@pytest.mark.parametrize("version", [version1, version2])
def test_proxy_protocol(text: str, version: Callable[..., bytes]) -> None:
    """There is place for addresses alone: anything else is no header at all."""
    for ends in (((text or "x", 25), ("192.0.2.1", 25)), (("192.0.2.1", 25), (text or "x", 25))):
        with pytest.raises(ValueError, match=r"not appear to be"):
            version(*ends)


def test_received(text: str) -> None:
    line = received_line(client(text), True, "mx.example.net", "0123456789AB01", 0)
    assert re.fullmatch(
        rb"Received: from [A-Za-z0-9._:?\[\]-]+ \([A-Za-z0-9._:?\[\]-]+ \[192\.0\.2\.9\]\)\r\n"
        rb"\tby mx\.example\.net with ESMTPS id 0123456789AB01;\r\n\t[A-Za-z0-9,:+ -]+\r\n",
        line,
    ), line
    assert max(map(len, line.split(b"\r\n"))) <= 998, "RFC 5322 section 2.1.1"


# Logs


def spoilt(value: Any, text: str) -> Any:
    """The value with `text` in place of every text that a peer may have had its hands on."""
    match value:
        case Reply():
            octets = text.encode("utf-8", "surrogatepass")
            return replace(value, lines=(octets, octets))
        case str():
            return text
        case tuple():
            return tuple(spoilt(each, text) for each in value)
        case _ if is_dataclass(value) and not isinstance(value, (type, Peer)):
            ours = {"session", "transaction", "by"}
            changed = {
                each.name: spoilt(getattr(value, each.name), text)
                for each in fields(value)
                if each.name not in ours
            }
            return replace(value, **changed)
        case _:
            return value


def spoilt_events(text: str) -> Iterable[tuple[Event, Event]]:
    return ((event, spoilt(event, text)) for event in SAMPLES)


@pytest.mark.parametrize("journal", [False, True])
def test_log_lines_in_text(text: str, journal: bool) -> None:
    shape = TextShape(lambda: 0, "mx.example.net", os.getpid, journal)
    start = r"<\d>\S" if journal else r"... .\d \d\d:\d\d:\d\d mx smtpproxy/\w+\[\d+\]: \S"
    said = [shape.event(level_of(it), it) for _, it in spoilt_events(text)]
    said.append(shape.note(Level.WARNING, text, text))
    for lines in said:
        assert lines.encode("utf-8").endswith(b"\n")
        for line in lines.removesuffix("\n").split("\n"):
            assert line.isprintable(), line
            assert re.match(start, line), line
    for (plain, spoiled), lines in zip(spoilt_events(text), said, strict=False):
        most = len(shape.event(level_of(plain), plain).splitlines())
        assert len(lines.splitlines()) <= most + (text != ""), spoiled


@pytest.mark.parametrize("journal", [False, True])
def test_log_lines_in_json(text: str, journal: bool) -> None:
    shape = JsonShape(lambda: 0, journal)
    for plain, spoiled in spoilt_events(text):
        names = json.loads(shape.event(Level.INFO, plain).lstrip("<6>"))
        line = shape.event(Level.INFO, spoiled)
        assert line.isascii()
        assert line[:-1].isprintable()
        record = json.loads(line[line.index("{") :])
        assert record["session"] == plain.session
        assert set(record) <= {*names, "server_name", "login", "after", "error", "helo", "upstream"}
    assert shape.note(Level.WARNING, text, text)[:-1].isprintable()


# Look-ups


def test_sqlite(text: str, folder: FilePath) -> None:
    """What is asked for is that text and nothing more, or nothing is asked at all."""
    file = folder / "routes.db"
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE routes (pattern TEXT, server TEXT)")
        made.execute("INSERT INTO routes VALUES ('a', 'mx.test')")
        if encodable(text):
            made.execute("INSERT INTO routes VALUES (?, 'evil.test')", (text,))
    made.close()
    database = Sqlite(file, QUERY)
    connection = database.connect()
    try:
        if not encodable(text):
            with pytest.raises(UnicodeEncodeError):
                database.select(connection, database.query, text, 9, lambda: True)
            return
        _, rows = database.select(connection, database.query, text, 9, lambda: True)
        assert rows == [(b"evil.test",)]
    finally:
        database.close(connection)


def encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_mysql(text: str) -> None:
    """The key is one literal in the query, and it is that text."""
    query = Mysql(MysqlServer(), QUERY).query
    connection: Any = pymysql.connect(defer_connect=True, charset="utf8mb4")
    connection.server_status = 0
    said = connection.cursor().mogrify(query, (text,))
    literal = re.fullmatch(r"SELECT server FROM routes WHERE pattern = '(.*)'", said, re.DOTALL)
    assert literal, said
    assert re.fullmatch(r"(?:[^'\\]|\\.)*", literal[1], re.DOTALL), "it ends before its end"
    escapes = {"0": "\0", "n": "\n", "r": "\r", "Z": "\x1a"}
    read = re.sub(r"\\(.)", lambda it: escapes.get(it[1], it[1]), literal[1], flags=re.DOTALL)
    assert read == text


def test_http(text: str) -> None:
    asked = JsonDialect().ask(question(text))
    url = parse_url("http://127.0.0.1:8080/route?a=b").with_query(asked.parameters)
    assert re.fullmatch(rb"http://127\.0\.0\.1:8080/route\?a=b(?:&[a-z]+=[A-Za-z0-9%._~-]*)+", url)
    found = parse_qs(urlsplit(url.decode()).query, keep_blank_values=True)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
        ["a", *asked.parameters], 1
    )
    if encodable(text):
        assert found["helo"] == [text]
    assert_headers(asked.headers)


def test_http_as_nginx_has_it(text: str) -> None:
    asked = NginxDialect().ask(question(text))
    assert not asked.parameters
    assert_headers(asked.headers)


def assert_headers(headers: Any) -> None:
    for name, value in headers.items():
        assert re.fullmatch("[A-Za-z-]+", name)
        assert re.fullmatch("[ -~]*", value), "RFC 9110 section 5.5"


# Whole sessions: what clients say, and what DNS and upstreams say of them


@pytest.mark.parametrize("identity", [Identity.AUTO, Identity.RECEIVED, Identity.NONE])
def test_a_session(text: str, identity: Identity) -> None:
    """Whatever arrives is refused, or goes on in the form that its place has."""
    octets = text.encode("utf-8", "surrogateescape") if encodable_octets(text) else b"\xed\xa0\x80"
    world = World(
        {"example.com": an_upstream(*ONE.servers, identity=identity)},
        settings=Settings(name=text, max_errors=100, max_message_bytes=10_000_000),
    )
    messages: list[Message] = []
    upstreams: list[ScriptedUpstream] = []
    extensions = ["XCLIENT NAME ADDR PORT PROTO HELO", "DSN", "SMTPUTF8", "8BITMIME"]

    def quieten() -> None:
        world.clock.advance(0)
        for address, transport in world.upstreams[len(upstreams) :]:
            upstreams.append(ScriptedUpstream(address, transport, Script({}), messages, extensions))
        while any(each.act() for each in upstreams):
            world.clock.advance(0)

    for line in (
        b"EHLO %s",
        b"EHLO x%s",
        b"EHLO client.example.com",
        b"MAIL FROM:<%s@example.org>",
        b"MAIL FROM:<s@example.org> %s",
        b"MAIL FROM:<s@example.org> SIZE=%s",
        b"MAIL FROM:<s@example.org>",
        b"RCPT TO:<%s@example.com>",
        b'RCPT TO:<"%s"@example.com>',
        b"RCPT TO:<a@%s.example.com>",
        b"RCPT TO:<a@example.com> ORCPT=%s",
        b"RCPT TO:<a@example.com>",
        b"%s",
        b"DATA\r\nSubject: x\r\n\r\nx\r\n.",
        b"QUIT",
    ):
        world.client.deliver((line % octets if b"%s" in line else line) + b"\r\n")
        quieten()
    assert read_replies(bytes(world.client.said))[-1].code in (221, 421)
    recipients = [each for message in messages for each in message.recipients]
    assert all(each.endswith(("@example.com", ".example.com")) for each in recipients)
    world.client.lose()
    quieten()
    are_log_lines(world.events)


def are_log_lines(events: Iterable[Event]) -> None:
    shape = TextShape(lambda: 0, "mx.example.net", os.getpid, journal=True)
    for event in events:
        for line in shape.event(Level.INFO, event).removesuffix("\n").split("\n"):
            assert line.isprintable()
            assert line.startswith("<6>")


def encodable_octets(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


REPLIES = {
    "greeting": (b"220 one\r\n", b"554 "),
    "EHLO": (b"250-one\r\n250 8BITMIME\r\n", b"250-one\r\n250 "),
    "MAIL": (b"250 ok\r\n", b"550 "),
    "RCPT": (b"250 ok\r\n", b"550 "),
    "DATA": (b"354 go\r\n", b"450-"),
    "message": (b"250 taken\r\n", b"250 "),
}


@pytest.mark.parametrize("place", REPLIES)
def test_an_upstreams_reply(text: str, place: str) -> None:
    """It is one reply to the client, and one line in the log; or none, and the upstream fails."""
    octets = text.encode("utf-8", "surrogatepass")
    world = World({"example.com": ONE})
    client, data = world.client, ("DATA", "message")

    def says(octets: bytes) -> None:
        client.deliver(octets)
        world.clock.advance(0)

    says(b"EHLO x\r\nMAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\n")
    upstream = world.upstream(1)
    for moment, (good, bad) in REPLIES.items():
        if moment == "DATA" and place in data:
            says(b"DATA\r\n")
        elif moment == "message" and place == moment:
            says(b"x\r\n.\r\n")
        elif moment in data:
            break
        upstream.deliver(bad + octets + b"\r\n" if moment == place else good)
        world.clock.advance(0)
        if moment == place != "EHLO":
            break
    upstream.deliver(b"250 the end of one without an end\r\n")
    world.clock.advance(0)
    says(b"QUIT\r\n")
    lines = bytes(client.said).split(b"\r\n")
    assert lines.pop() == b""
    assert all(re.fullmatch(rb"[2-5]\d\d[ -][^\x00-\x08\x0a-\x1f\x7f]*", it) for it in lines)
    codes = [line[:3] for line in lines if line[3:4] == b" "]
    assert len(codes) == {"DATA": 6, "message": 7}.get(place, 5)
    assert codes[-1] in (b"221", b"421")
    are_log_lines(world.events)
