"""The real proxy: one of two servers is killed and comes back, drains, and is in maintenance."""

from __future__ import annotations

import smtplib
import time

import pytest

from smtpproxy.cli import main
from tests.support.mail_server import MailServer
from tests.support.processes import short_folder, wait_until
from tests.support.proxy import Proxy, row

MESSAGE = b"Subject: x\r\n\r\nx\r\n"
SOON = 1.0  # seconds: nobody waited for a dead server


def send(proxy: Proxy) -> float:
    """Send a message; the seconds that it took.  Raises what smtplib does where it is refused."""
    began = time.monotonic()
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=30) as client:
        client.sendmail("s@example.org", ["a@example.com"], MESSAGE)
    return time.monotonic() - began


@pytest.fixture
def two():
    """Two servers of one row, and the proxy before them."""
    with MailServer("first") as first, MailServer("second") as second, short_folder() as folder:
        servers = f"{first.server},{second.server}"
        settings = {"ask_every": "0s", "keep_idle": "0s"}
        with Proxy(folder, [row("example.com", servers)], upstreams=settings) as proxy:
            yield first, second, proxy, str(folder / "smtpproxy.toml")


def test_one_of_two_dies_and_comes_back(two, capsys) -> None:
    first, second, proxy, config = two
    send(proxy)
    assert len(first.messages) == 1
    first.__exit__()
    assert max(send(proxy) for _ in range(20)) < SOON
    assert len(second.messages) == 20
    log = proxy.log.read_text()
    assert log.count(f"{first.server} is down: ") == 1
    assert log.count(": connect to ") == 3, "it was tried for the first messages alone"
    assert main(["upstreams", "--config", config]) == 1
    said = capsys.readouterr().out
    assert f"{first.server} at 127.0.0.1 DOWN for " in said

    with MailServer("again", port=int(first.server.rpartition(":")[2])) as again:
        up = f"{first.server} is up again, after "
        wait_until(lambda: up in proxy.log.read_text(), 12, "the check")
        assert send(proxy) < SOON
        assert len(again.messages) == 1
    main(["upstreams", "--config", config])
    assert "DOWN" not in capsys.readouterr().out


def test_drain_and_maintenance_by_command(two, capsys) -> None:
    first, second, proxy, config = two

    def say(action: str, name: str) -> int:
        return main(["upstream", action, name, "--config", config])

    assert say("drain", first.server) == 0
    assert capsys.readouterr().out == (
        f"{first.server} drains: no new connections; sessions that have one go on with it\n"
        f"  upstream {first.server},{second.server}\n"
    )
    send(proxy)
    assert (len(first.messages), len(second.messages)) == (0, 1)
    main(["upstreams", "--config", config])
    assert f"  DRAIN: {first.server}\n" in capsys.readouterr().out

    assert main(["reload", "--config", config]) == 0
    send(proxy)
    assert (len(first.messages), len(second.messages)) == (0, 2), "a reload changes nothing of it"
    capsys.readouterr()

    assert say("maintenance", second.server) == 0
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(proxy)
    (reply,) = refused.value.recipients.values()
    assert reply == (451, b"4.3.2 The server of this recipient is in maintenance")

    assert say("enable", first.server) == say("enable", second.server) == 0
    send(proxy)
    assert len(first.messages) == 1
    capsys.readouterr()
    assert say("drain", "127.0.0.1") == 1
    begun, later, back = capsys.readouterr().out.splitlines()
    known = (first.server, second.server)
    near = [f"no upstream that is known has 127.0.0.1:25: did you mean {it}?" for it in known]
    assert begun in near
    assert later.startswith("  one that comes up later drains: ")
    assert back == "  smtpproxy upstream enable 127.0.0.1:25 takes that back"
    assert say("drain", "unknown.test") == 1
    assert capsys.readouterr().out.startswith("no upstream that is known has unknown.test:25\n")
    main(["upstreams", "--config", config])
    said = "DRAIN: unknown.test:25, which no upstream has; smtpproxy upstream enable "
    assert f"{said}unknown.test:25 takes it back\n" in capsys.readouterr().out
    assert say("enable", "unknown.test") == 1
    capsys.readouterr()
    main(["upstreams", "--config", config])
    assert "unknown.test" not in capsys.readouterr().out
    assert say("drain", "no server") == 2
    assert f"{first.server}: drain, by command" in proxy.log.read_text()
