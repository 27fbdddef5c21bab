"""smtpproxy before a real Dovecot, which takes LMTP: a reply for each recipient of a message."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator

import pytest

from tests.support.dovecot import (
    FULL,
    FULL_REPLY,
    MAILBOXES,
    UNKNOWN,
    UNKNOWN_REPLY,
    Dovecot,
    content,
    need_dovecot,
    received,
)
from tests.support.messages import OURS
from tests.support.processes import short_folder
from tests.support.proxy import DOMAIN, Proxy, row

ALICE, BOB = MAILBOXES
SENDER = "sender@example.net"
WAYS = ("TCP", "Unix socket")


@pytest.fixture(scope="module")
def running_dovecot() -> Iterator[Dovecot]:
    need_dovecot()
    with short_folder() as path, Dovecot(path) as it:
        yield it


@pytest.fixture
def dovecot(running_dovecot: Dovecot) -> Dovecot:
    """A Dovecot with empty mailboxes."""
    for mailbox in MAILBOXES:
        running_dovecot.empty(mailbox)
    return running_dovecot


@pytest.fixture(scope="module", params=WAYS)
def proxy(running_dovecot: Dovecot, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """smtpproxy before that Dovecot, by each of the ways to it, for SMTP and for LMTP."""
    by_tcp = request.param == "TCP"
    server = running_dovecot.server if by_tcp else running_dovecot.server_on_socket
    rows, asked = [row("example.com", server)], {"ask_every": "10m"}
    with short_folder() as path, Proxy(path, rows, lmtp=True, upstreams=asked) as it:
        yield it


@pytest.fixture
def client(proxy: Proxy) -> Iterator[smtplib.SMTP]:
    """An SMTP client that has said EHLO."""
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as it:
        it.ehlo("client.example.net")
        yield it


@pytest.fixture
def lmtp_client(proxy: Proxy) -> Iterator[smtplib.LMTP]:
    """An LMTP client that has said LHLO."""
    with smtplib.LMTP("127.0.0.1", proxy.lmtp_port, timeout=20) as it:
        assert it.ehlo("client.example.net")[0] == 250
        yield it


def said(pair: tuple[int, bytes]) -> str:
    """A reply of smtplib as the line it was."""
    return f"{pair[0]} {pair[1].decode()}"


def send(client: smtplib.SMTP, message: bytes, *recipients: str, prdr: bool = False) -> list[str]:
    """The replies to each RCPT, to DATA, and the first to the content, where it comes to that."""
    assert client.mail(SENDER, ["PRDR"] if prdr else [])[0] == 250
    replies = [said(client.rcpt(recipient)) for recipient in recipients]
    replies.append(said(client.docmd("DATA")))
    if replies[-1].startswith("354"):
        client.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
        replies.append(said(client.getreply()))
    return replies


def saved(mailbox: str, reply: str) -> bool:
    """It is what Dovecot says of a message that it has stored."""
    return reply.startswith(f"250 2.0.0 <{mailbox}> ") and reply.endswith(" Saved")


# A message to one recipient


@pytest.mark.parametrize("name", OURS)
def test_the_delivered_message_is_the_sent_one(
    proxy: Proxy, dovecot: Dovecot, client: smtplib.SMTP, name: str
) -> None:
    replies = send(client, OURS[name], ALICE)
    assert saved(ALICE, replies[-1])
    (delivered,) = dovecot.take(ALICE)
    assert content(delivered) == OURS[name]


def test_whom_dovecot_sees(proxy: Proxy, dovecot: Dovecot) -> None:
    """By TCP it takes XCLIENT; on its socket it does not, and all that it sees is the proxy."""
    where = ("127.0.0.7", 0)
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20, source_address=where) as client:
        client.ehlo("seven.example.net")
        send(client, OURS["plain"], ALICE)
    field = received(dovecot.take(ALICE)[0])
    if dovecot.server in proxy.file.read_text():
        assert field.startswith(b"Received: from seven.example.net ([127.0.0.7]) by dovecot.test ")
    else:
        assert field.startswith(f"Received: from {DOMAIN} by dovecot.test ".encode())


def test_an_unknown_user_is_refused_in_dovecots_words(
    dovecot: Dovecot, client: smtplib.SMTP
) -> None:
    client.mail(SENDER)
    assert said(client.rcpt(UNKNOWN)) == UNKNOWN_REPLY
    assert said(client.rcpt(ALICE)) == "250 2.1.5 OK"


def test_a_full_mailbox_is_told_at_the_end_of_data(dovecot: Dovecot, client: smtplib.SMTP) -> None:
    assert send(client, OURS["plain"], FULL) == ["250 2.1.5 OK", "354 OK", FULL_REPLY]
    assert saved(ALICE, send(client, OURS["plain"], ALICE)[-1])
    assert not dovecot.delivered(FULL)


# Several recipients


def test_one_reply_is_for_one_mailbox(dovecot: Dovecot, client: smtplib.SMTP) -> None:
    """One reply cannot be true of two mailboxes: the second recipient has to come again."""
    first, second, *_, last = send(client, OURS["plain"], ALICE, BOB)
    assert first == "250 2.1.5 OK"
    assert second.startswith("452 4.5.3 ")
    assert saved(ALICE, last)
    assert saved(BOB, send(client, OURS["plain"], BOB)[-1])
    for mailbox in MAILBOXES:
        assert len(dovecot.take(mailbox)) == 1


def test_with_prdr_each_recipient_has_its_own_reply(dovecot: Dovecot, client: smtplib.SMTP) -> None:
    assert client.has_extn("PRDR")
    recipients = (ALICE, FULL, UNKNOWN, BOB)
    replies = send(client, OURS["plain"], *recipients, prdr=True)
    assert replies[:4] == ["250 2.1.5 OK", "250 2.1.5 OK", UNKNOWN_REPLY, "250 2.1.5 OK"]
    assert replies[-1].startswith("353 ")
    alice, full, bob, overall = (said(client.getreply()) for _ in range(4))
    assert saved(ALICE, alice)
    assert full == FULL_REPLY
    assert saved(BOB, bob)
    assert overall.startswith("250 ")
    for mailbox in MAILBOXES:
        assert content(dovecot.take(mailbox)[0]) == OURS["plain"]


# Through an LMTP listener


def test_a_reply_for_each_recipient_from_end_to_end(
    dovecot: Dovecot, lmtp_client: smtplib.LMTP
) -> None:
    recipients = (ALICE, FULL, UNKNOWN, BOB)
    *replies, alice = send(lmtp_client, OURS["leading dots"], *recipients)
    assert replies[:4] == ["250 2.1.5 OK", "250 2.1.5 OK", UNKNOWN_REPLY, "250 2.1.5 OK"]
    full, bob = (said(lmtp_client.getreply()) for _ in range(2))
    assert saved(ALICE, alice)
    assert full == FULL_REPLY
    assert saved(BOB, bob)
    assert said(lmtp_client.noop()).startswith("250 "), "a reply too many"
    for mailbox in MAILBOXES:
        assert content(dovecot.take(mailbox)[0]) == OURS["leading dots"]


def test_an_lmtp_client_is_told_what_an_smtp_client_is_not(
    proxy: Proxy, dovecot: Dovecot, lmtp_client: smtplib.LMTP
) -> None:
    """Neither is the other's protocol spoken by mistake (RFC 2033 section 4.1)."""
    assert lmtp_client.docmd("EHLO", "client.example.net")[0] == 500
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as smtp_client:
        assert smtp_client.docmd("LHLO", "client.example.net")[0] == 500


