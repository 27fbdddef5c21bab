"""Messages in doubt that come again: told from others, and delivered all the same."""

from __future__ import annotations

import smtplib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.events import TransactionEnded
from smtpproxy.relay import doubt
from smtpproxy.relay.doubt import HEAD, KEPT, Doubts, essence
from smtpproxy.routing import Server, Upstream
from tests.support.dialogue import GREETING, ONE, Settings, World, upstream_greets
from tests.support.mail_server import MailServer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, row

ME, YOU = "s@example.org", "a@example.com"
FIRST = b"From: s@example.org\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n"
SECOND = FIRST.replace(b"<1@", b"<2@")


class Kept:
    def __init__(self) -> None:
        self.now = 1000.0
        self.doubts = Doubts(lambda: self.now)

    def came_again(self, sender: str = ME, to: str = YOU, head: bytes = FIRST) -> bool:
        return self.doubts.settle(sender, [to], head)


@pytest.fixture
def it() -> Kept:
    kept = Kept()
    kept.doubts.remember(ME, [YOU], FIRST)
    return kept


def test_the_same_message_is_known_once(it: Kept) -> None:
    assert it.came_again()
    assert not it.came_again()
    assert (it.doubts.remembered, it.doubts.duplicates, len(it.doubts)) == (1, 1, 0)


def test_others_are_others(it: Kept) -> None:
    assert not it.came_again(head=SECOND)
    assert not it.came_again(sender="")
    assert not it.came_again(to="b@example.com")
    assert it.came_again()


def test_recipients_are_known_one_by_one(it: Kept) -> None:
    """The client may have split them in another way."""
    it.doubts.remember(ME, ["b@example.com", "c@example.com"], FIRST)
    assert it.doubts.settle(ME, ["z@example.com", "c@example.com", YOU], FIRST)
    assert it.doubts.duplicates == 2
    assert it.came_again(to="b@example.com")


def test_they_are_forgotten_in_time(it: Kept) -> None:
    it.now += KEPT - 1
    it.doubts.remember(ME, ["b@example.com"], FIRST)
    it.now += 1
    assert not it.came_again()
    assert it.came_again(to="b@example.com")


def test_one_that_is_in_doubt_again_is_remembered_anew(it: Kept) -> None:
    it.now += KEPT - 1
    it.doubts.remember(ME, [YOU], FIRST)
    assert len(it.doubts) == 1
    it.now += KEPT - 1
    assert it.came_again()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubt, "MOST", 10)
    it = Kept()
    for number in range(100):
        it.doubts.remember(ME, [f"{number}@example.com"], FIRST)
    assert len(it.doubts) == len(it.doubts._envelopes) == 10
    assert not it.came_again(to="89@example.com")
    assert it.came_again(to="90@example.com")
    it.now += KEPT
    it.doubts.remember(ME, [YOU], FIRST)
    assert len(it.doubts) == len(it.doubts._envelopes) == 1


@pytest.mark.parametrize(
    "again",
    [
        b"Received: by another\r\n" + FIRST,
        FIRST.replace(b"Message-ID: ", b"message-id :\r\n\t"),
        FIRST.replace(b"hello", b"hello again"),
        b"X: y\r\n" * 2000 + FIRST,
    ],
)
def test_a_message_is_known_by_its_message_id(it: Kept, again: bytes) -> None:
    assert it.came_again(head=again)


@pytest.mark.parametrize(
    "other",
    [
        b"Subject: Message-ID: <1@example.org>\r\n\r\n",
        b"X-Message-ID: <1@example.org>\r\n\r\n",
        b"Subject: x\r\n\r\nMessage-ID: <1@example.org>\r\n",
        b"Message-ID:\r\n\r\n",
        b"",
    ],
)
def test_or_if_it_has_none_by_what_it_begins_with(it: Kept, other: bytes) -> None:
    assert not it.came_again(head=other)
    it.doubts.remember(ME, [YOU], other)
    assert not it.came_again(head=other + b"and more")
    assert it.came_again(head=other)


