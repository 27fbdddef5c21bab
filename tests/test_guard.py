"""The 5xx guard: what it takes to doubt an upstream, for how long, and who is told what then."""

from __future__ import annotations

import os
import re
import signal
import smtplib
from collections import deque
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.events import Refused, ShadowAnswered, Side, TransactionEnded
from smtpproxy.relay import Verdict, guard
from smtpproxy.relay.guard import ENOUGH, FAIR, MOST, NEARLY_ALL, RECENT, Watch, turned
from smtpproxy.routing import Row, Server, Upstream
from smtpproxy.smtp.replies import Reply, clean
from tests.support.dialogue import (
    BOUND,
    GREETING,
    MAIL,
    ONE,
    TWO,
    Settings,
    World,
    upstream,
    upstream_greets,
)
from tests.support.mail_server import MailServer
from tests.support.proxy import Proxy, row

TAKEN = Reply.of(250, "2.1.5", "Ok")
UNKNOWN = Reply.of(550, "5.1.1", "no such user")
LATER = Reply.of(451, "4.7.1", "greylisted")
USUAL = RECENT + ENOUGH  # networks after which it is known what an upstream usually does
HALF_AN_HOUR = 1800.0

TURNED = "451 4.3.0 The server of this recipient suddenly refuses nearly all mail; try later: "


class Watched:
    """A watch, its clock, what it said, and networks without end."""

    def __init__(self, seconds: float = HALF_AN_HOUR) -> None:
        self.now = 1000.0
        self.notes: list[tuple[bool, str]] = []
        self.watch = Watch("recipients", seconds, lambda: self.now, self._tell)
        self._networks = count()

    def _tell(self, well: bool, text: str) -> None:
        self.notes.append((well, text))

    def networks(self, number: int, reply: Reply, upstream: Upstream = ONE) -> list[int]:
        """The codes that so many networks are told, none of which was met before."""
        addresses = [f"2001:db8:{next(self._networks):x}::1" for _ in range(number)]
        return [self.watch.told(upstream, each, reply).code for each in addresses]


def test_one_that_took_most_and_refuses_nearly_all_is_not_believed() -> None:
    it = Watched()
    it.networks(USUAL, TAKEN)
    assert it.networks(NEARLY_ALL + 5, UNKNOWN) == [550] * (NEARLY_ALL - 1) + [451] * 6
    assert it.watch.tripped == [ONE]
    assert (it.watch.trips, it.watch.turned) == (1, 6)
    [(well, text)] = it.notes
    assert not well
    assert text == (
        "5xx guard: 192.0.2.1:25 suddenly refuses recipients: of the last 20 networks it refused "
        "19, of those before it took 100 %. Look there: for at most 1800 s clients are told 451 in "
        "place of its 5xx. It said: 550 5.1.1 no such user"
    )


def test_what_it_takes_and_what_may_pass_is_told_as_ever() -> None:
    it = Watched()
    it.networks(USUAL, TAKEN)
    it.networks(RECENT, UNKNOWN)
    go_ahead = Reply.of(354, "", "go")
    for reply in (TAKEN, LATER, go_ahead):
        assert it.watch.told(ONE, "192.0.2.1", reply) is reply


def test_who_guesses_addresses_is_one_among_many() -> None:
    """Whoever does so in the meantime neither sets it off nor keeps it from going off."""
    it = Watched()

    def guess(number: int) -> list[int]:
        return [it.watch.told(ONE, f"192.0.2.{each % 200}", UNKNOWN).code for each in range(number)]

    assert guess(1000) == [550] * 1000
    for _ in range(USUAL):
        it.networks(1, TAKEN)
        assert guess(100) == [550] * 100
    assert guess(1000) == [550] * 1000
    assert not it.watch.tripped
    it.networks(NEARLY_ALL, UNKNOWN)
    assert guess(1) == [451]


def test_a_network_counts_by_its_last_answer() -> None:
    it = Watched()
    it.networks(USUAL, TAKEN)
    it.networks(NEARLY_ALL - 2, UNKNOWN)
    told = [it.watch.told(ONE, "192.0.2.1", each) for each in (UNKNOWN, TAKEN, UNKNOWN, TAKEN)]
    assert [each.code for each in told] == [550, 250, 550, 250]
    assert it.networks(1, UNKNOWN) == [550]  # one of 20 was taken, and one before them all
    assert it.watch.told(ONE, "192.0.2.2", UNKNOWN).code == 451


