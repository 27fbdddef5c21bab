"""Looking on at sessions: what is shown of whom, and that it costs nobody's mail anything."""

from __future__ import annotations

import json
import re
import smtplib
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from smtpproxy import feed as feeds
from smtpproxy import tails as tailing
from smtpproxy.control import ControlFactory
from smtpproxy.events import Disconnected
from smtpproxy.feed import Feed
from smtpproxy.networks import Networks
from smtpproxy.redaction import Redaction
from smtpproxy.tails import Tails, TooMany, Wish
from smtpproxy.tap import Tap, lines_of
from tests.support.dialogue import (
    GREETING,
    MAIL,
    ONE,
    TWO,
    Settings,
    World,
    announcing,
    upstream_greets,
)
from tests.support.mail_server import MailServer
from tests.support.processes import short_folder, wait_until
from tests.support.proxy import Proxy, row

ROUTES = {"example.com": ONE, "example.net": TWO}
TO_COM = f"""
    {MAIL}
    C: RCPT TO:<alice@example.com>
    {upstream_greets()}
    P1: MAIL FROM:<s@example.org>
    U1: 250 sender
    P1: RCPT TO:<alice@example.com>
    U1: 250 recipient
    S: 250 recipient
"""
CONTENT = r"""
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: Subject: secret\r\n\r\nwords of it\r\n.
    P1: Subject: secret
    P1:
    P1: words of it
    P1: .
    U1: 250 taken
    S: 250 taken
"""


class Reader:
    """Reads a feed as fast as it comes, or not."""

    def __init__(self, feed: Feed) -> None:
        self.lines: list[Any] = []
        self.closed = False
        self.feed = feed
        feed.begin(self.lines.append, self._close)

    def _close(self) -> None:
        self.closed = True

    def texts(self) -> list[str]:
        return [f"{line['who']}: {line['text']}".removeprefix(": ") for line in self.lines]


def looked_on(wish: Wish | None = None, **settings: Any) -> tuple[World, Reader]:
    """A world in which somebody looks on, from before its first session's greeting on."""
    world = World(ROUTES, settings=Settings(**settings))
    tails = Tails(world.tap, lambda: world.sessions)
    world.events = _Told(tails)
    world.sessions._observe = world.events.append
    reader = Reader(tails.begin(wish or Wish()))
    world.client.said.clear()
    world.client = world.connect()
    return world, reader


class _Told(list):
    def __init__(self, tails: Tails) -> None:
        super().__init__()
        self._tails = tails

    def append(self, event: Any) -> None:
        super().append(event)
        self._tails(event)


def test_both_sides_of_a_dialogue() -> None:
    world, reader = looked_on()
    world.play(GREETING).play(TO_COM).play(CONTENT).play("C: QUIT\nS: 221 2.0.0 Bye\nP1: QUIT\n")
    assert reader.texts() == [
        "connected",
        "S: 220 mx.example.net ESMTP smtpproxy",
        "C: EHLO client.example.com",
        "S: 250-mx.example.net",
        "S: 250-PIPELINING",
        "S: 250-SIZE 1000000",
        "S: 250-ENHANCEDSTATUSCODES",
        "S: 250 8BITMIME",
        "C: MAIL FROM:<s@example.org>",
        "S: 250 2.1.0 Ok",
        "C: RCPT TO:<alice@example.com>",
        "U: 220 one.example.net ESMTP",
        "P: EHLO mx.example.net",
        "U: 250 one.example.net",
        "P: MAIL FROM:<s@example.org>",
        "U: 250 sender",
        "P: RCPT TO:<alice@example.com>",
        "U: 250 recipient",
        "S: 250 recipient",
        "C: DATA",
        "P: DATA",
        "U: 354 go",
        "S: 354 go",
        "C: <32 octets of content>",
        "P: <32 octets of content>",
        "P: .",
        "U: 250 taken",
        "S: 250 taken",
        "C: QUIT",
        "P: QUIT",
        "S: 221 2.0.0 Bye",
        "ended after 0 s",
    ]
    (first, *_) = reader.lines
    assert first["client"] == "unknown[192.0.2.9]"
    assert {line["session"] for line in reader.lines} == {"000000000002"}
    (one, *_) = [line for line in reader.lines if line["who"] == "U"]
    assert (one["upstream"], one["server"], one["address"]) == ("192.0.2.1:25",) * 2 + (
        "192.0.2.1",
    )


