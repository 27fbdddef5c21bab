"""Shadows: asked of the same recipients, unseen by the client, and never given any mail."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from smtpproxy import config
from smtpproxy.events import Disconnected, Refused, ShadowAnswered, TransactionEnded, UpstreamFailed
from smtpproxy.logs.levels import Level, level_of
from smtpproxy.logs.text import lines
from smtpproxy.relay import shadow
from smtpproxy.routing import CsvTable, Identity, Row
from smtpproxy.shadow_counts import ShadowCounts
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream import BROKEN_REPLY, Unreachable
from tests.support.dialogue import (
    CLIENT,
    GREETING,
    MAIL,
    ONE,
    TWO,
    Settings,
    World,
    upstream,
    upstream_greets,
)
from tests.support.log_events import DIFFERS, SENT

SHADOW = upstream("192.0.2.7")
ROUTES = {"example.com": Row(ONE, shadow=SHADOW), "example.net": TWO}

BOUND = f"""
    {MAIL}
    C: RCPT TO:<a@example.com>
    {upstream_greets(1)}
    P1: MAIL FROM:<s@example.org>
    U1: 250 fine
    P1: RCPT TO:<a@example.com>
    U1: 250 taken by one
    S: 250 taken by one
"""
SECOND = """
    C: RCPT TO:<b@example.com>
    P1: RCPT TO:<b@example.com>
    U1: 250 b taken by one
    S: 250 b taken by one
"""
MESSAGE = r"""
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: one\r\n.
    P1: one
    P1: .
    U1: 250 queued by one
    S: 250 queued by one
