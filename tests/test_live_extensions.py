"""What the running program announces follows its upstreams, and it says why."""

from __future__ import annotations

import json
import smtplib
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.cli import main
from smtpproxy.request import request
from tests.support.certificates import Certificate
from tests.support.mail_server import MailServer
from tests.support.proxy import Proxy, csv, row

OFFERED = ["8BITMIME", "SMTPUTF8", "DSN", "SIZE 5000000", "REQUIRETLS"]
SOON = {"ask_every": "500ms"}
AT_START = {"ask_every": "1h"}


@pytest.fixture
def one() -> Iterator[MailServer]:
    with MailServer("one", extensions=OFFERED) as server:
        yield server


@pytest.fixture
def two() -> Iterator[MailServer]:
    with MailServer("two", extensions=["8BITMIME", "DSN"]) as server:
        yield server


def ehlo(proxy: Proxy, starttls: bool = False) -> dict[str, str]:
    """What is announced: words by keyword."""
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
        client.ehlo("client.example.net")
        if starttls:
            client.starttls()
            client.ehlo("client.example.net")
        return {keyword.upper(): words for keyword, words in client.esmtp_features.items()}


def announces(proxy: Proxy, keyword: str) -> None:
    proxy.wait_for(lambda: keyword in ehlo(proxy), f"{keyword} to be announced")


def announces_no(proxy: Proxy, keyword: str) -> None:
    proxy.wait_for(lambda: keyword not in ehlo(proxy), f"{keyword} to be announced no longer")


def report(folder: Path, capsys: Any, *options: str) -> tuple[int, str]:
    status = main(["upstreams", "--config", str(folder / "smtpproxy.toml"), *options])
    return status, capsys.readouterr().out


def test_ehlo_follows_the_upstreams(folder: Path, one: MailServer, two: MailServer) -> None:
    with Proxy(folder, [row("a@example.com", one.server)], upstreams=SOON) as proxy:
        announces(proxy, "SMTPUTF8")
        announced = ehlo(proxy)
        assert announced["SIZE"] == "5000000"
        assert announced["LIMITS"] == "RCPTMAX=1000"
        assert {"DSN", "8BITMIME", "CHUNKING", "PIPELINING", "PRDR"} < announced.keys()
        assert "ENHANCEDSTATUSCODES" not in announced
        assert "announces SMTPUTF8, DSN: all upstreams offer them" in proxy.output
        assert not any(line.startswith("MAIL") for line in one.said)

        one.extensions = ["8BITMIME"]
        announces_no(proxy, "SMTPUTF8")
        assert f"SMTPUTF8 no longer: {one.server} does not offer it" in proxy.output
        one.extensions = OFFERED
        why = f"{one.server} does not always offer it"
        proxy.wait_for(lambda: withheld(proxy)["SMTPUTF8"] == why, "the first to be heard again")
        assert "SMTPUTF8" not in ehlo(proxy)


def withheld(proxy: Proxy) -> dict[str, str]:
    """Why keywords are not announced."""
    (listener,) = request(proxy.control, "upstreams", 10)["listeners"]
    reasons: dict[str, str] = listener["withholds"]
    return reasons


def test_ehlo_follows_the_rows(folder: Path, one: MailServer, two: MailServer) -> None:
    with Proxy(folder, [row("a@example.com", one.server)], upstreams=SOON) as proxy:
        announces(proxy, "SMTPUTF8")
        proxy.file.write_text(csv([row("a@example.com", one.server), row("*", two.server)]))
        assert request(proxy.control, "reload", 10)["taken"]
        announces_no(proxy, "SMTPUTF8")
        assert ehlo(proxy)["LIMITS"] == "RCPTMAX=1000"
        announces(proxy, "DSN")


def test_a_new_upstream_is_asked_when_its_file_is_read(
    folder: Path, one: MailServer, two: MailServer
) -> None:
    """And not again those that were asked, before it is time."""
    with Proxy(folder, [row("a@example.com", one.server)], upstreams=AT_START) as proxy:
        announces(proxy, "SMTPUTF8")
        proxy.file.write_text(csv([row("a@example.com", one.server), row("*", two.server)]))
        assert request(proxy.control, "reload", 10)["taken"]
        proxy.wait_for(lambda: "QUIT" in two.said, "the second to be asked")
        announces_no(proxy, "SMTPUTF8")
        assert "DSN" in ehlo(proxy)
        assert "DSN no longer" not in proxy.output
        assert [line for line in one.said if line.startswith("EHLO")] == ["EHLO mx.example.net"]


def test_mail_is_enough(folder: Path, one: MailServer, proxy_certificate: Certificate) -> None:
    with Proxy(folder, [row("*", one.server)], proxy_certificate) as proxy:
        assert "DSN" not in ehlo(proxy)
        assert one.said == []
        with smtplib.SMTP("127.0.0.1", proxy.port) as client:
            client.sendmail("s@example.org", "a@example.com", "Subject: x\r\n\r\nx\r\n")
        announces(proxy, "DSN")
        assert "REQUIRETLS" not in ehlo(proxy)
        assert "REQUIRETLS" in ehlo(proxy, starttls=True)


QUERY = "SELECT server FROM routes WHERE pattern = ?"