def test_neither_content_nor_passwords() -> None:
    world, reader = looked_on()
    world.play(GREETING).play("""
        C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
        S: 503 5.5.1 Authentication is not enabled here
        C: auth login c2VjcmV0
        S: 503 5.5.1 Authentication is not enabled here
        C: c2VjcmV0cGFzcw==
        S: 500 5.5.2 Command not recognised
        C: GET /?password=secret HTTP/1.1
        S: 421 4.7.0 This is an SMTP server
    """)
    shown = [text for text in reader.texts() if text.startswith("C: ")]
    assert shown == [
        "C: EHLO client.example.com",
        "C: AUTH PLAIN <not shown>",
        "C: AUTH login <not shown>",
        "C: <no command>",
        "C: <no command>",
    ]
    assert not any("secret" in text or "c2Vj" in text for text in reader.texts())


def test_what_is_wrong_with_a_command_is_to_be_seen() -> None:
    world, reader = looked_on()
    world.play(GREETING).play("""
        C: RCPT TO:<early@example.com>
        S: 503 5.5.1 Send MAIL first
        C: MAIL FROM:<a b>
        S: 501 5.1.7 The address is not valid
    """)
    shown = [text for text in reader.texts() if text.startswith("C: ")][1:]
    assert shown == ["C: RCPT TO:<early@example.com>", "C: MAIL FROM:<a b>"]


def test_chunks() -> None:
    world, reader = looked_on(offer=announcing("CHUNKING", "8BITMIME"))
    world.client.deliver(b"EHLO client.example.com\r\n")
    world.client.said.clear()
    world.play(TO_COM.replace(upstream_greets(), upstream_greets(extensions="CHUNKING")))
    world.play(r"""
        C: BDAT 7\r\nhello
        S: 250 2.0.0 Ok, go on
        C: BDAT 2 LAST\r\n
        P1: BDAT 9 LAST
        P1: hello
        P1:
        U1: 250 taken
        S: 250 taken
    """)
    assert reader.texts()[-8:] == [
        "C: BDAT 7",
        "S: 250 2.0.0 Ok, go on",
        "C: BDAT 2 LAST",
        "C: <9 octets of content>",
        "P: BDAT 9 LAST",
        "P: <9 octets of content>",
        "U: 250 taken",
        "S: 250 taken",
    ]


# Filters


@pytest.mark.parametrize(
    ("network", "seen"),
    [("192.0.2.0/24", True), ("192.0.2.9", True), ("198.51.100.0/24", False), ("unix", False)],
)
def test_by_client(network: str, seen: bool) -> None:
    world, reader = looked_on(Wish(Networks([network])))
    world.play(GREETING).play(TO_COM)
    assert bool(reader.lines) is seen


@pytest.mark.parametrize(
    ("pattern", "seen"),
    [("alice@example.com", True), ("*@example.com", True), ("bob@*", False), ("*.com", True)],
)
def test_by_recipient(pattern: str, seen: bool) -> None:
    """Once it fits, all of the session is shown, from its beginning on."""
    world, reader = looked_on(Wish(recipient=pattern))
    world.play(GREETING).play(MAIL)
    assert reader.lines == []
    world.play("C: RSET\nS: 250 2.0.0 Ok\n").play(TO_COM)
    assert (reader.texts()[:1] == ["connected"]) is seen
    assert ("S: 250 recipient" in reader.texts()) is seen


@pytest.mark.parametrize(
    ("name", "seen"), [("192.0.2.1:25", True), ("192.0.2.2:25", False), ("other.test:25", False)]
)
def test_by_upstream(name: str, seen: bool) -> None:
    world, reader = looked_on(Wish(upstream=name))
    world.play(GREETING).play(TO_COM)
    assert bool(reader.lines) is seen


def test_all_that_is_asked_for_has_to_fit() -> None:
    world, reader = looked_on(Wish(recipient="*@example.com", upstream="192.0.2.2:25"))
    world.play(GREETING).play(TO_COM)
    assert reader.lines == []


def test_a_session_that_goes_on_already_is_shown_from_now_on() -> None:
    world = World(ROUTES).play(GREETING)
    reader = Reader(Tails(world.tap, lambda: world.sessions).begin(Wish(Networks(["192.0.2.9"]))))
    world.play("C: NOOP\nS: 250 2.0.0 Ok\n")
    assert reader.texts() == ["C: NOOP", "S: 250 2.0.0 Ok"]


