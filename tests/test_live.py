"""The running program, as an administrator lives with it: edited, told, and moved from."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from smtpproxy.request import ControlError, NobodyAnswers, request
from tests.support.mail_server import MailServer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, csv, row

SEEN_WITHIN = 5.0  # seconds
UNCHANGED = "configuration in force, as it was"
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


@pytest.fixture
def one() -> Iterator[MailServer]:
    with MailServer("one") as server:
        yield server


@pytest.fixture
def two() -> Iterator[MailServer]:
    with MailServer("two") as server:
        yield server


def users(server: str, number: int = 10) -> list[str]:
    return [row(f"u{each}@example.com", server) for each in range(number)]


def route(proxy: Proxy, address: str = "u1@example.com") -> list[str]:
    """The servers that the running program would choose; none where there is no route."""
    said = request(proxy.control, "lookup", 10, address=address)
    servers: list[str] = said["route"]["servers"] if said["answer"] == "found" else []
    return servers


def rcpt(proxy: Proxy, address: str = "u1@example.com") -> str:
    """What a client is told of a recipient."""
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        code, text = client.rcpt(address)
    return f"{code} {text.decode()}"


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def by_rename(file: Path, text: str) -> None:
    new = file.with_name("new.csv")
    new.write_text(text)
    new.rename(file)


def by_symlink(file: Path, text: str) -> None:
    version = file.with_name(f"version-{monotonic()}.csv")
    version.write_text(text)
    link = file.with_name("link")
    link.symlink_to(version)
    link.rename(file)


@pytest.mark.parametrize("edit", [in_place, by_rename, by_symlink], ids=lambda it: it.__name__)
def test_an_edit_is_in_force_within_5_seconds(
    folder: Path, one: MailServer, two: MailServer, edit: Callable[[Path, str], None]
) -> None:
    with Proxy(folder, users(one.server)) as proxy:
        assert rcpt(proxy) == "250 one"
        edit(proxy.file, csv(users(two.server)))
        wait = lambda: route(proxy) == [two.server]  # noqa: E731
        proxy.wait_for(wait, "the edit to be seen", SEEN_WITHIN)
        assert rcpt(proxy) == "250 two"
        assert f"{proxy.file}: 10 rows in force, 10 before" in proxy.output


def test_sighup_reads_at_once(folder: Path, one: MailServer, two: MailServer) -> None:
    """Whether it has changed or not."""
    with Proxy(folder, users(one.server)) as proxy:
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for(lambda: "10 rows in force, 10 before" in proxy.output, "the reload")
        proxy.file.write_text(csv(users(two.server)))
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for(lambda: route(proxy) == [two.server], "the reload")
        assert rcpt(proxy) == "250 two"
        for _ in range(20):
            os.kill(proxy.pid, signal.SIGHUP)
        assert request(proxy.control, "reload", 10)["taken"]
        assert "Traceback" not in proxy.output


def test_the_command_reads_at_once_and_says_what_became_of_it(
    folder: Path, one: MailServer, two: MailServer
) -> None:
    with Proxy(folder, users(one.server)) as proxy:
        proxy.file.write_text(csv(users(two.server)))
        said = request(proxy.control, "reload", 10)
        assert said == {
            "taken": True,
            "lines": [UNCHANGED, f"{proxy.file}: 10 rows in force, 10 before"],
        }
        assert rcpt(proxy) == "250 two"

        proxy.file.write_text(csv(users(one.server, 4)))
        said = request(proxy.control, "reload", 10)
        assert not said["taken"]
        assert "NOT TAKEN: it would drop 6 of 10 keys" in said["lines"][0]
        assert rcpt(proxy) == "250 two"
        with pytest.raises(ControlError, match="true or false"):
            request(proxy.control, "reload", 10, force="yes")
        assert request(proxy.control, "reload", 10, force=True)["taken"]
        assert rcpt(proxy) == "250 one"
        assert rcpt(proxy, "u9@example.com") == "550 5.7.1 Relay access denied"


def test_a_file_with_faults_changes_nothing_and_says_why(folder: Path, one: MailServer) -> None:
    with Proxy(folder, users(one.server)) as proxy:
        proxy.file.write_text(csv([*users(one.server), "*@x.test;one.test;", "y.test;:;"]))
        proxy.wait_for(lambda: "not taken for its faults" in proxy.output, "the faults")
        assert rcpt(proxy) == "250 one"
        faults = [line for line in proxy.output.splitlines() if "mapping.csv:1" in line]
        assert ["error: " in line for line in faults] == [True, True]
        assert [line.partition("mapping.csv:")[2][:3] for line in faults] == ["12:", "13:"]
        proxy.file.unlink()
        proxy.wait_for(lambda: "there is no such file" in proxy.output, "the file to be missed")
        assert rcpt(proxy) == "250 one"
        proxy.file.write_text(csv(users(one.server)))
        proxy.wait_for(lambda: "10 rows in force" in proxy.output, "the file to come back")
        assert proxy.output.count("mapping.csv:12:") == 1


def test_running_sessions_go_on(folder: Path, one: MailServer, two: MailServer) -> None:
    """A transaction stays with its server; the next one goes where the file says then."""
    with (
        Proxy(folder, users(one.server)) as proxy,
        smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client,
    ):
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        assert client.rcpt("u1@example.com") == (250, b"one")
        proxy.file.write_text(csv(users(two.server)))
        assert request(proxy.control, "reload", 10)["taken"]
        assert client.rcpt("u2@example.com")[0] == 452, "it is another server's by now"
        assert client.data(MESSAGE) == (250, b"taken by one")
        client.mail("sender@example.net")
        assert client.rcpt("u2@example.com") == (250, b"two")
        assert client.data(MESSAGE) == (250, b"taken by two")
    assert one.messages == two.messages == [MESSAGE]


def test_several_files_and_kinds(folder: Path, one: MailServer, two: MailServer) -> None:
    (folder / "regex.csv").write_text(f"pattern;server\nu.*@example\\.net;{two.server}\n")
    mappings = [
        {"type": "csv", "file": "mapping.csv"},
        {"type": "regex", "file": "regex.csv"},
        {"type": "static", "server": two.server, "tls_verify": False},
    ]
    with Proxy(folder, users(one.server), mappings=mappings) as proxy:
        assert route(proxy, "u5@example.net") == [two.server]
        (folder / "regex.csv").write_text(f"pattern;server\nu.*@example\\.net;{one.server}\n")
        said = request(proxy.control, "reload", 10)
        assert [line.rpartition("/")[2].partition(":")[0] for line in said["lines"][1:]] == [
            "mapping.csv",
            "regex.csv",
        ]
        assert route(proxy, "u5@example.net") == [one.server]
        assert rcpt(proxy, "anyone@example.org") == "250 two"


# The control socket


def test_the_control_socket_is_for_its_user_and_goes_with_the_program(
    folder: Path, one: MailServer
) -> None:
    with Proxy(folder, users(one.server)) as proxy:
        assert stat.S_IMODE(proxy.control.stat().st_mode) == 0o600
        proxy.stop()
        assert not proxy.control.exists()
        with pytest.raises(NobodyAnswers):
            request(proxy.control, "reload", 10)


def test_a_socket_left_behind_by_a_kill_is_taken_over(folder: Path, one: MailServer) -> None:
    with Proxy(folder, users(one.server)) as killed:
        killed.stop(signal.SIGKILL)
        assert killed.control.exists()
    with Proxy(folder, users(one.server)) as proxy:
        assert route(proxy) == [one.server]


def test_without_a_place_for_it_mail_flows_all_the_same(folder: Path, one: MailServer) -> None:
    with Proxy(folder, users(one.server), control="no/such/folder") as proxy:
        assert "error: no control socket" in proxy.output
        assert rcpt(proxy) == "250 one"


def test_stopping_during_a_reload(folder: Path, one: MailServer) -> None:
    many = [row(f"u{number}@example.com", one.server) for number in range(50_000)]
    with Proxy(folder, many) as proxy:
        os.kill(proxy.pid, signal.SIGHUP)
        os.kill(proxy.pid, signal.SIGTERM)
        proxy.wait_for(lambda: "stopped" in proxy.output, "its end")
        wait_until(lambda: not proxy.running, 10, "its end")
        assert "Traceback" not in proxy.output


# Moving from one server to another


def test_moving_a_domain_step_by_step(folder: Path, one: MailServer) -> None:
    """Shadow first, then a part, then all, and back again: as docs/migration.md has it."""
    recipients = [f"u{number}@example.com" for number in range(100)]
    columns = "pattern;server;tls_verify;percent;shadow"
    with MailServer("new", refuses=["u7@example.com"]) as new:

        def shares(proxy: Proxy) -> dict[str, int]:
            found = [route(proxy, recipient) for recipient in recipients]
            return {it.name: found.count([it.server]) for it in (one, new)}

        def change(*rows: str) -> None:
            proxy.file.write_text(csv(rows, columns))
            assert request(proxy.control, "reload", 10)["taken"]

        start = [f"example.com;{one.server};false;;{new.server}"]
        static = {"type": "static", "server": one.server, "tls_verify": False}
        mappings = [{"type": "csv", "file": "mapping.csv"}, static]
        with Proxy(folder, start, columns=columns, mappings=mappings) as proxy:
            assert rcpt(proxy, "u7@example.com") == "250 one"
            line = proxy.wait_for(
                lambda: [it for it in proxy.output.splitlines() if "shadow differs" in it],
                "the missing mailbox to be noticed",
            )
            assert "to=<u7@example.com>" in line[0]
            assert 'shadow_reply="550 5.1.1 not known to new"' in line[0]
            assert "DATA" not in new.said

            change(f"example.com;{new.server};false;0;")
            assert shares(proxy) == {"one": 100, "new": 0}
            change(f"example.com;{new.server};false;10;")
            tenth = shares(proxy)
            assert 3 <= tenth["new"] <= 20
            moved = {it for it in recipients if route(proxy, it) == [new.server]}
            change(f"example.com;{new.server};false;50;")
            half = {it for it in recipients if route(proxy, it) == [new.server]}
            assert moved < half, "who has moved stays there"
            assert 30 <= len(half) <= 70
            change(f"example.com;{new.server};false;100;")
            assert shares(proxy) == {"one": 0, "new": 100}
            change(f"example.com;{new.server};false;0;")
            assert shares(proxy) == {"one": 100, "new": 0}


def test_shadows_agree_silently_and_are_counted_in_json(folder: Path, one: MailServer) -> None:
    columns = "pattern;server;tls_verify;shadow"
    log = {"format": "json", "level": "debug"}
    with (
        MailServer("new") as new,
        Proxy(folder, [f"*;{one.server};false;{new.server}"], columns=columns, log=log) as proxy,
    ):
        assert rcpt(proxy) == "250 one"

        def answered() -> list[dict[str, Any]]:
            lines = [json.loads(it) for it in proxy.output.splitlines() if it.startswith("{")]
            return [line for line in lines if line["event"] == "shadow_answered"]

        (line,) = proxy.wait_for(answered, "the shadow's answer")
        assert (line["level"], line["differs"], line["shadow"]) == ("debug", False, new.server)
