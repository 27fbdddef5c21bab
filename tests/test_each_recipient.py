"""Where the client is told of each recipient: PRDR, and LMTP (RFC 2033), on either side."""

from __future__ import annotations

from typing import Any

import pytest

from smtpproxy.events import TransactionEnded
from smtpproxy.routing import Server, Upstream
from tests.support.dialogue import ONE, TWO, Settings, World, announcing, upstream_greets

STORE = Upstream((Server("192.0.2.3", 24, lmtp=True),))
ROUTES = {"example.com": ONE, "example.net": TWO, "store.test": STORE}
OFFER = announcing("PIPELINING", "PRDR", "CHUNKING", "8BITMIME")
HELLO = """
    S: 220 mx.example.net ESMTP smtpproxy
    C: EHLO client.example.com
    S: 250-mx.example.net
    S: 250-PIPELINING
    S: 250-PRDR
    S: 250-CHUNKING
    S: 250 8BITMIME
"""
LHLO = HELLO.replace("EHLO", "LHLO").replace("220 mx.example.net ESMTP", "220 mx.example.net LMTP")
PRDR = " PRDR"


def bound(number: int, recipient: str, extensions: str = "PIPELINING", mail: str = "") -> str:
    return f"""
    C: RCPT TO:<{recipient}>
    {upstream_greets(number, extensions)}
    P{number}: MAIL FROM:<s@example.org>{mail}
    P{number}: RCPT TO:<{recipient}>
    U{number}: 250 fine
    U{number}: 250 2.1.5 {recipient}
    S: 250 2.1.5 {recipient}
    """


def more(number: int, recipient: str, reply: str = "250 2.1.5 fine") -> str:
    return f"""
    C: RCPT TO:<{recipient}>
    P{number}: RCPT TO:<{recipient}>
    U{number}: {reply}
    S: {reply}
    """


MAIL = "C: MAIL FROM:<s@example.org> PRDR\nS: 250 2.1.0 Ok\n"
LMTP_MAIL = "C: MAIL FROM:<s@example.org>\nS: 250 2.1.0 Ok\n"
TWO_UPSTREAMS = bound(1, "a@example.com") + bound(2, "b@example.net") + more(1, "c@example.com")
CONTENT = r"""
    C: DATA
    P1: DATA
    P2: DATA
    U1: 354 go
    U2: 354 go on
    S: 354 go
    C: Subject: x\r\n\r\nhello\r\n.
    P1: Subject: x
    P1:
    P1: hello
    P1: .
    P2: Subject: x
    P2:
    P2: hello
    P2: .
"""


def started(lmtp: bool = False, **settings: Any) -> World:
    settings = {"offer": OFFER, "lmtp": lmtp, "max_errors": 20, **settings}
    return World(ROUTES, settings=Settings(**settings)).play(LHLO if lmtp else HELLO)


def outcomes(world: World) -> list[tuple[str, tuple[str, ...], int]]:
    """The end of the transaction's name, recipients and code of each share."""
    return [
        (each.transaction[10:14], each.recipients, each.reply.code)
        for each in world.said(TransactionEnded)
    ]