def test_how_the_content_was_cut_does_not_matter(it: Kept) -> None:
    content = b"\r\n" + b"x" * 3 * HEAD
    it.doubts.remember(ME, [YOU], content[: HEAD + 7])
    assert it.came_again(head=content[: 2 * HEAD - 1])


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (FIRST.removesuffix(b"\r\n\r\nhello\r\n"), 48),
        (b"Message-ID:", HEAD),
        (b"Subject: x", HEAD),
        (b"X: y\r\n" * HEAD + FIRST, HEAD),
        (b"", HEAD),
    ],
)
def test_the_essence_is_enough(it: Kept, header: bytes, size: int) -> None:
    head = header + b"\r\n\r\n" + b"x" * HEAD
    assert len(essence(head)) == size
    it.doubts.remember(ME, [YOU], head)
    assert it.came_again(head=essence(head))
    it.doubts.remember(ME, [YOU], essence(head))
    assert it.came_again(head=head)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_content_is_taken(one: bytes, other: bytes) -> None:
    it = Kept()
    it.doubts.remember(ME, [YOU], one)
    it.came_again(head=other)
    assert len(it.doubts) in (0, 1)


# In a session


MESSAGE = rf"""
    C: MAIL FROM:<{ME}>
    S: 250 2.1.0 Ok
    C: RCPT TO:<{YOU}>
    U# connected to 192.0.2.1
    GREETS
    P#: MAIL FROM:<{ME}>
    U#: 250 fine
    P#: RCPT TO:<{YOU}>
    U#: 250 fine
    S: 250 fine
    C: DATA
    P#: DATA
    U#: 354 go
    S: 354 go
    C: Message-ID: <1@example.org>\r\n\r\nhello\r\n.
    P#: Message-ID: <1@example.org>
    P#:
    P#: hello
    P#: .
"""
TAKEN = "U#: 250 queued\nS: 250 queued\n"
IN_DOUBT = "U# gone\nS: 451 4.4.2 ...\n"
LEAVES = "C: QUIT\nS: 221 2.0.0 Bye\nS closed\n"


def sent(number: int, end: str) -> str:
    """The message, by a connection of its own to the upstream, and how it ends."""
    script = MESSAGE.replace("GREETS", upstream_greets(number)) + end
    return script.replace("#", str(number))


def ends(world: World) -> list[tuple[bool, bool]]:
    return [(it.in_doubt, it.duplicate) for it in world.said(TransactionEnded)]


@pytest.fixture
def world() -> World:
    return World({"example.com": ONE}).play(GREETING)


def test_one_that_comes_again_is_delivered_and_told_of(world: World) -> None:
    world.play(sent(1, IN_DOUBT)).play(sent(2, TAKEN))
    assert ends(world) == [(True, False), (False, True)]
    world.play("C: RSET\nP2: RSET\nU2: 250 ok\nS: 250 ok\n")
    assert (world.doubts.remembered, world.doubts.duplicates) == (1, 1)


def test_one_that_is_refused_is_no_duplicate_as_yet(world: World) -> None:
    refused = "U#: 451 not now\nS: 451 not now\nU# gone\n"
    world.play(sent(1, IN_DOUBT)).play(sent(2, refused)).play(sent(3, TAKEN))
    assert ends(world) == [(True, False), (False, False), (False, True)]


def test_one_may_be_in_doubt_twice(world: World) -> None:
    world.play(sent(1, IN_DOUBT)).play(sent(2, IN_DOUBT)).play(sent(3, TAKEN))
    assert ends(world) == [(True, False), (True, True), (False, True)]


def test_one_whose_client_left_before_the_answer(world: World) -> None:
    world.play(sent(1, "C gone\nU#: 250 queued\nP#: QUIT"))
    world.client = world.connect()
    world.play(GREETING).play(sent(2, TAKEN))
    assert ends(world) == [(False, False), (False, True)]


