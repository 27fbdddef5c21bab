"""Restarted again and again under load, it loses no message, and none arrives twice.

RESTARTS in the environment says how often (50 takes about three minutes).
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import pytest

from tests.support.mail_server import MailServer
from tests.support.postfix import Postfix, content
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, row
from tests.support.steady import Steady

RESTARTS = int(os.environ.get("RESTARTS", "3"))
MAILBOX = "alice@example.com"
_SUBJECT = re.compile(rb"Subject: (.*?)\r\n")

pytestmark = pytest.mark.timeout(60 + 10 * RESTARTS)


def check(steady: Steady, arrived: Sequence[bytes], seconds: float, told: object) -> None:
    """Each message that got a 250 is there once, and no other."""
    names = Counter(found[1].decode() for each in arrived if (found := _SUBJECT.match(each)))
    assert steady.unanswered == [], "a client that is not told sends it again"
    assert len(steady.taken) > 10 * RESTARTS
    assert names == Counter(steady.taken)
    print(f"{RESTARTS} restarts in {seconds:.0f} s: {len(steady.taken)} messages, {told}")


def test_with_a_socket_of_systemd_nobody_is_even_refused(folder: Path) -> None:
    with MailServer("one") as one, socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        port = listening.getsockname()[1]
        rows, given = [row("*", one.server)], {"mx": listening}
        began = monotonic()
        settings = {"port": port, "given": given, "listener": {"listen": "systemd:mx"}}
        with Steady(port, MAILBOX) as steady:
            for _ in range(RESTARTS):
                _serve_some(folder, rows, steady, settings)
            with Proxy(folder, rows, **settings) as last:
                count = len(steady.taken)
                last.wait_for(lambda: len(steady.taken) > count, "the last messages")
                steady.stop()
        check(steady, one.messages, monotonic() - began, f"{steady.refused} connections refused")
        assert steady.refused == 0


def test_before_a_real_postfix(folder: Path, postfix: Postfix) -> None:
    with Proxy(folder, []) as proxy:
        port = proxy.port
    rows = [row("*", postfix.server)]
    began = monotonic()
    with Steady(port, MAILBOX) as steady:
        for _ in range(RESTARTS):
            _serve_some(folder, rows, steady, {"port": port})
        with Proxy(folder, rows, port=port) as last:
            count = len(steady.taken)
            last.wait_for(lambda: len(steady.taken) > count, "the last messages")
            steady.stop()
    queues = [postfix.spool / name for name in ("maildrop", "incoming", "active", "deferred")]
    empty = lambda: not any(each.is_file() for it in queues for each in it.rglob("*"))  # noqa: E731
    wait_until(empty, 60, "Postfix's queue to be empty")
    arrived = [content(each) for each in postfix.delivered(MAILBOX)]
    check(steady, arrived, monotonic() - began, f"{steady.refused} connections refused meanwhile")


def _serve_some(folder: Path, rows: list[str], steady: Steady, settings: dict) -> None:
    """One life of the program, with some messages in it and some under way at its end."""
    with Proxy(folder, rows, **settings) as proxy:
        count = len(steady.taken)
        proxy.wait_for(lambda: len(steady.taken) > count + 20, "some messages")
        assert proxy.stop() == 0, "it had to be killed"
        assert "Traceback" not in proxy.output
        assert "stopping: " in proxy.output, "no session was under way"
