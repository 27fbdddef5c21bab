"""BDAT in, BDAT or DATA out; DATA in, either out (RFC 3030)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smtpproxy.events import Disconnected, TransactionEnded
from smtpproxy.relay import delivery
from tests.support.dialogue import ONE, TWO, Settings, World, announcing, upstream_greets

ROUTES = {"example.com": ONE, "example.net": TWO}
OFFER = announcing("PIPELINING", "SIZE 1000", "8BITMIME", "CHUNKING", "BINARYMIME")
HELLO = """
    S: 220 mx.example.net ESMTP smtpproxy
    C: EHLO client.example.com
    S: 250-mx.example.net
    S: 250-PIPELINING
    S: 250-SIZE 1000
    S: 250-8BITMIME
    S: 250-CHUNKING
    S: 250 BINARYMIME
"""


@pytest.fixture(autouse=True)
def each_chunk_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gathered before it is sent."""
    monkeypatch.setattr(delivery, "MOST_HELD", 0)


def started(extensions: str, body: str = "", prefer_chunks: bool = False, **settings: Any) -> World:
    """A session up to an accepted recipient, whose upstream offers `extensions`."""
    settings = {"max_message_bytes": 1000, "offer": OFFER, **settings}
    world = World(ROUTES, settings=Settings(**settings))
    if prefer_chunks:
        relaying = replace(world.profile.relaying, prefer_chunks=True)
        world.profile = replace(world.profile, relaying=relaying)
        world.client = world.connect()
    return world.play(
        HELLO
        + f"""
    C: MAIL FROM:<s@example.org>{body}
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(1, extensions)}
    P1: MAIL FROM:<s@example.org>{body if "8BITMIME" in extensions else ""}
    """
        + ("P1: RCPT TO:<a@example.com>\n" if "PIPELINING" in extensions else "")
        + "U1: 250 sender fine\n"
        + ("" if "PIPELINING" in extensions else "P1: RCPT TO:<a@example.com>\n")
        + """
    U1: 250 2.1.5 recipient fine
    S: 250 2.1.5 recipient fine
    """
    )


def ended(world: World) -> TransactionEnded:
    (event,) = world.said(TransactionEnded)
    return event


BOTH = "PIPELINING,8BITMIME,CHUNKING,BINARYMIME"


DATA_OUT = "PIPELINING,8BITMIME"
MESSAGE_IN_CHUNKS = r"""
    C: BDAT 14\r\nSubject: x\r\n
"""


def test_chunks_go_out_as_chunks() -> None:
    world = started(BOTH).play(
        r"""
    C: BDAT 14\r\nSubject: x\r\n
    S: 250 2.0.0 Ok, go on
    C: BDAT 9 LAST\r\n.dot\r\n.
    P1: BDAT 14
    P1: Subject: x
    P1:
    P1: BDAT 9 LAST
    P1: .dot
    P1: .
    U1: 250 14 octets
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    C: QUIT
    S: 221 2.0.0 Bye
    P1: QUIT
    S closed
    """
    )
    assert ended(world).size == 23
    (left,) = world.said(Disconnected)
    assert left.commands["BDAT"] == (2, 2)


def test_without_pipelining_each_chunk_waits_for_its_answer() -> None:
    started("8BITMIME,CHUNKING").play(
        r"""
    C: BDAT 14\r\nSubject: x\r\n
    S: 250 2.0.0 Ok, go on
    C: BDAT 9 LAST\r\n.dot\r\n.
    P1: BDAT 14
    P1: Subject: x
    P1:
    U1: 250 14 octets
    P1: BDAT 9 LAST
    P1: .dot
    P1: .
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    """
    )


def test_chunks_go_out_as_data_with_dots_stuffed() -> None:
    world = started(DATA_OUT).play(
        r"""
    C: BDAT 14\r\nSubject: x\r\n
    P1: DATA
    U1: 354 go
    P1: Subject: x
    P1:
    S: 250 2.0.0 Ok, go on
    C: BDAT 9 LAST\r\n.dot\r\n.
    P1: ..dot
    P1: ..
    P1: .
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    """
    )
    assert ended(world).size == 23