"""
SHADOW_GREETS = f"U2 connected to 192.0.2.7\n{upstream_greets(2)}"
SHADOW_TAKES_MAIL = f"{SHADOW_GREETS}\nP2: MAIL FROM:<s@example.org>\nU2: 250 fine\n"
SHADOW_TAKES_A = f"{SHADOW_TAKES_MAIL}\nP2: RCPT TO:<a@example.com>\nU2: 250 taken by shadow\n"
END = "C: QUIT\nS: 221 2.0.0 Bye\nP1: QUIT\nS closed\nU1 gone\n"
SHADOW_LEAVES = "P2: QUIT\nU2: 221 bye\nU2 gone\n"
# At DATA the shadow has nothing to wait for any more.
WATCHED_MESSAGE = MESSAGE.replace("S: 354 go\n", f"S: 354 go\n{SHADOW_LEAVES}")


worlds: list[World] = []


def started(routes=ROUTES, **settings) -> World:
    worlds.append(World(routes, settings=Settings(**settings)))
    return worlds[-1].play(GREETING)


@pytest.fixture(autouse=True)
def _shadows_end():
    """None is left to the garbage collector, in whose time it would fail."""
    yield
    for world in worlds:
        world.shadows.stop()
        world.clock.advance(0)
        assert not len(world.shadows)
    worlds.clear()


def compared(world: World) -> list[tuple[str, str, str]]:
    """Of each recipient, what the client was told and what the shadow says."""
    events = world.said(ShadowAnswered)
    return [(it.recipient, str(it.reply), str(it.shadow_reply)) for it in events]


def test_a_shadow_gets_mail_and_recipients_and_never_the_message() -> None:
    world = started().play(
        BOUND
        + SHADOW_TAKES_A
        + SECOND
        + """
        P2: RCPT TO:<b@example.com>
        U2: 550 5.1.1 no such user
    """
    )
    world.play(WATCHED_MESSAGE)

    assert compared(world) == [
        ("a@example.com", "250 taken by one", "250 taken by shadow"),
        ("b@example.com", "250 b taken by one", "550 5.1.1 no such user"),
    ]
    agrees, differs = world.said(ShadowAnswered)
    assert (agrees.differs, level_of(agrees)) == (False, Level.DEBUG)
    assert (differs.differs, level_of(differs)) == (True, Level.INFO)
    assert (differs.session, differs.client.helo) == ("000000000001", "client.example.com")
    assert differs.shadow == "192.0.2.7:25"
    assert not len(world.shadows)


@pytest.mark.parametrize(
    ("reply", "differs"),
    [("250 yes", False), ("251 forwarded", False), ("450 later", True), ("550 no", True)],
)
def test_what_differs_is_the_class_of_the_answer(reply: str, differs: bool) -> None:
    world = started().play(f"""
        {BOUND}
        {SHADOW_TAKES_MAIL}
        P2: RCPT TO:<a@example.com>
        U2: {reply}
    """)
    assert [event.differs for event in world.said(ShadowAnswered)] == [differs]


def test_a_recipient_that_its_own_server_refuses_is_asked_as_well() -> None:
    world = started().play(f"""
        {MAIL}
        C: RCPT TO:<a@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 250 fine
        P1: RCPT TO:<a@example.com>
        U1: 550 5.1.1 no such user
        S: 550 5.1.1 no such user
        {SHADOW_TAKES_A}
        C: RSET
        P1: RSET
        P2: QUIT
        U1: 250 reset
        S: 250 reset
        U2: 221 bye
    """)
    assert compared(world) == [("a@example.com", "550 5.1.1 no such user", "250 taken by shadow")]


def test_nobody_is_asked_of_what_no_server_has_judged() -> None:
    world = started(max_recipients=1)
    world.unreachable.add("192.0.2.1")
    world.play(f"{MAIL}C: RCPT TO:<a@example.com>\nS: 451 4.4.1 ...\nC: RSET\nS: 250 ...")
    world.unreachable.clear()
    world.play(BOUND + SHADOW_TAKES_A)
    world.play("C: RCPT TO:<b@example.com>\nS: 452 4.5.3 Too many recipients")
    assert len(compared(world)) == 1


def test_rows_without_a_shadow_have_none() -> None:
    world = started({"example.com": ONE}).play(BOUND + MESSAGE)
    assert len(world.upstreams) == 1


TROUBLE = {
    "silent": "",
    "says nothing": "U2 connected to 192.0.2.7",
    "greets and hangs": f"{SHADOW_GREETS}\nP2: MAIL FROM:<s@example.org>",
    "hangs at RCPT": f"{SHADOW_TAKES_MAIL}\nP2: RCPT TO:<a@example.com>",
    "garbage": "U2: SSH-2.0-OpenSSH_9.2\nP2 cut",
    "greeting refused": "U2: 554 5.7.1 go away\nP2 cut",
    "gone": "U2 gone",
    "gone at RCPT": f"{SHADOW_TAKES_MAIL}\nP2: RCPT TO:<a@example.com>\nU2 gone",
    "half a reply": f"{SHADOW_TAKES_MAIL}\nP2: RCPT TO:<a@example.com>\nU2: 250-taken",
    "surplus": f"{SHADOW_TAKES_MAIL}\nP2: RCPT TO:<a@example.com>\nU2: 250 a\\r\\n250 b",
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_of_a_shadow_is_none_of_the_clients(trouble: str) -> None:
    """The whole dialogue goes on at the same moment, word for word."""
    world = started()
    if trouble == "silent":
        world.silent.add("192.0.2.7")
    world.play(BOUND + TROUBLE[trouble] + SECOND + MESSAGE + END)
    assert world.clock.seconds() == 0, "nothing was waited for"
    assert len(world.upstreams) <= 2, "it is tried but once"

    for _ in range(20):
        world.clock.advance(30)
    assert not len(world.shadows)
    assert not len(world.deadlines)
    assert not any(transport.open for _, transport in world.upstreams)
    assert not world.said(UpstreamFailed), "a shadow's trouble is told where it is compared"
    assert not world.said(Refused)
    (ended,) = world.said(TransactionEnded)
    assert str(ended.reply) == "250 queued by one"
    assert [name for name, _, _ in compared(world)] == ["a@example.com", "b@example.com"]


def test_a_shadow_that_cannot_be_reached_differs_from_one_that_takes_the_mail() -> None:
    world = started()
    world.unreachable.add("192.0.2.7")
    world.play(BOUND + SECOND)
    reply = "451 4.4.1 The server of this recipient is not reachable"
    assert [shadows for _, _, shadows in compared(world)] == [reply, reply]
    assert all(event.differs for event in world.said(ShadowAnswered))


def test_a_mail_that_the_shadow_refuses_is_its_answer_to_every_recipient() -> None:
    world = started().play(f"""
        {BOUND}
        {SHADOW_GREETS}
        P2: MAIL FROM:<s@example.org>
        U2: 550 5.1.8 bad sender
        {SECOND}
        {WATCHED_MESSAGE}
    """)
    assert [shadows for _, _, shadows in compared(world)] == ["550 5.1.8 bad sender"] * 2


def test_a_shadow_works_on_when_the_transaction_is_over() -> None:
    world = started().play(BOUND + SECOND + MESSAGE + END)
    assert world.said(Disconnected)
    assert compared(world) == []
    world.play(SHADOW_TAKES_A + "P2: RCPT TO:<b@example.com>\nU2: 250 b\n" + SHADOW_LEAVES)
    assert [shadows for _, _, shadows in compared(world)] == ["250 taken by shadow", "250 b"]


@pytest.mark.parametrize("leaves", ["C gone\nP1: QUIT", "C: DATA\nP1: DATA\nC gone\nP1 cut"])
def test_a_client_that_leaves_takes_no_shadow_with_it(leaves: str) -> None:
    world = started().play(BOUND + leaves).play(SHADOW_TAKES_A + SHADOW_LEAVES)
    assert len(compared(world)) == 1


def test_stopping_gives_shadows_up() -> None:
    world = started().play(BOUND + SHADOW_TAKES_MAIL + "P2: RCPT TO:<a@example.com>")
    world.play(MESSAGE + END)
    world.shadows.stop()
    world.play("P2 cut\nwait 1s")
    assert not len(world.shadows)
    assert not len(world.deadlines)
    assert compared(world) == []


def test_stopping_says_quit_where_nothing_is_under_way() -> None:
    world = started().play(BOUND + SHADOW_TAKES_A)
    world.shadows.stop()
    world.play("P2: QUIT\nU2: 221 bye\nU2 gone")
    assert not len(world.shadows)


def test_their_number_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(shadow, "MOST", 1)
    world = started().play(BOUND)
    assert len(world.upstreams) == 2
    world.client = world.connect(replace(CLIENT, address="192.0.2.10"))
    world.play(GREETING + BOUND.replace("U1", "U3").replace("P1", "P3"))
    assert len(world.upstreams) == 3, "the second transaction has none"
    world.play("C: RSET\nP3: RSET\nU3: 250 reset\nS: 250 reset")
    world.play(SHADOW_TAKES_A)
    assert len(compared(world)) == 1
    assert len(world.shadows) == 1
    assert world.skipped == [SHADOW], "and that is told"


def test_one_that_hangs_silences_no_other(monkeypatch) -> None:
    monkeypatch.setattr(shadow, "MOST_EACH", 1)
    other = upstream("192.0.2.8")
    world = started({**ROUTES, "example.net": Row(ONE, shadow=other)})
    world.silent.add("192.0.2.7")
    world.play(BOUND)
    assert len(world.shadows) == 1
    for number, domain in ((2, "example.com"), (3, "example.net")):
        world.client = world.connect(replace(CLIENT, address=f"192.0.2.1{number}"))
        bound = BOUND.replace("1: ", f"{number}: ").replace("a@example.com", f"a@{domain}")
        world.play(GREETING + bound)
    assert world.skipped == [SHADOW]
    assert len(world.shadows) == 2
    assert world.upstreams[-1][0] == "192.0.2.8"


@pytest.mark.parametrize("trouble", ["silent", "says nothing", "greets and hangs"])
def test_nobody_waits_for_a_shadow_so_it_is_soon_given_up(trouble: str) -> None:
    """Whatever the proxy has patience for in a client's own upstream."""
    world = started()
    if trouble == "silent":
        world.silent.add("192.0.2.7")
    world.play(BOUND + TROUBLE[trouble]).play("wait 29s")
    assert not compared(world)
    world.clock.advance(2)
    assert len(compared(world)) == 1