def test_without_enough_experience_it_is_believed() -> None:
    for usually in range(USUAL):
        it = Watched()
        it.networks(usually, TAKEN)
        told = it.networks(NEARLY_ALL, UNKNOWN)
        assert told[:-1] == [550] * (NEARLY_ALL - 1)
        assert told[-1] == (451 if usually > ENOUGH else 550)


def test_one_that_takes_less_than_half_is_believed() -> None:
    it = Watched()
    for _ in range(100):
        assert it.networks(6, UNKNOWN) == [550] * 6
        it.networks(5, TAKEN)
    assert it.networks(100, UNKNOWN) == [550] * 100


def test_one_that_takes_half_is_not() -> None:
    it = Watched()
    for _ in range(100):
        it.networks(5, UNKNOWN)
        it.networks(5, TAKEN)
    assert it.networks(RECENT, UNKNOWN)[-1] == 451


def test_what_it_did_long_ago_is_forgotten() -> None:
    it = Watched()
    it.networks(10 * MOST, TAKEN)
    for _ in range(MOST):
        it.networks(3, UNKNOWN)
        it.networks(1, TAKEN)
    assert 451 not in it.networks(RECENT, UNKNOWN)


def test_few_networks_never_set_it_off() -> None:
    it = Watched()
    for reply in [TAKEN] * 200 + [UNKNOWN] * 200:
        for number in range(NEARLY_ALL):
            address = f"2001:db8:{number:x}::1"
            assert it.watch.told(ONE, address, reply) is reply


def test_it_ends_when_half_is_taken_again() -> None:
    it = Watched()
    it.networks(USUAL, TAKEN)
    it.networks(100, UNKNOWN)
    it.networks(RECENT - FAIR - 1, TAKEN)
    assert it.watch.told(ONE, "2001:db8:a9::1", UNKNOWN).code == 451  # one of those before
    it.networks(1, TAKEN)
    assert not it.watch.tripped
    assert it.networks(1, UNKNOWN) == [550]
    assert it.notes[1:] == [
        (
            True,
            "5xx guard: 192.0.2.1:25 takes recipients again; 83 refusals were told as 451",
        )
    ]
    assert it.networks(RECENT, UNKNOWN)[-1] == 451  # what it usually does is known as before


def test_after_its_time_the_upstream_is_believed_until_it_took_mail_for_long() -> None:
    it = Watched()
    it.networks(USUAL, TAKEN)
    it.networks(NEARLY_ALL, UNKNOWN)
    it.now += HALF_AN_HOUR - 1
    assert it.networks(1, UNKNOWN) == [451]
    it.now += 1
    assert it.watch.tripped == []
    assert it.networks(200, UNKNOWN) == [550] * 200
    assert it.notes[1:] == [
        (
            False,
            "5xx guard: 192.0.2.1:25 still refuses recipients after 1800 s; 2 refusals were told "
            "as 451, from now on clients are told what it says",
        )
    ]
    it.networks(RECENT, TAKEN)
    assert it.networks(RECENT, UNKNOWN) == [550] * RECENT
    it.networks(2 * MOST, TAKEN)
    assert it.networks(RECENT, UNKNOWN)[-1] == 451


def test_each_upstream_is_judged_by_itself() -> None:
    it = Watched()
    for each in (ONE, TWO):
        it.networks(USUAL, TAKEN, each)
    it.networks(RECENT, UNKNOWN, ONE)
    assert it.networks(1, UNKNOWN, TWO) == [550]
    assert it.watch.tripped == [ONE]


def test_another_limit_counts_from_the_next_time_on() -> None:
    both = guard.Guard(60.0, lambda: 0.0, lambda *_: None)
    both.limit(90.0)
    assert both.recipients.seconds == both.messages.seconds == 90.0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_UPSTREAMS", 3)
    it = Watched()
    for number in range(10):
        it.networks(100, TAKEN, Upstream((Server("mx.test", 1000 + number),)))
    records = it.watch._records
    assert len(records) == 3
    assert {len(each._recent) for each in records.values()} == {RECENT}


def test_networks() -> None:
    network = guard._network
    assert network("192.0.2.1") == network("192.0.2.254") != network("192.0.20.1")
    assert network("2001:db8:7::1") == network("2001:db8:7:ffff::2") != network("2001:db8:8::1")
    assert network("") != network("192.0.2.1")  # a client on a Unix socket


