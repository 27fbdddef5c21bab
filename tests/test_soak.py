"""The soak sees each kind of damage, and its clients and servers understand each other."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections import Counter
from dataclasses import asdict, replace

import pytest

from smtpproxy.smtp.content import DataReader
from soak import journal
from soak.contents import BARE, KINDS, digest, marked, message
from soak.conversation import Conversation
from soak.ledger import Copy, Fate, Ledger, Sent, address, parts
from soak.mailboxes import Mailboxes, of_ours, of_server
from soak.plans import MAILBOXES, Visit, lot, visit
from soak.report import Figures, faults, judged, lines
from soak.samples import DESCRIPTORS, ENOUGH, MEMORY, Sample, Trend, trend
from soak.serving import Options
from soak.wire import HungUp, Left, Wire, context
from tests.support.log_events import IN_DOUBT
from tests.support.ports import free_port
from tests.support.processes import Process, greeting, wait_until

BOX, OTHER = "box1@example.com", "box2@example.com"
CONTENT = b"X-Soak: 17\r\nSubject: x\r\n\r\nhello\r\n"
RIGHT = digest(CONTENT)
HOMES = {BOX: ("mx1",)}


# The ledger


def book(fate: Fate = Fate.TAKEN, *, doubt: bool = False) -> Ledger:
    """One message, number 17, for BOX: what its client was told, and whether it is in doubt."""
    ledger = Ledger(HOMES)
    ledger.begin(Sent(17, "s17@client.example.net", "127.0.0.2", RIGHT, {BOX: fate}))
    if doubt:
        ledger.doubt(17, BOX)
    return ledger


COPY = Copy(17, address(BOX, 17), "mx1", RIGHT, "s17@client.example.net", "127.0.0.2")


def kinds(ledger: Ledger) -> list[str]:
    return [violation.kind for violation in ledger.violations()]


@pytest.mark.parametrize(
    ("fate", "doubt", "may_be"),
    [
        (Fate.TAKEN, False, {1}),
        (Fate.TAKEN, True, set()),
        (Fate.LATER, False, {0}),
        (Fate.LATER, True, {0, 1}),
        (Fate.REFUSED, False, {0}),
        (Fate.UNTOLD, False, {0, 1}),
        (Fate.UNTOLD, True, {0, 1}),
        (Fate.CUT, False, {0}),
        (Fate.CUT, True, set()),
    ],
)
@pytest.mark.parametrize("copies", [0, 1, 2])
def test_so_many_copies_may_there_be(fate: Fate, doubt: bool, may_be: set[int], copies: int):
    ledger = book(fate, doubt=doubt)
    for _ in range(copies):
        assert ledger.found(COPY)
    assert (not kinds(ledger)) == (copies in may_be)


@pytest.mark.parametrize(
    ("fate", "copies", "kind"),
    [
        (Fate.TAKEN, 0, "lost"),
        (Fate.TAKEN, 2, "doubled"),
        (Fate.UNTOLD, 2, "doubled"),
        (Fate.CUT, 1, "cut, and delivered"),
        (Fate.LATER, 1, "refused, and delivered"),
        (Fate.REFUSED, 1, "refused, and delivered"),
    ],
)
def test_what_is_wrong_is_called_by_its_name(fate: Fate, copies: int, kind: str):
    ledger = book(fate)
    for _ in range(copies):
        ledger.found(COPY)
    (violation,) = ledger.violations()
    assert (violation.kind, violation.number) == (kind, 17)
    assert BOX in violation.text


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"digest": digest(b"contents")}, "altered"),
        ({"sender": "s18@client.example.net"}, "mistaken"),
        ({"client": "127.0.0.3"}, "mistaken"),
        ({"upstream": "mx2"}, "misrouted"),
    ],
)
def test_a_copy_that_is_not_right_by_itself(change: dict[str, object], kind: str):
    ledger = book()
    assert not ledger.found(replace(COPY, **change))  # type: ignore[arg-type]
    assert kinds(ledger) == [kind]


@pytest.mark.parametrize(
    "change",
    [
        {"number": 18, "recipient": address(BOX, 18)},  # nobody sent that
        {"number": None},
        {"recipient": address(OTHER, 17)},  # not to them
        {"recipient": address(BOX, 18)},  # another's message
        {"recipient": "box1+injected@example.com"},
    ],
)
def test_a_copy_of_what_nobody_sent(change: dict[str, object]):
    ledger = book()
    assert ledger.found(COPY)
    assert not ledger.found(replace(COPY, **change))  # type: ignore[arg-type]
    assert kinds(ledger) == ["invented"]


def test_what_a_server_delivered_twice_it_got_once():
    ledger = book()
    for _ in range(3):
        assert ledger.found(replace(COPY, id="4F1A2B3C"))
    assert (kinds(ledger), ledger.copied_by_upstream, ledger.copies) == ([], 2, 1)
    ledger.found(replace(COPY, id="another"))
    assert kinds(ledger) == ["doubled"]


def test_an_upstream_that_is_not_told_who_it_is_mistakes_nobody():
    ledger = book()
    assert ledger.found(replace(COPY, client=None, sender=None))
    assert kinds(ledger) == []


def test_each_recipient_has_a_fate():
    ledger = Ledger({})
    sent = Sent(1, "", "127.0.0.2", RIGHT, {BOX: Fate.TAKEN, OTHER: Fate.LATER})
    ledger.begin(sent)
    assert ledger.missing() == 1
    assert ledger.found(Copy(1, address(BOX, 1), "mx1", RIGHT))
    assert ledger.missing() == 0
    assert ledger.outcomes == {Fate.TAKEN: 1, Fate.LATER: 1}
    assert kinds(ledger) == []


@pytest.mark.parametrize(
    "recipient", ["box1@example.com", "box1+x@example.com", "x", "+@", "²+²@a"]
)
def test_an_address_that_has_no_number(recipient: str):
    assert parts(recipient)[1] is None


def test_an_address_has_its_mailbox_and_number():
    assert parts(address(BOX, 17)) == (BOX, 17)


# Messages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_the_proxy_makes_the_content_of_it_that_has_to_arrive(kind: str, size: int):
    made = message(3, 17, kind, size)
    content, rest = DataReader().feed(made.stuffed + b".\r\n")
    assert rest == b""
    assert (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:] == made.content
    assert re.sub(rb"\r\n|\r|\n", b"\r\n", made.chunked) == made.content
    assert marked(b"Received: x\r\n" + made.content) == (17, b"Received: x\r\n", made.content)
    assert message(3, 17, kind, size) == made != message(4, 17, kind, size)


def test_all_ways_to_end_too_early_are_tried():
    made = message(3, 1, BARE, 10_000)
    for trick in (b"\n.\r\n", b"\r.\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r"):
        assert trick in made.stuffed


# Mailboxes


@pytest.fixture
def mailbox(tmp_path):
    (tmp_path / "new").mkdir()

    def put(read, octets: bytes) -> Ledger:
        ledger = book()
        (tmp_path / "new/1").write_bytes(octets)
        Mailboxes("mx1", tmp_path, "new/*", read, tmp_path / "wrong").collect(ledger)
        assert not list(tmp_path.glob("new/*"))
        assert bool(list(tmp_path.glob("wrong/*"))) == bool(kinds(ledger))
        return ledger

    return put


POSTFIX = (
    b"Return-Path: <s17@client.example.net>\nX-Original-To: box1+17@example.com\n"
    b"Delivered-To: box1+17@example.com\n"
    b"Received: from c1.client.example.net (unknown [127.0.0.2])\n"
    b"\tby mx1.test (Postfix) with ESMTP id 4F1A2B3C\n\tfor <box1+17@example.com>\n"
)
EXIM = (
    b"Return-path: <s17@client.example.net>\nEnvelope-to: box1+17@example.com\n"
    b"Delivery-date: Fri, 20 Nov 2026 12:00:00 +0000\n"
    b"Received: from [127.0.0.1] (helo=c1.client.example.net)\n\tby mx2.test with esmtp\n"
    b"\tid 1xUNja-0006Ze-1M\n\tfor box1+17@example.com;\n\tFri, 20 Nov 2026 12:00:00 +0000\n"
)
ENVELOPE = {
    "recipient": "box1+17@example.com",
    "sender": "s17@client.example.net",
    "client": "127.0.0.2",
}
OURS = json.dumps(ENVELOPE).encode() + b"\n"
TRACE = b"Received: from c1 (unknown [127.0.0.2])\r\n\tby mx with ESMTP id 1;\r\n\tFri\r\n"


@pytest.mark.parametrize(
    ("read", "octets"),
    [
        (of_server(named=True), POSTFIX + CONTENT.replace(b"\r\n", b"\n")),
        (of_server(named=False), EXIM + CONTENT.replace(b"\r\n", b"\n")),
        (of_ours(trace=False), OURS + CONTENT),
        (of_ours(trace=True), OURS + TRACE + CONTENT),
    ],
)
def test_a_message_in_a_mailbox(mailbox, read, octets):
    assert kinds(mailbox(read, octets)) == []
    assert kinds(mailbox(read, octets.replace(b"hello", b"hallo"))) == ["altered"]
    assert kinds(mailbox(read, octets.replace(b"X-Soak", b"X-Foreign: 1\r\nX-Soak"))) == ["altered"]
    assert kinds(mailbox(read, octets.replace(b"s17@", b"s18@"))) == ["mistaken"]
    assert "invented" in kinds(mailbox(read, octets.replace(b"box1+17@", b"box1+18@")))


@pytest.mark.parametrize(
    ("read", "octets"),
    [
        (of_server(named=True), POSTFIX + CONTENT.replace(b"\r\n", b"\n")),
        (of_ours(trace=False), OURS + CONTENT),
        (of_ours(trace=True), OURS + TRACE + CONTENT),
    ],
)
def test_a_client_in_the_place_of_another(mailbox, read, octets):
    assert kinds(mailbox(read, octets.replace(b"127.0.0.2", b"127.0.0.9"))) == ["mistaken"]


def test_a_line_of_the_proxy_s_where_there_must_be_none_or_one(mailbox):
    assert kinds(mailbox(of_ours(trace=False), OURS + TRACE + CONTENT)) == ["altered"]
    assert "altered" in kinds(mailbox(of_ours(trace=True), OURS + CONTENT))
    assert kinds(mailbox(of_ours(trace=True), OURS + TRACE * 2 + CONTENT)) == ["altered"]


# Logs


def test_what_the_log_says_is_in_doubt():
    from smtpproxy.logs.json_lines import JsonShape
    from smtpproxy.logs.levels import Level

    shape = JsonShape(lambda: 0.0, journal=False)
    recipients = (address(BOX, 17), address(OTHER, 17), "someone@example.com")
    said = [replace(IN_DOUBT, recipients=recipients), replace(IN_DOUBT, in_doubt=False)]
    text = [shape.event(Level.INFO, each) for each in said]
    assert list(journal.doubts(text)) == [(17, BOX), (17, OTHER)]


def test_what_no_log_may_hold():
    good = "postfix/master[1]: terminating on signal 15"
    bad = ["Traceback (most recent call last): | ...", "FAULT: no PROXY header", "panic: x"]
    assert list(journal.troubles([good, *bad])) == bad


def test_a_process_that_is_left_is_seen(tmp_path):
    with Process(["sleep", "60"], tmp_path / "log") as process:
        assert [each.split()[0] for each in journal.left(tmp_path)] == [str(process.pid)]
    assert not journal.left(tmp_path)


# Memory and descriptors


def series(memory, count: int = 4 * ENOUGH, pid: int = 1) -> list[Sample]:
    return [Sample(pid, int(memory(n)), 20) for n in range(count)]


def growth(samples: list[Sample]) -> str | None:
    found = trend(samples)
    assert found is not None
    return found.growth


def test_memory_that_grows_is_seen():
    assert growth(series(lambda n: 50e6 + n * 4 * MEMORY / 240)) is not None


def test_memory_that_is_flat_once_warm_or_has_peaks_does_not_grow():
    assert growth(series(lambda n: 50e6 + min(n, 50) * 1e6)) is None
    assert growth(series(lambda n: 50e6 + (100e6 if n % 9 == 0 else 0))) is None


def test_the_process_counts_that_ran_the_longest_and_only_if_long_enough():
    grew = series(lambda n: n * 10e6, count=ENOUGH // 2, pid=1)
    assert growth(grew) is None
    assert growth(grew + series(lambda n: 50e6, pid=2)) is None
    assert trend([]) is None


def figures(**changes: object) -> Figures:
    here = Sample(1, 50_000_000, 13)
    flat = Figures(1.0, Counter(), Counter(), Trend(here, here, 99), (here, here))
    return replace(flat, **changes)  # type: ignore[arg-type]


def found(**changes: object) -> list[str]:
    return [each.kind for each in judged(figures(**changes), book())]


def test_the_report_names_what_grew_and_what_is_wrong():
    here = Sample(1, 50_000_000, 13)
    assert found() == []
    more = replace(here, descriptors=14 + DESCRIPTORS)
    assert found(rest=(here, more)) == ["descriptors grow"]
    much = replace(here, memory=51_000_000 + MEMORY)
    assert found(trend=Trend(here, much, 99)) == ["memory grows"]
    nothing = [each.kind for each in judged(figures(), book(Fate.LATER))]
    assert nothing == ["nothing got through"]
    ledger = book()
    violations = ledger.violations()
    table = "\n".join(lines(figures(), ledger, violations))
    assert re.search(r"^messages lost +1$", table, re.MULTILINE)
    assert re.search(r"^messages doubled +0$", table, re.MULTILINE)
    said = list(faults(violations, ["/a/log"]))
    assert said[0].startswith("FAILED: lost: message 17 ")
    assert said[-1].endswith("/a/log")
    assert list(faults([], ["/a/log"])) == []


# Clients and servers


@pytest.fixture
def server(tmp_path):
    """Starts a server of ours, with these options, and gives its port."""
    running = []

    def start(**options: object) -> int:
        port = free_port()
        every = Options("mx.test", port, str(tmp_path / "mail"), "1", **options)  # type: ignore
        command = [sys.executable, "-m", "soak.server", json.dumps(asdict(every))]
        running.append(Process(command, tmp_path / "log"))
        running[0].wait_for(lambda: greeting(port), "its greeting")
        return port

    yield start
    for process in running:
        process.stop()
    assert not list(journal.troubles((tmp_path / "log").read_text().splitlines()))


def decent(number: int) -> Visit:
    """A session with messages that a server may take as they come, without a proxy before it."""
    plan = visit(lot(1, number), big=False)
    mails = [replace(each, kind="dots" if each.kind == BARE else each.kind) for each in plan.mails]
    return replace(plan, lmtp=False, tls=False, pause=0.0, mails=tuple(mails))


@pytest.mark.parametrize("lmtp", [False, True])
def test_clients_and_servers_of_ours_understand_each_other(server, tmp_path, lmtp: bool):
    port = server(offer=("PIPELINING", "8BITMIME", "CHUNKING", "PRDR"), lmtp=lmtp)
    ledger = Ledger({})
    mailboxes = Mailboxes("mx", tmp_path / "mail", "new/*", of_ours(False), tmp_path / "wrong")
    left = 0
    for number in range(40):
        plan = replace(decent(number), lmtp=lmtp)
        wire = Wire(port, plan.source, plan.fuse, "close", 0.0)
        try:
            Conversation(plan, wire, ledger, context(), 1).hold()
        except Left:
            left += 1
        finally:
            wire.close()
    wait_until(lambda: mailboxes.collect(ledger) == 0 and not ledger.missing(), 10, "all messages")
    assert kinds(ledger) == []
    assert left
    assert ledger.outcomes[Fate.CUT]
    assert ledger.outcomes[Fate.TAKEN] > 40


def test_a_client_notices_a_server_that_takes_it_for_another():
    ledger = Ledger({})
    plan = replace(decent(1), fuse=None)
    mail = replace(plan.mails[0], mailboxes=(BOX,), prdr=False, chunks=0, missing=None)
    plan = replace(plan, pipelining="no", mails=(mail,))
    said = b"220 a\r\n250 a\r\n250 a\r\n250 a\r\n354 a\r\n250 took 99\r\n221 a\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        wire = Wire(listening.getsockname()[1], "127.0.0.1", None, "close", 0.0)
        connection, _ = listening.accept()
        with connection:
            connection.sendall(said)
            Conversation(plan, wire, ledger, context(), 1).hold()
            wire.close()
    assert "another's answer" in kinds(ledger)


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 50])
def test_a_client_that_leaves_has_ended_its_message_or_not(server, tmp_path, missing: int):
    port = server(offer=("PIPELINING", "8BITMIME"))
    ledger = Ledger({})
    plan = replace(decent(1), fuse=None)
    mail = replace(plan.mails[0], mailboxes=(BOX,), chunks=0, missing=missing)
    wire = Wire(port, plan.source, None, "close", 0.0)
    with pytest.raises((Left, HungUp)):
        Conversation(replace(plan, mails=(mail,)), wire, ledger, context(), 1).hold()
    assert ledger.outcomes == {(Fate.CUT if missing else Fate.UNTOLD): 1}


def test_a_plan_follows_from_its_lot():
    plans = [visit(lot(1, number)) for number in range(500)]
    assert plans == [visit(lot(1, number)) for number in range(500)]
    assert plans != [visit(lot(2, number)) for number in range(500)]
    mails = [mail for plan in plans for mail in plan.mails]
    assert {mail.kind for mail in mails} == set(KINDS)
    assert {box for mail in mails for box in mail.mailboxes} == set(MAILBOXES)
    assert {0, 1, 2, 3} <= {mail.missing for mail in mails}
    assert max(mail.size for mail in mails) > 500_000
