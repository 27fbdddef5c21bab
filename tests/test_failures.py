"""What the client is told when things fail: a dialogue for each way in which they can."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from smtpproxy.config import Limits, Timeouts
from smtpproxy.events import Disconnected, Refused, Side, TransactionEnded, UpstreamFailed
from smtpproxy.listener import ConnectionLimits, replies, tally, visitors, voice
from smtpproxy.mail import Peer
from smtpproxy.relay import carried, guard, message, transaction
from smtpproxy.routing import TryAgain
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream import errors
from tests.support.dialogue import (
    CLIENT,
    FIRST_RCPT,
    GREETING,
    MAIL,
    ONE,
    TWO,
    Settings,
    World,
    upstream,
    upstream_greets,
    with_tls_verify,
)

ROUTES = {"example.com": ONE, "example.net": TWO}
HOST = upstream("mx.test")  # a name, for those that have several addresses
SEVERAL = {"mx.test": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]}

UNREACHABLE = "451 4.4.1 The server of this recipient is not reachable"
LOST = "451 4.4.2 The connection to the server of this recipient was lost"
STOPS = "421 4.3.2 mx.example.net is shutting down"


def replayed(number: int = 1) -> str:
    """Upstream `number` takes the envelope."""
    return f"""
        P{number}: MAIL FROM:<s@example.org>
        U{number}: 250 sender fine
        P{number}: RCPT TO:<a@example.com>
        U{number}: 250 recipient fine
        S: 250 recipient fine
    """


BOUND = FIRST_RCPT + upstream_greets(1) + replayed(1)
DATA = "C: DATA\nP1: DATA\nU1: 354 go\nS: 354 go\n"
END = r"""
    C: one\r\n.
    P1: one
    P1: .
