"""A client that keeps to its plan, and writes down what it was told."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Protocol

from soak.contents import Message, message
from soak.ledger import Fate, Sent, address
from soak.plans import Mail, Visit
from soak.serving import ORDERED
from soak.wire import HungUp, Left, Reply, Wire

_TOOK = re.compile(r"\btook (\d+)")
_ALL_GOOD = re.compile(r"as said of each recipient")


class Ended(Exception):
    """The proxy has ended the session with a reply."""


@dataclass(slots=True)
class Underway:
    """A message whose answer has not come: `accepted` are its mailboxes, `each` has its own."""

    sent: Sent
    accepted: list[str]
    each: bool
    prdr: bool


class Book(Protocol):
    """Where a client writes: a `Ledger`, or one who passes it on."""

    def number(self) -> int: ...

    def begin(self, sent: Sent) -> None: ...

    def violation(self, kind: str, text: str, number: int | None = None) -> None: ...


class Conversation:
    """One session over a connection that is there."""

    def __init__(
        self, visit: Visit, wire: Wire, ledger: Book, tls: ssl.SSLContext, seed: int
    ) -> None:
        self._visit = visit
        self._wire = wire
        self._ledger = ledger
        self._tls = tls
        self._seed = seed
        self._extensions: frozenset[str] = frozenset()
        self._underway: Underway | None = None  # one that waits while more is sent

    def hold(self) -> None:
        """All of it; raises `Left`, `HungUp`, `NoAnswer` or `Ended`."""
        try:
            self._converse()
        except HungUp:
            self._finish()  # what was said before is there to be heard, also where sending fails
            raise

    def _converse(self) -> None:
        self._expect(self._wire.reply(), 220)
        self._hello()
        if self._visit.tls:
            self._wire.send(b"STARTTLS\r\n")
            self._expect(self._wire.reply(), 220)
            self._wire.start_tls(self._tls)
            self._hello()
        for mail in self._visit.mails:
            self._mail(mail)
        self._finish()
        self._wire.send(b"QUIT\r\n")
        self._expect(self._wire.reply(), 221)

    @property
    def waits_for(self) -> int | None:
        """The number of the message whose end was sent, and that has no answer."""
        return self._underway.sent.number if self._underway else None

    def _hello(self) -> None:
        verb = "LHLO" if self._visit.lmtp else "EHLO"
        self._wire.send(f"{verb} {self._visit.helo}\r\n".encode())
        reply = self._wire.reply()
        self._expect(reply, 250)
        self._extensions = frozenset(line.split(" ")[0] for line in reply.lines[1:])

    # A message

    def _mail(self, mail: Mail) -> None:
        number = self._ledger.number()
        made = message(self._seed, number, mail.kind, mail.size)
        sender = "" if mail.null_sender else f"s{number}@client.example.net"
        fates = dict.fromkeys(mail.mailboxes, Fate.CUT)
        sent = Sent(number, sender, self._visit.source, made.digest, fates)
        self._ledger.begin(sent)
        prdr = mail.prdr and "PRDR" in self._extensions
        chunks = mail.chunks if "CHUNKING" in self._extensions else 0
        parameters = " BODY=8BITMIME" if "8BITMIME" in self._extensions else ""
        envelope = [f"MAIL FROM:<{sender}>{parameters}{' PRDR' if prdr else ''}\r\n".encode()]
        envelope += [f"RCPT TO:<{address(box, number)}>\r\n".encode() for box in mail.mailboxes]
        if not chunks:
            envelope.append(b"DATA\r\n")
        replies = self._envelope(envelope, sent)
        accepted = self._judge_envelope(sent, replies)
        underway = Underway(sent, accepted, prdr or self._visit.lmtp, prdr)
        if not chunks:
            go = replies[-1] if len(replies) == len(envelope) else None
            if go is None or go.code != 354:
                for box in accepted:
                    assert go is not None
                    self._told(sent, box, go)
                self._reset()
                return
            self._content(mail, made.stuffed + b".\r\n", underway)
        elif not accepted:
            self._reset()
        elif chunks == 1:
            octets = made.chunked
            self._content(mail, b"BDAT %d LAST\r\n%b" % (len(octets), octets), underway)
        else:
            self._in_chunks(mail, made, chunks, underway)
        if self._underway and self._visit.pipelining != "all":
            self._finish()

    def _envelope(self, commands: list[bytes], sent: Sent) -> list[Reply]:
        """The replies; if it goes one by one, only up to where there is no use in going on."""
        if self._visit.pipelining != "no":
            self._wire.send(b"".join(commands))
            self._finish()  # the message before, whose answer comes first
            return [self._reply() for _ in commands]
        self._finish()
        replies: list[Reply] = []
        for command in commands:
            if command == b"DATA\r\n" and not any(reply.code == 250 for reply in replies[1:]):
                break
            self._wire.send(command)
            replies.append(self._reply())
            if replies[0].code != 250:
                break
        return replies

    def _judge_envelope(self, sent: Sent, replies: list[Reply]) -> list[str]:
        """Writes down what was said of recipients, and gives those that were accepted."""
        accepted = []
        if replies[0].code != 250:
            for box in sent.fates:
                self._told(sent, box, replies[0])
            return []
        for box, reply in zip(sent.fates, replies[1:], strict=False):
            if reply.code == 250:
                accepted.append(box)
            else:
                self._told(sent, box, reply)
        return accepted

    def _in_chunks(self, mail: Mail, made: Message, chunks: int, underway: Underway) -> None:
        size = len(made.chunked) // chunks
        for _ in range(chunks - 1):
            part, made_rest = made.chunked[:size], made.chunked[size:]
            made = Message(made.number, made_rest, b"", b"")
            self._wire.send(b"BDAT %d\r\n%b" % (len(part), part))
            reply = self._reply()
            if reply.code != 250:
                for box in underway.accepted:
                    self._told(underway.sent, box, reply)
                self._reset()
                return
        last = b"BDAT %d LAST\r\n%b" % (len(made.chunked), made.chunked)
        self._content(mail, last, underway)

    def _content(self, mail: Mail, octets: bytes, underway: Underway) -> None:
        """Send what ends the message; from its last octet on the message may be taken."""
        wire = self._wire
        if mail.missing is not None:
            here = wire.sent + max(len(octets) - mail.missing, 0)
            wire.limit = here if wire.limit is None else min(here, wire.limit)
        end = wire.sent + len(octets)
        try:
            wire.send(octets)
        finally:
            if wire.sent >= end:
                for box in underway.accepted:
                    underway.sent.fates[box] = Fate.UNTOLD
                self._underway = underway

    def _finish(self) -> None:
        """Hear what became of the message that waits for its answer, if one does."""
        if (underway := self._underway) is None:
            return
        reply = self._wire.reply()
        interim = underway.prdr and reply.code == 353
        if underway.each and underway.accepted and (interim or not underway.prdr):
            for n, box in enumerate(underway.accepted):
                if (n or interim) and reply.code != 421:
                    reply = self._wire.reply()
                self._told(underway.sent, box, reply)
            if interim and reply.code != 421:
                reply = self._wire.reply()
        else:
            for box in underway.accepted:
                self._told(underway.sent, box, reply)
        self._underway = None
        self._ends(reply)

    # Replies

    def _told(self, sent: Sent, mailbox: str, reply: Reply) -> None:
        fate = {2: Fate.TAKEN, 4: Fate.LATER, 5: Fate.REFUSED}[reply.code // 100]
        sent.fates[mailbox] = fate
        sent.said[mailbox] = text = str(reply)
        took = _TOOK.search(text)
        if fate is Fate.TAKEN and took and int(took[1]) != sent.number:
            self._ledger.violation("another's answer", f"for {mailbox}: {text}", sent.number)
        if fate is Fate.TAKEN and _ALL_GOOD.search(text):
            self._ledger.violation("out of step", f"for {mailbox}: {text}", sent.number)
        if fate is Fate.REFUSED and ORDERED not in text:
            self._ledger.violation("5xx that nobody said", f"for {mailbox}: {text}", sent.number)

    def _reply(self) -> Reply:
        reply = self._wire.reply()
        self._ends(reply)
        return reply

    def _reset(self) -> None:
        self._wire.send(b"RSET\r\n")
        self._expect(self._wire.reply(), 250)

    def _expect(self, reply: Reply, code: int) -> None:
        self._ends(reply)
        if reply.code != code:
            self._ledger.violation("out of step", f"{code} was expected, told {reply}")
            raise Left

    @staticmethod
    def _ends(reply: Reply) -> None:
        if reply.code == 421:
            raise Ended(str(reply))
