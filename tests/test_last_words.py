"""What an upstream said of a mail is told to the client, also where it closes right behind it.

And between the parts of a message, and before them, it is told what it can take, and nothing else.
"""

from __future__ import annotations

import pytest

from smtpproxy.events import TransactionEnded
from smtpproxy.relay import delivery
from tests import test_chunking as chunking
from tests import test_each_recipient as each
from tests import test_pipelining as pipelining
from tests.support.dialogue import Settings, World, upstream_greets

REFUSED = r"""
    U1: 550 5.1.1 no a\r\n550 5.1.1 no b\r\n{last}
    S: 550 5.1.1 no a
    S: 550 5.1.1 no b
"""


@pytest.fixture(autouse=True)
def each_chunk_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gathered before it is sent."""
    monkeypatch.setattr(delivery, "MOST_HELD", 0)


def test_a_recipient_that_is_refused_before_data_was_answered() -> None:
    pipelining.started().play(
        pipelining.FLIGHT
        + REFUSED.format(last="550 5.1.1 no c")
        + """
    U1 gone
    S: 550 5.1.1 no c
    S: 554 5.5.1 No valid recipients
    """
    )


def test_an_upstream_that_closes_answers_no_data() -> None:
    pipelining.started().play(
        pipelining.FLIGHT + REFUSED.format(last="421 4.3.2 closing") + "S: 421 4.3.2 closing"
    )


def test_a_mail_that_is_refused_before_the_rest_of_the_flight_was_answered() -> None:
    pipelining.started().play(
        pipelining.FLIGHT.replace("U1: 250 2.1.0 sender fine", "U1: 550 5.7.1 not you")
        + """
    U1 gone
    S: 550 5.7.1 not you
    S: 550 5.7.1 not you
    S: 550 5.7.1 not you
    S: 554 5.5.1 No valid recipients
    """
    )


def test_a_chunk_that_is_refused_before_the_upstream_closes() -> None:
    chunking.started(chunking.BOTH).play(
        r"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    C: BDAT 4\r\ncd
    P1: BDAT 4
    P1: ab
    S: 250 2.0.0 Ok, go on
    U1: 552 5.3.4 too big
    U1 gone
    C: BDAT 4 LAST\r\nef
    S: 552 5.3.4 too big
    """
    )


def test_each_upstream_that_is_not_ready_for_chunks_has_its_own_word() -> None:
    each.started(lmtp=True).play(
        each.LMTP_MAIL
        + each.bound(1, "a@example.com")
        + each.bound(2, "b@example.net")
        + r"""
    C: BDAT 4 LAST\r\nab
    P1: DATA
    P2: DATA
    U1: 550 5.7.1 not for a
    U2: 451 4.3.0 not now
    S: 550 5.7.1 not for a
    S: 451 4.3.0 not now
    """
    )


@pytest.mark.parametrize("command", ["NOOP", "VRFY a", "EXPN a", "HELP"])
def test_what_is_asked_between_chunks_is_no_business_of_the_upstream(command: str) -> None:
    answer = {"NOOP": "250", "VRFY a": "252", "EXPN a": "502", "HELP": "214"}[command]
    chunking.started(chunking.BOTH).play(
        rf"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    C: BDAT 4\r\ncd
    P1: BDAT 4
    P1: ab
    S: 250 2.0.0 Ok, go on
    C: {command}
    S: {answer} ...
    C: BDAT 4 LAST\r\nef
    P1: BDAT 4
    P1: cd
    P1: BDAT 4 LAST
    P1: ef
    U1: 250 1
    U1: 250 2
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    """
    )


def test_no_go_ahead_without_a_live_upstream_where_data_becomes_chunks() -> None:
    chunking.started(chunking.BOTH, prefer_chunks=True).play(
        """
    U1 gone
    C: DATA
    S: 451 4.4.2 The connection to the server of this recipient was lost
    """
    )


def test_binary_is_declared_to_an_upstream_that_takes_it_alone() -> None:
    """RFC 3030: BINARYMIME does not need 8BITMIME, and no DATA is sent ahead of its chunks."""
    settings = Settings(max_message_bytes=1000, offer=chunking.OFFER)
    World(chunking.ROUTES, settings=settings).play(
        chunking.HELLO
        + rf"""
    C: MAIL FROM:<s@example.org> BODY=BINARYMIME\r\nRCPT TO:<a@example.com>\r\nDATA
    S: 250 2.1.0 Ok
    {upstream_greets(1, "PIPELINING,CHUNKING,BINARYMIME")}
    P1: MAIL FROM:<s@example.org> BODY=BINARYMIME
    P1: RCPT TO:<a@example.com>
    U1: 250 fine\r\n250 2.1.5 a
    S: 250 2.1.5 a
    S: 503 5.5.1 Binary content is sent with BDAT
    """
    )


def test_lmtp_has_no_use_for_prdr() -> None:
    each.started().play(
        each.MAIL + each.bound(1, "a@store.test", "PIPELINING,PRDR").replace("EHLO", "LHLO")
    )


def test_a_refusal_inside_data_is_told_after_a_message_in_chunks() -> None:
    """The same connection has carried chunks before: what it says now answers no chunk."""
    chunking.started(chunking.BOTH).play(
        r"""
    C: BDAT 4\r\nab
    S: 250 2.0.0 Ok, go on
    C: BDAT 4 LAST\r\ncd
    P1: BDAT 4
    P1: ab
    P1: BDAT 4 LAST
    P1: cd
    U1: 250 2.0.0 ok
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    C: MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\nDATA
    S: 250 2.1.0 Ok
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    P1: DATA
    U1: 250 fine\r\n250 2.1.5 fine\r\n354 go
    S: 250 2.1.5 fine
    S: 354 go
    U1 stalls
    C: one
    P1 part: one
    U1: 552 5.3.4 too big
    U1 gone
    C: .
    S: 552 5.3.4 too big
    """
    )


def test_what_is_logged_of_421_is_what_the_client_was_told() -> None:
    """It ends the share of its upstream, and not a session in which others have theirs."""
    world = each.started().play(
        each.MAIL
        + each.bound(1, "a@example.com")
        + each.bound(2, "b@example.net")
        + each.CONTENT
        + """
    S: 353 A reply for each recipient follows
    U1: 421 4.3.2 closing
    S: 451 4.3.2 closing
    U2: 250 2.0.0 queued
    S: 250 2.0.0 queued
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )
    assert [str(it.reply) for it in world.said(TransactionEnded)] == [
        "451 4.3.2 closing",
        "250 2.0.0 queued",
    ]


def test_a_421_to_data_of_one_and_a_refusal_of_the_other_end_no_session() -> None:
    each.started().play(
        each.MAIL
        + each.bound(1, "a@example.com")
        + each.bound(2, "b@example.net")
        + """
    C: DATA
    P1: DATA
    P2: DATA
    U1: 421 4.3.2 closing
    U2: 451 4.3.0 not now
    S: 451 4.3.2 closing
    C: NOOP
    P2: NOOP
    U2: 250 fine
    S: 250 fine
    """
    )
