"""What becomes of a mail's parameters at an upstream that has, or has not, their extension."""

from __future__ import annotations

import pytest

from tests.support.dialogue import ONE, Settings, World, announcing, upstream_greets

ROUTES = {"example.com": ONE, "exämple.com": ONE, "xn--exmple-cua.com": ONE}
KEYWORDS = (
    "PIPELINING",
    "SIZE 1000",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "REQUIRETLS",
    "MT-PRIORITY",
    "DELIVERBY",
    "FUTURERELEASE 86400 2030-01-01T00:00:00Z",
)
HELLO = "S: 220 ...\nC: EHLO client.example.com\nS: 250-mx.example.net\n" + "".join(
    f"S: 250{' ' if each is KEYWORDS[-1] else '-'}{each}\n" for each in KEYWORDS
)


def started() -> World:
    settings = Settings(offer=announcing(*KEYWORDS), max_message_bytes=1000)
    return World(ROUTES, settings=settings).play(HELLO)


def mail(given: str, extensions: str, taken: str, sender: str = "s@example.org") -> str:
    return f"""
    C: MAIL FROM:<{sender}>{given}
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(1, "PIPELINING," + extensions)}
    P1: MAIL FROM:<{sender}>{taken}
    P1: RCPT TO:<a@example.com>
    U1: 250 2.1.0 fine
    U1: 250 2.1.5 fine
    S: 250 2.1.5 fine
    C: DATA
    P1: DATA
    U1: 354 go
    S: 354 go
    """


@pytest.mark.parametrize(
    ("given", "extensions", "taken"),
    [
        (" SIZE=500", "SIZE 900", " SIZE=500"),
        (" SIZE=500", "SIZE", " SIZE=500"),
        (" SIZE=500", "SIZE 0", " SIZE=500"),
        (" SIZE=500", "X", ""),
        (" BODY=8BITMIME", "8BITMIME", " BODY=8BITMIME"),
        (" BODY=8BITMIME", "X", ""),
        (" SMTPUTF8", "SMTPUTF8", " SMTPUTF8"),
        (" SMTPUTF8", "X", ""),
        (" RET=HDRS ENVID=x", "DSN", " RET=HDRS ENVID=x"),
        (" RET=HDRS ENVID=x", "X", ""),
        (" MT-PRIORITY=3", "MT-PRIORITY", " MT-PRIORITY=3"),
        (" MT-PRIORITY=3", "X", ""),
        (" BY=120;R", "DELIVERBY", " BY=120;R"),
        (" BY=120;N", "X", ""),
        (" HOLDFOR=60", "FUTURERELEASE", " HOLDFOR=60"),
    ],
)
def test_a_parameter_is_carried_or_dropped(given: str, extensions: str, taken: str) -> None:
    started().play(
        mail(given, extensions, taken) + "C: .\nP1: .\nU1: 250 2.0.0 queued\nS: 250 2.0.0 queued"
    )


@pytest.mark.parametrize(
    ("given", "extensions", "reply"),
    [
        (" SIZE=900", "SIZE 500", "552 5.3.4 The message is too big"),
        (" BY=120;R", "X", "554 5.3.3 The recipient's server does not offer this extension"),
        (" HOLDFOR=60", "X", "554 5.3.3 The recipient's server does not offer this extension"),
        (
            " HOLDUNTIL=2029-01-01T00:00:00Z",
            "X",
            "554 5.3.3 The recipient's server does not offer this extension",
        ),
        (" REQUIRETLS", "X", "550 5.7.30 The recipient's server cannot keep REQUIRETLS"),
        (" REQUIRETLS", "REQUIRETLS", "550 5.7.30 The recipient's server cannot keep REQUIRETLS"),
    ],
)
def test_a_parameter_that_is_needed_refuses_the_recipient(
    given: str, extensions: str, reply: str
) -> None:
    started().play(
        f"""
    C: MAIL FROM:<s@example.org>{given}
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(1, extensions)}
    S: {reply}
    C: QUIT
    S: 221 2.0.0 Bye
    P1: QUIT
    S closed
    """
    )


