"""What is counted, what several processes have counted together, and how Prometheus reads it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from timeit import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.config import Limits, Upstreams
from smtpproxy.events import Connected, Disconnected, Event, Refused, Side, TransactionEnded
from smtpproxy.listener import ConnectionLimits, session, tally, visitors
from smtpproxy.logs.fields import fields
from smtpproxy.logs.writer import BACKLOG, Writer
from smtpproxy.metrics import Counts, Together, merged
from smtpproxy.metrics.counts import ENDS, MOST_NAMES, OTHER, PHASES, Names
from smtpproxy.metrics.families import (
    FAMILIES,
    OPEN_FILES,
    PHASE_TIME,
    SESSIONS,
    SESSIONS_LIVE,
    STARTED,
)
from smtpproxy.metrics.limits import LIMITS
from smtpproxy.metrics.snapshot import Sheet
from smtpproxy.relay import message, relaying, transaction
from smtpproxy.routing import Identity, NoRoute, Router, TryAgain
from smtpproxy.smtp.paths import Path
from smtpproxy.smtp.replies import Reply
from smtpproxy.tasks import start
from tests.support.dialogue import (
    BOUND,
    CLIENT,
    GREETING,
    MAIL,
    ONE,
    TWO,
    Routes,
    Settings,
    Table,
    World,
    upstream,
    upstream_greets,
)
from tests.support.log_events import DUPLICATE, IN_DOUBT, SAMPLES, SENT
from tests.support.metrics import Told, counted, told

MX = replace(CLIENT, listener=":25")
ROUTES: Routes = {"example.com": ONE, "example.net": TWO, "later.test": TryAgain("it is down")}
MESSAGE = r"""
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: Subject: hello\r\n.
    P1: Subject: hello
    P1: .
