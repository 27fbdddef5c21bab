"""smtpproxy between mail servers that other people wrote: what each of them makes of it.

Two upstreams, a Postfix (example.com) and an Exim (example.net), and as the client each time
another server that puts the message into its queue, sends it, and comes again where it was put off.
"""

from __future__ import annotations

import json
import re
import smtplib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import exim, opensmtpd, postfix, submission
from tests.support.exim import FULL, FULL_REPLY, PICKY, PICKY_REFUSAL, REFUSAL, REFUSED, Exim
from tests.support.needs import need
from tests.support.opensmtpd import OpenSmtpd
from tests.support.postfix import Postfix
from tests.support.processes import DidNotHappen, short_folder, wait_until
from tests.support.proxy import Proxy, row

FROM = "sender@example.org"
ALICE, BOB = "alice@example.com", "bob@example.com"  # of the upstream that is a Postfix
CAROL = "carol@example.net"  # of the one that is an Exim
POSTMASTER = "postmaster"
PAIVI, PAIVI_ABROAD, ZOFIE = (
    "p\u00e4ivi@example.com",
    "p\u00e4ivi@b\u00fccher.test",
    "\u017eofie@example.net",
)

# With all that a server might add to the header of one that it sends on.
HEADER = (
    b"Date: Fri, 20 Nov 2026 09:00:00 +0000\r\nMessage-Id: <1@example.org>\r\n"
    b"From: <sender@example.org>\r\nTo: <list@example.org>\r\nSubject: a test\r\n\r\n"
)
BODY = b".\r\nHello\r\n"
MESSAGE = HEADER + BODY
LONGEST = 60  # seconds that a delivery may take on a busy machine

Mailbox = tuple[Postfix | Exim, str]


@dataclass(frozen=True, slots=True)
class Sender:
    """A mail server as the client. `taken` matches a line of its log that says: delivered to."""

    server: Postfix | Exim | OpenSmtpd
    taken: str

    def log(self) -> str:
        return self.server.log.read_text(errors="replace")

    def count(self, recipient: str, since: int) -> int:
        """How often its log says, from this place on, that the recipient's server has it."""
        return len(re.findall(self.taken.format(re.escape(recipient)), self.log()[since:]))


@dataclass(frozen=True, slots=True)
class Running:
    """What stands around the sender."""

    postfix: Postfix
    exim: Exim
    proxy: Proxy

    def mailbox(self, recipient: str) -> Mailbox:
        local, _, domain = recipient.partition("@")
        name = f"{local.partition('+')[0]}@{domain}"
        return (self.exim if domain == "example.net" else self.postfix), name

    def delivered(self, recipient: str) -> list[bytes]:
        server, mailbox = self.mailbox(recipient)
        return server.delivered(mailbox)

    def events(self, since: int) -> list[dict[str, Any]]:
        """The proxy's own log from this place on."""
        lines = self.proxy.output[since:].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def transactions(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "transaction_ended"]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    need("postfix", root=True)
    with ExitStack() as stack:

        def folder() -> Path:
            return stack.enter_context(short_folder())

        to_alice = {"virtual_alias_maps": f"inline:{{{POSTMASTER}@mx1.test={ALICE}}}"}
        mailboxes = (ALICE, BOB, PAIVI, PAIVI_ABROAD)
        first = stack.enter_context(
            Postfix(folder(), postfix.Settings(mailboxes=mailboxes, main=to_alice))
        )
        second = stack.enter_context(
            Exim(folder(), exim.Settings(mailboxes=(CAROL, ZOFIE, PICKY, FULL)))
        )
        rows = [
            row("example.com", first.server),
            row("b\u00fccher.test", first.server),
            row(POSTMASTER, first.server),
            row("example.net", second.server),
        ]
        proxy = stack.enter_context(Proxy(folder(), rows, log={"format": "json"}, upstreams={}))
        yield Running(first, second, proxy)


def a_postfix(folder: Path, relay: str) -> Sender:
    # Its mailboxes are none of those that mail is sent to here.
    settings = postfix.Settings(("nobody@mx4.test",), "mx4.test", relay=relay)
    return Sender(Postfix(folder, settings), r"to=<{}>, .*status=sent")


def an_exim(folder: Path, relay: str) -> Sender:
    settings = exim.Settings((), "mx5.test", relay=relay)
    return Sender(Exim(folder, settings), r"[=-]> {} ")


def an_exim_without_prdr(folder: Path, relay: str) -> Sender:
    settings = exim.Settings((), "mx5.test", relay=relay, prdr=False, chunking=False)
    return Sender(Exim(folder, settings), r"[=-]> {} ")