def test_shadows_do_not_count(folder: Path, one: MailServer) -> None:
    """Not even where there are upstreams that nobody lists."""
    with closing(sqlite3.connect(folder / "routes.db")) as database:
        database.execute("CREATE TABLE routes (pattern TEXT, server TEXT)")
    mappings = [
        {"type": "csv", "file": "mapping.csv"},
        {"type": "sqlite", "file": "routes.db", "query": QUERY},
    ]
    with (
        MailServer("new") as new,
        Proxy(
            folder,
            [f"*;{one.server};false;{new.server}"],
            columns="pattern;server;tls_verify;shadow",
            mappings=mappings,
            upstreams=AT_START,
            log={"level": "debug"},
        ) as proxy,
    ):
        proxy.wait_for(lambda: ehlo(proxy)["SIZE"] == "5000000", "the upstream to be known")
        assert new.said == []
        with smtplib.SMTP("127.0.0.1", proxy.port) as client:
            client.sendmail("s@example.org", "a@example.com", "Subject: x\r\n\r\nx\r\n")
        proxy.wait_for(lambda: "shadow agrees" in proxy.output, "the shadow's answer")
        said = request(proxy.control, "upstreams", 10)
        assert [each["servers"] for each in said["upstreams"]] == [[one.server]]
        assert "8BITMIME" in ehlo(proxy)
        assert withheld(proxy)["DSN"] == f"sqlite {folder}/routes.db cannot list its upstreams"


def test_a_database_that_hangs_holds_up_no_question(folder: Path, one: MailServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mappings = [
            {"type": "csv", "file": "mapping.csv"},
            {
                "type": "mysql",
                "host": "127.0.0.1",
                "port": silent.getsockname()[1],
                "database": "smtpproxy",
                "query": QUERY,
                "timeout": "2m",
            },
        ]
        with Proxy(folder, [row("*", one.server)], mappings=mappings, upstreams=AT_START) as proxy:
            proxy.wait_for(lambda: "QUIT" in one.said, "the upstream to be asked")


def test_settings_have_the_last_word(folder: Path, two: MailServer) -> None:
    wishes = ["+SMTPUTF8", "-chunking"]
    with Proxy(folder, [row("*", two.server)], upstreams=AT_START, extensions=wishes) as proxy:
        announces(proxy, "DSN")
        announced = ehlo(proxy)
        assert "SMTPUTF8" in announced
        assert "CHUNKING" not in announced


def test_the_command(folder: Path, one: MailServer, two: MailServer, capsys: Any) -> None:
    rows = [row("a@example.com", one.server), row("*", two.server), row("c.test", "127.0.0.1:9")]
    with Proxy(folder, rows, upstreams=AT_START) as proxy:
        proxy.wait_for(lambda: "QUIT" in one.said and "QUIT" in two.said, "both to be asked")
        proxy.wait_for(lambda: "Connection refused" in report(folder, capsys)[1], "the third")
        proxy.wait_for(lambda: ehlo(proxy)["SIZE"] == "5000000", "the first to count")
        status, said = report(folder, capsys)
        assert status == 1
        lines = said.splitlines()
        ways = (
            "(TLS where offered; its certificate need not verify; identity: XCLIENT where offered)"
        )
        assert lines[0] == f"{one.server} {ways}"
        assert lines[1].startswith("  127.0.0.1, heard ")
        assert lines[1].endswith(f" ago: {', '.join(OFFERED)}")
        assert lines[2] == f"{two.server} {ways}"
        assert lines[4] == f"127.0.0.1:9 {ways}"
        assert lines[5].startswith("  127.0.0.1 failing for ")
        assert lines[6].startswith("  127.0.0.1, not heard ")
        assert lines[7] == f"listener 127.0.0.1:{proxy.port}"
        assert lines[8].startswith("  announces PIPELINING, SIZE 5000000, CHUNKING, ")
        assert lines[9] == f"  SIZE 5000000: {one.server} takes no more"
        why_not = dict(line.removeprefix("  not ").split(": ", 1) for line in lines[10:])
        assert why_not["SMTPUTF8"] == f"{two.server} does not offer it"
        refused = "Connection refused"
        assert why_not["DSN"] == f"127.0.0.1:9 ({refused}) was not heard of yet"
        assert why_not["REQUIRETLS"] == "it needs STARTTLS: there is no certificate"

        proxy.file.write_text(csv(rows[:2]))
        assert request(proxy.control, "reload", 10, force=True)["taken"]
        status, said = report(folder, capsys, "--json")
        assert status == 0
        answer = json.loads(said)
        assert [each["heard"][0]["offers"] for each in answer["upstreams"]] == [
            OFFERED,
            ["8BITMIME", "DSN"],
        ]
        (listener,) = answer["listeners"]
        assert "DSN" in listener["announces"]
        assert listener["announces_after_starttls"] is None


def test_a_size_that_no_server_may_have_is_told_once(folder: Path, one: MailServer) -> None:
    one.extensions = ["SIZE 1", "8BITMIME"]
    with Proxy(folder, [row("*", one.server)], upstreams=SOON) as proxy:
        text = f"warning: {one.server} announces SIZE 1, listeners do not"
        proxy.wait_for(lambda: text in proxy.output, "the warning")
        proxy.wait_for(lambda: one.said.count("QUIT") > 3, "it to be asked again")
        one.extensions = ["SIZE 1"]
        announces_no(proxy, "8BITMIME")
        assert proxy.output.count(text) == 1
        assert int(ehlo(proxy)["SIZE"]) > 65536


def test_it_stops_while_upstreams_are_asked(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        with Proxy(folder, [row("*", server)], upstreams=SOON) as proxy:
            asking, _ = silent.accept()
            proxy.stop()
        with asking, pytest.raises(ConnectionResetError):
            asking.recv(100)
        assert "Traceback" not in proxy.output
        assert proxy.output.rstrip().endswith("stopped")
