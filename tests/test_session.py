"""The session as a dialogue: what is answered here, and what is carried through."""

from __future__ import annotations

import pytest

from smtpproxy.events import Disconnected, Side, TransactionEnded
from smtpproxy.listener.acquaintance import Acquaintance
from smtpproxy.listener.session import TURN, Session
from smtpproxy.relay import Transaction
from smtpproxy.smtp.server import Content
from smtpproxy.stream import Stream
from smtpproxy.tasks import Task
from smtpproxy.upstream import Connection
from tests.support.counted import counted
from tests.support.dialogue import GREETING, ONE, TWO, Settings, World, upstream_greets

ROUTES = {"example.com": ONE, "example.net": TWO}

ONE_BOUND = f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(1)}
    P1: MAIL FROM:<s@example.org>
    U1: 250 2.1.0 sender fine
    P1: RCPT TO:<a@example.com>
    U1: 250 2.1.5 recipient fine
    S: 250 2.1.5 recipient fine
"""
MESSAGE = r"""
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: Subject: hello\r\n\r\n..dot\r\n.
    P1: Subject: hello
    P1:
    P1: ..dot
    P1: .
    U1: 250 2.0.0 queued as 4F2A
    S: 250 2.0.0 queued as 4F2A
"""
QUIT = """
    C: QUIT
    S: 221 2.0.0 Bye
    P1: QUIT
    S closed