def counted(world: World, *skipped: str) -> tuple[ShadowCounts, list[str]]:
    """Counts that were told of skipped recipients of these shadows, and their notes so far."""
    notes: list[str] = []
    counts = ShadowCounts(world.deadlines, notes.append)
    for host in skipped:
        counts.skipped(upstream(host))
    return counts, notes


def test_what_is_not_asked_is_told_once_a_minute() -> None:
    world = started()
    counts, notes = counted(world, "192.0.2.7", "192.0.2.7", "192.0.2.8")
    assert notes == []
    world.play("wait 61s")
    first = "shadow 192.0.2.7:25 not asked of 2 recipients: too many wait for it"
    assert notes == [first, first.replace(".7:", ".8:").replace("2 recipients", "1 recipient")]
    world.play("wait 2m")
    assert len(notes) == 2, "and no more, once it is asked again"
    for _ in range(3):
        counts.skipped(SHADOW)
        world.play("wait 15s")
    assert len(notes) == 2
    world.play("wait 20s")
    assert notes[2:] == [first.replace("2 rec", "3 rec")]
    counts.skipped(SHADOW)
    world.play("wait 30s")
    assert len(notes) == 3
    counts.stop()
    counts.stop()
    assert notes[3:] == [first.replace("2 recipients", "1 recipient")], "the rest, at the end"
    assert [(each["shadow"], each["not_asked"]) for each in counts.counts()] == [
        ("192.0.2.7:25", 6),
        ("192.0.2.8:25", 1),
    ]


