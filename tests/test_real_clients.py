"""Real clients before smtpproxy, and a real Postfix behind it."""

from __future__ import annotations

import pytest

from tests.support import clients
from tests.support.clients import Mail, Way
from tests.support.messages import OURS
from tests.support.needs import need
from tests.support.postfix import (
    BUSY,
    BUSY_REPLY,
    HEADER_REPLY,
    REFUSAL,
    REFUSED,
    REFUSED_HEADER,
    Postfix,
    Settings,
    content,
    received,
)
from tests.support.processes import short_folder
from tests.support.proxy import Proxy, row

ALICE = "alice@example.com"
BOB = "bob@example.com"
CAROL = "carol@example.org"

PLAIN = [clients.python, clients.swaks, clients.curl, clients.smtp_source]
TLS = [clients.python, clients.swaks, clients.curl]

plainly = pytest.mark.parametrize("client", PLAIN, ids=lambda client: client.__name__)


@plainly
@pytest.mark.parametrize("name", ["plain", "8-bit", "leading dots", "a line of 1 MB"])
def test_a_client_sends(proxy, postfix, folder, client, name):
    message = OURS[name] + b"\r\n"
    outcome = client(Mail(message), Way(proxy.port, folder))
    assert outcome.sent, outcome.dialogue
    (delivered,) = postfix.take(ALICE)
    assert content(delivered) == message


@pytest.mark.parametrize("client", TLS, ids=lambda client: client.__name__)
def test_a_client_sends_to_two_with_starttls(proxy, postfix, folder, client):
    outcome = client(Mail(OURS["8-bit"], (ALICE, BOB)), Way(proxy.port, folder, tls=True))
    assert outcome.sent, outcome.dialogue
    for mailbox in (ALICE, BOB):
        (delivered,) = postfix.take(mailbox)
        assert content(delivered) == OURS["8-bit"]
        assert b"client.example.net (unknown [127.0.0.2])" in received(delivered)


@plainly
@pytest.mark.parametrize(("recipient", "reply"), [(REFUSED, REFUSAL), (BUSY, BUSY_REPLY)])
def test_a_client_reads_why_a_recipient_is_refused(proxy, folder, client, recipient, reply):
    outcome = client(Mail(OURS["empty body"] + b"\r\n", (recipient,)), Way(proxy.port, folder))
    assert not outcome.sent
    assert reply in outcome.dialogue


@plainly
def test_a_client_reads_why_a_message_is_refused(proxy, postfix, folder, client):
    message = REFUSED_HEADER + b"\r\n\r\nHello\r\n\r\n"
    outcome = client(Mail(message), Way(proxy.port, folder))
    assert not outcome.sent
    assert HEADER_REPLY in outcome.dialogue
    assert postfix.delivered(ALICE) == []


def test_many_sessions_at_once(proxy, postfix):
    outcome = clients.flood(proxy.port, ALICE, messages=200, sessions=20, octets=10_000)
    assert outcome.sent, outcome.dialogue
    assert len(postfix.take(ALICE, 200)) == 200


@pytest.fixture(scope="module")
def sender(proxy):
    """A Postfix that sends all its mail through the proxy, from 127.0.0.5."""
    need("postfix", root=True)
    with short_folder() as path, Postfix(path, sending_to(proxy)) as it:
        yield it


def sending_to(proxy: Proxy) -> Settings:
    return Settings(
        mailboxes=(),
        hostname="out.test",
        relay=f"127.0.0.1:{proxy.port}",
        main={
            "smtp_bind_address": "127.0.0.5",
            "smtp_tls_security_level": "may",
            "smtp_line_length_limit": "0",
        },
    )


def test_postfix_sends_through_the_proxy(proxy, postfix, sender):
    sender.submit("sender@example.net", (ALICE,), OURS["leading dots"].replace(b"\r\n", b"\n"))
    (delivered,) = postfix.take(ALICE)
    assert content(delivered).endswith(OURS["leading dots"].partition(b"\r\n\r\n")[2])
    assert received(delivered).startswith(b"Received: from out.test (unknown [127.0.0.5])")
    said = sender.logged(rf"to=<{ALICE}>.* status=sent \(250 2.0.0 Ok: queued as (\w+)\)")
    postfix.logged(rf"{said[1]}: to=<{ALICE}>.* status=sent")


@pytest.mark.parametrize(
    ("recipient", "reply", "status"),
    [(REFUSED, REFUSAL, "bounced"), (BUSY, BUSY_REPLY, "deferred")],
)
def test_postfix_is_told_why(proxy, sender, recipient, reply, status):
    sender.submit("sender@example.net", (recipient,), b"Subject: x\n\nHello\n")
    line = sender.logged(rf"to=<{recipient}>.* status={status} .*").group()
    assert f"said: {reply} (in reply to RCPT TO command)" in line


def test_postfix_reaches_two_upstreams_with_one_message(postfix, folder):
    """The recipient of the other upstream gets a 452, and Postfix comes back for it."""
    with (
        short_folder() as there,
        Postfix(there, Settings(mailboxes=(CAROL,))) as other,
        Proxy(
            folder, [row("example.com", postfix.server), row("example.org", other.server)]
        ) as proxy,
        short_folder() as here,
        Postfix(here, sending_to(proxy)) as sender,
    ):
        sender.submit("sender@example.net", (ALICE, CAROL, BOB), b"Subject: x\n\nHello\n")
        for upstream, mailbox in ((postfix, ALICE), (postfix, BOB), (other, CAROL)):
            (delivered,) = upstream.take(mailbox, seconds=60)
            assert delivered.endswith(b"\n\nHello\n")
