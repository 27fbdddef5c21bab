"""A reload of everything: configuration, mappings and certificates, all of it or nothing."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.request import request
from tests.support.certificates import Authority, Certificate
from tests.support.mail_server import MailServer
from tests.support.ports import free_port
from tests.support.processes import greeting
from tests.support.proxy import DOMAIN, Proxy, csv, row

STAYS = "not taken: the configuration, mappings and certificates in force stay as they are"
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
PATIENCE = 20.0  # seconds


@pytest.fixture
def one() -> Iterator[MailServer]:
    with MailServer("one") as server:
        yield server


def reload(proxy: Proxy, control: Path | None = None, **how: Any) -> tuple[bool, list[str]]:
    """Whether it was taken, and what is said of it."""
    said = request(control or proxy.control, "reload", PATIENCE, **how)
    return said["taken"], said["lines"]


def listener(port: int, **settings: Any) -> dict[str, Any]:
    return {"listen": f"127.0.0.1:{port}", **settings}


def size(client: smtplib.SMTP) -> str:
    client.ehlo("client.example.net")
    return client.esmtp_features["size"]


def rcpt(proxy: Proxy, address: str = "a@example.com") -> int:
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as client:
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        return client.rcpt(address)[0]


def sqlite_routes(folder: Path, server: str) -> tuple[Path, dict[str, Any]]:
    """A database that has a row for example.com, and a mapping that asks it."""
    database = folder / "routes.db"
    with sqlite3.connect(database) as made:
        made.execute("CREATE TABLE routes (pattern TEXT, server TEXT, tls_verify TEXT)")
        made.execute("INSERT INTO routes VALUES ('example.com', ?, 'false')", [server])
    made.close()
    query = "SELECT server, tls_verify FROM routes WHERE pattern = ?"
    return database, {"type": "sqlite", "file": database.name, "query": query}


# What is taken


@pytest.mark.parametrize("way", ["signal", "command"])
def test_new_sessions_have_the_new_configuration_and_others_keep_theirs(
    folder: Path, one: MailServer, way: str
) -> None:
    with (
        Proxy(folder, [row("*", one.server)], limits={"max_message_bytes": 1000}) as proxy,
        smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as client,
    ):
        assert size(client) == "1000"
        proxy.configure(limits={"max_message_bytes": 2000}, domain="new.example.net")
        if way == "signal":
            os.kill(proxy.pid, signal.SIGHUP)
        else:
            changed = "configuration in force, changed: domain, limits.max_message_bytes"
            assert reload(proxy) == (True, [changed, f"{proxy.file}: 1 rows in force, 1 before"])
        proxy.wait_for(lambda: "configuration in force" in proxy.output, "the reload")
        assert size(client) == "1000"
        assert client.sendmail("s@example.net", ["a@example.com"], MESSAGE) == {}
        with smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as later:
            assert size(later) == "2000"
            assert later.ehlo_resp.startswith(b"new.example.net")
        assert "Traceback" not in proxy.output


def test_listeners_come_and_go_and_sessions_outlive_theirs(folder: Path, one: MailServer) -> None:
    port, other = free_port(), free_port()
    with Proxy(folder, [row("*", one.server)]) as proxy:
        ours = listener(proxy.port)
        proxy.configure(listeners=[ours, listener(port), listener(other, protocol="lmtp")])
        assert reload(proxy)[0]
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            assert size(client)
            assert b"LMTP" in greeting(other)
            proxy.configure(listeners=[ours, listener(other)])
            assert reload(proxy)[0]
            assert greeting(port) == b""
            assert b"ESMTP" in greeting(other)
            assert client.sendmail("s@example.net", ["a@example.com"], MESSAGE) == {}
        assert f"no longer listening on 127.0.0.1:{port}" in proxy.output
        proxy.configure(listeners=[ours])
        assert reload(proxy)[0]
        assert greeting(other) == b""


def test_a_unix_socket_is_kept_and_goes(folder: Path, one: MailServer) -> None:
    path = folder / "smtp"

    def connects() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
            except OSError:
                return False
            return client.recv(3) == b"220"

    with Proxy(folder, [row("*", one.server)]) as proxy:
        ours = listener(proxy.port)
        proxy.configure(listeners=[ours, {"listen": "unix:smtp"}])
        assert reload(proxy)[0]
        assert connects()
        assert reload(proxy)[0]
        assert connects()
        proxy.configure(listeners=[ours])
        assert reload(proxy)[0]
        assert not path.exists()


def test_the_log_moves_and_changes_its_form(folder: Path, one: MailServer) -> None:
    with Proxy(folder, [row("*", one.server)]) as proxy:
        proxy.configure(log={"file": "mail.log", "format": "json", "level": "debug"})
        taken, (changed, *_) = reload(proxy)
        assert taken
        assert changed.endswith(" changed: log.format, log.level, log.file")
        log = folder / "mail.log"
        proxy.wait_for(lambda: log.exists() and '"configuration in force' in log.read_text(), "it")
        before = proxy.output
        greeting(proxy.port)
        proxy.wait_for(lambda: '"event":"disconnected"' in log.read_text(), "the session")
        assert proxy.output == before
        proxy.configure(log={"level": "error"})
        assert reload(proxy)[0]
        assert "configuration in force" not in proxy.output


def test_the_control_socket_moves(folder: Path, one: MailServer) -> None:
    with Proxy(folder, [row("*", one.server)]) as proxy:
        proxy.configure(control="elsewhere")
        assert reload(proxy)[0]
        assert not proxy.control.exists()
        assert reload(proxy, folder / "elsewhere")[0]
        proxy.configure(control="")
        assert reload(proxy, folder / "elsewhere")[0]
        assert not (folder / "elsewhere").exists()


def test_a_mapping_that_stays_is_taken_over_with_what_it_remembers(
    folder: Path, one: MailServer
) -> None:
    """The database is gone meanwhile: what it said before counts as long as it may."""
    database, mapping = sqlite_routes(folder, one.server)
    mapping["stale_for"] = "1h"
    with Proxy(folder, [], mappings=[mapping]) as proxy:
        assert rcpt(proxy) == 250
        with sqlite3.connect(database) as made:
            made.execute("DROP TABLE routes")
        made.close()
        proxy.configure(limits={"max_errors": 7})
        assert reload(proxy)[0]
        assert rcpt(proxy) == 250
        proxy.configure(mappings=[{**mapping, "stale_for": "2h"}])
        assert reload(proxy)[0]
        assert rcpt(proxy) == 451, "another mapping begins anew"


# What is not taken


def test_one_fault_and_nothing_is_changed(folder: Path, one: MailServer) -> None:
    """Each fault is told with its place, in the answer and in the log."""
    with Proxy(folder, [row("*", one.server)], limits={"max_message_bytes": 1000}) as proxy:
        file = proxy.settings_file
        proxy.configure(limits={"max_message_bytes": 2000, "max_errors": 0}, domain="a_b")
        taken, lines = reload(proxy)
        assert not taken
        assert [line.partition(": ")[0] for line in lines] == [
            f"{file}:1",
            f"{file}:8",
            "not taken",
        ]
        assert "max_errors" in lines[1]
        assert lines[-1] == STAYS
        for line in lines:
            assert f"error: {line}" in proxy.output

        proxy.configure(limits={"max_message_bytes": 2000}, domain=DOMAIN)
        proxy.file.write_text("pattern;server\n*@x.test;one.test\n")
        taken, lines = reload(proxy)
        assert not taken
        assert lines[0].startswith(f"{proxy.file}:2: ")

        proxy.file.write_text(csv([row("*", one.server)]))
        proxy.configure(
            listeners=[listener(proxy.port, tls_cert="none.pem", tls_key="none.key")],
            mappings=[{"type": "csv", "file": "mapping.csv"}, {"type": "csv", "file": "no.csv"}],
        )
        taken, lines = reload(proxy)
        assert not taken
        assert [line.split(": ")[1] for line in lines[:-1]] == [
            "mappings[1].file",
            "listeners[0].tls_cert",
            "listeners[0].tls_key",
        ]
        for line, name in zip(lines, ["no.csv", "none.pem", "none.key"], strict=False):
            assert line.endswith(f"/{name}: there is no such file")
        assert lines[-1] == STAYS

        with smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as client:
            assert size(client) == "1000"
        assert "Traceback" not in proxy.output


def test_what_cannot_be_opened_changes_nothing(folder: Path, one: MailServer) -> None:
    """Each comes last: everything before it is given back."""
    free = free_port()
    with (
        Proxy(folder, [row("*", one.server)], domain="old.example.net") as proxy,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ours, wanted = listener(proxy.port), [listener(proxy.port), listener(free)]
        taken_port = other.getsockname()[1]
        sound = proxy.configuration | {"domain": "new.example.net", "listeners": wanted}
        for wrong, place, why in (
            ({"listeners": [*wanted, listener(taken_port)]}, "listeners[2].listen", "in use"),
            ({"log": {"file": "no/such/folder/log"}}, "log.file", "cannot be opened: No such"),
            ({"control": "no/such/folder/control"}, "control", "cannot listen: No such"),
            ({"listeners": [{"listen": "systemd:mx"}]}, "listeners[0].listen", "has passed no"),
            ({"listeners": [{"listen": f":{proxy.port}"}]}, "listeners[0].listen", "restart it"),
        ):
            proxy.configuration = {**sound, **wrong}
            proxy.configure()
            taken, lines = reload(proxy)
            assert not taken
            assert lines[0].startswith(f"{proxy.settings_file}:")
            assert f": {place}: " in lines[0]
            assert why in lines[0]
            assert greeting(proxy.port).startswith(b"220 old.example.net ")
            assert greeting(free) == b"", "bound, though nothing was taken"
        proxy.configuration = {**sound, "listeners": [ours]}
        proxy.configure()
        assert reload(proxy)[0]
        assert greeting(proxy.port).startswith(b"220 new.example.net ")


def test_a_file_that_shrinks_keeps_the_configuration_back(folder: Path, one: MailServer) -> None:
    rows = [row(f"u{number}@example.com", one.server) for number in range(10)]
    with Proxy(folder, rows) as proxy:
        proxy.file.write_text(csv(rows[:3]))
        proxy.configure(domain="new.example.net")
        taken, lines = reload(proxy)
        assert not taken
        assert "NOT TAKEN: it would drop 7 of 10 keys" in lines[0]
        assert greeting(proxy.port).startswith(f"220 {DOMAIN} ".encode())
        assert reload(proxy, force=True)[0]
        assert greeting(proxy.port).startswith(b"220 new.example.net ")
        assert rcpt(proxy, "u9@example.com") == 550


# Under load


def test_no_connection_is_refused_and_no_message_lost_while_it_reloads(
    folder: Path, one: MailServer
) -> None:
    """Each reload makes a new generation: the configuration is another each time."""
    ended = threading.Event()
    sent: list[str] = []
    failed: list[Exception] = []

    def send(who: int) -> None:
        while not ended.is_set():
            text = f"{who}-{len(sent)}"
            try:
                with smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as client:
                    body = f"Subject: {text}\r\n\r\nx\r\n"
                    client.sendmail("s@example.net", ["a@example.com"], body)
            except Exception as error:
                failed.append(error)
            else:
                sent.append(text)

    with Proxy(folder, [row("*", one.server)]) as proxy:
        senders = [threading.Thread(target=send, args=(who,)) for who in range(4)]
        for each in senders:
            each.start()
        try:
            for number in range(20):
                extra = [listener(free_port())] if number % 2 else []
                proxy.configure(
                    limits={"max_errors": number + 1}, listeners=[listener(proxy.port), *extra]
                )
                assert reload(proxy)[0]
        finally:
            ended.set()
            for each in senders:
                each.join()
        assert failed == []
        assert len(one.messages) == len(sent) > 20


def test_many_at_once_are_taken_in_turn(folder: Path, one: MailServer) -> None:
    with Proxy(folder, [row("*", one.server)]) as proxy:
        answers: list[tuple[bool, list[str]]] = []
        asking = [threading.Thread(target=lambda: answers.append(reload(proxy))) for _ in range(10)]
        for each in asking:
            each.start()
            os.kill(proxy.pid, signal.SIGHUP)
        for each in asking:
            each.join()
        assert [taken for taken, _ in answers] == [True] * 10
        assert "Traceback" not in proxy.output


def test_what_a_session_was_served_by_goes_with_it(folder: Path, one: MailServer) -> None:
    database, mapping = sqlite_routes(folder, one.server)
    with Proxy(folder, [row("*", one.server)], mappings=[mapping]) as proxy:

        def connections() -> list[str]:
            """Those to the database."""
            found = []
            for each in Path(f"/proc/{proxy.pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # it was closed a moment ago
                    found.append(os.readlink(each))
            return [each for each in found if each == str(database)]

        with smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as client:
            client.ehlo("client.example.net")
            client.mail("sender@example.net")
            assert client.rcpt("a@example.com")[0] == 250
            proxy.configure(mappings=[{"type": "csv", "file": "mapping.csv"}])
            assert reload(proxy)[0]
            assert rcpt(proxy, "b@elsewhere.test") == 250
            assert connections() != []
            assert client.rcpt("b@elsewhere.test")[0] == 550
            assert client.data(MESSAGE)[0] == 250
        proxy.wait_for(lambda: connections() == [], "its connections to the database to go")


def test_threads_and_descriptors_of_what_is_replaced_are_let_go(
    folder: Path, one: MailServer
) -> None:
    """Also where a reload fails."""
    _, mapping = sqlite_routes(folder, one.server)

    def used(proxy: Proxy) -> tuple[int, int]:
        found = Path(f"/proc/{proxy.pid}")
        return len(list((found / "fd").iterdir())), len(list((found / "task").iterdir()))

    def again(proxy: Proxy, number: int) -> None:
        mapping["stale_for"] = f"{number + 1}m"  # so that none is taken over
        proxy.configure(mappings=[mapping], log={})
        assert reload(proxy)[0]
        assert rcpt(proxy) == 250
        proxy.configure(log={"file": "no/such/log"})
        assert not reload(proxy)[0]

    with Proxy(folder, []) as proxy:
        for number in range(3):
            again(proxy, number)
        descriptors, threads = used(proxy)
        for number in range(3, 12):
            again(proxy, number)
        few = lambda: used(proxy)[0] <= descriptors + 2 and used(proxy)[1] <= threads + 1  # noqa: E731
        proxy.wait_for(few, f"about {descriptors} descriptors and {threads} threads")


# Certificates


@pytest.fixture
def pair(folder: Path, authority: Authority) -> Certificate:
    """Files that a test may overwrite."""
    return copied(authority.certificate("mx.example.net"), folder)


def copied(made: Certificate, folder: Path) -> Certificate:
    ours = Certificate(folder / "cert.pem", folder / "key.pem", made.authority)
    ours.chain.write_bytes(made.chain.read_bytes())
    ours.key.write_bytes(made.key.read_bytes())
    return ours


def serial(client: smtplib.SMTP) -> bytes:
    """The certificate that is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client.ehlo("client.example.net")
    client.starttls(context=context)
    assert isinstance(client.sock, ssl.SSLSocket)
    return client.sock.getpeercert(binary_form=True) or b""


