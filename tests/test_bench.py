"""The benchmark runs, counts rightly, and sees lost mail.  How long things take is not judged."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from bench import accounts, idle, plot
from bench.__main__ import main
from bench.clients import GaveUp, held, send
from bench.figures import Figure, collected, table
from bench.goals import REUSING, Goal, goals
from bench.load import Plan, flights
from bench.marks import END, Reading, body, header
from bench.report import FIRST, LAST, into
from bench.results import DIRECT, OURS, Outcome, Results, Round, read
from bench.rivals import haproxy, nginx, smtpproxy
from bench.sink import Options
from bench.upstreams import Lost, Sink, check
from bench.variants import REUSED
from bench.wire import Loop
from bench.workloads import STAGES, WORKLOADS
from tests.support.mail_server import MailServer
from tests.support.needs import need
from tests.support.ports import free_port
from tests.support.processes import wait_until

MESSAGE = header(7, 1000) + body(1000) + END


# Messages that are checked


def read_in(blocks, message: bytes = MESSAGE) -> tuple[Reading, bytes | None]:
    reading = Reading()
    for block in blocks(message):
        rest = reading.feed(memoryview(block))
        if rest is not None:
            return reading, bytes(rest)
    return reading, None


def whole(message: bytes) -> list[bytes]:
    return [message]


def bytewise(message: bytes) -> list[bytes]:
    return [message[n : n + 1] for n in range(len(message))]


@pytest.mark.parametrize("size", [2, 71, 1000, 1024, 51_200])
def test_a_body_is_of_the_size_asked_for_and_holds_no_end(size):
    octets = body(size)
    assert len(octets) == size
    assert octets.endswith(b"\r\n")
    assert b"\r\n.\r\n" not in b"\r\n" + octets
    assert b"\r\n.." in octets or size < 1000


@pytest.mark.parametrize("blocks", [whole, bytewise])
@pytest.mark.parametrize("before", [b"", b"Received: by somebody\r\n"])
def test_a_message_that_came_whole_has_its_number(blocks, before):
    reading, rest = read_in(blocks, before + MESSAGE)
    assert (reading.number, reading.fault, rest) == (7, "", b"")


def test_what_comes_behind_a_message_is_handed_back():
    _, rest = read_in(whole, MESSAGE + b"QUIT\r\n")
    assert rest == b"QUIT\r\n"


@pytest.mark.parametrize("blocks", [whole, bytewise])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"fox", b"fax"),
        (b"lazy dog", b"dog"),
        (b"lazy dog", b"lazy green dog"),
        (b"\r\n..", b"\r\n."),
        (b"X-Mark: 7", b"X-Mark: 8"),
        (b"X-Mark:", b"X-Nark:"),
    ],
)
def test_damage_is_seen_and_the_end_is_found_all_the_same(blocks, old, new):
    assert old in MESSAGE
    reading, rest = read_in(blocks, MESSAGE.replace(old, new, 1))
    assert reading.fault
    assert rest == b""


@pytest.mark.parametrize("blocks", [whole, bytewise])
def test_a_line_too_much_is_seen(blocks):
    reading, rest = read_in(blocks, MESSAGE.removesuffix(END) + b"an advertisement\r\n" + END)
    assert reading.fault
    assert rest == b""


def test_a_message_that_goes_on_has_not_ended():
    for size in range(len(MESSAGE)):
        assert read_in(whole, MESSAGE[:size])[1] is None


def test_what_came_is_compared_with_what_was_sent():
    check(range(3, 6), [5, 3, 4])
    for came in [3, 4], [3, 4, 5, 5], [3, 4, 5, 6]:
        with pytest.raises(Lost):
            check(range(3, 6), came)
    with pytest.raises(Lost, match="damaged"):
        check(range(3), [0, 1, 2], ["message 1 is damaged"])


# What clients say


def said(plan: Plan) -> list[bytes]:
    """The flights of one session, contents left out."""
    session = flights(plan, range(plan.messages))
    lines = (b"".join(flight.parts).split(b"\r\n") for flight in session)
    verbs = {b"EHLO", b"MAIL", b"RCPT", b"DATA", b".", b"QUIT", b"STARTTLS"}
    return [b" ".join(v for each in f if (v := each.split(b" ")[0]) in verbs) for f in lines][1:]


@pytest.mark.parametrize(
    ("pipelining", "expected"),
    [
        ("no", [b"EHLO", *[b"MAIL", b"RCPT", b"DATA", b"."] * 2, b"QUIT"]),
        ("envelope", [b"EHLO", *[b"MAIL RCPT DATA", b"."] * 2, b"QUIT"]),
        ("all", [b"EHLO", b"MAIL RCPT DATA", b". MAIL RCPT DATA", b".", b"QUIT"]),
    ],
)
def test_what_goes_together(pipelining, expected):
    assert said(Plan(1, 2, pipelining=pipelining)) == expected


def test_clients_that_stay_stop_where_they_should():
    assert said(Plan(1, 1, hold="hello", tls=True)) == [b"EHLO", b"STARTTLS", b"EHLO"]
    assert said(Plan(1, 1, hold="recipient")) == [b"EHLO", b"MAIL", b"RCPT"]


# The clients and the upstream, without a proxy


@pytest.fixture
def sink(folder):
    with Sink(Options(free_port()), folder) as it:
        yield it


@pytest.mark.parametrize("size", [1024, 200_000])
@pytest.mark.parametrize("pipelining", ["no", "envelope", "all"])
def test_all_messages_come(sink, pipelining, size):
    plan = Plan(sink.port, 12, 3, 4, size=size, pipelining=pipelining, first=100)
    done = send(plan)
    assert len(done.sessions) == 3
    assert 0 < max(done.sessions) <= done.seconds
    sink.expect(range(100, 112))
    assert sink.report()["numbers"] == []


def test_a_message_that_came_too_much_is_seen(sink):
    send(Plan(sink.port, 3))
    with pytest.raises(Lost, match="message 2 was never sent"):
        sink.expect(range(2))


def test_clients_give_up_where_nobody_listens():
    with pytest.raises(GaveUp, match="refused"):
        send(Plan(free_port(), 1))


def test_clients_give_up_where_a_reply_is_another():
    with MailServer("sink.test", refuses=["user@example.com"]) as server:
        with pytest.raises(GaveUp, match=r"RCPT TO:<user@example\.com>.*550 5\.1\.1"):
            send(Plan(int(server.server.rpartition(":")[2]), 1))


def test_sessions_are_held_and_let_go(sink, folder):
    with held(Plan(sink.port, 5, 2, hold="recipient"), folder):
        assert sink.report()["sessions"] == 0
    send(Plan(sink.port, 1))


def test_flights_are_told_apart(folder):
    together = idle.flights(None, folder / "one")
    assert together == ["EHLO", "MAIL RCPT RCPT RCPT DATA", "content", "QUIT"]


def test_an_upstream_takes_as_long_as_it_is_told_to():
    """Not the whole milliseconds that epoll_wait(2) counts."""
    loop = Loop()
    took: list[float] = []
    for number in range(50):
        start = time.monotonic()
        loop.after(0.0004, lambda: took.append(time.monotonic()))
        while len(took) <= number:
            loop.turn()
        took[number] -= start
    assert 0.0004 <= min(took) < 0.0008


def test_it_says_which_python_the_proxy_has():
    pattern = r".* \(Python 3\.\d+\.\d+, (the system's|built with(out)? optimizations)\)"
    assert re.fullmatch(pattern, smtpproxy().version)


# What processes take


def test_processor_time_counts_children_that_ended():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    program = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]);"
        f"print('done', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        process.stdout.readline()
        assert accounts.members(process.pid) == [process.pid]
        assert 0.25 < accounts.cpu([process.pid]) < 5
        now, most = accounts.memory([process.pid])
        assert 1e6 < now <= most
        process.stdin.close()
    assert accounts.members(process.pid) == []


def test_the_processor_time_of_this_process_is_what_python_says():
    pids = [os.getpid()]
    before, start = accounts.cpu(pids), time.process_time()
    while time.process_time() - start < 0.2:
        pass
    assert accounts.cpu(pids) - before == pytest.approx(0.2, rel=0.1)


# The arithmetic of the report


def outcome(rival: str, cpu: float, rate: float, session: float = 0.001) -> Outcome:
    """100 messages a round; one of three rounds is a bad one.  `cpu` in microseconds."""
    good = Round(100, 100 / rate, 100 * cpu / 1e6)
    bad = Round(100, 1000 / rate, 1000 * cpu / 1e6)
    sessions = [session] * 98 + [session * 5] * 2
    disturbed = [session * 20] * 100
    return Outcome(rival, [good, bad, good], [sessions, disturbed, sessions], peak=30_000_000)


RESULTS = Results(
    {"system": "Debian"},
    {
        "one-1": [outcome(DIRECT, 0, 1000, 0.0005), outcome(OURS, 300, 500, 0.0003)],
        "one-20": [
            outcome(DIRECT, 0, 1000),
            outcome("nginx", 200, 900),
            outcome(OURS, 150, 850),
            Outcome("HAProxy tcp", left_out="HAProxy is not installed"),
        ],
        "10mb": [outcome("nginx", 200, 10), outcome(OURS, 100, 20)],
        "all-on": [outcome("nginx", 220, 900), outcome(REUSING, 110, 1100)],
        "workers": [outcome(f"{OURS}, {n} workers", 200, 500 * n) for n in (1, 2)],
    },
    {"hello": {"nginx": 5000.0, OURS: 4000.0}},
    {"direct": ["EHLO", "MAIL DATA", "content", "QUIT"]},
    {OURS: 0.02},
    [Figure("a", "ms", (3.0,), 50.0)],
)


def test_the_median_of_the_rounds_counts():
    each = outcome("nginx", 200, 900)
    assert each.cpu == pytest.approx(200)
    assert each.rate == pytest.approx(900)
    assert (each.session(50), each.session(97), each.session(99)) == (0.001, 0.001, 0.005)


def test_goals_are_ratios():
    found = [str(goal) for goal in goals(RESULTS)]
    one = "one 1 KB message per session, 20 parallel"
    assert found[:3] == [
        f"met: 0.75 \u00d7 (goal \u2264 0.85 \u00d7) {one}: CPU of nginx",
        f"met: 0.85 \u00d7 (goal \u2265 0.8 \u00d7) {one}: messages/s of direct",
        f"not measured: (goal \u2264 0.1 \u00d7) {one}: CPU of Haraka",
    ]
    assert f"met: 0.50 \u00d7 (goal \u2264 0.6 \u00d7) {one}, {REUSED}: CPU of nginx" in found
    assert "met: 2.00 \u00d7 (goal \u2265 1.9 \u00d7) 2 workers: messages/s of 1" in found
    assert "met: 2.00 \u00d7 (goal \u2265 1.5 \u00d7) 10 MB messages: MB/s of nginx" in found
    assert "met: 4.00 KB (goal \u2264 5 KB) memory of a session after EHLO" in found
    added = "one at a time: 99th percentile of the time added"
    assert f"met: 1.00 ms (goal \u2264 1.5 ms) {added}" in found


def test_a_goal_that_is_missed():
    assert [Goal("", value, 1.0).met for value in (0.9, 1.1, None)] == [True, False, None]
    assert [Goal("", value, 1.0, True).met for value in (0.9, 1.1)] == [False, True]


def test_the_page_has_the_figures_and_keeps_the_rest(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{FIRST}old\n{LAST}after\n")
    into(page, RESULTS)
    into(page, RESULTS)
    text = page.read_text()
    assert text.startswith(f"before\n{FIRST}")
    assert text.endswith(f"{LAST}after\n")
    assert "old" not in text
    assert "| direct | 1000 |  |  |  | 1 | 5 |  |" in text
    assert "| smtpproxy | 850 | 0.85 | 150 | 0.75 | 1 | 5 | 30 |" in text
    assert "| smtpproxy | 210 |  | 100 | 0.50 | 1 | 5 | 30 |" in text, "MB/s of 10 MB"
    assert "- left out: HAProxy tcp: HAProxy is not installed" in text
    assert "| direct | 5 | EHLO, MAIL DATA, content, QUIT |" in text
    assert "| smtpproxy | 2% |" in text
    assert "not measured" not in text, "this is but a part"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no two marks"):
        into(page, RESULTS)


def test_lost_mail_fails_and_a_rival_that_is_left_out_does_not():
    assert RESULTS.lost == []
    worse = replace(
        RESULTS,
        workloads={
            "many": [
                Outcome("nginx", lost="message 3 was lost"),
                Outcome("HAProxy tcp", gave_up="421"),
                Outcome(OURS, gave_up="451"),
                Outcome(f"{OURS}, 2 workers", left_out="there are none"),
            ]
        },
    )
    assert worse.lost == ["many, nginx: message 3 was lost", f"many, {OURS}: 451"]
    assert worse.outcome("many", "nginx") is None


def test_results_are_kept(tmp_path):
    RESULTS.write(tmp_path / "build" / "bench.json")
    assert read(tmp_path / "build" / "bench.json") == RESULTS


def test_the_picture(tmp_path):
    files = plot.draw(RESULTS, tmp_path / "performance")
    assert [file.name for file in files] == ["performance.png", "performance.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    first = files[1].read_bytes()
    assert b"one-20" in first or b"<svg" in first
    plot.draw(RESULTS, tmp_path / "performance")
    assert files[1].read_bytes() == first


def test_figures_of_several_runs_become_one():
    first, second = (Figure("a", "ms", (value,), 50.0) for value in (3.0, 51.25))
    (figure,) = collected([[first], [second], [Figure("a", "ms", (4.0,), 50.0)]])
    assert figure == Figure("a", "ms", (3.0, 51.25, 4.0), 50.0)
    assert (figure.median, figure.worst, figure.reached) == (4.0, 51.25, False)
    assert table([figure, Figure("b", "s", (1234.5,))]).splitlines()[2:] == [
        "| a | 4 ms | 51.2 ms | 50 ms (missed) |",
        "| b | 1234 s | 1234 s |  |",
    ]


# Small runs of all of it

SMALL = ["--rounds", "2", "--seconds", "0.05"]


def test_a_small_run_of_sessions(tmp_path, capsys):
    need("smtp-source", "smtp-sink")
    file = tmp_path / "bench.json"
    parts = ["--only", "one-1,many-pipelined", "--only", "tls-both"]
    some = ["--rivals", "haproxy,nginx,smtpproxy"]
    status = main([*SMALL, *some, *parts, "--json", str(file)])
    output = capsys.readouterr().out
    assert status == 0, output
    results = read(file)
    for name in ("one-1", "many-pipelined", "tls-both"):
        for rival in (DIRECT, OURS):
            found = results.outcome(name, rival)
            assert found is not None, output
            assert len(found.rounds) == 2
            assert found.rate > 0
            assert found.sessions
            assert (found.cpu > 0) == (found.peak > 0) == (rival == OURS)
            for each in found.rounds:
                assert each.cpu < each.seconds * (os.cpu_count() or 1) + 0.05
    for other in (haproxy(), nginx()):
        if other.missing:
            assert f"left out: {other.name}: {other.missing}" in output
        else:
            assert results.outcome("one-1", other.name) is not None, output
    assert "left out: nginx: " in output, "it knows no STARTTLS to upstreams"
    assert "goal" in output


def test_a_small_run_of_idle_sessions(folder):
    for number, stage in enumerate(STAGES):
        if stage.hold != "content":  # that one is too much for a test
            octets = idle.memory(smtpproxy(), stage, 20, folder / f"{number}")
            assert octets < 1 << 20


def test_ports_that_are_left(folder):
    assert 0 <= idle.ports(smtpproxy(), folder / "ports") <= 1
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as listening:
        first = socket.create_connection(("127.0.0.1", port))
        second, _ = listening.accept()
        first.close()
        assert second.recv(1) == b""
        second.close()
        wait_until(lambda: accounts.waiting(port) == 1, 5, "TIME_WAIT at the one that closed first")


def test_a_small_run_of_mappings(tmp_path, capsys):
    need("mariadbd", "mariadb-install-db", "mariadb", "smtp-source", "smtp-sink")
    file = tmp_path / "bench.json"
    few = {"--rows": 500, "--database-rows": 500, "--repeat": 1, "--reloads": 2, "--json": file}
    options = [str(each) for option in few.items() for each in option]
    assert main(["--only", "mappings,cold", *SMALL, *options]) == 0, capsys.readouterr().out
    results = read(file)
    figures = {each.name: each for each in results.figures}
    assert all(value >= 0 for each in figures.values() for value in each.values)
    stall = figures["csv: longest wait for a reply to NOOP, during a reload"]
    assert (stall.unit, stall.goal, len(stall.values)) == ("ms", 50.0, 2)
    for kind in ("csv", "sqlite", "mysql over TCP"):
        assert any(name.startswith(f"{kind}: look-up") for name in figures)
    rivals = {each.rival for each in results.workloads["cold"] if each.counts}
    assert rivals == {DIRECT, OURS, f"{OURS}, CSV of 200000 rows", f"{OURS}, MySQL"}


def test_a_part_that_there_is_not():
    with pytest.raises(SystemExit, match=r"no such part: ten-mb; there are one-1, .*mappings"):
        main(["--only", "ten-mb"])
    with pytest.raises(SystemExit, match="no such rival: exim; there are haproxy, nginx"):
        main(["--rivals", "exim"])


def test_each_part_has_a_name_of_its_own():
    names = [each.name for each in WORKLOADS] + [each.name for each in STAGES]
    assert len(names) == len(set(names))
