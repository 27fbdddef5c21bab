"""What systemd is told: by a Unix socket, which may have an abstract name."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpproxy.notify import Notify
from tests.support.mail_server import MailServer
from tests.support.proxy import Proxy, row

PATIENCE = 20.0  # seconds


class Systemd:
    """A socket that is notified."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def told(self) -> dict[str, str]:
        lines = self._socket.recv(4096).decode().split("\n")
        return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture(params=["path", "@abstract"])
def systemd(request: pytest.FixtureRequest, folder: Path) -> Iterator[Systemd]:
    name = f"@{folder}/notify" if request.param.startswith("@") else str(folder / "notify")
    with Systemd(name) as it:
        yield it


def test_each_state_is_told(systemd: Systemd) -> None:
    notify = Notify({"NOTIFY_SOCKET": systemd.name}, lambda: 7_000_999)
    notify.ready("all is well")
    assert systemd.told() == {"READY": "1", "STATUS": "all is well"}
    notify.reloading()
    assert systemd.told() == {"RELOADING": "1", "MONOTONIC_USEC": "7000"}
    notify.stopping()
    assert systemd.told() == {"STOPPING": "1"}
    notify.alive()
    assert systemd.told() == {"WATCHDOG": "1"}


@pytest.mark.parametrize("name", ["", "/no/such/socket", "@nobody-listens-here", "x" * 200])
def test_where_nobody_listens_nothing_happens(name: str) -> None:
    Notify({"NOTIFY_SOCKET": name}).ready()


@pytest.mark.parametrize(
    ("environ", "every"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_wants(environ, every: float) -> None:
    assert Notify({"NOTIFY_SOCKET": "@x", **environ}).every == every
    assert Notify(environ).every == 0.0


def test_a_running_program_tells_of_its_life(folder: Path) -> None:
    """As Type=notify-reload wants it: READY behind each RELOADING, whatever came of it."""
    with MailServer("one") as one, Systemd(str(folder / "notify")) as systemd:
        told: list[str] = []

        def until(name: str, count: int = 1) -> None:
            while told.count(name) < count:
                told.extend(each for each in systemd.told() if each != "STATUS")

        more = {"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "200000"}
        with Proxy(folder, [row("*", one.server)], more=more) as proxy:
            until("READY")
            until("WATCHDOG", 2)
            for number, domain in enumerate(("new.example.net", "not a domain"), 2):
                proxy.configure(domain=domain)
                os.kill(proxy.pid, signal.SIGHUP)
                until("READY", number)
            assert proxy.stop() == 0
            until("STOPPING")
        steps = [each for each in told if each not in ("WATCHDOG", "MONOTONIC_USEC")]
        assert steps == ["READY", *["RELOADING", "READY"] * 2, "STOPPING"]