# What Dovecot offers, and its clients are then offered


def chunked(client: smtplib.SMTP, message: bytes, *recipients: str) -> list[str]:
    """The replies to each RCPT, to a first chunk, and the first to a last one."""
    client.mail(SENDER)
    replies = [said(client.rcpt(recipient)) for recipient in recipients]
    for part, last in ((message[:100], ""), (message[100:], " LAST")):
        client.send(b"BDAT %d%s\r\n" % (len(part), last.encode()) + part)
        replies.append(said(client.getreply()))
    return replies


def test_chunks(proxy: Proxy, dovecot: Dovecot, client: smtplib.SMTP) -> None:
    proxy.wait_for(lambda: client.ehlo()[0] and client.has_extn("CHUNKING"), "CHUNKING offered")
    assert saved(ALICE, chunked(client, OURS["blocks of dots"], ALICE)[-1])
    assert chunked(client, OURS["plain"], FULL)[-1] == FULL_REPLY
    assert content(dovecot.take(ALICE)[0]) == OURS["blocks of dots"]


def test_chunks_to_several_from_end_to_end(
    proxy: Proxy, dovecot: Dovecot, lmtp_client: smtplib.LMTP
) -> None:
    proxy.wait_for(lambda: lmtp_client.ehlo()[0] and lmtp_client.has_extn("CHUNKING"), "CHUNKING")
    replies = chunked(lmtp_client, OURS["parts"], FULL, UNKNOWN, BOB)
    assert replies[:3] == ["250 2.1.5 OK", UNKNOWN_REPLY, "250 2.1.5 OK"]
    assert replies[-1] == FULL_REPLY
    assert saved(BOB, said(lmtp_client.getreply()))
    assert said(lmtp_client.noop()).startswith("250 "), "a reply too many"
    assert content(dovecot.take(BOB)[0]) == OURS["parts"]