def test_addresses_that_are_not_ascii_need_an_upstream_that_takes_them() -> None:
    refusal = "550 5.6.7 The recipient's server does not take SMTPUTF8"
    started().play(
        f"""
    C: MAIL FROM:<sü@example.org> SMTPUTF8
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com>
    {upstream_greets(1)}
    S: {refusal}
    C: RSET
    P1: RSET
    U1: 250 2.0.0 fine
    S: 250 2.0.0 fine
    C: MAIL FROM:<s@example.org> SMTPUTF8
    S: 250 2.1.0 Ok
    C: RCPT TO:<ä@exämple.com>
    S: {refusal}
    C: RCPT TO:<a@example.com>
    P1: MAIL FROM:<s@example.org>
    U1: 250 2.1.0 fine
    P1: RCPT TO:<a@example.com>
    U1: 250 2.1.5 fine
    S: 250 2.1.5 fine
    C: RCPT TO:<ü@example.com>
    S: {refusal}
    """
    )


def test_addresses_that_are_not_ascii_are_carried() -> None:
    started().play(
        mail(" SMTPUTF8", "SMTPUTF8", " SMTPUTF8", sender="sü@exämple.org")
        + "C: .\nP1: .\nU1: 250 2.0.0 queued\nS: 250 2.0.0 queued"
    )


def test_they_are_refused_where_mail_did_not_say_so() -> None:
    refusal = "553 5.6.7 The address is not ASCII; MAIL did not say SMTPUTF8"
    started().play(
        f"""
    C: MAIL FROM:<sü@example.org>
    S: {refusal}
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<ü@example.com>
    S: {refusal}
    """
    )


@pytest.mark.parametrize(
    ("given", "extensions", "content", "reply"),
    [
        (" SMTPUTF8", "8BITMIME", r"Subject: ü\r\n\r\nx", "550 5.6.7"),
        (" SMTPUTF8 BODY=8BITMIME", "SMTPUTF8", r"Subject: x\r\n\r\nü", "554 5.6.3"),
        (" BODY=8BITMIME", "X", r"Subject: x\r\n\r\nü", "554 5.6.3"),
        (" SMTPUTF8", "X", r"Subject: x\r\n\r\nü", "250"),  # a body, and BODY was not said
        (" BODY=8BITMIME", "X", r"Subject: x\r\n\r\nx", "250"),
    ],
)
def test_content_that_needs_a_dropped_parameter(
    given: str, extensions: str, content: str, reply: str
) -> None:
    taken = " SMTPUTF8" if extensions == "SMTPUTF8" else ""
    world = started().play(mail(given, extensions, taken))
    world.client.deliver(content.replace(r"\r\n", "\r\n").encode() + b"\r\n.\r\n")
    world.clock.advance(0)
    said = bytes(world.upstream(1).said)
    world.upstream(1).said.clear()
    if reply == "250":
        assert said.endswith(b"\r\n.\r\n")
        world.play("U1: 250 2.0.0 queued\nS: 250 2.0.0 queued")
    else:
        assert not said.endswith(b"\r\n.\r\n")
        world.play(f"P1 cut\nS: {reply} The recipient's server does not take ...")


def test_the_counted_size_is_held_against_the_upstreams_limit() -> None:
    started().play(
        mail("", "SIZE 5", "") + "C: 123456\nP1 cut\nC: .\nS: 552 5.3.4 The message is too big"
    )


@pytest.mark.parametrize(("extensions", "taken"), [("DSN", " NOTIFY=NEVER"), ("X", "")])
def test_the_parameters_of_a_recipient(extensions: str, taken: str) -> None:
    started().play(
        f"""
    C: MAIL FROM:<s@example.org>
    S: 250 2.1.0 Ok
    C: RCPT TO:<a@example.com> NOTIFY=NEVER
    {upstream_greets(1, "PIPELINING," + extensions)}
    P1: MAIL FROM:<s@example.org>
    P1: RCPT TO:<a@example.com>{taken}
    U1: 250 2.1.0 fine
    U1: 250 2.1.5 fine
    S: 250 2.1.5 fine
    C: RCPT TO:<b@example.com> ORCPT=rfc822;x@example.org NOTIFY=SUCCESS,DELAY
    P1: RCPT TO:<b@example.com>{" ORCPT=rfc822;x@example.org NOTIFY=SUCCESS,DELAY" * bool(taken)}
    U1: 250 2.1.5 fine
    S: 250 2.1.5 fine
    """
    )