@pytest.mark.parametrize(
    "lines", [(b"5.1.1 unknown",), (b"one", b"two"), (b"\xff" * 5000,), (b"",)]
)
def test_a_turned_reply_is_one_short_line(lines: tuple[bytes, ...]) -> None:
    encoded = turned(Reply(554, lines)).encode()
    assert encoded.startswith(TURNED.encode() + b"554")
    assert encoded.count(b"\r\n") == 1
    assert len(encoded) <= 512  # RFC 5321 section 4.5.3.1.5


ANSWERS = st.sampled_from([TAKEN, TAKEN, UNKNOWN, UNKNOWN, LATER])
RUNS = st.lists(st.tuples(ANSWERS, st.integers(1, 80), st.sampled_from([30, 1000])), max_size=12)


@given(RUNS)
def test_it_is_set_off_by_what_it_says_and_nothing_else(
    runs: list[tuple[Reply, int, int]],
) -> None:
    """Against a slow count of the same, from the answers alone, until it first goes off."""
    it = Watched()
    recent: deque[tuple[str, bool]] = deque()
    before: list[bool] = []
    met = count()
    for reply, number, networks in runs:
        for _ in range(number):
            address = f"2001:db8:{next(met) % networks:x}::1"
            told = it.watch.told(ONE, address, reply)
            if reply is not LATER:
                known = [place for place, (who, _) in enumerate(recent) if who == address]
                if known:
                    recent[known[0]] = address, reply is TAKEN
                else:
                    recent.append((address, reply is TAKEN))
                if len(recent) > RECENT:
                    before.append(recent.popleft()[1])
            refused = sum(not taken for _, taken in recent)
            doubtful = len(recent) == RECENT and refused >= NEARLY_ALL
            usual = len(before) >= ENOUGH and 2 * sum(before) >= len(before)
            if doubtful and usual and reply is UNKNOWN:
                assert told == turned(UNKNOWN)
                return
            assert told is reply


# What clients are told


def doubted(routes=None, **settings) -> World:
    """A session, and an upstream that has just come to refuse recipients and messages."""
    settings.setdefault("guard_time", HALF_AN_HOUR)
    world = World(routes or {"example.com": ONE, "example.net": TWO}, settings=Settings(**settings))
    for watch in (world.guard.recipients, world.guard.messages):
        for number in range(USUAL + NEARLY_ALL - 1):
            reply = TAKEN if number < USUAL else UNKNOWN
            assert watch.told(ONE, f"2001:db8:{number:x}::1", reply) is reply
    return world.play(GREETING) if not settings.get("lmtp") else world


TO_ONE = (
    f"{MAIL}\nC: RCPT TO:<a@example.com>\n{upstream_greets(1)}\nP1: MAIL FROM:<s@example.org>\n"
)


def test_a_recipient_that_is_refused() -> None:
    world = doubted().play(f"""
        {TO_ONE}
        U1: 250 fine
        P1: RCPT TO:<a@example.com>
        U1: 550-5.1.1 no such
        U1: 550 5.1.1 user
        S: {TURNED}550 5.1.1 no such 5.1.1 user
        C: RCPT TO:<b@example.com>
        P1: RCPT TO:<b@example.com>
        U1: 250 b is there
        S: 250 b is there
    """)
    (refused,) = world.said(Refused)
    assert (refused.by, refused.reply.code) == (Side.UPSTREAM, 451)
    assert refused.error == "5xx guard: it said 550 5.1.1 no such 5.1.1 user"
    assert [well for well, _ in world.notes] == [False]


def test_a_sender_that_is_refused() -> None:
    """Each recipient is told so, though the upstream said it once."""
    world = doubted().play(f"""
        {TO_ONE}
        U1: 554 5.7.1 go away
        S: {TURNED}554 5.7.1 go away
        C: RCPT TO:<b@example.com>
        S: {TURNED}554 5.7.1 go away
    """)
    assert world.guard.recipients.turned == 2


def test_a_client_that_is_refused_after_xclient() -> None:
    doubted().play(f"""
        {MAIL}
        C: RCPT TO:<a@example.com>
        {upstream_greets(1, "XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.9
        U1: 554 5.7.1 not from there
        S: {TURNED}554 5.7.1 not from there
        P1: QUIT
    """)