def test_the_note_of_the_pages_is_written_so() -> None:
    world = started()
    counts, notes = counted(world, *["192.0.2.7"] * 12)
    counts.stop()
    (note,) = notes
    assert f"`{note.replace('192.0.2.7:25', 'HOST')}`" in PAGE.with_name("logs.md").read_text()
    (pattern,) = re.findall(r"^grep '(shadow [^']*)'", PAGE.read_text(), re.MULTILINE)
    assert re.search(pattern, note)


def test_each_transaction_has_its_own() -> None:
    world = started().play(BOUND + SHADOW_TAKES_A + WATCHED_MESSAGE)
    world.play(f"""
        {MAIL}
        C: RCPT TO:<a@example.com>
        P1: MAIL FROM:<s@example.org>
        U1: 250 fine
        P1: RCPT TO:<a@example.com>
        U1: 250 taken by one
        S: 250 taken by one
        U3 connected to 192.0.2.7
    """)


def test_a_transaction_has_one_shadow_whatever_its_rows_say() -> None:
    other = Row(ONE, shadow=upstream("192.0.2.8"))
    world = started({**ROUTES, "b@example.com": other}).play(BOUND + SHADOW_TAKES_A + SECOND)
    assert len(world.upstreams) == 2
    assert [name for name, _, _ in compared(world)] == ["a@example.com"]


def test_a_shadow_may_be_the_bound_upstream_of_another_recipient() -> None:
    """Its connection is its own: what it is asked binds nothing."""
    world = started({"example.com": Row(ONE, shadow=TWO), "example.net": TWO})
    world.play(BOUND + "U2 connected to 192.0.2.2").play("""
        C: RCPT TO:<b@example.net>
        S: 452 4.5.3 This recipient's server is another one; send the message to it separately
    """)


def test_a_recipient_that_is_sent_away_is_not_asked_about() -> None:
    """It comes again, in a message of its own."""
    world = started({**ROUTES, "example.net": Row(TWO, shadow=SHADOW)})
    world.play(BOUND + SHADOW_TAKES_A + "C: RCPT TO:<b@example.net>\nS: 452 4.5.3 ...")
    assert len(compared(world)) == 1


# Whom a shadow is told of


INTRODUCED = upstream("192.0.2.7", identity=Identity.XCLIENT)
GREETS_WITH_XCLIENT = """
    U2: 220 two
    P2: EHLO mx.example.net
    U2: 250-two
    U2: 250 XCLIENT NAME HELO ADDR
"""


def test_a_shadow_is_told_of_the_client_of_its_transaction() -> None:
    """Not of what the client calls itself by the time that the shadow asks."""
    routes = {"example.com": Row(ONE, shadow=INTRODUCED)}
    started(routes, name="client.example.com").play(BOUND).play(f"""
        C: HELO other.example.com
        P1: QUIT
        S: 250 mx.example.net
        {GREETS_WITH_XCLIENT}
        P2: XCLIENT NAME=client.example.com HELO=client.example.com ADDR=192.0.2.9
        U2: 220 two
        P2: EHLO client.example.com
        U2: 250 two
        P2: MAIL FROM:<s@example.org>
    """)