def test_a_message_goes_to_two_upstreams_with_an_answer_for_each_recipient() -> None:
    world = started().play(
        MAIL
        + TWO_UPSTREAMS
        + CONTENT
        + """
    S: 353 A reply for each recipient follows
    U2: 452 4.2.2 b is over quota
    U1: 250 2.0.0 queued as 1
    S: 250 2.0.0 queued as 1
    S: 452 4.2.2 b is over quota
    S: 250 2.0.0 queued as 1
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )
    assert outcomes(world) == [
        ("0101", ("a@example.com", "c@example.com"), 250),
        ("0101", ("b@example.net",), 452),
    ]
    one, other = (each.transaction for each in world.said(TransactionEnded))
    assert other == one + "01"


def test_the_reply_for_all_refuses_nobody() -> None:
    """Exim takes a refusal there for one of all recipients, those of earlier messages included."""
    started().play(
        MAIL
        + bound(1, "a@example.com")
        + bound(2, "b@example.net")
        + CONTENT
        + """
    S: 353 A reply for each recipient follows
    U1: 550 5.7.1 one
    S: 550 5.7.1 one
    U2: 451 4.3.0 two
    S: 451 4.3.0 two
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


def test_an_upstream_that_fails_midway_leaves_the_others_their_mail() -> None:
    world = started().play(
        MAIL
        + bound(1, "a@example.com")
        + bound(2, "b@example.net")
        + r"""
    C: DATA
    P1: DATA
    P2: DATA
    U1: 354 go
    U2: 354 go on
    S: 354 go
    C: Subject: x\r\n\r\nhello
    P1: Subject: x
    P1:
    P1 part: hello
    P2: Subject: x
    P2:
    P2 part: hello
    U1 gone
    C: .
    P2:
    P2: .
    S: 353 A reply for each recipient follows
    S: 451 4.4.2 The connection to the server of this recipient was lost
    U2: 250 2.0.0 queued
    S: 250 2.0.0 queued
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )
    assert [code for _, _, code in outcomes(world)] == [451, 250]
    assert not any(each.in_doubt for each in world.said(TransactionEnded))


def test_an_upstream_that_refuses_data_leaves_the_others_their_mail() -> None:
    started().play(
        MAIL
        + bound(1, "a@example.com")
        + bound(2, "b@example.net")
        + r"""
    C: DATA
    P1: DATA
    P2: DATA
    U1: 451 4.3.0 not now
    U2: 354 go on
    S: 354 go on
    C: hello\r\n.
    P2: hello
    P2: .
    S: 353 A reply for each recipient follows
    S: 451 4.3.0 not now
    U2: 250 2.0.0 queued
    S: 250 2.0.0 queued
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


def test_data_that_all_refuse() -> None:
    started().play(
        MAIL
        + bound(1, "a@example.com")
        + bound(2, "b@example.net")
        + """
    C: DATA
    P1: DATA
    P2: DATA
    U1: 554 5.3.0 never
    U2: 451 4.3.0 not now
    S: 451 4.3.0 not now
    """
    )


def test_a_recipient_refused_by_one_of_them_is_no_matter_to_the_others() -> None:
    world = started().play(
        MAIL
        + bound(1, "a@example.com")
        + bound(2, "b@example.net").replace("250 2.1.5 b", "550 5.1.1 b")
        + """
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    U1: 250 2.0.0 queued
    S: 250 2.0.0 queued
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )
    assert outcomes(world)[0][1:] == (("a@example.com",), 250)


def test_one_that_says_421_ends_its_share_and_not_the_session() -> None:
    started().play(
        MAIL
        + bound(1, "a@example.com")
        + bound(2, "b@example.net")
        + CONTENT
        + """
    S: 353 A reply for each recipient follows
    U1: 421 4.3.2 closing
    S: 451 4.3.2 closing
    U2: 250 2.0.0 queued
    S: 250 2.0.0 queued
    S: 250 2.0.0 Ok, as said of each recipient
    C: NOOP
    P2: NOOP
    U2: 250 fine
    S: 250 fine
    """
    )


def test_an_upstream_with_prdr_answers_for_each() -> None:
    world = started().play(
        MAIL
        + bound(1, "a@example.com", "PIPELINING,PRDR", mail=PRDR)
        + more(1, "b@example.com")
        + """
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    U1: 353 content analysis has started
    U1: 250 2.0.0 a has it
    U1: 550 5.7.1 b does not want it
    U1: 250 2.0.0 done
    S: 250 2.0.0 a has it
    S: 550 5.7.1 b does not want it
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )
    assert [(to, code) for _, to, code in outcomes(world)] == [
        (("a@example.com",), 250),
        (("b@example.com",), 550),
    ]


def test_where_the_upstreams_reply_for_all_is_a_refusal_nobody_has_it() -> None:
    started().play(
        MAIL
        + bound(1, "a@example.com", "PIPELINING,PRDR", mail=PRDR)
        + more(1, "b@example.com")
        + """
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    U1: 353 wait
    U1: 250 2.0.0 a has it
    U1: 550 5.7.1 b does not want it
    U1: 451 4.3.0 the disk is full
    S: 451 4.3.0 the disk is full
    S: 550 5.7.1 b does not want it
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


def test_an_upstream_with_prdr_may_answer_for_all_at_once() -> None:
    started().play(
        MAIL
        + bound(1, "a@example.com", "PIPELINING,PRDR", mail=PRDR)
        + more(1, "b@example.com")
        + """
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    U1: 550 5.7.1 spam
    S: 550 5.7.1 spam
    S: 550 5.7.1 spam
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


def test_a_client_that_did_not_ask_gets_one_answer_and_no_upstream_is_asked_for_more() -> None:
    started().play(
        LMTP_MAIL
        + bound(1, "a@example.com", "PIPELINING,PRDR")
        + """
    C: RCPT TO:<b@example.net>
    S: 452 4.5.3 This recipient's server is another one; ...
    """
    )


def lmtp_greets(number: int) -> str:
    return upstream_greets(number, "PIPELINING").replace("EHLO", "LHLO")


def test_an_lmtp_upstream_gets_one_recipient_of_a_client_that_takes_one_answer() -> None:
    started().play(
        LMTP_MAIL
        + r"""
    C: RCPT TO:<a@store.test>\r\nRCPT TO:<b@store.test>\r\nDATA
    """
        + lmtp_greets(1)
        + r"""
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@store.test>
    U1: 250 fine\r\n250 2.1.5 a
    S: 250 2.1.5 a
    S: 452 4.5.3 This recipient's server answers each recipient; ...
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    U1: 250 2.0.0 <a@store.test> saved
    S: 250 2.0.0 <a@store.test> saved
    """
    )


def test_an_lmtp_upstream_answers_for_each_with_prdr() -> None:
    started().play(
        MAIL
        + bound(1, "a@store.test").replace("EHLO", "LHLO")
        + more(1, "b@store.test")
        + """
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    U1: 250 2.0.0 <a@store.test> saved
    S: 250 2.0.0 <a@store.test> saved
    U1: 552 5.2.2 <b@store.test> is full
    S: 552 5.2.2 <b@store.test> is full
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


def test_an_lmtp_upstream_that_goes_after_some_answers_leaves_doubt_for_the_rest() -> None:
    world = started().play(
        MAIL
        + bound(1, "a@store.test").replace("EHLO", "LHLO")
        + more(1, "b@store.test")
        + """
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    U1: 250 2.0.0 <a@store.test> saved
    S: 250 2.0.0 <a@store.test> saved
    U1 gone
    S: 451 4.4.2 The connection to the server of this recipient was lost
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )
    assert [each.in_doubt for each in world.said(TransactionEnded)] == [False, True]


def test_an_lmtp_listener_answers_for_each_and_not_for_all() -> None:
    started(lmtp=True).play(
        LMTP_MAIL
        + bound(1, "a@example.com", "PIPELINING,PRDR", mail=PRDR)
        + bound(2, "b@example.net")
        + more(1, "c@example.com")
        + CONTENT
        + """
    U1: 353 wait
    U1: 250 2.0.0 a has it
    U1: 550 5.7.1 c does not want it
    U1: 250 2.0.0 done
    S: 250 2.0.0 a has it
    U2: 250 2.0.0 queued
    S: 250 2.0.0 queued
    S: 550 5.7.1 c does not want it
    C: QUIT
    P1: QUIT
    P2: QUIT
    S: 221 2.0.0 Bye
    S closed
    """
    )


def test_an_lmtp_listener_knows_lhlo_alone() -> None:
    started(lmtp=True).play(
        """
    C: EHLO x
    S: 500 5.5.1 This is an LMTP server; send LHLO
    C: HELO x
    S: 500 5.5.1 This is an LMTP server; send LHLO
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: DATA
    S: 503 5.5.1 No valid recipients
    """
    )
    started().play("C: LHLO x\nS: 500 5.5.1 This is an SMTP server; send EHLO")


@pytest.mark.parametrize("lmtp", [True, False])
def test_chunks_go_to_both_each_in_its_way(lmtp: bool) -> None:
    started(lmtp).play(
        (LMTP_MAIL if lmtp else MAIL)
        + bound(1, "a@example.com", "PIPELINING,CHUNKING")
        + bound(2, "b@example.net")
        + r"""
    C: BDAT 6 LAST\r\n.abc
    P2: DATA
    U2: 354 go
    P1: BDAT 6 LAST
    P1: .abc
    P2: ..abc
    P2: .
    """
        + ("" if lmtp else "S: 353 A reply for each recipient follows\n")
        + """
    U1: 250 one
    S: 250 one
    U2: 250 two
    S: 250 two
    """
        + ("" if lmtp else "S: 250 2.0.0 Ok, as said of each recipient\n")
    )


def test_a_message_too_big_for_one_of_them_goes_to_the_other() -> None:
    started().play(
        MAIL
        + bound(1, "a@example.com", "PIPELINING,SIZE 5")
        + bound(2, "b@example.net")
        + r"""
    C: DATA
    P1: DATA
    P2: DATA
    U1: 354 go
    U2: 354 go on
    S: 354 go
    C: 123456\r\n.
    P1 cut
    P2: 123456
    P2: .
    S: 353 A reply for each recipient follows
    S: 552 5.3.4 The message is too big
    U2: 250 2.0.0 queued
    S: 250 2.0.0 queued
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


def test_one_client_does_not_hold_more_upstreams_than_a_message_may_have() -> None:
    routes = {f"d{n}.test": Upstream((Server(f"192.0.2.{n}"),)) for n in range(1, 31)}
    settings = Settings(offer=OFFER, max_errors=99, max_recipients=99)
    world = World(routes, settings=settings).play(HELLO + MAIL)
    for n in range(1, 31):
        world.client.deliver(f"RCPT TO:<a@d{n}.test>\r\n".encode())
        world.clock.advance(0)
        if n <= 20:
            world.play(
                upstream_greets(n)
                + f"""
            P{n}: MAIL FROM:<s@example.org>
            U{n}: 250 fine
            P{n}: RCPT TO:<a@d{n}.test>
            U{n}: 450 4.2.0 greylisted
            S: 450 4.2.0 greylisted
            """
            )
        else:
            world.play("S: 452 4.5.3 Too many recipients")
    assert len(world.upstreams) == 20


def test_nor_with_one_message_after_the_other() -> None:
    routes = {f"d{n}.test": Upstream((Server(f"192.0.2.{n}"),)) for n in range(1, 22)}
    world = World(routes, settings=Settings(offer=OFFER)).play(HELLO)
    for n in range(1, 21):
        world.play(MAIL + bound(n, f"a@d{n}.test") + ended(n))
    world.play(
        MAIL
        + """
    C: RCPT TO:<a@d21.test>
    P1: QUIT
    U21: 421 4.3.0 no
    S: 451 4.4.0 ...
    """
    )


def ended(number: int) -> str:
    return f"""
    C: DATA
    P{number}: DATA
    U{number}: 354 go
    S: 354 go
    C: .
    P{number}: .
    S: 353 A reply for each recipient follows
    U{number}: 250 queued
    S: 250 queued
    S: 250 2.0.0 Ok, as said of each recipient
    """


def test_upstreams_that_take_nothing_have_one_deadline_together() -> None:
    """And the others get their content meanwhile."""
    world = started().play(
        MAIL
        + bound(1, "a@example.com")
        + bound(2, "b@example.net")
        + bound(3, "c@store.test").replace("EHLO", "LHLO")
        + """
    C: DATA
    P1: DATA
    P2: DATA
    P3: DATA
    U1: 354 go
    U2: 354 go
    U3: 354 go
    S: 354 go
    U1 stalls
    U2 stalls
    """
    )
    world.client.deliver(b"x" * 1000 + b"\r\n")
    world.clock.advance(0)
    assert all(bytes(world.upstream(n).said) == b"x" * 1000 for n in (1, 2, 3))
    for n in (1, 2, 3):
        world.upstream(n).said.clear()
    world.play(
        """
    wait 299s
    wait 2s
    P1 cut
    P2 cut
    C: .
    P3:
    P3: .
    S: 353 A reply for each recipient follows
    S: 451 4.4.2 ...
    S: 451 4.4.2 ...
    U3: 250 c has it
    S: 250 c has it
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


def test_a_prdr_upstream_has_one_deadline_for_all_its_answers() -> None:
    started().play(
        MAIL
        + bound(1, "a@example.com", "PIPELINING,PRDR", mail=PRDR)
        + more(1, "b@example.com")
        + """
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    wait 5m
    U1: 353 wait
    wait 299s
    U1: 250 a has it
    wait 2s
    P1 cut
    S: 451 4.4.2 The connection to the server of this recipient was lost
    S: 451 4.4.2 The connection to the server of this recipient was lost
    S: 250 2.0.0 Ok, as said of each recipient
    """
    )


@pytest.mark.parametrize("said", ["353 wait", "250 one"])
def test_after_421_no_answer_is_waited_for(said: str) -> None:
    store = said.startswith("250")
    begin = (
        bound(1, "a@store.test").replace("EHLO", "LHLO") + more(1, "b@store.test")
        if store
        else bound(1, "a@example.com", "PIPELINING,PRDR", mail=PRDR) + more(1, "b@example.com")
    )
    started().play(
        MAIL
        + begin
        + f"""
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    C: .
    P1: .
    S: 353 A reply for each recipient follows
    U1: {said}
    """
        + ("S: 250 one\n" if store else "")
        + "U1: 421 4.3.2 closing\n"
        + ("S: 451 4.3.2 closing\n" if store else "S: 451 4.4.2 ...\nS: 451 4.4.2 ...\n")
        + "S: 250 2.0.0 Ok, as said of each recipient"
    )
