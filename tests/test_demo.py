"""smtpproxy demo, as an administrator runs it."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smtpproxy.cli import demo
from smtpproxy.cli.demo_proxy import DidNotStart, Proxy
from smtpproxy.smtp.replies import Reply
from tests.support.processes import Process, wait_until


def demo_process(folder, *arguments):
    return Process([sys.executable, "-m", "smtpproxy", "demo", *arguments], folder / "demo.log")


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


def test_six_mails(folder):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "smtpproxy", "demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(folder), "SMTPPROXY_DOMAIN": "no part of it"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 60
    table = re.search(r"^recipient +upstream +reply\n((?:.+\n){6})\n", done.stdout, re.MULTILINE)
    assert table is not None, done.stdout
    rows = [re.split(" {2,}", line)[:3] for line in table[1].splitlines()]
    assert rows == [
        ["alice@example.com", "one", "250 2.0.0 queued as one-1, client 127.0.0.9"],
        ["bob@example.com", "two", "250 2.0.0 queued as two-1, client 127.0.0.9"],
        ["alice+news@example.com", "one", "250 2.0.0 queued as one-2, client 127.0.0.9"],
        ["carol@example.net", "two", "250 2.0.0 queued as two-2, client 127.0.0.9"],
        ["nobody@example.com", "-", rows[4][2]],
        ["dave@example.net", "two", "554 5.7.1 two takes no message with a virus"],
    ]
    assert rows[4][2].startswith("550 5.7.1 ")
    assert "status=sent (250 2.0.0 queued as one-1" in done.stdout
    assert done.stdout.endswith("stopped\n\nEverything came out as it should.\n")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_stays_up_until_it_is_told(folder, number):
    with demo_process(folder, "--keep") as running:
        words = r"From another terminal:(?s:.)*The files are in (\S+):(?s:.)*started"
        said = running.wait_for(lambda: re.search(words, running.output), "its instructions")
        port = re.search(r"swaks --server 127\.0\.0\.1:(\d+)", said[0])
        (proxy,) = children(running.pid)
        assert port is not None
        with smtplib.SMTP("127.0.0.1", int(port[1]), timeout=20) as client:
            client.sendmail("you@example.org", ["bob@example.com"], "Subject: a\r\n\r\nhello\r\n")
        assert b"hello" in Path(said[1], "two-4.eml").read_bytes()
        for command in ("status", "upstreams", "reload"):
            typed = f"{command} --config {said[1]}/smtpproxy.toml"
            assert typed in said[0]
            asked = subprocess.run(
                [sys.executable, "-m", "smtpproxy", *typed.split()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=20,
            )
            assert (asked.returncode, asked.stderr) == (0, ""), command
        running.wait_for(
            lambda: "to=<bob@example.com>" in running.output.rpartition("you@example.org")[2],
            "the log of that mail",
        )
        assert running.stop(number) == 0
        assert gone(proxy)
        assert not Path(said[1]).exists()
        assert "Traceback" not in running.output


def test_it_ends_when_its_proxy_does(folder):
    with demo_process(folder, "--keep") as running:
        running.wait_for(lambda: "The log of the proxy" in running.output, "its log")
        os.kill(int(children(running.pid)[0]), signal.SIGKILL)
        wait_until(lambda: not running.running, 20, "the end of the demo")
        assert running.stop() == 1
        assert "the proxy ended by itself" in running.output


def test_a_proxy_that_does_not_start(tmp_path):
    (tmp_path / "smtpproxy.toml").write_text("nonsense")
    with pytest.raises(DidNotStart, match="is not valid TOML"):
        with Proxy(tmp_path / "smtpproxy.toml"):
            pass


MAIL = demo.MAILS[0]
JUDGED = demo.Judged(demo.CLIENT, (MAIL.recipient,), MAIL.content, Reply.of(250, "2.0.0", "Ok"))


@pytest.mark.parametrize(
    ("reply", "server", "judged", "fault"),
    [
        ("250 2.0.0 Ok", "one", JUDGED, ""),
        ("none: timed out", "", None, "the reply should be a 250, and is none: timed out"),
        ("250 2.0.0 Ok", "two", JUDGED, "should be at one, and is at two"),
        ("250 Ok", "one", JUDGED, "one said 250 2.0.0 Ok, and the client was told 250 Ok"),
        (
            "250 2.0.0 Ok",
            "one",
            demo.Judged(demo.CLIENT, (), MAIL.content[:-2], JUDGED.reply),
            "one got another message than was sent",
        ),
        (
            "250 2.0.0 Ok",
            "one",
            demo.Judged("127.0.0.1", (), MAIL.content, JUDGED.reply),
            "one saw the client 127.0.0.1 in place of 127.0.0.9",
        ),
    ],
)
def test_what_did_not_come_out_is_told(reply, server, judged, fault):
    faults = list(demo._faults(MAIL, reply, server, judged))
    assert faults[:1] == ([f"{MAIL.recipient}: {fault}"] if fault else [])