"""
STILL_THERE = "C: RSET\nS: 250 2.0.0 Ok\n"  # answered here: there is no upstream any more


def started(routes=ROUTES, hosts=None, **settings) -> World:
    return World(routes, hosts, Settings(**settings)).play(GREETING)


def failures(world: World) -> list[tuple[str, str]]:
    """The addresses that were no use, and why."""
    return [(event.address, event.reason) for event in world.said(UpstreamFailed)]


# The look-up


def test_no_mapping_matches_and_the_session_goes_on() -> None:
    world = started().play(f"""
        {MAIL}
        C: RCPT TO:<a@unknown.test>
        S: 550 5.7.1 Relay access denied
        C: RCPT TO:<a@example.com>
        {upstream_greets(1)}
        {replayed(1)}
    """)
    (refused,) = world.said(Refused)
    assert (refused.by, refused.recipient) == (Side.PROXY, "a@unknown.test")


def test_a_lookup_that_fails_is_no_lack_of_a_route() -> None:
    world = started({"example.com": TryAgain("the database is down")}).play(f"""
        {FIRST_RCPT}
        S: 451 4.3.0 The look-up of this recipient failed; try again later
        C: NOOP
        S: 250 2.0.0 Ok
    """)
    (refused,) = world.said(Refused)
    assert (refused.by, refused.error) == (Side.PROXY, "the database is down")


def test_a_lookup_that_never_ends_is_given_up() -> None:
    world = started({"example.com": None}).play(f"""
        {FIRST_RCPT}
        wait 239s
        wait 2s
        S: 451 4.3.0 The look-up of this recipient failed; try again later
        C: RCPT TO:<a@unknown.test>
        S: 550 5.7.1 ...
    """)
    assert world.said(Refused)[0].error == "look-up not done within 240 s"


def test_a_lookup_that_fails_for_a_later_recipient_leaves_the_others() -> None:
    started({**ROUTES, "example.org": TryAgain("down")}).play(BOUND).play(f"""
        C: RCPT TO:<a@example.org>
        S: 451 4.3.0 ...
        {DATA}{END}
        U1: 250 taken
        S: 250 taken
    """)


def test_a_lookup_for_a_later_recipient_that_never_ends_is_given_up_as_well() -> None:
    world = (
        started({**ROUTES, "example.org": None})
        .play(BOUND)
        .play(f"""
        C: RCPT TO:<a@example.org>
        wait 239s
        wait 2s
        S: 451 4.3.0 ...
        {DATA}{END}
        U1: 250 taken
        S: 250 taken
    """)
    )
    assert world.said(Refused)[0].error == "look-up not done within 240 s"


# Connecting


def test_unreachable() -> None:
    world = started()
    world.unreachable.add("192.0.2.1")
    world.play(f"{FIRST_RCPT}\nS: {UNREACHABLE}\n{STILL_THERE}")
    assert failures(world) == [("192.0.2.1", "Connection refused")]
    (refused,) = world.said(Refused)
    assert (refused.by, refused.error) == (Side.UPSTREAM, "Connection refused")


def test_a_host_without_an_address() -> None:
    world = started({"example.com": HOST}, hosts={}).play(f"{FIRST_RCPT}\nS: {UNREACHABLE}")
    assert failures(world) == [("", "mx.test has no address")]


def test_the_next_address_is_tried() -> None:
    world = started({"example.com": HOST}, SEVERAL)
    world.unreachable.add("192.0.2.1")
    world.silent.add("192.0.2.2")
    world.play(f"""
        {FIRST_RCPT}
        wait 29s
        wait 2s
        U1 connected to 192.0.2.3
        {upstream_greets(1)}
        {replayed(1)}
    """)
    assert failures(world) == [
        ("192.0.2.1", "Connection refused"),
        ("192.0.2.2", "not done within 30 s"),
    ]
    assert not world.said(Refused)


def test_no_address_can_be_reached() -> None:
    world = started({"example.com": HOST}, SEVERAL)
    world.silent.update(SEVERAL["mx.test"])
    world.play(f"{FIRST_RCPT}\nwait 89s\nwait 3s\nS: {UNREACHABLE}")
    assert [address for address, _ in failures(world)] == SEVERAL["mx.test"]


def test_each_address_gets_its_share_of_the_time() -> None:
    """One that takes the connection and says nothing leaves time enough for the others."""
    world = started({"example.com": HOST}, SEVERAL).play(f"""
        {FIRST_RCPT}
        U1 connected to 192.0.2.1
        wait 79s
        wait 2s
        P1 cut
        U2 connected to 192.0.2.2
        U2: 220 hello
        P2: EHLO mx.example.net
        wait 78s
        wait 2s
        P2 cut
        U3 connected to 192.0.2.3
        wait 77s
        wait 3s
        P3 cut
        S: {UNREACHABLE}
    """)
    assert world.clock.seconds() <= 241
    assert failures(world)[0] == ("192.0.2.1", "no answer in 80 s")


UNTIL_EHLO = "U1: 220 one.example.net\nP1: EHLO mx.example.net\n"
UNTIL_STARTTLS = UNTIL_EHLO + "U1: 250-one\nU1: 250 STARTTLS\nP1: STARTTLS\n"
UNTIL_XCLIENT = UNTIL_EHLO + "U1: 250-one\nU1: 250 XCLIENT ADDR\nP1: XCLIENT ADDR=192.0.2.9\n"
UNTIL_SECOND_EHLO = UNTIL_XCLIENT + "U1: 220 one.example.net\nP1: EHLO client.example.com\n"
UNTIL_MAIL = upstream_greets(1) + "P1: MAIL FROM:<s@example.org>\n"
UNTIL_RCPT = UNTIL_MAIL + "U1: 250 fine\nP1: RCPT TO:<a@example.com>\n"
PIPELINED = upstream_greets(1, "PIPELINING") + (
    "P1: MAIL FROM:<s@example.org>\nP1: RCPT TO:<a@example.com>\n"
)
STAGES = {
    "greeting": "",
    "EHLO": UNTIL_EHLO,
    "STARTTLS": UNTIL_STARTTLS,
    "XCLIENT": UNTIL_XCLIENT,
    "second EHLO": UNTIL_SECOND_EHLO,
    "MAIL": UNTIL_MAIL,
    "RCPT": UNTIL_RCPT,
    "MAIL and RCPT": PIPELINED,
    "RCPT after MAIL": PIPELINED + "U1: 250 fine\n",
    "half a reply": UNTIL_MAIL + "U1: 250-fine\n",
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_an_upstream_that_says_nothing_more(stage: str) -> None:
    """All that the first RCPT may take is 4 minutes; then the session goes on."""
    world = started().play(f"""
        {FIRST_RCPT}
        {stage}
        wait 239s
        wait 2s
        S: {UNREACHABLE}
        P1 cut
        {STILL_THERE}
    """)
    assert len(failures(world)) == 1
    assert world.said(Refused)[0].by is Side.UPSTREAM


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_an_upstream_that_goes_away(stage: str) -> None:
    inside = "MAIL" in stage or "RCPT" in stage
    world = started().play(f"""
        {FIRST_RCPT}
        {stage}
        U1 gone
        S: {LOST if inside else UNREACHABLE}
        {STILL_THERE}
    """)
    assert world.said(Refused)[0].by is Side.UPSTREAM


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_an_upstream_that_does_not_speak_smtp(stage: str) -> None:
    inside = "MAIL" in stage or "RCPT" in stage
    world = started().play(f"""
        {FIRST_RCPT}
        {stage}
        U1: SSH-2.0-OpenSSH_9.2
        P1 cut
        S: {LOST if inside else UNREACHABLE}
        {STILL_THERE}
    """)
    assert "SSH-2.0" in world.said(Refused)[0].error


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_client_that_leaves_meanwhile(stage: str) -> None:
    world = started().play(f"{FIRST_RCPT}\n{stage}\nC gone\nP1 cut")
    (left,) = world.said(Disconnected)
    assert left.reason.startswith("lost connection")
    assert not len(world.sessions)
    world.play("wait 1s")
    assert not len(world.deadlines)


@pytest.mark.parametrize("way", ["lookup", "connect"])
def test_a_client_that_leaves_before_there_is_an_upstream(way: str) -> None:
    world = started({"example.com": None} if way == "lookup" else ROUTES)
    world.silent.add("192.0.2.1")
    world.play(f"{FIRST_RCPT}\nC gone\nwait 1s")
    assert not len(world.sessions)
    assert not len(world.deadlines)


# Greetings and refusals before MAIL


@pytest.mark.parametrize("greeting", ["554 5.7.1 go away", "421 4.3.2 busy", "450 later"])
def test_a_refused_greeting_judges_the_proxy_and_not_the_mail(greeting: str) -> None:
    world = started().play(f"""
        {FIRST_RCPT}
        U1: {greeting}
        P1 cut
        S: 451 4.4.0 The server of this recipient is not ready: {greeting}
        {STILL_THERE}
    """)
    assert failures(world) == [("192.0.2.1", f"it refused this proxy: {greeting}")]


def test_a_refused_greeting_has_the_next_address_tried() -> None:
    started({"example.com": HOST}, SEVERAL).play(f"""
        {FIRST_RCPT}
        U1: 554 5.7.1 go away
        P1 cut
        U2 connected to 192.0.2.2
        U2: 421 4.3.2 busy
        P2 cut
        U3 connected to 192.0.2.3
        {upstream_greets(3)}
        {replayed(3)}
    """)


def test_a_greeting_that_is_a_success_and_still_none() -> None:
    started().play(f"""
        {FIRST_RCPT}
        U1: 250 what?
        S: 451 4.4.0 The server of this recipient is not ready: 250 what?
        P1: QUIT
        U1: 221 bye
    """)


def test_a_long_refusal_becomes_a_line_that_clients_can_take() -> None:
    """A reply line has 512 octets (RFC 5321 4.5.3.1.5)."""
    world = started().play(f"{FIRST_RCPT}\n")
    for line in range(50):
        world.upstream(1).deliver(f"554-line {line} of a long lament\r\n".encode())
    world.upstream(1).deliver(b"554 and so on\r\n")
    said = bytes(world.client.said)
    assert said.startswith(b"451 4.4.0 The server of this recipient is not ready: 554 line 0 of")
    assert len(said) <= 512


def test_ehlo_refused_then_helo() -> None:
    started().play(f"""
        {FIRST_RCPT}
        U1: 220 one
        P1: EHLO mx.example.net
        U1: 502 5.5.1 what?
        P1: HELO mx.example.net
        U1: 250 one
        {replayed(1)}
    """)


def test_ehlo_and_helo_refused() -> None:
    started({"example.com": HOST}, {"mx.test": ["192.0.2.1", "192.0.2.2"]}).play(f"""
        {FIRST_RCPT}
        U1: 220 one
        P1: EHLO mx.example.net
        U1: 502 5.5.1 what?
        P1: HELO mx.example.net
        U1: 550 5.7.1 not you
        P1: QUIT
        U2 connected to 192.0.2.2
        U2: 220 two
        P2: EHLO mx.example.net
        U2: 450 4.7.1 later
        P2: QUIT
        S: 451 4.4.0 The server of this recipient is not ready: 450 4.7.1 later
        {STILL_THERE}
    """)


def test_refused_after_xclient_is_said_of_the_client() -> None:
    """No other address is tried: the upstream has judged."""
    world = started({"example.com": HOST}, SEVERAL).play(f"""
        {FIRST_RCPT}
        {UNTIL_XCLIENT}
        U1: 554-5.7.1 Service unavailable
        U1: 554 5.7.1 192.0.2.9 is blocked
        P1: QUIT
        S: 554-5.7.1 Service unavailable
        S: 554 5.7.1 192.0.2.9 is blocked
        {STILL_THERE}
    """)
    assert world.said(Refused)[0].by is Side.UPSTREAM


def test_refused_at_the_ehlo_behind_xclient_is_said_of_the_client() -> None:
    started().play(f"""
        {FIRST_RCPT}
        {UNTIL_SECOND_EHLO}
        U1: 550 5.7.1 no such name
        P1: QUIT
        S: 550 5.7.1 no such name
    """)


@pytest.mark.parametrize("reply", ["501 5.5.4 Bad attribute", "500 what?", "503 5.5.1 not now"])
def test_an_xclient_that_is_not_understood_is_our_fault(reply: str) -> None:
    """Never a 5xx to the client: it has done nothing wrong."""
    started().play(f"""
        {FIRST_RCPT}
        {UNTIL_XCLIENT}
        U1: {reply}
        P1: QUIT
        S: 451 4.4.0 The server of this recipient is not ready: {reply}
    """)


def test_the_target_is_ourselves() -> None:
    world = started()
    world.ourselves.add("192.0.2.1")
    world.play(f"{FIRST_RCPT}\nS: 554 5.4.6 Mail for this recipient loops back here")
    assert not world.upstreams
    assert world.said(Refused)[0].by is Side.PROXY


# TLS, as far as it goes without a handshake; test_tls_session.py has the rest


@pytest.mark.parametrize("reply", ["454 4.7.0 not now", "502 5.5.1 no"])
def test_starttls_refused_where_the_certificate_must_verify(reply: str) -> None:
    started({"example.com": with_tls_verify(ONE)}).play(f"""
        {FIRST_RCPT}
        {UNTIL_STARTTLS}
        U1: {reply}
        P1: QUIT
        S: 451 4.7.5 The server of this recipient cannot be verified
    """)


def test_starttls_refused_where_nobody_must_be_verified() -> None:
    started().play(f"""
        {FIRST_RCPT}
        {UNTIL_STARTTLS}
        U1: 454 4.7.0 not now
        {replayed(1)}
    """)


def test_a_handshake_that_never_ends_where_nobody_must_be_verified() -> None:
    started().play(f"""
        {FIRST_RCPT}
        {UNTIL_STARTTLS}
        U1: 220 go
        wait 29s
        wait 2s
        P1 cut
        U2 connected to 192.0.2.1
        U2: 220 one
        P2: EHLO mx.example.net
        U2: 250-one
        U2: 250 STARTTLS
        {replayed(2)}
    """)


def test_a_handshake_that_never_ends_where_the_certificate_must_verify() -> None:
    world = started({"example.com": with_tls_verify(ONE)}).play(f"""
        {FIRST_RCPT}
        {UNTIL_STARTTLS}
        U1: 220 go
        wait 29s
        wait 2s
        P1 cut
        S: 451 4.7.5 The server of this recipient cannot be verified
    """)
    assert len(world.upstreams) == 1


@pytest.mark.parametrize("behind", ["250 injected", "25"])
def test_plaintext_behind_the_reply_to_starttls_ends_the_connection(behind: str) -> None:
    world = started().play(f"{FIRST_RCPT}\n{UNTIL_STARTTLS}")
    world.upstream(1).deliver(f"220 go\r\n{behind}\r\n".encode())
    world.play(f"P1 cut\nS: {UNREACHABLE}")
    assert "plaintext" in failures(world)[0][1]


# The envelope


@pytest.mark.parametrize("flight", [1, 2], ids=["one by one", "in one flight"])
@pytest.mark.parametrize("reply", ["550 5.1.8 bad sender", "451 4.1.8 not now"])
def test_mail_refused_is_the_reply_to_rcpt_and_remembered(reply: str, flight: int) -> None:
    refused = f"{UNTIL_MAIL}U1: {reply}" if flight == 1 else f"{PIPELINED}U1: {reply}\nU1: 503 no"
    world = started().play(f"""
        {FIRST_RCPT}
        {refused}
        S: {reply}
        C: RCPT TO:<b@example.com>
        S: {reply}
        C: RCPT TO:<b@example.net>
        P1: QUIT
        {upstream_greets(2)}
        P2: MAIL FROM:<s@example.org>
        U2: 250 fine
        P2: RCPT TO:<b@example.net>
        U2: 250 fine
        S: 250 fine
        C: RSET
        P2: RSET
        U2: 250 reset
        S: 250 reset
        {FIRST_RCPT}
        P2: QUIT
    """)
    assert len(world.upstreams) == 3, "what one MAIL was told does not count for the next"


def test_a_mail_refused_on_a_stale_connection_is_not_remembered() -> None:
    """The fresh connection took it: so the recipients after the first are welcome, too."""
    started().play(BOUND + DATA + END + "U1: 250 taken\nS: 250 taken\n").play(f"""
        {FIRST_RCPT}
        P1: MAIL FROM:<s@example.org>
        U1: 421 4.4.2 idle for too long
        P1 cut
        {upstream_greets(2)}
        {replayed(2)}
        C: RCPT TO:<b@example.com>
        P2: RCPT TO:<b@example.com>
        U2: 250 b, too
        S: 250 b, too
    """)


def test_rcpt_refused_reaches_the_client_unchanged() -> None:
    world = started().play(f"""
        {FIRST_RCPT}
        {UNTIL_RCPT}
        U1: 550-5.1.1  two blanks, and a\ttab
        U1: 550-5.1.1 grün
        U1: 550-
        U1: 550 5.1.1 that is all
        S: 550-5.1.1  two blanks, and a\ttab
        S: 550-5.1.1 grün
        S: 550-
        S: 550 5.1.1 that is all
    """)
    assert world.said(Refused)[0].by is Side.UPSTREAM


def test_rcpt_refused_for_now() -> None:
    started().play(f"{FIRST_RCPT}\n{UNTIL_RCPT}\nU1: 450 4.2.0 greylisted\nS: 450 4.2.0 greylisted")


def test_a_reply_is_data_and_not_lines_of_ours() -> None:
    """A bare CR or another control character in a reply ends no line of ours."""
    world = started().play(f"{FIRST_RCPT}\n{UNTIL_RCPT}")
    world.upstream(1).deliver(b"550 5.1.1 no\r250 yes\x00\x1b[1m\r\n")
    world.play("S: 550 5.1.1 no?250 yes??[1m")


def test_an_upstream_that_hangs_at_a_later_rcpt() -> None:
    world = (
        started()
        .play(BOUND)
        .play(f"""
        C: RCPT TO:<b@example.com>
        P1: RCPT TO:<b@example.com>
        wait 299s
        wait 2s
        P1 cut
        S: {LOST}
        C: RCPT TO:<c@example.com>
        S: {LOST}
        C: DATA
        S: {LOST}
        {STILL_THERE}
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.error) == (Side.UPSTREAM, "no answer within 300 s")


