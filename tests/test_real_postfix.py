"""smtpproxy before a real Postfix: what it delivers, what it refuses, whom it sees."""

from __future__ import annotations

import smtplib
from hashlib import sha256

import pytest

from tests.support import clients
from tests.support.clients import Mail, Way
from tests.support.messages import OURS, as_content, cpython
from tests.support.needs import missing, need
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
MEGABYTE = 1_000_000


def send(port, folder, message, **way):
    outcome = clients.python(Mail(message), Way(port, folder, **way))
    assert outcome.sent, outcome.dialogue


def reply(pair: tuple[int, bytes]) -> str:
    """A reply of smtplib as the line it was."""
    return f"{pair[0]} {pair[1].decode()}"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "STARTTLS"])
@pytest.mark.parametrize("name", OURS)
def test_the_delivered_message_is_the_sent_one(proxy, postfix, folder, name, tls):
    send(proxy.port, folder, OURS[name], tls=tls)
    (delivered,) = postfix.take(ALICE)
    assert content(delivered) == OURS[name]


@pytest.mark.parametrize("path", cpython() or [None], ids=lambda path: path and path.stem)
def test_python_s_own_messages_arrive_as_without_the_proxy(proxy, postfix, folder, path):
    if path is None:
        missing("needs the messages of Python's tests: apt-get install libpython3.x-testsuite")
    message = as_content(path.read_bytes())
    send(postfix.port, folder, message)
    (directly,) = postfix.take(ALICE)
    send(proxy.port, folder, message)
    (delivered,) = postfix.take(ALICE)
    assert content(delivered) == content(directly)


def test_the_upstream_sees_the_client_and_not_the_proxy(proxy, postfix, folder):
    send(proxy.port, folder, OURS["plain"], source="127.0.0.7", helo="seven.example.net")
    (delivered,) = postfix.take(ALICE)
    field = received(delivered)
    assert field.startswith(b"Received: from seven.example.net (unknown [127.0.0.7])")
    assert b"127.0.0.1" not in field
    assert b"with ESMTP" in field
    assert b"using TLSv1.3" in field, "the proxy did not use STARTTLS"


def test_helo_is_passed_on_as_helo(proxy, postfix):
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
        client.helo("old.example.net")
        client.mail("sender@example.net")
        client.rcpt(ALICE)
        client.data(OURS["plain"])
    field = received(postfix.take(ALICE)[0])
    assert field.startswith(b"Received: from old.example.net ")
    assert b" with SMTP" in field


def test_refusals_reach_the_client_word_for_word(proxy, postfix):
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        assert reply(client.rcpt(REFUSED)) == REFUSAL
        assert reply(client.rcpt(BUSY)) == BUSY_REPLY
        assert reply(client.rcpt("nobody@example.com")) == (
            "550 5.1.1 <nobody@example.com>: Recipient address rejected: "
            "User unknown in virtual mailbox table"
        )
        assert reply(client.rcpt(ALICE)) == "250 2.1.5 Ok"
        assert reply(client.data(REFUSED_HEADER + b"\r\n\r\nHello\r\n")) == HEADER_REPLY
        # The session goes on, and so does the mail.
        client.mail("sender@example.net")
        client.rcpt(ALICE)
        code, text = client.data(OURS["plain"])
    assert code == 250
    queue_id = text.rpartition(b" ")[2].decode()
    postfix.logged(rf"{queue_id}: to=<{ALICE}>.* status=sent")
    assert len(postfix.take(ALICE)) == 1


def test_several_transactions_in_one_session(proxy, postfix):
    messages = [OURS["plain"] + b"%d\r\n" % number for number in range(5)]
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client:
        for message in messages:
            client.ehlo_or_helo_if_needed()
            client.mail("sender@example.net")
            client.rcpt(ALICE)
            assert client.data(message)[0] == 250
    delivered = [content(message) for message in postfix.take(ALICE, len(messages))]
    assert sorted(delivered) == sorted(messages)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "STARTTLS"])