def test_what_we_refuse_ourselves_is_refused() -> None:
    world = doubted().play(f"""
        C: MAIL FROM:<s@example.org> SIZE=200
        S: 250 2.1.0 Ok
        C: RCPT TO:<a@unknown.test>
        S: 550 5.7.1 Relay access denied
        C: RCPT TO:<a@example.com>
        {upstream_greets(1, "SIZE 100")}
        S: 552 5.3.4 The message is too big
    """)
    assert not world.guard.recipients.trips


def test_a_message_that_is_refused_at_data() -> None:
    doubted().play(f"""
        {BOUND}
        C: DATA
        P1: DATA
        U1: 554 5.7.1 no messages today
        S: {TURNED}554 5.7.1 no messages today
    """)


def test_a_message_that_is_refused_at_its_end() -> None:
    world = doubted().play(rf"""
        {BOUND}
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: one\r\n.
        P1: one
        P1: .
        U1: 554 5.7.1 spam
        S: {TURNED}554 5.7.1 spam
    """)
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.error) == (Side.UPSTREAM, "5xx guard: it said 554 5.7.1 spam")
    assert ended.reply.code == 451


def test_a_message_that_is_refused_before_its_end() -> None:
    doubted().play(rf"""
        {BOUND}
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: one
        P1 part: one
        U1: 552 5.3.4 too much
        C: two\r\n.
        P1 cut
        S: {TURNED}552 5.3.4 too much
    """)


def test_a_message_over_lmtp_has_an_answer_for_each() -> None:
    store = Upstream((Server("192.0.2.1", 24, lmtp=True),))
    world = doubted({"example.com": ONE, "store.test": store}, lmtp=True)
    world.play(rf"""
        S: 220 mx.example.net LMTP smtpproxy
        C: LHLO client.example.com
        S: 250-mx.example.net
        S: 250-PIPELINING
        S: 250-SIZE 1000000
        S: 250-ENHANCEDSTATUSCODES
        S: 250 8BITMIME
        {BOUND}
        C: RCPT TO:<b@store.test>
        U2: 220 store
        P2: LHLO mx.example.net
        U2: 250 store
        P2: MAIL FROM:<s@example.org>
        U2: 250 fine
        P2: RCPT TO:<b@store.test>
        U2: 250 fine
        S: 250 fine
        C: DATA
        P1: DATA
        U1: 354 go
        P2: DATA
        U2: 354 go
        S: 354 go
        C: one\r\n.
        P1: one
        P1: .
        P2: one
        P2: .
        U1: 554 5.7.1 spam
        S: {TURNED}554 5.7.1 spam
        U2: 554 5.7.1 spam
        S: 554 5.7.1 spam
    """)


def test_what_was_turned_is_not_compared_with_a_shadow() -> None:
    world = doubted({"example.com": Row(ONE, shadow=upstream("192.0.2.7"))})
    world.play(f"{TO_ONE}\nU1: 550 5.1.1 no\nS: {TURNED}550 5.1.1 no\n")
    assert not world.said(ShadowAnswered)
    assert len(world.upstreams) == 1


def test_it_can_be_switched_off() -> None:
    world = doubted(guard_time=0.0).play(f"{TO_ONE}\nU1: 550 5.1.1 no\nS: 550 5.1.1 no\n")
    assert not world.notes


TEXT = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=60)
REPLIES = st.tuples(
    st.sampled_from([250, 251, 421, 450, 452, 550, 551, 554]),
    st.lists(TEXT, min_size=1, max_size=3),
)


def test_what_is_told_instead_is_in_our_words() -> None:
    """So it names the session, where our own refusals do."""
    verdict = Verdict.of_upstream(UNKNOWN)
    assert verdict.told_as(UNKNOWN).theirs
    assert not verdict.told_as(turned(UNKNOWN)).theirs


