"""The control socket: what is asked of the running program, and by whom."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from smtpproxy.administration import Administration
from smtpproxy.chain import Chain
from smtpproxy.control import MAX_REQUEST, ControlError, ControlFactory, request
from smtpproxy.deadlines import Deadlines
from smtpproxy.reload import Outcome, Reloader
from smtpproxy.request import NobodyAnswers
from smtpproxy.routing import LookupFailed
from smtpproxy.shadow_counts import ShadowCounts
from smtpproxy.sockets import listen_privately
from smtpproxy.tails import Tails
from smtpproxy.tap import Tap
from smtpproxy.tasks import start
from smtpproxy.threads import Threads
from smtpproxy.upkeep import Upkeep
from smtpproxy.upstream import Learnt


class Commands:
    """Some commands, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.waiting: Deferred[None] | None = None

    async def reload(self, force: bool = False) -> dict[str, Any]:
        self.asked.append(force)
        if self.waiting is not None:
            await self.waiting
        return {"lines": ["grün \udcff \x1b[1m"]}

    async def refuse(self) -> dict[str, Any]:
        raise ControlError("not now")

    async def fail(self) -> dict[str, Any]:
        raise RuntimeError("a fault")

    @property
    def table(self) -> dict[str, Callable[..., Any]]:
        return {"reload": self.reload, "refuse": self.refuse, "fail": self.fail}


def answer(said: bytes, commands: Commands | None = None) -> tuple[dict[str, Any], StringTransport]:
    """What is answered to these bytes, and the connection."""
    protocol = ControlFactory((commands or Commands()).table, Clock()).buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(said)
    lines = transport.value().split(b"\n")
    assert lines.pop() == b"", "an answer ends in a line end"
    (line,) = lines
    return json.loads(line), transport


def test_a_connection_that_asks_nothing_is_closed() -> None:
    clock = Clock()
    protocol = ControlFactory(Commands().table, clock).buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    clock.advance(9)
    assert not transport.disconnecting
    clock.advance(2)
    assert transport.disconnecting


def test_a_request_and_its_answer() -> None:
    commands = Commands()
    said, transport = answer(b'{"command": "reload", "force": true}\n', commands)
    assert said == {"ok": True, "lines": ["grün \udcff \x1b[1m"]}
    assert commands.asked == [True]
    assert transport.disconnecting


def test_members_may_be_left_out() -> None:
    commands = Commands()
    assert answer(b'{"command": "reload"}\n', commands)[0]["ok"]
    assert commands.asked == [False]


NO_REQUESTS = {
    "unknown": b'{"command": "shutdown"}',
    "no command": b'{"force": true}',
    "null": b'{"command": null}',
    "list as name": b'{"command": []}',
    "a method's name": b'{"command": "__init__"}',
    "list": b'["reload"]',
    "number": b"5",
    "word": b"reload",
    "empty": b"",
    "not UTF-8": b'{"command": "\xff"}',
    "nested": b"[" * 20000,
    "SMTP": b"EHLO client.example.com\r",
    "NUL": b"\x00\x01\x02",
}


@pytest.mark.parametrize("line", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_is_told_what_is(line: bytes) -> None:
    commands = Commands()
    said, transport = answer(line + b"\n", commands)
    assert said == {
        "ok": False,
        "error": "not a request; the commands are fail, refuse, reload",
    }
    assert transport.disconnecting
    assert commands.asked == []


@pytest.mark.parametrize("members", ['"now": true', '"force": true, "x": 1', '"self": 1'])
def test_members_that_the_command_does_not_take(members: str) -> None:
    commands = Commands()
    said, _ = answer(f'{{"command": "reload", {members}}}\n'.encode(), commands)
    assert not said["ok"]
    assert said["error"].startswith("reload does not take these: ")
    assert commands.asked == []


def test_a_command_that_refuses() -> None:
    assert answer(b'{"command": "refuse"}\n')[0] == {"ok": False, "error": "not now"}


def test_a_command_that_fails_says_so_and_is_logged() -> None:
    with capturedLogs() as logged:
        said, _ = answer(b'{"command": "fail"}\n')
    assert said == {"ok": False, "error": "internal error: RuntimeError('a fault')"}
    (event,) = logged
    assert event["log_failure"].check(RuntimeError)


def test_an_answer_that_json_does_not_know_is_a_fault_that_is_told() -> None:
    commands = Commands()
    commands.fail = unknown  # type: ignore[method-assign]
    with capturedLogs() as logged:
        said, transport = answer(b'{"command": "fail"}\n', commands)
    assert said["error"].startswith("internal error: TypeError(")
    assert transport.disconnecting
    assert len(logged) == 1


async def unknown() -> dict[str, Any]:
    return {"bytes": b""}


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["without end", "with end"])
def test_an_over_long_line(end: bytes) -> None:
    commands = Commands()
    line = b'{"command": "reload", "force": "' + b"x" * MAX_REQUEST + b'"}' + end
    said, transport = answer(line, commands)
    assert said == {"ok": False, "error": "a request has at most 65536 octets"}
    assert transport.disconnecting
    assert commands.asked == []


