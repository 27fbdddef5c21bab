"""`smtpproxy metrics`, of a running program: one process, and several."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from smtpproxy.cli import main
from smtpproxy.deadlines import Deadlines
from smtpproxy.dns.memory import Memory
from smtpproxy.metrics import Counts, Process, State
from smtpproxy.metrics.families import FAMILIES
from smtpproxy.relay import Guard
from smtpproxy.relay.guard import ENOUGH, RECENT
from smtpproxy.routing import Server
from smtpproxy.smtp.replies import Reply
from smtpproxy.upkeep import Upkeep
from smtpproxy.upstream import Learnt
from tests.support.dialogue import ONE
from tests.support.mail_server import MailServer
from tests.support.metrics import Told, parsed, told
from tests.support.processes import short_folder
from tests.support.proxy import Proxy

# What is there only while it is so, or once it was.
SELDOM = {"upstream_down", "guard_tripped", "proxy_headers_missing_total"}


def send(proxy: Proxy, *recipients: str) -> None:
    """A message to each, in one session."""
    with smtplib.SMTP("127.0.0.1", proxy.port) as client:
        for recipient in recipients:
            try:
                client.sendmail("s@example.org", recipient, "Subject: x\r\n\r\nx\r\n")
            except smtplib.SMTPRecipientsRefused:
                client.rset()


@pytest.fixture
def asked(capsys):
    def ask(folder: Path, status: int = 0) -> Told:
        assert main(["metrics", "--config", str(folder / "smtpproxy.toml")]) == status
        return parsed(capsys.readouterr().out)

    return ask


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def database(folder: Path, server: str) -> dict[str, Any]:
    with sqlite3.connect(folder / "routes.db") as connection:
        connection.execute("CREATE TABLE route (pattern, server, tls_verify)")
        connection.execute("INSERT INTO route VALUES ('example.net', ?, 'false')", [server])
    query = "SELECT server, tls_verify FROM route WHERE pattern = %s"
    return {"type": "sqlite", "file": str(folder / "routes.db"), "query": query}


def test_one_process(asked, folder, proxy_certificate, capsys):
    columns = "pattern;server;tls_verify;shadow"
    with MailServer("one") as one, MailServer("new") as new:
        mappings = [{"type": "csv", "file": "mapping.csv"}, database(folder, one.server)]
        rows = [f"example.com;{one.server};false;{new.server}"]
        rows.append("unreachable.test;127.0.0.1:9;false;")
        certificate = proxy_certificate
        with Proxy(folder, rows, certificate, columns, mappings=mappings) as proxy:
            send(proxy, "a@example.com", "b@example.net", "c@example.net", "d@nowhere.test")
            send(proxy, "e@unreachable.test")
            proxy.wait_for(lambda: proxy.output.count("disconnect from") > 2, "their ends")
            before = asked(folder)
            main(["upstream", "drain", one.server, "--config", str(proxy.settings_file)])
            (folder / "mapping.csv").write_text("nonsense\n")
            main(["reload", "--config", str(proxy.settings_file)])
            capsys.readouterr()
            found = asked(folder)

    at = f"listener=127.0.0.1:{proxy.port}"
    to = f"{at} upstream={one.server} outcome=delivered"
    expected = {
        f"sessions_live {at}": 0,
        f"transactions_total {to}": 3,
        f"recipients_total {to}": 3,
        f"recipients_total {at} upstream=none outcome=refused": 1,
        f"recipients_total {at} upstream=127.0.0.1:9 outcome=deferred": 1,
        "upstream_failures_total upstream=127.0.0.1:9": 1,
        f"lookups_total mapping=csv {folder}/mapping.csv outcome=found": 2,
        f"lookups_total mapping=csv {folder}/mapping.csv outcome=no_route": 3,
        f"mapping_rows mapping=csv {folder}/mapping.csv": 2,
        f"cache_lookups_total mapping=sqlite {folder}/routes.db outcome=miss": 3,
        f"database_up mapping=sqlite {folder}/routes.db": 1,
        f"upstream_standing upstream={one.server} standing=drain": 1,
        "reloads_total outcome=taken": 0,
        "reloads_total outcome=refused": 1,
        "reload_last_taken": 0,
        "workers": 1,
        "workers_wanted": 1,
        "in_doubt_total": 0,
        "log_lines_lost_total": 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["pool_connections_total outcome=made"] >= 1
    assert found["open_descriptors"] < found["max_descriptors"]
    assert found["resident_memory_bytes"] > 1e7
    (until,) = [it for name, it in found.items() if name.startswith("certificate_expiry_time")]
    assert until > found["start_time_seconds"] > 1.7e9
    assert before[f"upstream_connections upstream={one.server}"] == 1
    names = {name.partition(" ")[0] for name in (*before, *found)}
    names |= {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    missing = {name.removeprefix("smtpproxy_") for name in FAMILIES} - names
    assert missing == SELDOM


def test_several_workers_and_one_that_is_killed(asked, folder):
    """Its sessions stay counted."""
    with MailServer("one") as one:
        rows = [f"example.com;{one.server};false"]
        with Proxy(folder, rows, workers=2) as proxy:
            proxy.wait_for(lambda: "with 2 workers" in proxy.output, "both")
            for _ in range(8):
                send(proxy, "a@example.com")
            proxy.wait_for(lambda: proxy.output.count(": removed") == 8, "all to be logged")
            found = asked(folder)
            delivered = f"upstream={one.server} outcome=delivered"
            messages = f"transactions_total listener=127.0.0.1:{proxy.port} {delivered}"
            assert found[messages] == 8
            assert (found["workers"], found["workers_wanted"]) == (2, 2)
            workers = set(re.findall(r"smtpproxy/qmgr\[(\d+)\]", proxy.output))
            os.kill(int(workers.pop()), signal.SIGKILL)
            proxy.wait_for(lambda: re.search(r"worker \d .*ended", proxy.output), "the note of it")
            found = asked(folder, status=1)
            assert (found["workers"], found[messages]) == (1, 8)


def test_nobody_to_be_asked(folder, capsys):
    path = folder / "smtpproxy.toml"
    text = 'domain = "mx.test"\ncontrol = "none"\nlisteners = [{listen = ":25"}]\n'
    path.write_text(f'{text}mappings = [{{type = "static", server = "mx1.test"}}]\n')
    assert main(["metrics", "--config", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "smtpproxy does not run" in said.err


# What is seldom so


def state(upkeep: Upkeep, guard: Guard) -> State:
    """Of a program that has nothing but these."""
    memory: Memory[str] = Memory(Clock())
    dns = SimpleNamespace(
        mail_hosts=SimpleNamespace(memory=memory), reverse_names=SimpleNamespace(memory=None)
    )
    chain = SimpleNamespace(router=SimpleNamespace(counts={}), opened=[], failing=set())
    generation = SimpleNamespace(
        config=SimpleNamespace(listeners=[]),
        parts=SimpleNamespace(certificates=[None], chain=chain),
        dns=dns,
        kept=3,
    )
    visitors = SimpleNamespace(limits=SimpleNamespace(total=10), waiting=2)
    lasting = SimpleNamespace(
        counts=Counts(),
        process=Process(SimpleNamespace(losses=0)),  # type: ignore[arg-type]
        sessions=SimpleNamespace(visitors=visitors),
        doubts=[],
        upkeep=upkeep,
        guard=guard,
        shadow_counts=SimpleNamespace(counts=list),
        addresses=SimpleNamespace(memory=memory),
    )

    class Succession:
        now = generation

        def __len__(self) -> int:
            return 1

    return State(lasting, Succession())  # type: ignore[arg-type]


def test_an_upstream_that_is_down_and_one_that_is_not_believed():
    clock = Clock()
    deadlines = Deadlines(clock)
    upkeep = Upkeep(Learnt(deadlines), deadlines, lambda *_: None)
    guard = Guard(1800.0, clock.seconds, lambda *_: None)
    server = Server("mx1.test", 25, weight=3)
    for address in ("192.0.2.1", "192.0.2.2"):
        upkeep.health.failed(ONE, server, address, "refused", 9.0, sure=True)
    upkeep.health.failed(ONE, Server("mx2.test", 25), "192.0.2.3", "refused", 0.1, sure=True)
    yes, no = Reply.of(250, "", "ok"), Reply.of(550, "", "no")
    for number in range(ENOUGH + RECENT):
        guard.recipients.told(ONE, f"10.0.{number}.1", yes)
    for number in range(RECENT):
        guard.recipients.told(ONE, f"10.1.{number}.1", no)

    found = told(state(upkeep, guard).snapshot())
    down = {name: it for name, it in found.items() if name.startswith("upstream_down")}
    assert down == {"upstream_down upstream=mx1.test:25": 2}
    assert found[f"guard_tripped upstream={ONE} what=recipients"] == 1
    assert found["guard_trips_total what=recipients"] == 1
    assert found["guard_turned_total what=recipients"] == guard.recipients.turned > 0
    assert found["pool_kept_connections"] == 3
    assert found["sessions_waiting"] == 2
