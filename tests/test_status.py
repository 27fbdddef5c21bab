"""What happened lately, how the program does, and that of several processes as one."""

from __future__ import annotations

import json
import smtplib
from dataclasses import replace
from typing import Any

import pytest

from smtpproxy.amounts import octets, short, span
from smtpproxy.cli import main, status
from smtpproxy.events import Connected, Side
from smtpproxy.logs.words import relay
from smtpproxy.recent import COUNTED, MINUTES, MOST_REFUSALS, MOST_SERVERS, Recent
from smtpproxy.reload import Outcome
from smtpproxy.smtp.replies import Reply
from smtpproxy.status import MOST_LINES, last_reload, merged
from tests.support.dialogue import GREETING, ONE, World, upstream_greets
from tests.support.log_events import BOUNCED, CLIENT, DEFERRED, SAMPLES, SENT, SESSION
from tests.support.mail_server import MailServer
from tests.support.processes import short_folder
from tests.support.proxy import Proxy, row

HERE = "127.0.0.1"
CONNECTED = Connected(SESSION, CLIENT)


class Told:
    """A recorder, and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.recent = Recent(lambda: 5e8 + self.now, lambda: self.now)

    def tell(self, *events: Any) -> None:
        for event in events:
            self.recent(event)


def test_rates_by_the_minute() -> None:
    told = Told()
    told.tell(CONNECTED, CONNECTED, SENT, DEFERRED, BOUNCED)
    told.now += 61
    told.tell(CONNECTED)
    told.now += 180
    rates = told.recent.rates()
    assert {name: len(counts) for name, counts in rates.items()} == dict.fromkeys(COUNTED, MINUTES)
    assert rates["sessions"][-6:] == [0, 2, 1, 0, 0, 0]
    assert rates["messages"][-6:] == [0, 1, 0, 0, 0, 0]
    assert rates["bytes"][-5] == SENT.size
    assert (rates["refused_4xx"][-5], rates["refused_5xx"][-5]) == (1, 1)


@pytest.mark.parametrize("seconds", [3600, 3700, 86400 * 3])
def test_what_is_an_hour_ago_does_not_count(seconds: float) -> None:
    told = Told()
    told.tell(CONNECTED)
    told.now += seconds
    assert sum(told.recent.rates()["sessions"]) == 0
    told.tell(CONNECTED)
    assert told.recent.rates()["sessions"][-1] == 1


def test_a_clock_that_goes_back() -> None:
    told = Told()
    told.now -= 500
    told.tell(CONNECTED)
    assert sum(told.recent.rates()["sessions"]) == 1


def test_the_last_refusals() -> None:
    told = Told()
    told.tell(*SAMPLES)
    for number in range(MOST_REFUSALS + 50):
        told.now += 1
        told.tell(replace(BOUNCED, session=f"{number:012X}"))
    refusals = told.recent.refusals()
    assert len(refusals) == MOST_REFUSALS
    assert refusals[0]["session"] == f"{MOST_REFUSALS + 49:012X}"
    assert refusals[0]["time"] == 5e8 + told.now
    assert refusals[0]["stage"] == "message"
    assert refusals[0]["reply"].startswith("5")
    json.dumps(refusals)


def test_a_refusal_is_short_whatever_was_said() -> None:
    told = Told()
    huge = tuple(f"{number}@example.com" for number in range(1000))
    reply = Reply(550, (b"x" * 4000,) * 16)
    told.tell(replace(BOUNCED, recipients=huge, reply=reply, by=Side.UPSTREAM))
    (refusal,) = told.recent.refusals()
    assert (len(refusal["reply"]), len(refusal["to"])) == (400, 10)


def test_how_servers_answer() -> None:
    told = Told()
    for seconds in (1.0, 1.0, 3.0):
        told.tell(replace(SENT, phases={"final": seconds, "connect": 0.5}))
    told.now += 9
    ((name, said),) = told.recent.servers().items()
    assert name == SENT.server
    assert (said["messages"], said["final"], said["connect"]) == (3, 1.125, 0.5)
    assert said["age"] == 9
    assert said["tls"] == str(SENT.upstream_tls)


def test_servers_are_not_remembered_without_end() -> None:
    told = Told()
    for number in range(MOST_SERVERS + 10):
        told.now += 1
        told.tell(replace(SENT, server=f"mx{number}.test:25"))
    servers = told.recent.servers()
    assert len(servers) == MOST_SERVERS
    assert "mx9.test:25" not in servers
    assert "mx10.test:25" in servers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.0421, "42 ms"),
        (0.9999, "1.0 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (86400 * 2, "2 d"),
        (-1, "0.0 ms"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_amounts() -> None:
    assert [octets(n) for n in (0, 999, 1000, 9_940, 34_000_000, 10**19)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "9.9 kB",
        "34 MB",
        "10000 PB",
    ]
    assert [short(n) for n in (0, 7, 1234, 12_345_678)] == ["0", "7", "1.2 k", "12 M"]


# Sessions


def test_what_there_is_to_see_of_a_session() -> None:
    world = World({"example.com": ONE}).play(GREETING)
    (view,) = world.sessions.views(10)
    assert (view.session, str(view.client)) == ("000000000001", "unknown[192.0.2.9]")
    assert (view.stage, view.servers, view.transactions) == ("between transactions", (), 0)
    world.play(f"""
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<a@example.com>
        {upstream_greets()}
        P1: MAIL FROM:<s@example.org>
        U1: 250 ok
        P1: RCPT TO:<a@example.com>
        wait 10s
    """)
    (view,) = world.sessions.views(10)
    assert (view.stage, view.age) == ("RCPT is being answered", 10)
    assert view.servers == ("192.0.2.1:25",)
    world.play(r"""
        U1: 250 ok
        S: 250 ok
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: x\r\n.
        P1: x
        P1: .
    """)
    assert world.sessions.views(10)[0].stage == "the message awaits its answer"


def test_of_many_sessions_the_oldest_and_the_newest() -> None:
    world = World()
    for _ in range(9):
        world.connect()
    shown = [view.session[-1] for view in world.sessions.views(4)]
    assert shown == ["1", "2", "9", "A"]


def test_of_a_reload_only_so_much_is_told() -> None:
    faults = tuple(f"fault {number}" for number in range(MOST_LINES - 1))
    told = last_reload(Outcome(False, faults, ("one warning", "another")))
    assert (told["taken"], told["lines"]) == (False, [*faults, "one warning"])


# Several processes


def report(**more: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "domain": "mx.test",
        "time": 1.0,
        "uptime": 10.0,
        "processes": [1],
        "ready": True,
        "stopping": False,
        "listening": [":25"],
        "sessions": {"count": 1, "most": 10, "earlier": 0, "list": [{"age": 5.0}]},
        "rates": {name: [0] * 59 + [2] for name in COUNTED},
        "refusals": [{"time": 3.0}],
        "servers": {"a:25": {"messages": 1, "final": 1.0, "connect": 0.0, "tls": "x", "age": 9.0}},
        "configuration": {"generation": 1, "age": 1.0, "reload": None},
        "mappings": [
            {"mapping": "csv", "place": "1", "age": 7.0, "trouble": "", "failing": False, "rows": 1}
        ],
        "warnings": ["w"],
        **more,
    }


def test_several_reports_are_one() -> None:
    other = report(
        processes=[2],
        ready=False,
        sessions={"count": 2, "most": 10, "earlier": 1, "list": [{"age": 1.0}, {"age": 8.0}]},
        refusals=[{"time": 4.0}],
        servers={"a:25": {"messages": 3, "final": 3.0, "connect": 0.0, "tls": "y", "age": 2.0}},
        configuration={"generation": 2, "age": 0.5, "reload": None},
        mappings=[
            {
                "mapping": "csv",
                "place": "1",
                "age": 7.0,
                "trouble": "t",
                "failing": False,
                "rows": 1,
            }
        ],
    )
    said = merged([report(), other])
    assert said["processes"] == [1, 2]
    assert said["ready"] is False
    assert said["sessions"]["count"] == 3
    assert [each["age"] for each in said["sessions"]["list"]] == [8.0, 5.0, 1.0]
    assert said["rates"]["bytes"] == [0] * 59 + [4]
    assert [each["time"] for each in said["refusals"]] == [4.0, 3.0]
    assert said["servers"]["a:25"] == {
        "messages": 4,
        "final": 2.5,
        "connect": 0.0,
        "tls": "y",
        "age": 2.0,
    }
    assert said["configuration"]["generation"] == 2
    assert [each["trouble"] for each in said["mappings"]] == ["t"]
    assert said["warnings"] == ["w"]


def test_one_report_is_itself() -> None:
    assert merged([report()]) == report()


# The command


def test_an_upstream_that_could_not_be_asked() -> None:
    """With the reason, once where it fails as well."""
    place = {"server": "slip.test:25", "address": "", "reason": "it has no address"}
    one = {
        "servers": ["slip.test:25"],
        "connections": 0,
        "heard": [],
        "standings": {},
        "troubles": [],
        "failed": [{**place, "age": 40.0}],
    }
    assert list(status._upstream(one, report())) == [
        "slip.test:25: 0 connections",
        "  not heard 40 s ago: slip.test:25: it has no address",
    ]
    one["troubles"] = [{**place, "down": True, "seconds": 240.0}]
    assert list(status._upstream(one, report()))[1:] == [
        "  DOWN for 4 min: slip.test:25: it has no address"
    ]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<b>\\x1b[31m.test"
    with (
        MailServer("one.example.net", {"nobody@example.com"}) as one,
        short_folder() as folder,
        Proxy(folder, [row("example.com", one.server)]) as proxy,
        smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client,
    ):
        client.ehlo(hostile)
        client.mail("bob@example.org")
        assert client.rcpt("nobody@example.com")[0] == 550
        assert client.rcpt("alice@example.com")[0] == 250
        client.data(b"Subject: x\r\n\r\nhello\r\n")
        config = ["--config", str(proxy.settings_file)]
        assert main(["status", *config]) == 0
        out = capsys.readouterr().out
        assert out.startswith("mx.example.net ready: smtpproxy ")
        assert f"\n  {one.server}: 1 connection, 1 message, answers in " in out
        assert "unknown[127.0.0.1], between transactions" in out
        by = f"by=upstream upstream={relay(one.server, HERE)}"
        assert f": 550 5.1.1 not known to one.example.net, {by}\n" in out
        assert main(["status", "--json", *config]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["mappings"][0] | {"age": 0} == {
            "mapping": f"csv {folder}/mapping.csv",
            "place": f"{folder}/smtpproxy.toml:4: mappings[0]",
            "rows": 1,
            "generation": 1,
            "age": 0,
            "trouble": "",
            "failing": False,
        }
        proxy.file.write_text("nonsense\n")
        assert main(["reload", *config]) == 1
        capsys.readouterr()
        main(["status", *config])
        out = capsys.readouterr().out
        assert "what was read last was NOT TAKEN" in out
        assert "what it says now is NOT TAKEN" in out
        proxy.file.write_text("pattern;server\na.test;192.0.2.1\n")
        main(["reload", *config])
        capsys.readouterr()
        main(["status", *config])
        assert "what it says now is NOT TAKEN: it would drop 1 of 1 keys" in capsys.readouterr().out
        proxy.file.write_text("pattern;server\nexample.com;192.0.2.1\na.test;192.0.2.1\n")
        assert main(["reload", *config]) == 0
        capsys.readouterr()
        main(["status", "--json", *config])
        said = json.loads(capsys.readouterr().out)
        assert (said["configuration"]["generation"], said["mappings"][0]["generation"]) == (2, 2)
        assert said["sessions"]["earlier"] == 1
        assert said["mappings"][0]["trouble"] == ""
    assert main(["status", *config]) == 2