def test_an_introduced_client_is_the_one_that_counts() -> None:
    world, reader = looked_on(Wish(Networks(["203.0.113.7"])), xclient_from=("192.0.2.0/24",))
    world.client.deliver(b"EHLO x\r\n")
    assert reader.lines == []
    world.client.deliver(b"XCLIENT ADDR=203.0.113.7 NAME=other.test\r\n")
    assert reader.texts()[0] == "is from here on other.test[203.0.113.7]"


# Nobody pays for it


def test_nobody_listens_most_of_the_time() -> None:
    world = World(ROUTES)
    tails = Tails(world.tap, lambda: world.sessions)
    assert world.tap.watch is None
    one, two = Reader(tails.begin(Wish())), Reader(tails.begin(Wish()))
    one.feed.stopProducing()
    assert world.tap.watch is not None
    two.feed.stopProducing()
    two.feed.stopProducing()
    assert world.tap.watch is None


def test_a_fault_of_who_listens_costs_no_mail() -> None:
    world = World(ROUTES)
    world.tap.listen(lambda said: 1 / 0)
    with capturedLogs() as logged:
        world.play(GREETING)
    assert world.tap.watch is None
    assert len([event for event in logged if "log_failure" in event]) == 1


def test_not_everybody_may_look_on_at_once() -> None:
    tails = Tails(Tap(), lambda: World(ROUTES).sessions)
    for _ in range(tailing.MOST):
        tails.begin(Wish())
    with pytest.raises(TooMany):
        tails.begin(Wish())


def test_sessions_that_have_ended_are_forgotten() -> None:
    world = World(ROUTES)
    tails = Tails(world.tap, lambda: world.sessions)
    tails.begin(Wish(recipient="nobody@x.test"))
    (tail,) = tails._tails
    assert len(tail._sessions) == 1
    world.play(GREETING).play("C: QUIT\nS: 221 2.0.0 Bye\n")
    tails(world.said(Disconnected)[0])
    assert not tail._sessions


# A feed


def test_a_slow_reader_loses_lines_and_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST", 3)
    feed = Feed()
    lines: list[Any] = []
    feed.begin(lines.append, lambda: None)
    feed.put({"n": 0})
    feed.pauseProducing()
    for n in range(1, 8):
        feed.put({"n": n})
    assert lines == [{"n": 0}]
    feed.resumeProducing()
    feed.put({"n": 8})
    assert lines == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}, {"lost": 4}, {"n": 8}]


def test_a_reader_that_stops_while_it_is_given_lines() -> None:
    feed = Feed()
    lines: list[Any] = []
    for n in range(3):
        feed.put({"n": n})

    def write(line: Any) -> None:
        lines.append(line)
        feed.pauseProducing()

    feed.begin(write, lambda: None)
    assert lines == [{"n": 0}]
    feed.resumeProducing()
    assert lines == [{"n": 0}, {"n": 1}]


def test_through_the_control_socket() -> None:
    feed = Feed()

    async def tail() -> Feed:
        return feed

    protocol = ControlFactory({"tail": tail}, Clock()).buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(b'{"command": "tail"}\n')
    feed.put({"text": "a"})
    assert transport.producer is feed
    assert transport.value() == b'{"ok": true}\n{"text": "a"}\n'
    ended: list[bool] = []
    feed.ended = lambda: ended.append(True)
    protocol.connectionLost()
    assert ended == [True]
    feed.put({"text": "b"})
    assert b"b" not in transport.value().removeprefix(b'{"ok": true}\n{"text": "a"}\n')


def test_the_end_of_a_feed_is_the_end_of_the_connection() -> None:
    feed = Feed()

    async def tail() -> Feed:
        return feed

    protocol = ControlFactory({"tail": tail}, Clock()).buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(b'{"command": "tail"}\n')
    feed.end()
    assert transport.disconnecting


# Redaction