def shown(proxy: Proxy) -> bytes:
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as client:
        return serial(client)


def test_a_new_certificate_is_taken_by_itself(
    folder: Path, one: MailServer, authority: Authority, pair: Certificate
) -> None:
    """First its file, then that of its key: in between, the old ones stay, and a line says so."""
    soon = datetime.now(UTC) + timedelta(days=5, hours=1)
    new = authority.certificate("mx.example.net", "new.example.net", not_after=soon)
    with Proxy(folder, [row("*", one.server)], pair) as proxy:
        old = shown(proxy)
        with smtplib.SMTP("127.0.0.1", proxy.port, timeout=PATIENCE) as client:
            assert serial(client) == old
            pair.chain.write_bytes(new.chain.read_bytes())
            stays = f"{pair.chain}: not taken for its faults; the old certificate stays in force"
            proxy.wait_for(lambda: stays in proxy.output, "the fault")
            assert f"{pair.key}: does not belong to the certificate in" in proxy.output
            assert shown(proxy) == old
            pair.key.write_bytes(new.key.read_bytes())
            said = f"]: {pair.chain}: new certificate in force, valid until "
            proxy.wait_for(lambda: said in proxy.output, "the new certificate")
            assert shown(proxy) != old
            assert client.sendmail("s@example.net", ["a@example.com"], MESSAGE) == {}
        assert proxy.output.count(stays) == 1
        expires = f"]: warning: {pair.chain}: the certificate expires on {soon:%Y-%m-%d}, in 5 days"
        assert proxy.output.count(expires) == 1


def test_a_reload_takes_certificates_too_and_says_so(
    folder: Path, one: MailServer, authority: Authority, pair: Certificate
) -> None:
    with Proxy(folder, [row("*", one.server)], pair) as proxy:
        old = shown(proxy)
        assert not any("certificate" in line for line in reload(proxy)[1])
        soon = datetime.now(UTC) + timedelta(days=5, hours=1)
        copied(authority.certificate("mx.example.net", not_after=soon), folder)
        taken, lines = reload(proxy)
        assert taken
        assert lines[1] == f"{pair.chain}: new certificate in force, valid until {soon:%Y-%m-%d}"
        assert shown(proxy) != old
        warning = f"warning: {pair.chain}: the certificate expires on {soon:%Y-%m-%d}, in 5 days"
        assert warning in proxy.output
        pair.key.write_text("nonsense")
        taken, lines = reload(proxy)
        assert not taken
        assert f"listeners[0].tls_key: {pair.key}: holds no private key" in lines[0]
        assert shown(proxy) != old