def test_a_last_line_without_end_is_ended_for_data_alone() -> None:
    started(DATA_OUT).play(
        r"""
    C: BDAT 3 LAST\r\n.xyNOOP
    P1: DATA
    U1: 354 go
    P1: ..xy
    P1: .
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    P1: NOOP
    U1: 250 fine
    S: 250 fine
    """
    )
    started(BOTH).play(
        r"""
    C: BDAT 3 LAST\r\n.xyNOOP
    P1: BDAT 3 LAST
    P1 part: .xy
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    P1: NOOP
    U1: 250 fine
    S: 250 fine
    """
    )


def test_data_goes_out_as_chunks_where_that_is_preferred() -> None:
    started(BOTH, prefer_chunks=True).play(
        r"""
    C: DATA
    S: 354 Go ahead
    C: Subject: x\r\n\r\n..dot\r\n.
    P1: BDAT 20 LAST
    P1: Subject: x
    P1:
    P1: .dot
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    """
    )


def test_an_empty_message_in_chunks() -> None:
    started(BOTH).play("C: BDAT 0 LAST\nP1: BDAT 0 LAST\nU1: 250 queued\nS: 250 queued")
    started(DATA_OUT).play("C: BDAT 0 LAST\nP1: DATA\nU1: 354 go\nP1: .\nU1: 250 ok\nS: 250 ok")


def test_binary_content_passes_as_it_is() -> None:
    world = started(BOTH, " BODY=BINARYMIME").play(
        "C: DATA\nS: 503 5.5.1 Binary content is sent with BDAT"
    )
    world.client.deliver(b"BDAT 9 LAST\r\na\nb\rc\0\r\n\xff")
    world.clock.advance(0)
    said = world.upstream(1).said
    assert said == b"BDAT 9 LAST\r\na\nb\rc\0\r\n\xff"
    said.clear()
    world.play("U1: 250 queued\nS: 250 queued")


def test_binary_content_is_refused_where_it_cannot_be_carried() -> None:
    World(ROUTES, settings=Settings(max_message_bytes=1000, offer=OFFER)).play(
        HELLO
        + f"""
    C: MAIL FROM:<s@example.org> BODY=BINARYMIME
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(1, "PIPELINING,8BITMIME,CHUNKING")}
    S: 554 5.6.3 The recipient's server does not take binary content
    C: RCPT TO:<a@example.net>
    P1: QUIT
    {upstream_greets(2, BOTH)}
    P2: MAIL FROM:<s@example.org> BODY=BINARYMIME
    P2: RCPT TO:<a@example.net>
    U2: 250 fine
    U2: 250 2.1.5 fine
    S: 250 2.1.5 fine
    """
    )


def test_a_chunk_that_the_upstream_refuses_ends_the_message() -> None:
    world = started(BOTH).play(
        r"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    C: BDAT 4\r\ncd
    P1: BDAT 4
    P1: ab
    S: 250 2.0.0 Ok, go on
    U1: 452 4.3.1 full
    C: BDAT 4\r\nef
    P1 cut
    S: 452 4.3.1 full
    C: BDAT 4 LAST\r\ngh
    S: 503 5.5.1 Send MAIL first
    """
    )
    assert str(ended(world).reply) == "452 4.3.1 full"


@pytest.mark.parametrize("last", ["", " LAST"])
def test_data_that_is_refused_refuses_the_chunk(last: str) -> None:
    started(DATA_OUT).play(
        rf"""
    C: BDAT 4{last}\r\nab
    P1: DATA
    U1: 451 4.3.0 not now
    S: 451 4.3.0 not now
    C: BDAT 4 LAST\r\nab
    S: 503 5.5.1 Send MAIL first
    """
    )


def test_an_upstream_that_goes_between_chunks() -> None:
    world = started(BOTH).play(
        r"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    U1 gone
    C: BDAT 4 LAST\r\ncd
    S: 451 4.4.2 The connection to the server of this recipient was lost
    """
    )
    assert not ended(world).in_doubt