def test_a_shadow_is_told_no_name_of_the_client_that_xclient_names_next() -> None:
    routes = {"example.com": Row(ONE, shadow=INTRODUCED)}
    worlds.append(World(routes, settings=Settings(xclient_from=["192.0.2.0/24"])))
    worlds[-1].play(f"""
        S: 220 ...
        C: XCLIENT NAME=one.example.org ADDR=192.0.2.41
        S: 220 ...
        C: HELO one.example.org
        S: 250 mx.example.net
        {BOUND}
        C: RSET
        P1: RSET
        U1: 250 reset
        S: 250 reset
        C: XCLIENT NAME=two.example.org ADDR=192.0.2.42
        P1: QUIT
        S: 220 ...
        {GREETS_WITH_XCLIENT}
        P2: XCLIENT NAME=one.example.org HELO=one.example.org ADDR=192.0.2.41
    """)


def test_a_late_name_is_waited_for_by_all_who_ask() -> None:
    """A shadow that waits for it does not take it from the client's own upstream."""
    naming: Deferred[str] = Deferred()
    routes = {"example.com": Row(ONE, shadow=INTRODUCED), "example.net": TWO}
    world = (
        started(routes, name=naming)
        .play(BOUND + GREETS_WITH_XCLIENT)
        .play(f"""
        C: RSET
        P1: RSET
        U1: 250 reset
        S: 250 reset
        {MAIL}
        C: RCPT TO:<b@example.net>
        P1: QUIT
        U3: 220 three
        P3: EHLO mx.example.net
        U3: 250-three
        U3: 250 XCLIENT NAME
    """)
    )
    naming.callback("client.example.com")
    world.play("""
        P2: XCLIENT NAME=client.example.com HELO=client.example.com ADDR=192.0.2.9
        P3: XCLIENT NAME=client.example.com
    """)


# The page about all this

PAGE = Path(__file__).parent.parent / "docs" / "migration.md"


def blocks(language: str) -> list[str]:
    page = PAGE.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_the_files_of_the_page_are_right(tmp_path: Path) -> None:
    assert len(blocks("csv")) > 4
    for number, text in enumerate(blocks("csv")):
        file = tmp_path / f"{number}.csv"
        file.write_text(text)
        CsvTable.load(file, file.name)
    (configuration,) = blocks("toml")
    file = tmp_path / "smtpproxy.toml"
    file.write_text(f"{configuration}\n[[listeners]]\nlisten = ':25'\n")
    moving, mapping = config.load(file, {}).mappings
    assert isinstance(moving, config.CsvMapping) and isinstance(mapping, config.CsvMapping)
    assert (moving.max_shrink, mapping.max_shrink) == (1.0, 0.5)


def test_the_lines_of_the_page_are_written_so() -> None:
    differs = replace(
        DIFFERS,
        recipient="carol@example.com",
        shadow="new.example.net:25",
        reply=Reply(250, (b"2.1.5 Ok",)),
        shadow_reply=Reply(550, (b"5.1.1 User unknown",)),
    )
    sent = replace(SENT, recipients=("you@example.com",), server="new.example.net:25")
    written = {line for event in (differs, sent) for _, line in lines(event)}
    written = {line.removeprefix(f"{sent.transaction}: ") for line in written}
    assert {text.strip() for text in blocks("text")} <= written


def test_the_replies_of_the_page_are_what_is_compared() -> None:
    said = re.findall(r"`shadow_reply=\"(\d{3} [\d.]+ [^…\"]+)\"`", PAGE.read_text("utf-8"))
    assert said == [str(Unreachable("").reply), str(BROKEN_REPLY)]


def test_a_shadow_is_asked_of_no_more_recipients_than_it_takes() -> None:
    """RFC 9422: what is more is not asked, and counted as such."""
    limited = SHADOW_TAKES_A.replace(
        upstream_greets(2), upstream_greets(2, "8BITMIME,LIMITS RCPTMAX=1")
    )
    world = started().play(BOUND + limited + SECOND)
    world.play(WATCHED_MESSAGE)
    assert [recipient for recipient, *_ in compared(world)] == ["a@example.com"]
    assert world.skipped == [SHADOW]