def an_opensmtpd(folder: Path, relay: str) -> Sender:
    settings = opensmtpd.Settings((), "mx6.test", relay=relay)
    return Sender(OpenSmtpd(folder, settings), r'to=<{}> .*result="Ok"')


SENDERS: dict[str, Callable[[Path, str], Sender]] = {
    "Postfix": a_postfix,
    "Exim without PRDR": an_exim_without_prdr,
    "Exim": an_exim,
    "OpenSMTPD": an_opensmtpd,
}


@pytest.fixture(scope="module", params=SENDERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sender(running: Running, name: str) -> Iterator[Sender]:
    """Each of the servers that send, one after the other."""
    with short_folder() as folder:
        sender = SENDERS[name](folder, f"127.0.0.1:{running.proxy.port}")
        with sender.server:
            yield sender


@pytest.fixture(autouse=True)
def _empty(running: Running) -> None:
    for server in (running.postfix, running.exim):
        for mailbox in server.settings.mailboxes:
            server.empty(mailbox)


class Times:
    """What the tests measured, shown below their results."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        print(line)
        self._lines.append(line)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("three recipients on two upstreams")
        for line in self._lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def times(request: pytest.FixtureRequest) -> Times:
    times = Times()
    request.config.pluginmanager.register(times)
    return times


def send(
    running: Running,
    sender: Sender,
    recipients: Sequence[str],
    reverse_path: str = FROM,
    parameters: tuple[Sequence[str], Sequence[str]] = ((), ()),
    message: bytes = MESSAGE,
) -> list[dict[str, Any]]:
    """Send to all of `recipients`, wait until each has it, and see that each has it once.

    Gives what the proxy logged meanwhile.
    """
    since, own = len(running.proxy.output), len(sender.log())
    submission.submit(sender.server.port, reverse_path, recipients, message, *parameters)
    wait_for(running, sender, recipients, own)
    events = running.events(since)
    times = Counter(to for event in transactions(events) for to in event["to"])
    assert times == Counter(recipients), events
    for recipient in recipients:
        assert len(running.delivered(recipient)) == 1, recipient
    return events


def wait_for(running: Running, sender: Sender, recipients: Sequence[str], own: int) -> None:
    """Until all have the message, and the sender knows it of each."""

    def all_there() -> bool:
        return all(map(running.delivered, recipients)) and all(
            sender.count(recipient, own) == 1 for recipient in recipients
        )

    for _ in range(LONGEST):
        try:
            wait_until(all_there, 1, "the message")
        except DidNotHappen:
            # What is put off it would try again after 400 s, a number that is compiled in.
            if isinstance(sender.server, OpenSmtpd):
                sender.server.flush()
        else:
            return
    raise DidNotHappen(f"waited {LONGEST} s for {recipients}:\n{sender.log()[own:]}")


def offered(running: Running, *keywords: str) -> None:
    """Wait until the proxy has learnt that both upstreams have these extensions."""

    def look() -> bool:
        with smtplib.SMTP("127.0.0.1", running.proxy.port, timeout=20) as client:
            client.ehlo("client.example.net")
            return all(map(client.has_extn, keywords))

    wait_until(look, 10, f"{keywords} in the proxy's answer to EHLO")


def mails(running: Running, session: str) -> int:
    """How many transactions the client began in a session that is over, or about to be."""

    def look() -> re.Match[str] | None:
        for event in running.events(0):
            if event["event"] == "disconnected" and event["session"] == session:
                return re.search(r"\bmail=(\d+)", event["commands"])
        return None

    return int(wait_until(look, 10, f"the end of session {session}")[1])


def body(delivered: bytes) -> bytes:
    """What follows the header, with CRLF line ends."""
    return delivered.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")[2]


def test_three_recipients_on_two_upstreams(running, sender, name, times):
    begin = time.monotonic()
    events = send(running, sender, (ALICE, CAROL, BOB))
    seconds = time.monotonic() - begin
    sessions = {event["session"] for event in transactions(events)}
    refusals = sum(event["event"] == "refused" for event in events)
    times.add(
        f"{name}: {seconds:.1f} s, in {len(sessions)} session(s), after {refusals} refusal(s)"
        + (", told each time to come again" if name == "OpenSMTPD" else "")
    )
    for recipient in (ALICE, CAROL, BOB):
        assert body(running.delivered(recipient)[0]) == BODY
    if name.startswith("Exim"):
        # Without PRDR it sends at once, on the same connection, what was put off.
        assert len(sessions) == 1
    if name == "Exim":
        assert refusals == 0
        assert re.search(rf"-> {BOB} .* PRDR ", sender.log())
        assert mails(running, *sessions) == 1


def test_addresses_with_a_tag(running, sender):
    recipients = "alice+a.tag@example.com", "carol+b-tag@example.net"
    send(running, sender, recipients)
    (alice,), (carol,) = map(running.delivered, recipients)
    assert b"X-Original-To: alice+a.tag@example.com\n" in alice
    assert b"Envelope-to: carol+b-tag@example.net\n" in carol


def test_the_null_sender(running, sender):
    send(running, sender, (ALICE, CAROL), reverse_path="")
    (alice,), (carol,) = running.delivered(ALICE), running.delivered(CAROL)
    assert alice.startswith(b"Return-Path: <>\n")
    assert carol.startswith(b"Return-path: <>\n")


def test_postmaster_without_a_domain(running):
    with smtplib.SMTP("127.0.0.1", running.proxy.port, timeout=20) as client:
        client.ehlo("client.example.net")
        assert client.docmd("MAIL FROM:<>")[0] == 250
        assert client.docmd("RCPT TO:<Postmaster>")[0] == 250
        assert client.data(MESSAGE)[0] == 250
    (delivered,) = running.postfix.take(ALICE)
    assert b"X-Original-To: Postmaster\n" in delivered or b"<Postmaster" in delivered


@pytest.mark.parametrize("name", ["Postfix", "Exim"], indirect=True)
@pytest.mark.parametrize("recipient", [PAIVI, PAIVI_ABROAD, ZOFIE])
def test_addresses_of_any_script(running, sender, recipient):
    offered(running, "SMTPUTF8")
    send(running, sender, (recipient,), "s\u00f8ren@example.org", (["SMTPUTF8"], []))
    (delivered,) = running.delivered(recipient)
    assert delivered[:13].lower() == b"return-path: "
    assert "<s\u00f8ren@example.org>\n".encode() in delivered
    assert recipient.encode() in delivered


@pytest.mark.parametrize("name", ["Postfix", "Exim"], indirect=True)
def test_a_report_of_success_is_the_upstream_s(running, sender):
    offered(running, "DSN")
    asked = ["RET=HDRS", "ENVID=QQ314159"], ["NOTIFY=SUCCESS", f"ORCPT=rfc822;{ALICE}"]
    # The report goes to a mailbox of the upstream that writes it.
    send(running, sender, (ALICE,), BOB, asked)
    (report,) = running.postfix.take(BOB)
    assert b"\nReporting-MTA: dns; mx1.test\n" in report
    assert b"\nOriginal-Envelope-Id: QQ314159\n" in report
    assert b"\nOriginal-Recipient: rfc822;alice@example.com\n" in report
    assert b"\nAction: delivered\n" in report


@pytest.mark.parametrize("name", ["Exim"], indirect=True)
@pytest.mark.parametrize("recipient", [ALICE, CAROL])
def test_exim_sends_chunks(running, sender, recipient):
    offered(running, "CHUNKING")
    own = len(sender.log())
    long = b"".join(b".%d\r\n" % number for number in range(100_000))
    send(running, sender, (recipient,), message=HEADER + long)
    (delivered,) = running.delivered(recipient)
    assert body(delivered) == long
    assert re.search(r"=> .* K ", sender.log()[own:])  # its mark for CHUNKING


@pytest.mark.parametrize("name", ["Exim"], indirect=True)
@pytest.mark.parametrize("taken", [(ALICE, CAROL), (ALICE,), (CAROL,)])
def test_replies_for_each_recipient_come_through(running, sender, taken):
    offered(running, "PRDR")
    own = len(sender.log())
    submission.submit(sender.server.port, FROM, (*taken, REFUSED, PICKY, FULL), MESSAGE)
    # The one that is deferred comes again alone, which Exim does not judge by recipient.
    wait_for(running, sender, (*taken, FULL), own)
    log = sender.log()[own:]
    assert re.search(rf"\*\* {REFUSED} .*{re.escape(REFUSAL)}", log)
    assert re.search(rf"\*\* {PICKY} .*{re.escape(PICKY_REFUSAL)}", log)
    assert re.search(rf"== {FULL} .*{re.escape(FULL_REPLY)}", log)
    assert running.delivered(PICKY) == []
    assert [len(running.delivered(each)) for each in (*taken, FULL)] == [1] * len((*taken, FULL))


def test_opensmtpd_as_an_upstream(running):
    with short_folder() as first, short_folder() as second, OpenSmtpd(first) as upstream:
        erin = upstream.settings.mailboxes[0]
        with Proxy(second, [row("example.org", upstream.server)]) as proxy:
            submission.submit(proxy.port, FROM, [erin], MESSAGE)
            wait_until(lambda: upstream.delivered(erin), LONGEST, "a message for erin")
        (delivered,) = upstream.delivered(erin)
    assert opensmtpd.content(delivered) == MESSAGE