def test_an_upstream_that_goes_after_the_last_chunk_leaves_doubt() -> None:
    world = started(BOTH).play(
        r"""
    C: BDAT 4 LAST\r\nab
    P1: BDAT 4 LAST
    P1: ab
    U1 gone
    S: 451 4.4.2 The connection to the server of this recipient was lost
    """
    )
    assert ended(world).in_doubt


@pytest.mark.parametrize("extensions", [BOTH, DATA_OUT])
def test_a_client_that_goes_between_chunks_has_sent_nothing(extensions: str) -> None:
    data = "P1: DATA\nU1: 354 go\nP1: ab" if extensions == DATA_OUT else ""
    started(extensions).play(
        rf"""
    C: BDAT 4\r\nab
    {data}
    S: 250 2.0.0 Ok, go on
    C gone
    P1 {"cut" if data else "closed"}
    """
        if data
        else r"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    C gone
    P1: QUIT
    """
    )


@pytest.mark.parametrize("extensions", [BOTH, DATA_OUT])
def test_reset_between_chunks_leaves_the_message(extensions: str) -> None:
    out = (
        "P1: DATA\nU1: 354 go\nP1: ab\nS: 250 2.0.0 Ok, go on\nC: RSET\nP1 cut\nS: 250 2.0.0 Ok"
        if extensions == DATA_OUT
        else "S: 250 2.0.0 Ok, go on\nC: RSET\nP1: RSET\nU1: 250 2.0.0 fine\nS: 250 2.0.0 fine"
    )
    started(extensions).play("C: BDAT 4\\r\\nab\n" + out)


def test_between_chunks_nothing_else_of_a_message_is_taken() -> None:
    started(BOTH).play(
        r"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    C: DATA
    S: 503 5.5.1 The message goes on with BDAT; send RSET to leave it
    C: RCPT TO:<b@example.com>
    S: 503 5.5.1 The message goes on with BDAT; send RSET to leave it
    C: MAIL FROM:<>
    S: 503 5.5.1 A transaction is under way; send RSET to leave it
    """
    )


def test_where_chunking_is_not_announced_a_chunk_is_skipped() -> None:
    offer = announcing("PIPELINING", "SIZE 1000", "8BITMIME", "X", "Y")
    world = World(ROUTES, settings=Settings(offer=offer))
    world.play(
        HELLO.replace("CHUNKING", "X").replace("BINARYMIME", "Y")
        + r"""
    C: BDAT 6\r\nNOOP
    S: 502 5.5.1 CHUNKING is not offered
    """
    )


def test_too_much_in_chunks() -> None:
    started(BOTH, max_message_bytes=10).play(
        r"""
    C: BDAT 12 LAST\r\n0123456789
    P1 cut
    S: 552 5.3.4 The message is too big
    """
    )


def test_bare_line_ends_are_mended_in_chunks_too() -> None:
    """What looks like an end of data to others never reaches them as one."""
    world = started(DATA_OUT).play("C: BDAT 0\nP1: DATA\nU1: 354 go\nS: 250 2.0.0 Ok, go on")
    world.client.deliver(b"BDAT 4\r\nab\n.")
    world.play("P1: ab\nP1 part: ..\nS: 250 2.0.0 Ok, go on")
    world.client.deliver(b"BDAT 4 LAST\r\n\r\nc\n")
    world.play("P1:\nP1: c\nP1: .\nU1: 250 queued\nS: 250 queued")
    (event,) = world.said(TransactionEnded)
    assert event.size == len("ab\r\n.\r\nc\r\n")


def test_small_parts_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MOST_HELD", 10)
    started(BOTH).play(
        r"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    C: BDAT 6\r\ncdef
    S: 250 2.0.0 Ok, go on
    C: BDAT 4\r\ngh
    P1: BDAT 10
    P1: ab
    P1: cdef
    S: 250 2.0.0 Ok, go on
    C: BDAT 4 LAST\r\nij
    P1: BDAT 8 LAST
    P1: gh
    P1: ij
    """
    )