"""


def started(**settings) -> World:
    return World(ROUTES, settings=Settings(peer=MX, **settings)).play(GREETING)


def of(world: World, *begins: str) -> Told:
    """What is counted of its events, as far as the name begins so and it is not 0."""
    everything = told(counted(world.events))
    return {name: it for name, it in everything.items() if name.startswith(begins) and it}


# Sessions and messages


def test_a_message_that_is_delivered() -> None:
    world = started().play(BOUND + MESSAGE)
    assert of(world, "sessions_live") == {"sessions_live listener=:25": 1}
    world.play("wait 2s\nU1: 250 taken\nS: 250 taken\nC: QUIT\nS: 221 2.0.0 Bye\nP1: QUIT")
    to = f"listener=:25 upstream={ONE} outcome=delivered"
    assert of(world, "sessions", "transactions", "recipients", "message", "refusals") == {
        "sessions_total listener=:25": 1,
        "sessions_ended_total listener=:25 outcome=closed": 1,
        f"transactions_total {to}": 1,
        f"recipients_total {to}": 1,
        f"message_bytes_total {to}": len("Subject: hello\r\n"),
        "messages_tls_total side=client version=none": 1,
        "messages_tls_total side=upstream version=none": 1,
    }
    (ended,) = world.said(TransactionEnded)
    assert ended.phases["final"] == 2
    seconds = of(world, "phase_seconds_bucket phase=final", "upstream_seconds")
    assert seconds == {
        **{f"phase_seconds_bucket phase=final le={it}": 1 for it in (2.5, 5.0, 10.0, 30.0)},
        **{f"phase_seconds_bucket phase=final le={it}": 1 for it in (60.0, 300.0, "+Inf")},
        f"upstream_seconds_total upstream={ONE} phase=final": 2,
    }
    assert of(world, "session_seconds_sum") == {"session_seconds_sum listener=:25": 2}


OUTCOMES = {
    "refused": "U1: 550 no\nS: 550 no",
    "deferred": "U1: 451 no\nS: 451 no",
    "in_doubt": "U1 gone\nS: 451 4.4.2 The connection to the server of this recipient was lost",
}


@pytest.mark.parametrize(("outcome", "script"), OUTCOMES.items(), ids=OUTCOMES)
def test_what_becomes_of_a_message(outcome: str, script: str) -> None:
    world = started().play(BOUND + MESSAGE + script)
    to = f"listener=:25 upstream={ONE} outcome={outcome}"
    assert of(world, "transactions", "recipients") == {
        f"transactions_total {to}": 1,
        f"recipients_total {to}": 1,
    }
    in_doubt = {"in_doubt_total": 1} if outcome == "in_doubt" else {}
    assert of(world, "in_doubt") == in_doubt


def test_a_message_that_the_client_gives_up() -> None:
    world = started().play(BOUND + "C: RSET\nP1: RSET\nU1: 250 fine\nS: 250 fine")
    to = f"listener=:25 upstream={ONE} outcome=abandoned"
    assert of(world, "transactions") == {f"transactions_total {to}": 1}


def test_recipients_that_are_refused_and_by_whom() -> None:
    world = started()
    world.play(f"""
        {MAIL}
        C: RCPT TO:<a@nowhere.test>
        S: 550 5.7.1 Relay access denied
        C: RCPT TO:<a@later.test>
        S: 451 4.3.0 The look-up of this recipient failed; try again later
        C: RCPT TO:<a@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 250 fine
        P1: RCPT TO:<a@example.com>
        U1: 550 5.1.1 no such user
        S: 550 5.1.1 no such user
        C: RCPT TO:<b@example.com>
        P1: RCPT TO:<b@example.com>
        U1: 250 fine
        S: 250 fine
        C: RCPT TO:<a@example.net>
        S: 452 4.5.3 This recipient's server is another one; send the message to it separately
    """)
    assert of(world, "recipients") == {
        "recipients_total listener=:25 upstream=none outcome=refused": 1,
        "recipients_total listener=:25 upstream=none outcome=deferred": 2,
        f"recipients_total listener=:25 upstream={ONE} outcome=refused": 1,
    }
    stage = "refusals_total listener=:25 stage=RCPT by"
    assert of(world, "refusals") == {
        f"{stage}=proxy reply=5xx": 1,
        f"{stage}=proxy reply=4xx": 2,
        f"{stage}=upstream reply=5xx": 1,
    }


def test_of_several_servers_the_one_that_refused() -> None:
    """Also of recipients that are refused without asking it again, as it refused the sender."""
    world = World({"example.com": upstream("192.0.2.1", "192.0.2.2")}, settings=Settings(peer=MX))
    world.unreachable.add("192.0.2.1")
    world.play(f"""
        {GREETING}
        {MAIL}
        C: RCPT TO:<a@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 550 5.7.1 not you
        S: 550 5.7.1 not you
        C: RCPT TO:<b@example.com>
        S: 550 5.7.1 not you
    """)
    refused = "recipients_total listener=:25 upstream=192.0.2.2:25 outcome=refused"
    assert of(world, "recipients") == {refused: 2}
    said = [fields(each) for each in world.events if isinstance(each, Refused)]
    assert [each["upstream"] for each in said] == ["192.0.2.2[192.0.2.2]:25"] * 2


def test_of_several_servers_the_one_that_refused_the_client() -> None:
    servers = upstream("192.0.2.1", "192.0.2.2", identity=Identity.XCLIENT)
    world = World({"example.com": servers}, settings=Settings(peer=MX))
    world.unreachable.add("192.0.2.1")
    world.play(f"""
        {GREETING}
        {MAIL}
        C: RCPT TO:<a@example.com>
        {upstream_greets(1, "XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.9
        U1: 550 5.7.1 not you
        S: 550 5.7.1 not you
        P1: QUIT
    """)
    (said,) = (fields(each) for each in world.events if isinstance(each, Refused))
    assert said["upstream"] == "192.0.2.2[192.0.2.2]:25"


def test_an_upstream_that_cannot_be_reached() -> None:
    world = started()
    world.unreachable.add("192.0.2.1")
    there = "S: 451 4.4.1 The server of this recipient is not reachable"
    world.play(f"{MAIL}\nC: RCPT TO:<a@example.com>\n{there}")
    assert of(world, "upstream_failures", "recipients") == {
        f"upstream_failures_total upstream={ONE}": 1,
        f"recipients_total listener=:25 upstream={ONE} outcome=deferred": 1,
    }


def test_how_sessions_end() -> None:
    left = Disconnected("1", SENT.client, 3.0)
    ends = [
        replace(left, reason="lost connection: reset by peer"),
        replace(left, reason="timeout: 180 s"),
        replace(left, reason="too many errors"),
        replace(left, reason="internal error"),
        left,
    ]
    ended = {
        name.rpartition("=")[2]: value
        for name, value in told(counted(ends)).items()
        if name.startswith("sessions_ended")
    }
    assert ended == {"lost": 1, "timeout": 1, "limit": 1, "fault": 1, "closed": 1}


def test_every_end_that_a_session_has_is_known() -> None:
    """A session that ends for another reason than a fault of ours is not counted as one."""
    source = inspect.getsource(session.Session.run)
    for reason in ("lost connection", "timeout", "stopped", "too many "):
        assert f'"{reason}' in source
    assert {f"too many {what}" for what in tally.EXCESS} < set(ENDS)


def test_every_phase_is_there_from_the_start() -> None:
    source = "".join(map(inspect.getsource, (transaction, message, relaying)))
    spent = {each.split('"')[1] for each in source.split(".spent(")[1:]}
    assert spent == set(PHASES)
    assert {f"phase_seconds_count phase={each}" for each in PHASES} <= set(told(counted([])))


def test_messages_by_their_tls() -> None:
    found = told(counted([SENT, DUPLICATE, replace(SENT, client_tls=None)]))
    assert found["messages_tls_total side=client version=TLSv1.3"] == 2
    assert found["messages_tls_total side=client version=none"] == 1
    assert found["messages_tls_total side=upstream version=TLSv1.3"] == 3
    assert found["duplicates_total"] == 1


def test_what_alerts_look_at_is_there_before_it_happens() -> None:
    found = told(counted([], listeners=[":25"]))
    for name in ("in_doubt_total", "duplicates_total"):
        assert found[name] == 0
    assert found["limits_hit_total listener=:25 limit=limits.max_connections"] == 0
    assert found["sessions_live listener=:25"] == 0


# Limits


def test_a_limit_that_ends_a_session() -> None:
    world = started(max_errors=2)
    world.play("""
        C: FOO
        S: 500 5.5.2 Command not recognised
        C: FOO
        S: 500 5.5.2 Command not recognised
        S: 421 4.7.0 Too many errors
        S closed
    """)
    assert of(world, "limits_hit", "sessions_ended") == {
        "limits_hit_total listener=:25 limit=limits.max_errors": 1,
        "sessions_ended_total listener=:25 outcome=limit": 1,
    }


def test_limits_on_connections_and_on_the_size_of_messages() -> None:
    world = started(limits=ConnectionLimits(1, 1))
    world.connect(replace(MX, address="192.0.2.10"))
    world.play("C: MAIL FROM:<s@example.org> SIZE=1000001\nS: 552 5.3.4 The message is too big")
    begins = "limits_hit_total listener=:25 limit=limits"
    assert of(world, "limits_hit") == {
        f"{begins}.max_connections": 1,
        f"{begins}.max_message_bytes": 1,
    }


def test_too_many_behind_a_load_balancer() -> None:
    world = World(
        ROUTES,
        settings=Settings(peer=MX, limits=ConnectionLimits(0, 0), proxy_from=[MX.address]),
    )
    limit = "limits_hit_total listener=:25 limit=limits.max_connections"
    assert of(world, "limits_hit", "proxy_headers") == {limit: 1}


def test_who_brings_no_header() -> None:
    world = World(ROUTES, settings=Settings(peer=MX, proxy_from=[MX.address]))
    world.client.deliver(b"EHLO client.example.com\r\n")
    assert of(world, "proxy_headers", "sessions") == {
        "proxy_headers_missing_total listener=:25": 1,
    }


def test_every_limit_is_a_setting_and_every_reply_of_one_is_known() -> None:
    tables = {"limits": Limits, "upstreams": Upstreams}
    for name in LIMITS.values():
        table, _, key = name.partition(".")
        assert key in tables[table].model_fields
    for module in (visitors, tally):
        assert {it for it in vars(module).values() if isinstance(it, Reply)} <= set(LIMITS)


# Names that come from outside


def test_weights_make_no_other_upstream() -> None:
    names = Names()
    assert names.of("mx1.test:25*3,[2001:db8::1]:25*1") == "mx1.test:25,[2001:db8::1]:25"
    assert names.of("") == "none"


def test_upstreams_without_end_are_not_remembered_without_end() -> None:
    many = [replace(SENT, server=f"mx{number}.test:25") for number in range(MOST_NAMES + 50)]
    found = told(counted(many))
    names = [name for name in found if name.startswith("transactions_total")]
    assert len(names) == MOST_NAMES + 1
    (others,) = [found[name] for name in names if f"upstream={OTHER}" in name]
    assert others == 50
    assert len(json.dumps(counted(many))) < 2_000_000


def test_what_could_break_the_text() -> None:
    for name in ('a"b', "a\\", "a\nb", "ü", "a\\nb", "{}", "a,b=c"):
        sheet = Sheet()
        sheet.add(SESSIONS, 3, name)
        assert told(sheet.snapshot("1")) == {f"sessions_total listener={name}": 3}
    sheet.add(SESSIONS, 1, "\udcff")
    assert "sessions_total listener=\\udcff" in told(sheet.snapshot("1"))


def test_no_client_and_no_mailbox_makes_a_series() -> None:
    said = json.dumps(counted(SAMPLES))
    for each in (SENT.client.peer.address, SENT.client.name, "alice", "bob", "nobody", "friend"):
        assert each not in said


# Several processes


@given(st.lists(st.tuples(st.sampled_from(SAMPLES), st.integers(0, 2)), max_size=30))
def test_several_count_together_what_one_would_have(events) -> None:
    parts = [counted([it for it, who in events if who == number], f"{number}") for number in (0, 1)]
    parts.append(counted([it for it, who in events if who == 2], "2"))
    over_json = [json.loads(json.dumps(each)) for each in parts]
    assert told(merged(over_json)) == pytest.approx(told(counted([it for it, _ in events])))


def test_gauges_by_their_own_rule() -> None:
    snapshots = []
    for number, opened in enumerate((10, 30, 20), 1):
        sheet = Sheet()
        sheet.add(SESSIONS_LIVE, opened, ":25")
        sheet.add(OPEN_FILES, opened)
        sheet.add(STARTED, 1000 + opened)
        snapshots.append(sheet.snapshot(f"{number}"))
    before = json.dumps(snapshots)
    assert told(merged(snapshots)) == {
        "sessions_live listener=:25": 60,
        "open_descriptors": 30,
        "start_time_seconds": 1010,
    }
    assert json.dumps(snapshots) == before
    assert told(merged([])) == {}


def process(name: str, begun: int) -> dict:
    sheet = Sheet()
    sheet.add(SESSIONS, begun, ":25")
    sheet.add(SESSIONS_LIVE, 1, ":25")
    sheet.distribution(PHASE_TIME, [begun, *[0] * len(PHASE_TIME.bounds)], 0.5, "final")
    return dict(sheet.snapshot(name))


def test_what_a_process_had_counted_stays_when_it_is_gone() -> None:
    together = Together()
    begun, live = "sessions_total listener=:25", "sessions_live listener=:25"
    assert told(together.merged([process("1", 5), process("2", 7)]))[begun] == 12
    found = told(together.merged([process("1", 6)]))
    assert (found[begun], found[live]) == (13, 1)
    assert found["phase_seconds_count phase=final"] == 13
    # One that was only slow to answer counts once.
    assert told(together.merged([process("1", 6), process("2", 9)]))[begun] == 15
    assert told(together.merged([process("3", 1)]))[begun] == 16


def test_workers_that_die_all_the_time_are_not_remembered_one_by_one() -> None:
    together = Together()
    for number in range(500):
        found = told(together.merged([process("1", 100), process(f"x{number}", 1)]))
        assert found["sessions_total listener=:25"] == 101 + number
    assert len(together._last) < 100


# Others that count


def test_what_mappings_answer_is_counted_across_reloads() -> None:
    first = Router([Table(ROUTES, "table")], "+", "mx.test")
    for address in ("a@example.com", "b@example.com", "a@nowhere.test"):
        start(first.route(_path(address)))
    again = Router([Table(ROUTES, "table")], "+", "mx.test", first)
    start(again.route(_path("a@nowhere.test")))
    assert again.counts["table", NoRoute] == 2
    assert sum(again.counts.values()) == 4


def _path(address: str) -> Path:
    local, _, domain = address.rpartition("@")
    return Path(local, domain)


def test_lines_that_are_lost_are_counted_for_good(tmp_path) -> None:
    said: list[str] = []

    class Never:
        def cancel(self) -> None: ...

    def lost(count: int, why: str) -> str:
        said.append(f"{count}")
        return "lost\n"

    writer = Writer(lambda *_: Never(), lost, "/dev/full")
    writer.write("x" * (BACKLOG + 1) + "\n")
    writer.write("a\nb\n")
    assert writer.losses == 2
    other = Writer(lambda *_: Never(), lost, str(tmp_path / "log"))
    other.take_over(writer)
    assert (other.losses, said) == (2, ["2"])
    other.write("c\n")
    other.stop()
    assert other.losses == 2
    other.close()


# The price


def test_what_counting_costs_for_a_session_with_one_message() -> None:
    """The path of every message: the best of several, with room for a slow machine."""
    counts = Counts()
    client = replace(SENT.client, peer=MX)
    events: list[Event] = [
        Connected("1", client),
        replace(SENT, client=client),
        Disconnected("1", client, 0.2),
    ]

    def session() -> None:
        for event in events:
            counts(event)

    best = min(repeat(session, number=200, repeat=20)) / 200
    assert best < 50e-6


def test_names_are_as_prometheus_wants_them() -> None:
    for family in FAMILIES.values():
        assert family.name.startswith("smtpproxy_")
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert (family.kind == "histogram") == bool(family.bounds)
        assert list(family.bounds) == sorted(set(family.bounds))
        assert not {"le", "instance", "job", "quantile"} & set(family.labels)
        assert family.merge in ("sum", "max", "min")
        if family.kind == "histogram":
            assert family.name.endswith("_seconds")
    # OpenMetrics knows a counter without its end, and then it must not be another metric.
    bare = [name.removesuffix("_total") for name in FAMILIES]
    assert len(set(bare)) == len(bare)


def test_every_event_can_be_counted() -> None:
    assert told(counted([*SAMPLES, IN_DOUBT]))["in_doubt_total"] == 2
    assert isinstance(SAMPLES[0], Connected)
    refused = Refused("1", SENT.client, "RCPT", Reply.of(550, "", "no"), Side.UPSTREAM)
    assert told(counted([replace(refused, server="a.test:25*2")]))[
        "recipients_total listener= upstream=a.test:25 outcome=refused"
    ]


def test_an_upstream_of_several_servers() -> None:
    world = World({"example.com": upstream("a.test", "b.test")}, {}, Settings(peer=MX))
    there = "S: 451 4.4.1 The server of this recipient is not reachable"
    world.play(f"{GREETING}\n{MAIL}\nC: RCPT TO:<a@example.com>\n{there}")
    refused = "recipients_total listener=:25 upstream=a.test:25,b.test:25 outcome=deferred"
    assert of(world, "recipients") == {refused: 1}