REDACTED = {
    "MAIL FROM:<alice@example.com> SIZE=5": "MAIL FROM:<***@example.com> SIZE=5",
    "RCPT TO:<b+x=y@a.test> ORCPT=rfc822;b@a.test": "RCPT TO:<***@a.test> ***@a.test",
    'RCPT TO:<"a b\\"@c"@example.com>': "RCPT TO:<***@example.com>",
    "RCPT TO:<Postmaster>": "RCPT TO:<***>",
    "VRFY carol": "VRFY ***",
    "EXPN staff list": "EXPN ***",
    "550 5.1.1 <dave@example.com>: no such user": "550 5.1.1 <***@example.com>: no such user",
    "XCLIENT NAME=a.test LOGIN=erin ADDR=192.0.2.7": "XCLIENT NAME=a.test LOGIN=*** ADDR=192.0.2.7",
    "MAIL FROM:<>": "MAIL FROM:<>",
    "250 mx.example.net": "250 mx.example.net",
}


@pytest.mark.parametrize(("said", "shown"), REDACTED.items())
def test_redaction(said: str, shown: str) -> None:
    assert Redaction()(said) == shown


def test_what_was_named_is_hidden_later_on_without_its_domain() -> None:
    redaction = Redaction()
    redaction("RCPT TO:<alice+news@example.com>")
    assert redaction("550 5.1.1 alice: unknown") == "550 5.1.1 ***: unknown"
    assert redaction("550 Alice+news is unknown") == "550 *** is unknown"
    assert redaction("250 malice.example.com") == "250 malice.example.com"


@pytest.mark.parametrize("said", [b"AUTH PLAIN eHl6", b"auth PLAIN eHl6", b"Auth PLAIN  eHl6 x"])
def test_what_auth_says_is_a_secret(said: bytes) -> None:
    assert lines_of(said + b"\r\n") == (said[:10] + b" <not shown>",)


def test_lines_of_several_commands() -> None:
    assert lines_of(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n") == (
        b"MAIL FROM:<a@b.test>",
        b"RCPT TO:<c@d.test>",
    )


# The real thing


def says(file: Path, words: str) -> bool:
    return words in file.read_text()


def test_the_command(tmp_path: Path) -> None:
    """Two look on, each in its way; what they see, and that the program ends for both."""
    with (
        MailServer("one.example.net") as one,
        short_folder() as folder,
        Proxy(folder, [row("example.com", one.server)]) as proxy,
    ):
        command = [sys.executable, "-m", "smtpproxy", "tail", "--config", str(proxy.settings_file)]
        outputs = [(tmp_path / name).open("w+") for name in ("all", "text")]
        options = (["--json", "--redact"], ["--client", "127.0.0.0/8"])
        looking = [
            subprocess.Popen([*command, *more], stdout=output, stderr=subprocess.STDOUT)
            for more, output in zip(options, outputs, strict=True)
        ]

        def seen() -> bool:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as knock:
                knock.recv(100)
            return all((tmp_path / name).read_text() for name in ("all", "text"))

        wait_until(seen, 20, "both to look on")
        with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
            client.sendmail(
                "bob@example.org", ["alice@example.com"], b"Subject: secret\r\n\r\nx\r\n"
            )
        for name in ("all", "text"):
            wait_until(partial(says, tmp_path / name, "221 2.0.0 Bye"), 20, "its end")
        proxy.stop()
        assert [each.wait(20) for each in looking] == [0, 0]
        for each in outputs:
            each.close()
    lines = list(map(json.loads, (tmp_path / "all").read_text().splitlines()))
    texts = {(line["who"], line["text"]) for line in lines}
    assert ("C", "RCPT TO:<***@example.com>") in texts
    assert ("P", "RCPT TO:<***@example.com>") in texts
    assert ("U", "250 taken by one.example.net") in texts
    assert not any(word in text for _, text in texts for word in ("alice", "bob", "secret"))
    shown = (tmp_path / "text").read_text()
    assert re.search(
        r"^\d\d:\d\d:\d\d\.\d{3} [0-9A-F]{12} C: RCPT TO:<alice@example.com>$", shown, re.MULTILINE
    )
    assert f" U: 250 taken by one.example.net  ({one.server})\n" in shown
    assert "secret" not in shown


def test_what_is_no_network_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from smtpproxy.cli import main

    with short_folder() as folder, Proxy(folder, [row("example.com", "192.0.2.1")]) as proxy:
        config = ["--config", str(proxy.settings_file)]
        assert main(["tail", *config, "--client", "192.0.2.7/24"]) == 2
        assert "is no network" in capsys.readouterr().err
        assert main(["tail", *config, "--upstream", "a b"]) == 2
        assert "is not a host name" in capsys.readouterr().err
    assert main(["tail", *config]) == 2