@given(st.lists(REPLIES, min_size=1, max_size=12), st.booleans())
def test_where_nothing_is_suspicious_replies_are_the_upstreams(
    replies: list[tuple[int, list[str]]], on: bool
) -> None:
    """To the octet, but for control characters (see `clean`): with the guard on, and without."""
    world = World(
        {"example.com": ONE},
        settings=Settings(guard_time=1800.0 * on, max_errors=1000, max_recipients=1000),
    ).play(GREETING)
    world.play(f"""
        {MAIL}
        C: RCPT TO:<first@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 250 fine
        P1: RCPT TO:<first@example.com>
        U1: 250 fine
        S: 250 fine
    """)
    for code, texts in replies:
        reply = Reply(code, tuple(clean(text.encode("latin-1")) for text in texts)).encode()
        world.client.deliver(b"RCPT TO:<next@example.com>\r\n")
        world.clock.advance(0)
        world.upstream(1).said.clear()
        world.upstream(1).deliver(reply)
        world.clock.advance(0)
        assert bytes(world.client.said) == reply
        world.client.said.clear()
        if code == 421:
            return


# The running program


def told(proxy: Proxy, network: int) -> str:
    """What a client on this network is told of a recipient."""
    source = (f"127.0.{network}.1", 0)
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20, source_address=source) as client:
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        code, text = client.rcpt("u1@example.com")
    return f"{code} {text.decode()}"


def test_a_real_upstream_that_loses_its_directory(folder: Path) -> None:
    refuses: set[str] = set()
    with (
        MailServer("one", refuses) as server,
        Proxy(folder, [row("example.com", server.server)]) as proxy,
    ):
        assert {told(proxy, each) for each in range(1, USUAL + 1)} == {"250 one"}
        refuses.add("u1@example.com")
        answers = [told(proxy, each) for each in range(100, 100 + RECENT)]
        assert answers[: NEARLY_ALL - 1] == ["550 5.1.1 not known to one"] * (NEARLY_ALL - 1)
        turned_ones = answers[NEARLY_ALL - 1 :]
        assert turned_ones == [f"{TURNED}550 5.1.1 not known to one"] * len(turned_ones)
        # What is known of it lives on.
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for(lambda: "rows in force" in proxy.output, "the reload")
        assert told(proxy, 130).startswith(TURNED)
        refuses.clear()
        answers = [told(proxy, each) for each in range(140, 140 + RECENT)]
        assert set(answers) == {"250 one"}
        refuses.add("u1@example.com")
        assert told(proxy, 170) == "550 5.1.1 not known to one"
        log = proxy.output
    assert f"error: 5xx guard: {server.server} suddenly refuses recipients: of the last 20 " in log
    assert f": 5xx guard: {server.server} takes recipients again; 3 refusals were told as" in log
    assert 'error="5xx guard: it said 550 5.1.1 not known to one"' in log


def test_a_real_one_with_the_guard_switched_off(folder: Path) -> None:
    refuses: set[str] = set()
    upstreams = {"ask_every": "0s", "guard_time": "0s"}
    with (
        MailServer("one", refuses) as server,
        Proxy(folder, [row("example.com", server.server)], upstreams=upstreams) as proxy,
    ):
        assert {told(proxy, each) for each in range(1, USUAL + 1)} == {"250 one"}
        refuses.add("u1@example.com")
        answers = {told(proxy, each) for each in range(100, 100 + RECENT)}
        assert answers == {"550 5.1.1 not known to one"}
        assert "5xx guard" not in proxy.output


PAGES = Path(__file__).parent.parent / "docs"


def test_the_pages_have_the_lines_and_the_figures() -> None:
    it = Watched()
    first = Upstream((Server("mx1.example.net"),))
    page = (PAGES / "logs.md").read_text()
    shown = re.findall(r"^5xx guard: .*$", page, re.MULTILINE)
    reply = Reply(550, (b"5.1.1 <bob@example.net>: no such user",))
    it.networks(USUAL, TAKEN, first)
    it.networks(RECENT, reply, first)
    it.networks(RECENT, TAKEN, first)
    it.networks(RECENT, reply, first)
    it.now += HALF_AN_HOUR
    it.networks(1, reply, first)
    made = [text for _, text in it.notes]
    assert [plain(each) for each in shown] == [plain(made[0]), plain(made[1]), plain(made[3])]
    failures = " ".join((PAGES / "failures.md").read_text().split())
    assert f"when {NEARLY_ALL} of the last {RECENT} networks were refused" in failures
    assert f"half of those before them, at least {ENOUGH}" in failures
    assert f"{NEARLY_ALL - 1} networks of them" in failures
    assert 2 * FAIR == RECENT


def plain(text: str) -> str:
    """The line without the figures that differ each time."""
    return re.sub(r"\b\d+(?= refusals| %|,)", "N", text)