def test_one_that_was_cut_is_not_in_doubt(world: World) -> None:
    begun, _, _ = sent(1, "").partition("C: Message-ID")
    end = FIRST.decode().replace("\r\n", r"\r\n") + "."
    world.play(f"{begun}\nU1 gone\nC: {end}\nS: 451 4.4.2 ...\n").play(sent(2, TAKEN))
    assert ends(world) == [(False, False), (False, False)]


def test_the_head_is_bounded(world: World) -> None:
    world.play(sent(1, "").partition("C: Message-ID")[0])
    for _ in range(100):
        world.client.deliver(b"x" * 10_000 + b"\r\n")
        world.clock.advance(0)
    world.upstream(1).said.clear()
    (session,) = world.sessions._running
    transaction = session._transaction
    assert transaction is not None
    assert HEAD <= len(transaction.message.head) < 2 * HEAD


def test_of_the_head_only_the_essence_is_kept_where_the_upstream_takes_none(world: World) -> None:
    world.play(sent(1, "").partition("C: Message-ID")[0])
    world.upstream(1).stalled = True
    world.client.deliver(FIRST + b"x" * HEAD + b"\r\n")
    (session,) = world.sessions._running
    transaction = session._transaction
    assert transaction is not None and transaction.message.head == essence(FIRST)
    world.upstream(1).drained()
    world.client.deliver(b"more\r\n.\r\n")
    world.upstream(1).said.clear()
    world.play("U1 gone\nS: 451 4.4.2 ...\n").play(sent(2, TAKEN))
    assert ends(world) == [(True, False), (False, True)]


def test_over_lmtp_each_recipient_has_its_own_doubt() -> None:
    store = Upstream((Server("192.0.2.1", 24, lmtp=True),))
    world = World({"example.com": store}, settings=Settings(lmtp=True))
    hello = "LHLO client.example.com"
    world.play("S: 220 ...\n").client.deliver(f"{hello}\r\n".encode())
    world.clock.advance(0)
    world.client.said.clear()

    def message(number: int, *recipients: str) -> str:
        rcpts = "".join(
            f"C: RCPT TO:<{each}>\n"
            + (
                f"U{number}: 220 store\nP{number}: LHLO mx.example.net\nU{number}: 250 store\n"
                f"P{number}: MAIL FROM:<{ME}>\nU{number}: 250 fine\n"
                if each == recipients[0]
                else ""
            )
            + f"P{number}: RCPT TO:<{each}>\nU{number}: 250 fine\nS: 250 fine\n"
            for each in recipients
        )
        return rf"""
            C: MAIL FROM:<{ME}>
            S: 250 2.1.0 Ok
            {rcpts}
            C: DATA
            P{number}: DATA
            U{number}: 354 go
            S: 354 go
            C: Message-ID: <1@example.org>\r\n.
            P{number}: Message-ID: <1@example.org>
            P{number}: .
        """

    world.play(message(1, "a@example.com", "b@example.com"))
    world.play("U1: 250 a has it\nS: 250 a has it\nU1 gone\nS: 451 4.4.2 ...\n")
    assert ends(world) == [(False, False), (True, False)]
    world.play(message(2, "b@example.com", "a@example.com"))
    world.play("U2: 250 b\nS: 250 b\nU2: 250 a\nS: 250 a\n")
    assert ends(world)[2:] == [(False, True), (False, False)]


# The running program


def test_a_real_one(folder: Path) -> None:
    with (
        MailServer("one") as server,
        Proxy(folder, [row("example.com", server.server)]) as proxy,
    ):
        for hangs_up in (True, False):
            server.hangs_up = hangs_up
            with (
                smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client,
                suppress(smtplib.SMTPDataError),
            ):
                client.sendmail(ME, [YOU], FIRST)
        wait_until(lambda: "duplicate=true" in proxy.output, 10, "the duplicate")
        log = proxy.output
    assert len(server.messages) == 2
    assert ": likely duplicate: it came before, and may have been taken then" in log
    assert log.index("in_doubt=true") < log.index("duplicate=true")
