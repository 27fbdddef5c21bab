"""Commands that a client sends together reach the upstream together (RFC 2920)."""

from __future__ import annotations

from typing import Any

import pytest

from smtpproxy.events import TransactionEnded
from smtpproxy.routing import TryAgain
from tests.support.dialogue import GREETING, ONE, TWO, Routes, Settings, World, upstream_greets

ROUTES: Routes = {
    "example.com": ONE,
    "example.net": TWO,
    "broken.test": TryAgain("the table is gone"),
}
PIPELINING = upstream_greets(1, "PIPELINING")


def started(**settings: Any) -> World:
    return World(ROUTES, settings=Settings(**{"max_errors": 20, **settings})).play(GREETING)


ALL_AT_ONCE = (
    r"C: MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\nRCPT TO:<b@example.com>"
    r"\r\nRCPT TO:<c@example.com>\r\nDATA"
)
FLIGHT = f"""
    {ALL_AT_ONCE}
    S: 250 2.1.0 Ok
    {PIPELINING}
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    P1: RCPT TO:<b@example.com>
    P1: RCPT TO:<c@example.com>
    P1: DATA
    U1: 250 2.1.0 sender fine
"""
CONTENT = r"""
    C: Subject: x\r\n\r\nhello\r\n.
    P1: Subject: x
    P1:
    P1: hello
    P1: .
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
"""


def test_an_envelope_and_data_are_one_flight() -> None:
    world = started().play(
        FLIGHT
        + r"""
    U1: 250 2.1.5 a\r\n250 2.1.5 b\r\n250 2.1.5 c\r\n354 go
    S: 250 2.1.5 a
    S: 250 2.1.5 b
    S: 250 2.1.5 c
    S: 354 go
    """
        + CONTENT
    )

    (ended,) = world.said(TransactionEnded)
    assert ended.recipients == ("a@example.com", "b@example.com", "c@example.com")


def test_each_recipient_of_a_flight_has_its_own_answer() -> None:
    world = started().play(
        FLIGHT
        + r"""
    U1: 550 5.1.1 no a\r\n250 2.1.5 b\r\n451 4.2.0 not c
    S: 550 5.1.1 no a
    S: 250 2.1.5 b
    S: 451 4.2.0 not c
    U1: 354 go
    S: 354 go
    """
        + CONTENT
    )

    (ended,) = world.said(TransactionEnded)
    assert ended.recipients == ("b@example.com",)


def test_an_upstream_that_is_ready_for_content_of_nobody_is_cut() -> None:
    """RFC 2920 section 3.1: it may say 354 although it refused every recipient."""
    started().play(
        FLIGHT
        + r"""
    U1: 550 5.1.1 no a\r\n550 5.1.1 no b\r\n550 5.1.1 no c\r\n354 go
    S: 550 5.1.1 no a
    S: 550 5.1.1 no b
    P1 cut
    S: 550 5.1.1 no c
    S: 554 5.5.1 No valid recipients
    """
    )


def test_where_nobody_is_accepted_the_refusal_of_data_is_taken_in() -> None:
    started().play(
        FLIGHT
        + r"""
    U1: 550 5.1.1 no a\r\n550 5.1.1 no b\r\n550 5.1.1 no c\r\n503 5.5.1 nobody
    S: 550 5.1.1 no a
    S: 550 5.1.1 no b
    S: 550 5.1.1 no c
    S: 554 5.5.1 No valid recipients
    C: RCPT TO:<d@example.com>
    P1: RCPT TO:<d@example.com>
    U1: 250 2.1.5 d
    S: 250 2.1.5 d
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    """
        + CONTENT
    )


@pytest.mark.parametrize("code", [451, 550])
def test_a_refused_mail_is_the_answer_to_all_of_the_flight(code: int) -> None:
    started().play(
        FLIGHT.replace("U1: 250 2.1.0 sender fine", f"U1: {code} 4.1.0 not from there")
        + rf"""
    U1: 503 5.5.1 no mail\r\n503 5.5.1 no mail\r\n503 5.5.1 no mail\r\n503 5.5.1 no mail
    S: {code} 4.1.0 not from there
    S: {code} 4.1.0 not from there
    S: {code} 4.1.0 not from there
    S: 554 5.5.1 No valid recipients
    C: RSET
    P1: RSET
    U1: 250 2.0.0 fine
    S: 250 2.0.0 fine
    """
    )


def test_one_that_takes_no_pipelining_gets_one_command_at_a_time() -> None:
    started().play(
        rf"""
    {ALL_AT_ONCE}
    S: 250 2.1.0 Ok
    {upstream_greets(1)}
    P1: MAIL FROM:<s@example.org>
    U1: 250 fine
    P1: RCPT TO:<a@example.com>
    U1: 250 2.1.5 a
    S: 250 2.1.5 a
    P1: RCPT TO:<b@example.com>
    U1: 250 2.1.5 b
    S: 250 2.1.5 b
    P1: RCPT TO:<c@example.com>
    U1: 250 2.1.5 c
    S: 250 2.1.5 c
    P1: DATA
    U1: 354 go
    S: 354 go
    """
        + CONTENT
    )