def test_a_second_request_on_a_connection_is_not_taken() -> None:
    commands = Commands()
    commands.waiting = Deferred()
    protocol = ControlFactory(commands.table, Clock()).buildProtocol(None)
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(b'{"command": "reload"}\n{"command": "reload"}\n' + b"x" * 70000)
    assert commands.asked == [False]
    commands.waiting.callback(None)
    assert protocol.transport.value().count(b"\n") == 1


def test_what_was_asked_for_is_carried_out_though_nobody_waits_for_it() -> None:
    """A reload given up half way, by Ctrl-C, could lose a change of a file."""
    commands = Commands()
    commands.waiting = Deferred()
    given_up: list[Any] = []
    commands.waiting.addErrback(given_up.append)
    protocol = ControlFactory(commands.table, Clock()).buildProtocol(None)
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(b'{"command": "reload"}\n')
    protocol.connectionLost()
    assert given_up == []
    commands.waiting.callback(None)


# What the program's own commands take


async def nothing_new(force: bool) -> Outcome:
    return Outcome(True, ())


@pytest.fixture
def asked() -> Callable[[bytes], dict[str, Any]]:
    """What a program without mappings answers."""
    clock = Clock()
    threaded: Any = reactor
    threads = Threads(threaded, "reload", most=1)
    reloader = Reloader(tuple, nothing_new, threads, clock, lambda _: None)
    counts = ShadowCounts(Deadlines(clock), lambda _: None)
    stood = Upkeep(Learnt(Deadlines(clock)), Deadlines(clock), lambda *_: None).set
    tails = Tails(Tap(), lambda: pytest.fail("nobody looks on"))
    administration = Administration(
        lambda: Chain().router, reloader, counts, dict, stood, dict, dict, tails
    )
    commands = administration.commands()

    def ask(line: bytes) -> dict[str, Any]:
        protocol = ControlFactory(commands, clock).buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(line + b"\n")
        return json.loads(protocol.transport.value())

    return ask


NO_ADDRESS = "is no address: give user@example.com, or postmaster"


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (r'"\ud800@x.test"', r"'\ud800@x.test' is not UTF-8"),
        (r'"a@\udcff.test"', r"'a@\udcff.test' is not UTF-8"),
        ('"a"', f"'a' {NO_ADDRESS}"),
        ('""', f"'' {NO_ADDRESS}"),
        ("7", "address must be a string"),
        ("null", "address must be a string"),
    ],
)
def test_what_is_no_address_is_not_looked_up(asked, address: str, error: str) -> None:
    said = asked(f'{{"command": "lookup", "address": {address}}}'.encode())
    assert said == {"ok": False, "error": error}


@pytest.mark.parametrize("force", ['"no"', '"true"', "1", "null", "[]"])
def test_force_is_true_or_false(asked, force: str) -> None:
    said = asked(f'{{"command": "reload", "force": {force}}}'.encode())
    assert said == {"ok": False, "error": "force must be true or false"}


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ('"standing": "drain", "name": 7', "name must be a string"),
        ('"standing": "off", "name": "a.test"', "'off' is not a valid Standing"),
        ('"standing": "drain", "name": "a b"', "'a b' is not a host name; give host, host:port"),
    ],
)
def test_what_cannot_be_said_of_an_upstream(asked, members: str, error: str) -> None:
    said = asked(f'{{"command": "upstream", {members}}}'.encode())
    assert not said["ok"]
    assert said["error"].startswith(error)


def test_what_is_said_of_an_upstream_that_nobody_knows(asked) -> None:
    said = asked(b'{"command": "upstream", "standing": "drain", "name": "A.test*3"}')
    nobody = {"upstreams": [], "near": ""}
    assert said == {"ok": True, "name": "a.test:25", "standing": "drain", **nobody}


# Databases that do not answer


class Answering:
    """A database that fails with these words, or answers."""

    def __init__(self, error: str = "") -> None:
        self.error = error

    async def check(self) -> None:
        if self.error:
            raise LookupFailed(self.error)

    def stop(self) -> None:
        self.error = "stopping"


def refreshed(chain: Chain) -> list[tuple[bool, str]]:
    told: list[tuple[bool, str]] = []
    refreshing = start(chain.refresh(lambda *words: told.append(words)))
    assert refreshing.called
    refreshing.addErrback(lambda failure: failure.raiseException())
    return told


