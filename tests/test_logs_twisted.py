"""Twisted's own events come out of the same log, each on one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtpproxy.logs import Log, TwistedLog, open_log


def logger(log: Log, namespace: str) -> Logger:
    return Logger(namespace=namespace, observer=LogPublisher(TwistedLog(log)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def said(path: Path, log: Log) -> list[str]:
    """What follows date, host and ident in each line."""
    log.flush()
    return [line.partition("]: ")[2] for line in path.read_text().splitlines()]


def fail() -> Failure:
    try:
        raise ValueError("bad\r\nNov 20 06:44:22 mx smtpproxy/smtpd[1]: connect from x[192.0.2.1]")
    except ValueError:
        return Failure()


def test_it_is_an_observer(path: Path) -> None:
    assert verifyObject(
        ILogObserver, TwistedLog(open_log("text", "info", str(path), Clock().callLater))
    )


def test_levels_and_sources(path: Path) -> None:
    log = open_log("text", "info", str(path), Clock().callLater)
    logger(log, "smtpproxy.service").info("listening on {port}", port=25)
    logger(log, "twisted.internet.tcp").info("Starting factory")
    logger(log, "twisted.names").warn("a {what!r}", what="b\nc")
    logger(log, "smtpproxy.upstream").error("broken")
    logger(log, "twisted.web").critical("very")
    assert said(path, log) == [
        "listening on 25",
        "warning: twisted.names: a 'b\\x5cnc'",
        "error: broken",
        "error: twisted.web: very",
    ]


def test_debug_shows_twisted_too(path: Path) -> None:
    log = open_log("text", "debug", str(path), Clock().callLater)
    logger(log, "twisted.internet.tcp").info("Starting factory")
    assert said(path, log) == ["twisted.internet.tcp: Starting factory"]


def test_a_traceback_is_one_line(path: Path) -> None:
    log = open_log("text", "info", str(path), Clock().callLater)
    logger(log, "twisted.internet.defer").failure("Unhandled error", fail())
    [line] = said(path, log)
    assert line.startswith("error: twisted.internet.defer: Unhandled error | Traceback")
    assert "builtins.ValueError: bad" in line
    assert line.isprintable()


def test_a_traceback_in_json(path: Path) -> None:
    log = open_log("json", "info", str(path), Clock().callLater)
    logger(log, "twisted.internet.defer").failure("Unhandled error", fail())
    log.flush()
    [line] = path.read_text().splitlines()
    record = json.loads(line)
    assert (record["level"], record["event"]) == ("error", "note")
    assert record["source"] == "twisted.internet.defer"
    assert "ValueError: bad" in record["text"]


def test_an_event_that_cannot_be_formatted(path: Path) -> None:
    log = open_log("text", "info", str(path), Clock().callLater)
    logger(log, "smtpproxy").warn("no such field: {x}")
    TwistedLog(log)({})
    [warning, *_] = said(path, log)
    assert warning.startswith("warning: ")