"""


def started(routes=ROUTES, **settings) -> World:
    return World(routes, settings=Settings(**settings)).play(GREETING)


def test_a_message_reaches_its_upstream_and_the_answer_its_client() -> None:
    world = started().play(ONE_BOUND + MESSAGE + QUIT)

    (ended,) = world.said(TransactionEnded)
    assert ended.recipients == ("a@example.com",)
    assert str(ended.reply) == "250 2.0.0 queued as 4F2A"
    assert ended.by is Side.NONE
    assert ended.size == len("Subject: hello\r\n\r\n.dot\r\n")
    (left,) = world.said(Disconnected)
    assert (left.after, left.reason) == ("", "")
    assert left.commands["RCPT"] == (1, 1)


@pytest.mark.parametrize(
    "script",
    [
        ONE_BOUND + MESSAGE + QUIT + "U1: 221 2.0.0 Bye\n U1 gone",
        ONE_BOUND + "C gone\n P1: QUIT\n U1 gone",
        ONE_BOUND + "U1 gone\n C: NOOP\n S: 250 2.0.0 Ok\n C: QUIT\n S: 221 2.0.0 Bye\n S closed",
        "C: STARTTLS\n S: 502 5.5.1 STARTTLS is not offered\n wait 6m\n S: 421 ...\n S closed",
    ],
    ids=["quit", "client gone", "upstream gone", "too late"],
)
def test_what_has_ended_is_freed_at_once(script: str) -> None:
    """Without the collector of garbage, which would have to look for it all the time."""
    kinds = Session, Acquaintance, Transaction, Connection, Stream, Task
    with counted(*kinds) as left:
        world = started().play(script)
        assert world.said(Disconnected)
    assert left == {}


def test_what_needs_no_upstream_is_answered_here() -> None:
    started().play("""
        C: NOOP
        S: 250 2.0.0 Ok
        C: RSET
        S: 250 2.0.0 Ok
        C: VRFY a@example.com
        S: 252 2.0.0 Cannot verify; send some mail and see
        C: HELP
        S: 214 2.0.0 This server speaks SMTP (RFC 5321)
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: NOOP
        S: 250 2.0.0 Ok
        C: QUIT
        S: 221 2.0.0 Bye
        S closed
    """)


def test_once_there_is_an_upstream_commands_are_carried_through() -> None:
    started().play(ONE_BOUND).play("""
        C: NOOP
        P1: NOOP
        U1: 250 noop of one
        S: 250 noop of one
        C: VRFY a
        P1: VRFY a
        U1: 252 perhaps
        S: 252 perhaps
        C: HELP me
        P1: HELP me
        U1: 214-first
        U1: 214 second
        S: 214-first
        S: 214 second
        C: RCPT TO:<b@example.com>
        P1: RCPT TO:<b@example.com>
        U1: 250 2.1.5 b too
        S: 250 2.1.5 b too
        C: RSET
        P1: RSET
        U1: 250 reset by one
        S: 250 reset by one
    """)


@pytest.mark.parametrize("line", ["XCLIENT ADDR=192.0.2.1", "AUTH PLAIN AGEAYg==", "BDAT 3"])
def test_the_verbs_carried_are_a_closed_list(line: str) -> None:
    """Nothing else of a client reaches an upstream, which trusts us more than the client."""
    world = started().play(ONE_BOUND)
    world.client.deliver(line.encode() + b"\r\n" + (b"abc" if line.startswith("BDAT") else b""))
    assert world.client.said.startswith(b"50")
    assert not world.upstream(1).said


def test_a_second_transaction_is_routed_anew() -> None:
    started().play(ONE_BOUND + MESSAGE).play(f"""
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@example.net>
        P1: QUIT
        {upstream_greets(2)}
        P2: MAIL FROM:<s@example.org>
        U2: 250 ok
        P2: RCPT TO:<b@example.net>
        U2: 250 ok
        S: 250 ok
    """)


def test_a_second_transaction_to_the_same_upstream_keeps_the_connection() -> None:
    started().play(ONE_BOUND + MESSAGE).play("""
        C: MAIL FROM:<>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@example.com>
        P1: MAIL FROM:<>
        U1: 250 ok
        P1: RCPT TO:<b@example.com>
        U1: 250 ok
        S: 250 ok
    """)


def test_an_idle_connection_that_the_upstream_closed_is_replaced_unseen() -> None:
    started().play(ONE_BOUND + MESSAGE).play(f"""
        U1: 421 4.4.2 idle for too long
        U1 gone
        C: MAIL FROM:<>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@example.com>
        {upstream_greets(2)}
        P2: MAIL FROM:<>
        U2: 250 ok
        P2: RCPT TO:<b@example.com>
        U2: 250 ok
        S: 250 ok
    """)


def test_a_connection_that_closes_as_it_is_used_again_is_replaced_unseen() -> None:
    started().play(ONE_BOUND + MESSAGE).play(f"""
        C: MAIL FROM:<>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@example.com>
        P1: MAIL FROM:<>
        U1: 421 4.4.2 idle for too long
        {upstream_greets(2)}
        P2: MAIL FROM:<>
        U2: 250 ok
        P2: RCPT TO:<b@example.com>
        U2: 250 ok
        S: 250 ok
    """)


def test_a_recipient_of_another_upstream_is_sent_away_and_all_after_it() -> None:
    """452 for all further ones, also of the bound upstream: a 250 behind a 452 loses mail."""
    started().play(ONE_BOUND).play("""
        C: RCPT TO:<b@example.net>
        S: 452 4.5.3 This recipient's server is another one; send the message to it separately
        C: RCPT TO:<c@example.com>
        S: 452 4.5.3 This recipient's server is another one; send the message to it separately
        C: RCPT TO:<d@unknown.test>
        S: 452 4.5.3 This recipient's server is another one; send the message to it separately
    """).play(MESSAGE)


def test_a_refused_recipient_binds_nothing() -> None:
    started().play(f"""
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<nobody@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 250 ok
        P1: RCPT TO:<nobody@example.com>
        U1: 550 5.1.1 no such user
        S: 550 5.1.1 no such user
        C: RCPT TO:<b@example.net>
        P1: QUIT
        {upstream_greets(2)}
        P2: MAIL FROM:<s@example.org>
        U2: 250 ok
        P2: RCPT TO:<b@example.net>
        U2: 250 fine
        S: 250 fine
        C: RCPT TO:<a@example.com>
        S: 452 4.5.3 ...
    """)


def test_after_a_refused_recipient_the_same_upstream_needs_no_second_mail() -> None:
    started().play(f"""
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<nobody@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 250 ok
        P1: RCPT TO:<nobody@example.com>
        U1: 550 5.1.1 no such user
        S: 550 5.1.1 no such user
        C: RCPT TO:<a@example.com>
        P1: RCPT TO:<a@example.com>
        U1: 250 fine
        S: 250 fine
    """)


def test_pipelined_commands_are_answered_in_their_order() -> None:
    world = started()
    world.client.deliver(
        b"MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\n"
        b"RCPT TO:<x@unknown.test>\r\nDATA\r\n"
    )
    world.play(f"""
        S: 250 2.1.0 Ok
        {upstream_greets(1, "PIPELINING")}
        P1: MAIL FROM:<s@example.org>
        P1: RCPT TO:<a@example.com>
        U1: 250 ok
        U1: 250 fine
        S: 250 fine
        S: 550 5.7.1 Relay access denied
        P1: DATA
        U1: 354 go
        S: 354 go
    """)


def test_parameters_reach_an_upstream_that_takes_them() -> None:
    started().play(f"""
        C: MAIL FROM:<s@example.org> SIZE=100 BODY=8BITMIME
        S: 250 2.1.0 Ok
        C: RCPT TO:<a@example.com>
        {upstream_greets(1, "SIZE 5000,8BITMIME")}
        P1: MAIL FROM:<s@example.org> SIZE=100 BODY=8BITMIME
        U1: 250 ok
        P1: RCPT TO:<a@example.com>
    """)


def test_8bit_content_is_refused_for_an_upstream_that_cannot_take_it() -> None:
    world = started().play(rf"""
        C: MAIL FROM:<s@example.org> SIZE=100 BODY=8BITMIME
        S: 250 2.1.0 Ok
        C: RCPT TO:<a@example.com>
        {upstream_greets(1)}
        P1: MAIL FROM:<s@example.org>
        U1: 250 ok
        P1: RCPT TO:<a@example.com>
        U1: 250 ok
        S: 250 ok
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: 7 bit\r\ngrün\r\n.
        S: 554 5.6.3 The recipient's server does not take 8-bit content
        P1 cut
    """)
    (ended,) = world.said(TransactionEnded)
    assert ended.by is Side.PROXY


def test_a_message_that_grows_too_big_never_gets_its_final_dot() -> None:
    world = World(ROUTES, settings=Settings(max_message_bytes=20))
    world.play(GREETING.replace("1000000", "20") + ONE_BOUND).play(r"""
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: 1234567890\r\n1234567890\r\n123
        P1 cut
        C: MAIL FROM:<inside@the.content>
        C: .
        S: 552 5.3.4 The message is too big
        C: NOOP
        S: 250 2.0.0 Ok
    """)


def test_the_declared_size_is_refused_at_mail() -> None:
    started().play("""
        C: MAIL FROM:<s@example.org> SIZE=1000001
        S: 552 5.3.4 The message is too big
        C: MAIL FROM:<s@example.org> SIZE=many
        S: 501 5.5.4 The value of SIZE is not valid
        C: MAIL FROM:<s@example.org> RET=HDRS
        S: 555 5.5.4 Parameter not recognised
    """)


@pytest.mark.parametrize("bare", [b"\n", b"\r"])
def test_bare_line_ends_are_made_whole_or_refused(bare: bytes) -> None:
    content = b"one" + bare + b"." + bare + b"two\r\n.\r\n"
    world = started().play(ONE_BOUND + "C: DATA\nP1: DATA\nU1: 354 go\nS: 354 go")
    world.client.deliver(content)
    world.play("""
        P1: one
        P1: ..
        P1: two
        P1: .
        U1: 250 ok
        S: 250 ok
    """)
    world = started(reject_bare_newline=True)
    world.play(ONE_BOUND + "C: DATA\nP1: DATA\nU1: 354 go\nS: 354 go")
    world.client.deliver(content)
    world.play("S: 550 5.6.11 The message has a bare CR or LF\nP1 cut")


def test_too_many_errors_end_the_session() -> None:
    started().play("""
        C: FOO
        S: 500 5.5.2 Command not recognised
        C: RCPT TO:<a@example.com>
        S: 503 5.5.1 Send MAIL first
        C: MAIL FROM:<s@example.org>
        S: 250 2.1.0 Ok
        C: RCPT TO:<a@unknown.test>
        S: 550 5.7.1 Relay access denied
        C: RCPT TO:<b@unknown.test>
        S: 550 5.7.1 Relay access denied
        S: 421 4.7.0 Too many errors
        S closed
    """)


def test_too_many_recipients() -> None:
    world = started(max_recipients=1).play(ONE_BOUND)
    world.play("""
        C: RCPT TO:<b@example.com>
        S: 452 4.5.3 Too many recipients
    """)


def test_a_browser_is_sent_away_at_once() -> None:
    World(ROUTES).play("""
        S: 220 mx.example.net ESMTP smtpproxy
        C: GET / HTTP/1.1
        S: 421 4.7.0 This is an SMTP server
        S closed
    """)


PART = b"a part of a line, "
DATA_ACCEPTED = ONE_BOUND + "C: DATA\nP1: DATA\nU1: 354 go\nS: 354 go\n"


def test_content_is_let_go_once_the_upstream_has_it() -> None:
    world = started().play(DATA_ACCEPTED)
    upstream = world.upstream(1)
    with counted(Content) as left:
        world.client.deliver(PART)
    assert upstream.said == PART and left == {}
    with counted(Content) as left:
        upstream.stalled = True
        world.client.deliver(PART)
        assert world.client.paused
        upstream.drained()
    assert upstream.said == PART * 2 and left == {} and not world.client.paused


def test_nothing_is_read_from_a_client_while_the_others_have_their_turn() -> None:
    world = started().play(DATA_ACCEPTED)
    for _ in range(2 * TURN):
        world.client.deliver(PART)
    assert world.client.paused and len(world.upstream(1).said) < TURN * len(PART)
    while world.client.paused:
        world.clock.advance(0)
    assert world.upstream(1).said == PART * 2 * TURN
    world.upstream(1).said.clear()
    world.play("C: \\r\\n.\nP1:\nP1: .\nU1: 250 Ok\nS: 250 Ok\nC gone\nP1: QUIT")
    (ended,) = world.said(TransactionEnded)
    assert "content" in ended.phases  # nobody was waited for