def test_a_database_that_fails_is_told_of_once_and_once_that_it_answers_again() -> None:
    down, up = Answering("db: gone"), Answering()
    chain = Chain(databases={"x.toml:1": down, "x.toml:2": up})  # type: ignore[dict-item]
    assert refreshed(chain) == [(False, "x.toml:1: db: gone")]
    assert refreshed(chain) == []
    down.error, up.error = "", "db: no such table"
    again = [(True, "x.toml:1: the database answers again"), (False, "x.toml:2: db: no such table")]
    assert refreshed(chain) == again
    up.error = ""
    assert refreshed(chain) == [(True, "x.toml:2: the database answers again")]
    assert refreshed(chain) == []


def test_stopping_is_no_failure_of_a_database() -> None:
    chain = Chain(databases={"x.toml:1": Answering()})  # type: ignore[dict-item]
    chain.stop()
    assert refreshed(chain) == []


# The socket


class Socket(TestCase):
    timeout = 20

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "control")
        self.commands = Commands()

    def listen(self) -> None:
        factory = ControlFactory(self.commands.table, reactor)
        port = listen_privately(reactor, str(self.path), factory)
        self.addCleanup(port.stopListening)

    def ask(self, command: str = "reload", **members: Any) -> Deferred[dict[str, Any]]:
        return deferToThread(request, self.path, command, 10, **members)

    @inlineCallbacks
    def test_a_request(self):
        self.listen()
        answer = yield self.ask(force=True)
        self.assertEqual(answer, {"lines": ["grün \udcff \x1b[1m"]})
        self.assertEqual(self.commands.asked, [True])

    @inlineCallbacks
    def test_a_refusal(self):
        self.listen()
        error = yield self.assertFailure(self.ask("refuse"), ControlError)
        self.assertEqual(str(error), "not now")
        self.assertNotIsInstance(error, NobodyAnswers)

    @inlineCallbacks
    def test_several_at_once(self):
        self.listen()
        self.commands.waiting = Deferred()
        asking = [self.ask(), self.ask()]
        while len(self.commands.asked) < 2:
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.01, turn.callback, None)
            yield turn
        self.commands.waiting.callback(None)
        yield gatherResults(asking)

    def test_nobody_but_its_user_may_use_it(self):
        before = os.umask(0)
        try:
            self.listen()
        finally:
            os.umask(before)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    @inlineCallbacks
    def test_nobody_listens(self):
        """Neither where there is no socket, nor where one was left behind."""
        error = yield self.assertFailure(self.ask(), NobodyAnswers)
        self.assertEqual(
            str(error), f"{self.path}: smtpproxy does not run, or has no control socket"
        )
        leave_behind(self.path)
        again = yield self.assertFailure(self.ask(), NobodyAnswers)
        self.assertEqual(str(again), str(error))

    @inlineCallbacks
    def test_a_socket_left_behind_is_taken_over(self):
        leave_behind(self.path)
        self.listen()
        yield self.ask()

    def test_a_socket_in_use_is_not(self):
        self.listen()
        with self.assertRaises(OSError) as raised:
            self.listen()
        self.assertEqual(raised.exception.errno, errno.EADDRINUSE)

    def test_what_is_no_socket_is_left_alone(self):
        self.path.write_text("a file")
        self.assertRaises(OSError, self.listen)
        self.assertEqual(self.path.read_text(), "a file")

    @inlineCallbacks
    def test_whatever_else_answers_there(self):
        answers = {
            b"": "the answer was cut short",
            b'{"ok": tr': "the answer was cut short",
            b"220 mx.example.net ESMTP\r\n": "the answer was cut short",
            b"[]": "whatever answers there is not smtpproxy",
            b"{}": "whatever answers there is not smtpproxy",
        }
        for said, text in answers.items():
            self.path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(self.path))
                listening.listen()
                threading.Thread(target=say, args=(listening, said), daemon=True).start()
                error = yield self.assertFailure(self.ask(), NobodyAnswers)
            self.assertEqual(str(error), f"{self.path}: {text}")

    @inlineCallbacks
    def test_no_answer(self):
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.path))
            listening.listen()
            asking = deferToThread(request, self.path, "reload", 0.05)
            error = yield self.assertFailure(asking, NobodyAnswers)
        self.assertEqual(str(error), f"{self.path}: no answer within 0.05 s")

    @inlineCallbacks
    def test_a_path_that_is_too_long(self):
        self.path = self.path / ("x" * 200)
        yield self.assertFailure(maybeDeferred(self.ask), NobodyAnswers)


def leave_behind(path: Path) -> None:
    """A socket of a program that was killed."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    assert path.exists()


def say(listening: socket.socket, said: bytes) -> None:
    """Take one connection and its request, say this, and close."""
    connection, _ = listening.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(said)