def test_a_message_of_100_mb_needs_no_memory(
    running_postfix, proxy_certificate, authority, folder, tls
):
    line = b"0123456789" * 7 + b"\r\n"
    message = OURS["empty body"] + line * (100 * MEGABYTE // len(line))
    rows = [row("example.com", running_postfix.server, verify=True)]
    limits = {"max_message_bytes": "200MiB"}
    with Proxy(folder, rows, proxy_certificate, tls_ca=authority.file, limits=limits) as proxy:
        send(proxy.port, folder, OURS["plain"], tls=tls)
        running_postfix.take(ALICE)
        proxy.forget_peak()
        idle, _ = proxy.memory()
        send(proxy.port, folder, message, tls=tls)
        _, peak = proxy.memory()
    (delivered,) = running_postfix.take(ALICE, seconds=60)
    assert sha256(content(delivered)).digest() == sha256(message).digest()
    assert peak - idle < 20 * MEGABYTE


def test_an_upstream_without_tls_and_without_xclient(folder):
    need("postfix", root=True)
    with (
        short_folder() as path,
        Postfix(path, Settings(xclient=False)) as bare,
        Proxy(folder, [row(ALICE, bare.server, verify=True)]) as proxy,
    ):
        send(proxy.port, folder, OURS["leading dots"])
        (delivered,) = bare.take(ALICE)
    assert content(delivered) == OURS["leading dots"]


def test_a_certificate_that_must_verify_and_does_not_gets_no_mail(postfix, folder):
    """The system's authorities did not sign the upstream's certificate."""
    rows = [row(ALICE, postfix.server, verify=True), row("bob@example.com", postfix.server)]
    with (
        Proxy(folder, rows) as proxy,
        smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client,
    ):
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        code, text = client.rcpt(ALICE)
        assert code == 451
        assert text.startswith(b"4.7.5 ")
        assert client.rcpt("bob@example.com")[0] == 250
        assert client.data(OURS["plain"])[0] == 250
    assert b"using TLSv1.3" in received(postfix.take("bob@example.com")[0])
    assert postfix.delivered(ALICE) == []


def test_the_second_connection_resumes_the_tls_session(authority, folder):
    need("postfix", root=True)
    settings = Settings(
        certificate=authority.certificate("127.0.0.1"), main={"smtpd_tls_loglevel": "2"}
    )
    once = {"keep_idle": "0s"}
    with short_folder() as path, Postfix(path, settings) as postfix:
        rows = [row(ALICE, postfix.server, verify=True)]
        with Proxy(folder, rows, tls_ca=authority.file, upstreams=once) as proxy:
            for _ in range(2):
                send(proxy.port, folder, OURS["plain"])
                postfix.take(ALICE)
        postfix.logged("Reusing old session")


# Where XCLIENT is not used

COLUMNS = "pattern;server;tls_verify;identity"


@pytest.mark.parametrize("identity", ["proxy1", "proxy2"])
@pytest.mark.parametrize("tls", ["true", "false"])
def test_postfix_learns_of_the_client_by_the_proxy_protocol(
    postfix, authority, folder, identity, tls
):
    """Before STARTTLS, too: the header comes first."""
    rows = [f"example.com;{postfix.behind_proxy};{tls};{identity}"]
    with Proxy(folder, rows, columns=COLUMNS, tls_ca=authority.file) as proxy:
        way = Way(proxy.port, folder, helo="seven.example.net", source="127.0.0.7")
        outcome = clients.python(Mail(OURS["leading dots"], (ALICE, "bob@example.com")), way)
        assert outcome.sent, outcome.dialogue
        for mailbox in (ALICE, "bob@example.com"):
            (delivered,) = postfix.take(mailbox)
            field = received(delivered)
            assert field.startswith(b"Received: from seven.example.net (unknown [127.0.0.7])")
            assert b"using TLSv1.3" in field
            assert content(delivered) == OURS["leading dots"]
    postfix.logged(r"smtpd\[\d+\]: connect from unknown\[127\.0\.0\.7\]")


@pytest.mark.parametrize("identity", ["auto", "none"])
def test_postfix_that_waits_for_a_header_and_gets_none_takes_no_mail(postfix, folder, identity):
    """That a test above passes is the header's doing."""
    rows = [f"example.com;{postfix.behind_proxy};false;{identity}"]
    timeouts = {"recipient": "2s"}
    with Proxy(folder, rows, columns=COLUMNS, timeouts=timeouts) as proxy:
        outcome = clients.python(Mail(OURS["plain"]), Way(proxy.port, folder))
        assert not outcome.sent
        assert "451 4.4.1" in outcome.dialogue


def test_a_received_line_is_the_first_of_the_message(postfix, folder):
    rows = [f"example.com;{postfix.server};false;received"]
    with Proxy(folder, rows, columns=COLUMNS) as proxy:
        send(proxy.port, folder, OURS["plain"], source="127.0.0.7", helo="seven.example.net")
        (delivered,) = postfix.take(ALICE)
        assert b" [127.0.0.1]) " in received(delivered), "the upstream saw the proxy"
        arrived = content(delivered)
        assert arrived.endswith(OURS["plain"])
        ours = arrived.removesuffix(OURS["plain"])
        assert ours.startswith(b"Received: from seven.example.net (unknown [127.0.0.7])\r\n\tby ")
        assert ours.count(b"\r\n") == 3
        assert f" bytes={len(OURS['plain'])} " in proxy.output


def test_xclient_that_is_required_and_not_offered(folder):
    need("postfix", root=True)
    with short_folder() as path, Postfix(path, Settings(xclient=False)) as bare:
        rows = [f"example.com;{bare.server};false;xclient"]
        with Proxy(folder, rows, columns=COLUMNS) as proxy:
            outcome = clients.python(Mail(OURS["plain"]), Way(proxy.port, folder))
    assert not outcome.sent
    assert "451 4.4.0 The server of this recipient does not know this proxy" in outcome.dialogue