@pytest.mark.parametrize(
    ("recipient", "answer"),
    [
        ("x@example.net", "452 4.5.3 This recipient's server is another one; ..."),
        ("x@nowhere.test", "550 5.7.1 Relay access denied"),
        ("x@broken.test", "451 4.3.0 The look-up of this recipient failed; ..."),
        ("x@example.com> FOO=bar", "555 5.5.4 Parameter not recognised"),
        ("ü@example.com", "553 5.6.7 The address is not ASCII; ..."),
        ("not an address", "501 5.1.3 The address is not valid"),
    ],
)
def test_a_flight_ends_where_a_recipient_goes_elsewhere(recipient: str, answer: str) -> None:
    to = recipient if ">" in recipient else f"{recipient}>"
    behind_it = rf"RCPT TO:<{to}\r\nRCPT TO:<c@example.com>\r\nDATA"
    behind = answer if answer.startswith("452") else "250 2.1.5 c"
    started().play(
        rf"""
    C: MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\n{behind_it}
    S: 250 2.1.0 Ok
    {PIPELINING}
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    U1: 250 fine\r\n250 2.1.5 a
    S: 250 2.1.5 a
    S: {answer}
    """
        + (
            r"""
    P1: RCPT TO:<c@example.com>
    P1: DATA
    U1: 250 2.1.5 c\r\n354 go
    S: 250 2.1.5 c
    S: 354 go
    """
            if behind.startswith("250")
            else """
    S: 452 4.5.3 This recipient's server is another one; ...
    P1: DATA
    U1: 354 go
    S: 354 go
    """
        )
        + CONTENT
    )


def test_no_more_recipients_are_sent_ahead_than_are_taken() -> None:
    started(max_recipients=2).play(
        rf"""
    {ALL_AT_ONCE}
    S: 250 2.1.0 Ok
    {PIPELINING}
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    P1: RCPT TO:<b@example.com>
    U1: 250 fine\r\n250 2.1.5 a\r\n250 2.1.5 b
    S: 250 2.1.5 a
    S: 250 2.1.5 b
    S: 452 4.5.3 Too many recipients
    P1: DATA
    U1: 354 go
    S: 354 go
    """
        + CONTENT
    )


@pytest.mark.parametrize(
    ("limits", "answer"),
    [("LIMITS RCPTMAX=2", "452 4.5.3 Too many recipients")],
)
def test_the_limits_of_an_upstream_are_kept(limits: str, answer: str) -> None:
    """RFC 9422: the one too many is told to come again."""
    started().play(
        rf"""
    {ALL_AT_ONCE}
    S: 250 2.1.0 Ok
    {upstream_greets(1, "PIPELINING," + limits)}
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    P1: RCPT TO:<b@example.com>
    U1: 250 fine\r\n250 2.1.5 a\r\n250 2.1.5 b
    S: 250 2.1.5 a
    S: 250 2.1.5 b
    S: {answer}
    P1: DATA
    U1: 354 go
    S: 354 go
    """
        + CONTENT
    )


def test_a_used_connection_that_breaks_takes_the_whole_flight_to_a_fresh_one() -> None:
    started().play(
        FLIGHT
        + r"""
    U1: 250 2.1.5 a\r\n250 2.1.5 b\r\n250 2.1.5 c\r\n354 go
    S: 250 2.1.5 a
    S: 250 2.1.5 b
    S: 250 2.1.5 c
    S: 354 go
    """
        + CONTENT
        + rf"""
    {ALL_AT_ONCE}
    S: 250 2.1.0 Ok
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    P1: RCPT TO:<b@example.com>
    P1: RCPT TO:<c@example.com>
    P1: DATA
    U1 gone
    {upstream_greets(2, "PIPELINING")}
    P2: MAIL FROM:<s@example.org>
    P2: RCPT TO:<a@example.com>
    P2: RCPT TO:<b@example.com>
    P2: RCPT TO:<c@example.com>
    P2: DATA
    U2: 250 fine\r\n250 2.1.5 a\r\n250 2.1.5 b\r\n250 2.1.5 c\r\n354 go
    S: 250 2.1.5 a
    S: 250 2.1.5 b
    S: 250 2.1.5 c
    S: 354 go
    """
        + CONTENT.replace("P1", "P2").replace("U1", "U2")
    )


def test_after_mailmax_a_fresh_connection_is_used() -> None:
    greets = upstream_greets(1, "PIPELINING,LIMITS MAILMAX=1")
    one = r"""
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    P1: DATA
    U1: 250 fine\r\n250 2.1.5 a\r\n354 go
    S: 250 2.1.5 a
    S: 354 go
    """
    said = r"C: MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\nDATA"
    again = one.replace("1:", "2:") + CONTENT.replace("1:", "2:")
    started().play(
        f"{said}\nS: 250 2.1.0 Ok\n{greets}{one}{CONTENT}{said}\nS: 250 2.1.0 Ok\nP1: QUIT\n"
        + upstream_greets(2, "PIPELINING")
        + again
    )


def test_content_that_no_upstream_asked_for_is_never_sent_after_too_many_errors() -> None:
    """DATA was sent ahead, and the session ends before the client's turn."""
    world = started(max_errors=2).play(
        FLIGHT
        + r"""
    U1: 550 5.1.1 no a
    S: 550 5.1.1 no a
    U1: 550 5.1.1 no b
    S: 550 5.1.1 no b
    S: 421 4.7.0 Too many errors
    P1 cut
    """
    )
    assert not world.said(TransactionEnded)


def test_a_slow_look_up_of_others_does_not_cost_the_first_its_answer() -> None:
    """None stands for a look-up without end."""
    world = World({"example.com": ONE, "slow.test": None}, settings=Settings(recipient_time=60.0))
    world.play(
        GREETING
        + rf"""
    C: MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\nRCPT TO:<x@slow.test>
    S: 250 2.1.0 Ok
    {PIPELINING}
    wait 1s
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>
    U1: 250 fine\r\n250 2.1.5 a
    S: 250 2.1.5 a
    wait 59s
    wait 2s
    S: 451 4.3.0 The look-up of this recipient failed; try again later
    """
    )
