"""Ours and theirs in one trace: the session's id in our own words, and in XCLIENT SESSION."""

from __future__ import annotations

import re
import smtplib

from smtpproxy.events import Refused
from smtpproxy.upstream import PoolLimits
from tests.support.dialogue import GREETING, MAIL, ONE, Settings, World, upstream_greets
from tests.support.dovecot import Dovecot, need_dovecot
from tests.support.processes import short_folder
from tests.support.proxy import Proxy, row

ROUTES = {"example.com": ONE}
SIGNED = GREETING.replace("smtpproxy\n", "smtpproxy 000000000001\n", 1)
ASKED = f"{MAIL}C: RCPT TO:<a@example.com>\n{upstream_greets()}"


def signing(**settings: object) -> World:
    return World(ROUTES, settings=Settings(signs=True, **settings)).play(SIGNED)  # type: ignore[arg-type]


def test_our_own_refusals_name_the_session_and_the_log_has_them_as_they_are() -> None:
    world = signing().play(f"""
        C: NONSENSE
        S: 500 5.5.2 Command not recognised (session 000000000001)
        {MAIL}
        C: RCPT TO:<a@unknown.test>
        S: 550 5.7.1 Relay access denied (session 000000000001)
        C: QUIT
        S: 221 2.0.0 Bye
    """)
    replies = [str(event.reply) for event in world.said(Refused)]
    assert replies == ["500 5.5.2 Command not recognised", "550 5.7.1 Relay access denied"]


def test_what_an_upstream_says_stays_as_it_is() -> None:
    signing().play(f"""
        {ASKED}
        P1: MAIL FROM:<s@example.org>
        U1: 250 ok
        P1: RCPT TO:<a@example.com>
        U1: 550 5.1.1 no such user
        S: 550 5.1.1 no such user
    """)


def test_what_an_upstream_says_of_the_client_stays_as_it_is() -> None:
    signing().play(f"""
        {MAIL}
        C: RCPT TO:<a@example.com>
        {upstream_greets(extensions="XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.9
        U1: 550 5.7.1 blocked
        S: 550 5.7.1 blocked
        P1: QUIT
    """)


def test_that_it_is_not_there_is_said_in_our_words() -> None:
    world = World(ROUTES, settings=Settings(signs=True))
    world.unreachable.add("192.0.2.1")
    world.play(SIGNED).play(f"""
        {MAIL}
        C: RCPT TO:<a@example.com>
        S: 451 4.4.1 The server of this recipient is not reachable (session 000000000001)
        wait 6m
        S: 421 4.4.2 Timeout, closing the connection (session 000000000001)
    """)


def test_a_message_that_is_too_big() -> None:
    signing().play("""
        C: MAIL FROM:<s@example.org> SIZE=2000000
        S: 552 5.3.4 The message is too big (session 000000000001)
    """)


ENVELOPE = """
    P1: MAIL FROM:<s@example.org>
    U1: 250 ok
    P1: RCPT TO:<a@example.com>
    U1: 550 no
    S: 550 no
    C: RSET
    P1: RSET
    U1: 250 ok
    S: 250 ok
    C: QUIT
    S: 221 2.0.0 Bye
"""


def test_a_kept_connection_is_told_of_the_next_session_of_the_same_client() -> None:
    keeps = PoolLimits(idle=60.0, age=60.0, uses=10, each=5)
    world = World(ROUTES, settings=Settings(pool=keeps)).play(GREETING)
    introduced = """
        P1: XCLIENT SESSION={session} ADDR=192.0.2.9
        U1: 220 one.example.net
        P1: EHLO client.example.com
        U1: 250-one.example.net
        U1: 250 XCLIENT SESSION ADDR
    """
    greets = upstream_greets(extensions="XCLIENT SESSION ADDR")
    first = introduced.format(session="000000000001")
    world.play(f"{MAIL}C: RCPT TO:<a@example.com>\n{greets}{first}{ENVELOPE}")
    world.client = world.connect()
    second = introduced.format(session="000000000002")
    world.play(f"{GREETING}{MAIL}C: RCPT TO:<a@example.com>\n{second}{ENVELOPE}")
    assert len(world.upstreams) == 1


def test_one_that_takes_no_session_is_used_again_without_a_word() -> None:
    keeps = PoolLimits(idle=60.0, age=60.0, uses=10, each=5)
    world = World(ROUTES, settings=Settings(pool=keeps)).play(GREETING)
    world.play(f"""
        {MAIL}
        C: RCPT TO:<a@example.com>
        {upstream_greets(extensions="XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.9
        U1: 220 one.example.net
        P1: EHLO client.example.com
        U1: 250-one.example.net
        U1: 250 XCLIENT ADDR
        {ENVELOPE}
    """)
    world.client = world.connect()
    world.play(f"{GREETING}{MAIL}C: RCPT TO:<a@example.com>\n{ENVELOPE}")


def test_dovecot_takes_it() -> None:
    """Its log has our id where it has its own of other sessions."""
    need_dovecot()
    with (
        short_folder() as theirs,
        Dovecot(theirs) as dovecot,
        short_folder() as ours,
        Proxy(ours, [row("example.com", dovecot.server)], session_in_replies=True) as proxy,
        smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client,
    ):
        client.ehlo("client.example.net")
        greeting = client.docmd("NONSENSE")[1].decode()
        session = re.search(r"\(session ([0-9A-F]{12})\)", greeting)[1]  # type: ignore[index]
        client.mail("sender@example.net")
        assert client.rcpt("alice@example.com")[0] == 250
        assert client.data(b"Subject: x\r\n\r\nhello\r\n")[0] == 250
        client.quit()
        dovecot.wait_for(lambda: session in dovecot.output, "the session in Dovecot's log")