def test_a_reply_that_drips_has_no_more_time_than_another() -> None:
    """The deadline is for the reply, not for each of its lines."""
    world = started().play(BOUND).play("C: RCPT TO:<b@example.com>\nP1: RCPT TO:<b@example.com>")
    for _ in range(2):
        world.play("wait 140s\nU1: 250-one moment")
    world.play(f"wait 19s\nwait 2s\nP1 cut\nS: {LOST}")


@pytest.mark.parametrize("line", [b"250-more\r\n", b"250 " + b"x" * 5000], ids=["lines", "line"])
def test_a_reply_without_end(line: bytes) -> None:
    world = started().play(BOUND).play("C: RCPT TO:<b@example.com>\nP1: RCPT TO:<b@example.com>")
    for _ in range(300):
        world.upstream(1).deliver(line)
    world.play(f"P1 cut\nS: {LOST}\n{STILL_THERE}")


def test_a_421_to_rcpt_ends_the_session_in_the_upstreams_name() -> None:
    world = (
        started()
        .play(BOUND)
        .play("""
        C: RCPT TO:<b@example.com>
        P1: RCPT TO:<b@example.com>
        U1: 421 4.3.2 one is shutting down
        S: 421 4.3.2 one is shutting down
        S closed
        P1 cut
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, str(ended.reply)) == (Side.UPSTREAM, "421 4.3.2 one is shutting down")


# Between RCPT and the content


GOES = {"gone": "U1 gone", "closing": "U1: 421 4.4.2 bye", "half": "U1: 250-what"}


@pytest.mark.parametrize("goes", GOES.values(), ids=GOES)
def test_gone_between_rcpt_and_data(goes: str) -> None:
    """Never a 354 without a live upstream."""
    world = (
        started()
        .play(BOUND)
        .play(f"""
        {goes}
        C: DATA
        S: {LOST}
        C: RCPT TO:<b@example.com>
        S: {LOST}
        {STILL_THERE}
        {FIRST_RCPT}
        {upstream_greets(2)}
        {replayed(2)}
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.in_doubt) == (Side.UPSTREAM, False)


def test_gone_while_data_is_asked_for() -> None:
    started().play(f"{BOUND}\nC: DATA\nP1: DATA\nU1 gone\nS: {LOST}\n{STILL_THERE}")


def test_no_answer_to_data() -> None:
    started().play(f"""
        {BOUND}
        C: DATA
        P1: DATA
        wait 299s
        wait 2s
        P1 cut
        S: {LOST}
    """)


@pytest.mark.parametrize("reply", ["250 what?", "220 hello", "355 go on"])
def test_data_answered_by_a_success_is_no_invitation(reply: str) -> None:
    started().play(f"{BOUND}\nC: DATA\nP1: DATA\nU1: {reply}\nP1 cut\nS: {LOST}\n{STILL_THERE}")


@pytest.mark.parametrize("reply", ["554 5.5.1 no valid recipients", "451 4.3.0 not now"])
def test_data_refused(reply: str) -> None:
    world = (
        started()
        .play(f"{BOUND}\nC: DATA\nP1: DATA\nU1: {reply}\nS: {reply}")
        .play("""
        C: RSET
        P1: RSET
        U1: 250 reset
        S: 250 reset
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, str(ended.reply)) == (Side.UPSTREAM, reply)


def test_a_surplus_reply_answers_nothing() -> None:
    started().play(f"""
        {FIRST_RCPT}
        {UNTIL_RCPT}
        U1: 250 fine\\r\\n354 go
        S: 250 fine
        C: DATA
        P1 cut
        S: {LOST}
    """)


# Inside the content


def test_gone_inside_the_content() -> None:
    """What the client goes on sending is content to its end, and no command."""
    world = (
        started()
        .play(BOUND + DATA)
        .play(f"""
        C: one
        P1 part: one
        U1 gone
        C: RSET
        C: QUIT
        C: .
        S: {LOST}
        {STILL_THERE}
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.in_doubt) == (Side.UPSTREAM, False)
    assert ended.size == len("one\r\nRSET\r\nQUIT\r\n")


def test_gone_before_the_end_of_data_is_not_in_doubt() -> None:
    world = started().play(BOUND + DATA).play(f"C: one\nP1 part: one\nU1 gone\nC: .\nS: {LOST}")
    (ended,) = world.said(TransactionEnded)
    assert not ended.in_doubt


def test_an_upstream_that_takes_no_content() -> None:
    world = (
        started()
        .play(BOUND + DATA)
        .play(f"""
        U1 stalls
        C: one
        P1 part: one
        wait 299s
        wait 2s
        P1 cut
        C: two
        C: .
        S: {LOST}
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert ended.error == "the upstream took no content for 300 s"


EARLY = {"whole": "U1: 552 5.3.4 too big", "and gone": "U1: 552 5.3.4 too big\nU1 gone"}


@pytest.mark.parametrize("early", EARLY.values(), ids=EARLY)
@pytest.mark.parametrize("more", ["C: two\n", ""], ids=["inside", "before the end"])
def test_a_permanent_refusal_inside_the_content_is_told_at_its_end(early: str, more: str) -> None:
    world = (
        started()
        .play(BOUND + DATA)
        .play(f"""
        C: one
        P1 part: one
        {early}
        {more}
        C: .
        S: 552 5.3.4 too big
        {STILL_THERE}
    """)
    )
    assert not world.upstream(1).said
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.in_doubt) == (Side.UPSTREAM, False)


@pytest.mark.parametrize("goes", ["wait 301s", "U1 gone"], ids=["stays", "goes"])
def test_a_permanent_refusal_while_the_upstream_takes_nothing(goes: str) -> None:
    started().play(BOUND + DATA).play(f"""
        U1 stalls
        C: one
        P1 part: one
        U1: 552 5.3.4 too big
        {goes}
        C: .
        S: 552 5.3.4 too big
    """)


@pytest.mark.parametrize("early", ["250 2.0.0 taken", "451 4.3.0 disk full", "421 bye", "354 go"])
def test_any_other_reply_inside_the_content_means_nothing(early: str) -> None:
    """Least of all a success: it was said of a message that was not there yet."""
    world = (
        started()
        .play(BOUND + DATA)
        .play(f"""
        C: one
        P1 part: one
        U1: {early}
        C: .
        P1 cut
        S: {LOST}
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.in_doubt) == (Side.UPSTREAM, False)


@pytest.mark.parametrize("early", ["250-what", "HELLO"], ids=["half", "garbage"])
def test_what_is_no_reply_inside_the_content(early: str) -> None:
    started().play(BOUND + DATA).play(f"""
        C: one
        P1 part: one
        U1: {early}
        C: .
        P1 cut
        S: {LOST}
    """)


def test_a_success_said_just_before_the_final_dot_is_not_the_answer_to_it() -> None:
    """It came while the rest of the content was still to be taken."""
    started().play(BOUND + DATA).play(f"""
        U1 stalls
        C: one
        P1 part: one
        U1: 250 2.0.0 taken
        U1 takes
        P1 cut
        C: .
        S: {LOST}
    """)


# The final dot


def test_no_answer_to_the_final_dot() -> None:
    world = (
        started()
        .play(BOUND + DATA + END)
        .play(f"""
        wait 599s
        wait 2s
        P1 cut
        S: {LOST}
        {STILL_THERE}
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert ended.in_doubt
    assert (ended.by, ended.error) == (Side.UPSTREAM, "no answer within 600 s")
    assert str(ended.reply) == LOST


DOUBTS = {
    "gone": "U1 gone",
    "garbage": "U1: taken",
    "354": "U1: 354 go",
    "half": "U1: 250-\nU1 gone",
}


@pytest.mark.parametrize("doubt", DOUBTS.values(), ids=DOUBTS)
def test_no_usable_answer_to_the_final_dot_is_in_doubt(doubt: str) -> None:
    world = started().play(BOUND + DATA + END + doubt + f"\nS: {LOST}")
    (ended,) = world.said(TransactionEnded)
    assert ended.in_doubt


@pytest.mark.parametrize("reply", ["550 5.7.1 spam", "451 4.3.0 try again", "421 4.3.2 bye"])
def test_a_message_refused_is_refused_unchanged(reply: str) -> None:
    world = started().play(BOUND + DATA + END + f"U1: {reply}\nS: {reply}")
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.in_doubt, str(ended.reply)) == (Side.UPSTREAM, False, reply)


def test_a_second_answer_to_the_final_dot_is_nobodys() -> None:
    started().play(BOUND + DATA + END).play(f"""
        U1: 250 taken\\r\\n250 again
        S: 250 taken
        {MAIL}
        C: RCPT TO:<a@example.com>
        P1 cut
        {upstream_greets(2)}
        {replayed(2)}
    """)


# The client


def test_the_client_leaves_inside_the_content() -> None:
    world = (
        started()
        .play(BOUND + DATA)
        .play("""
        C: one
        P1 part: one
        C gone
        P1 cut
        wait 1s
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert ended.by is Side.CLIENT
    assert ended.error.startswith("lost connection")
    (left,) = world.said(Disconnected)
    assert left.after == "DATA"
    assert not len(world.sessions)
    assert not len(world.deadlines)


def test_the_client_leaves_behind_its_final_dot_while_content_waits() -> None:
    """The upstream may take the message yet: what it says is waited for, and logged."""
    world = (
        started()
        .play(BOUND + DATA)
        .play(r"""
        U1 stalls
        C: one\r\n.
        P1: one
        P1: .
        C gone
        U1 takes
        U1: 250 2.0.0 queued
        P1: QUIT
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert str(ended.reply) == "250 2.0.0 queued"


def test_the_client_leaves_while_the_final_answer_is_awaited() -> None:
    """The upstream may have taken the message: what it says is waited for, and logged."""
    world = (
        started()
        .play(BOUND + DATA + END)
        .play("""
        C gone
        wait 9m
    """)
    )
    assert len(world.sessions) == 1
    assert not world.upstream(1).cut
    world.play("U1: 250 2.0.0 queued as 4F2A\nP1: QUIT\nU1: 221 bye\nU1 gone\nwait 1s")
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, str(ended.reply)) == (Side.NONE, "250 2.0.0 queued as 4F2A")
    (left,) = world.said(Disconnected)
    assert left.reason.startswith("lost connection")
    assert not len(world.sessions)


def test_a_client_that_leaves_behind_its_quit_leaves_no_upstream_open() -> None:
    """The upstream has but so much time to say goodbye; the client does not wait for it."""
    started().play(BOUND).play("""
        C: RSET
        P1: RSET
        U1: 250 reset
        S: 250 reset
        C: QUIT
        S: 221 2.0.0 Bye
        S closed
        P1: QUIT
        C gone
        wait 11s
        P1 cut
    """)


def test_a_client_that_says_nothing() -> None:
    world = (
        started()
        .play(BOUND)
        .play("""
        wait 299s
        wait 2s
        S: 421 4.4.2 Timeout, closing the connection
        S closed
        P1: QUIT
    """)
    )
    (left,) = world.said(Disconnected)
    assert (left.after, left.reason) == ("RCPT", "timeout: not done within 300 s")


def test_a_command_that_drips_has_no_more_time_than_another() -> None:
    world = started()
    for char in b"NOO":
        world.client.deliver(bytes([char]))
        world.play("wait 98s")
    world.play("wait 8s\nS: 421 4.4.2 Timeout, closing the connection\nS closed")


def test_a_client_that_stops_inside_the_content() -> None:
    started().play(BOUND + DATA).play("""
        C: one
        P1 part: one
        wait 179s
        wait 2s
        S: 421 4.4.2 Timeout, closing the connection
        S closed
        P1 cut
    """)


def test_each_block_of_content_has_its_own_time() -> None:
    much = "x" * 85_000  # at 500 octets a second that is 170 s
    world = started().play(BOUND + DATA + "C: one\nP1 part: one\nwait 170s")
    for _ in range(5):
        world.play(f"C: {much}\nP1:\nP1 part: {much}\nwait 170s")
    world.play("C: .\nP1:\nP1: .\nU1: 250 taken\nS: 250 taken")


def test_a_client_that_takes_no_replies() -> None:
    started().play("""
        C stalls
        C: NOOP
        S: 250 2.0.0 Ok
        wait 299s
        wait 2s
        S: 421 4.4.2 Timeout, closing the connection
        S closed
    """)


# Limits


def told(world: World, peer: Peer) -> str:
    """What one more client of this address is told first."""
    client = world.connect(peer)
    return bytes(client.said).decode().strip()


def test_too_many_connections() -> None:
    world = World(ROUTES, settings=Settings(limits=ConnectionLimits(2, 10)))
    assert told(world, replace(CLIENT, address="192.0.2.10")).startswith("220 ")
    refusal = "421 4.7.0 Too many connections; try again later"
    assert told(world, replace(CLIENT, address="192.0.2.11")) == refusal
    world.client.lose()
    assert told(world, replace(CLIENT, address="192.0.2.11")).startswith("220 ")
    (refused,) = world.said(Refused)
    assert (refused.stage, str(refused.reply)) == ("CONNECT", refusal)


def test_too_many_connections_of_one_address() -> None:
    world = World(ROUTES, settings=Settings(limits=ConnectionLimits(10, 1)))
    assert told(world, CLIENT) == "421 4.7.0 Too many connections from your address"
    assert told(world, replace(CLIENT, address="192.0.2.10")).startswith("220 ")
    world.client.lose()
    assert told(world, CLIENT).startswith("220 ")


def test_a_client_that_was_turned_away_is_not_listened_to() -> None:
    world = World(ROUTES, settings=Settings(limits=ConnectionLimits(1, 1)))
    client = world.connect()
    client.deliver(b"EHLO client.example.com\r\n")
    world.clock.advance(0)
    assert client.said.count(b"\n") == 1
    assert client.closed


# Stopping


def test_an_idle_session_is_ended_at_once() -> None:
    world = started().play(f"stop\nS: {STOPS}\nS closed")
    assert world.stopped is not None
    assert world.stopped.called
    world.play("wait 1s")
    assert not len(world.deadlines)


def test_a_session_before_ehlo_is_idle() -> None:
    World(ROUTES).play(f"S: 220 mx.example.net ESMTP smtpproxy\nstop\nS: {STOPS}\nS closed")


def test_a_transaction_in_hand_is_finished() -> None:
    world = (
        started()
        .play(BOUND)
        .play(f"""
        stop
        {DATA}
        wait 20s
        {END}
        U1: 250 taken
        S: 250 taken
        S: {STOPS}
        S closed
        P1: QUIT
    """)
    )
    assert world.stopped is not None
    assert world.stopped.called


def test_a_transaction_without_an_accepted_recipient_is_not_waited_for() -> None:
    started().play(MAIL).play(f"stop\nS: {STOPS}\nS closed")


def test_a_client_that_gives_its_transaction_up_is_told_then() -> None:
    started().play(BOUND).play(f"""
        stop
        C: RSET
        P1: RSET
        U1: 250 reset
        S: 250 reset
        S: {STOPS}
        S closed
        P1: QUIT
    """)


def test_what_a_client_timed_out_of_is_told_as_it_was_told() -> None:
    world = started().play(BOUND).play("wait 301s\nS: 421 4.4.2 ...\nS closed\nP1: QUIT")
    (ended,) = world.said(TransactionEnded)
    assert ended.reply.code == 421
    assert ended.error.startswith("timeout")


def test_a_421_to_mail_does_not_end_a_session_that_may_have_other_mail() -> None:
    started().play(f"""
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<a@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 421 4.3.2 one is going down
        S: 451 4.3.2 one is going down
        C: RSET
        S: 250 2.0.0 Ok
    """)


def test_much_that_does_nothing_ends_the_session() -> None:
    world = started()
    world.client.deliver(b"NOOP\r\n" * 104)
    for _ in range(4):
        world.clock.advance(0)
    said = bytes(world.client.said).splitlines()
    assert len(said) == 104  # EHLO was the first of them
    assert said[-1] == b"421 4.7.0 Too many errors"


def test_one_with_much_to_say_gives_the_others_their_turn() -> None:
    world = started()
    world.client.deliver(b"NOOP\r\n" * 99)
    assert world.client.said.count(b"250 ") < 60
    other = world.connect()
    world.clock.advance(0)
    assert other.said.startswith(b"220 ")
    world.clock.advance(0)
    assert world.client.said.count(b"250 ") == 99


def test_a_transaction_that_does_not_end_is_cut() -> None:
    """Inside the content: the upstream never gets the final dot."""
    world = (
        started()
        .play(BOUND + DATA)
        .play(f"""
        stop
        C: one
        P1 part: one
        wait 29s
        wait 2s
        P1 cut
        S: {STOPS}
        S closed
    """)
    )
    assert world.stopped is not None
    assert world.stopped.called
    (ended,) = world.said(TransactionEnded)
    assert (ended.by, ended.in_doubt) == (Side.PROXY, False)


def test_a_final_answer_that_does_not_come_in_time_is_in_doubt() -> None:
    world = (
        started()
        .play(BOUND + DATA + END)
        .play(f"""
        stop
        wait 31s
        P1 cut
        S: {STOPS}
        S closed
    """)
    )
    (ended,) = world.said(TransactionEnded)
    assert ended.in_doubt


# The page about all this

PAGE = Path(__file__).parent.parent / "docs" / "failures.md"


def replies_to_failures() -> set[str]:
    """Every reply of ours that is no success and is not about a command's form."""
    modules = (replies, voice, tally, visitors, transaction, message, carried, errors)
    named = {it for module in modules for it in vars(module).values() if isinstance(it, Reply)}
    raised = {
        errors.Unreachable("").reply,
        errors.NotVerified("").reply,
        errors.NotEncrypted("").reply,
        errors.NotIntroduced().reply,
        errors.Ourselves().reply,
        errors.OutOfService().reply,
        errors.Busy(1).reply,
        errors.GreetingRefused(Reply.of(554, "", "…")).reply,
        guard.turned(Reply.of(554, "", "…")),
    }
    of_form = {502, 503, 501, 555}
    said = {it for it in named | raised if not it.positive and it.code not in of_form}
    said -= {replies.ABANDONED}  # only the log has it
    return {str(it).replace(" 554 …", " …") for it in said} | {STOPS}


def test_the_page_has_every_reply_as_it_is_given_and_no_other() -> None:
    written = set(re.findall(r"`(\d{3} \d\.\d+\.\d+ [^`]*)`", PAGE.read_text("utf-8")))
    assert written == replies_to_failures()


def test_the_page_names_settings_that_exist() -> None:
    named = set(re.findall(r"`(timeouts|limits)\.(\w+)`", PAGE.read_text("utf-8")))
    assert named
    for table, key in named:
        model = {"timeouts": Timeouts, "limits": Limits}[table]
        assert key in model.model_fields, f"{table}.{key}"
