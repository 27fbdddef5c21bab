"""Upstreams for sessions in memory that answer by a script, or say what nobody asked for, or go.

What such an upstream says names what it is the answer to (`x for RCPT TO:<a@example.com>`).  It
holds the proxy to what it announced: nothing else may be said to it, nor too much in one flight.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.dialogue import MemoryTransport

CARRIED = {"EHLO", "HELO", "LHLO", "XCLIENT", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP"}
CARRIED |= {"VRFY", "EXPN", "HELP", "QUIT"}
# RFC 2920 section 3.1, RFC 3030 section 2: behind others nothing is sent before their reply.
PIPELINED = {"MAIL", "RCPT", "RSET", "BDAT"}
HELLOS = {"EHLO", "HELO", "LHLO"}
SUCCESS = {"greeting": 220, "XCLIENT": 220, "DATA": 354, "QUIT": 221}
# What the parameters of MAIL and RCPT need to be announced.
NEEDED = {
    "SIZE": "SIZE",
    "BODY=8BITMIME": "8BITMIME",
    "BODY=BINARYMIME": "BINARYMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET": "DSN",
    "NOTIFY": "DSN",
    "PRDR": "PRDR",
}


@dataclass(eq=False)  # two alike are two
class Message:
    """What an upstream got: from its own 354 on, or from the first chunk on."""

    number: int
    address: str
    sender: str
    recipients: list[str]
    announced: Sequence[str]
    parameters: Sequence[str] = ()
    chunks: bool = False
    lmtp: bool = False
    content: bytes = b""  # as it came: stuffed, where it came by DATA
    ended: bool = False
    said: dict[str, int] = field(default_factory=dict)  # of its end: the code by what it was for

    @property
    def prdr(self) -> bool:
        return "PRDR" in self.parameters


class Script:
    """How upstreams answer: by the verb, and how many of them were answered before."""

    def __init__(self, kinds: dict[tuple[str, int], str]) -> None:
        self._kinds = kinds
        self._answered: Counter[str] = Counter()

    def next(self, subject: str) -> str:
        verb = re.split("[ :]", subject)[0]
        number = self._answered[verb]
        self._answered[verb] += 1
        return self._kinds.get((verb, number), "accept")


class ScriptedUpstream:
    """One connection's other end: it takes commands, and answers by the script."""

    def __init__(
        self,
        address: str,
        transport: MemoryTransport,
        script: Script,
        messages: list[Message],
        extensions: Sequence[str],
        *,
        lmtp: bool = False,
        shadow: bool = False,
    ) -> None:
        """`messages` are those of all upstreams; a `shadow` never gets one."""
        self._address = address
        self._transport = transport
        self._script = script
        self._messages = messages
        self._extensions = extensions
        self._lmtp = lmtp
        self._shadow = shadow
        self._announced: Sequence[str] = ()
        self._buffer = b""
        self._message: Message | None = None
        self._chunk: int | None = None  # octets of it that are to come
        self._last = False
        self._sender: str | None = None
        self._parameters: list[str] = []
        self._recipients: list[str] = []
        self._mails = 0
        self._greeted = self._mute = False
        self._over = False  # the proxy has nothing more to say here

    def act(self) -> bool:
        """Answer all that came; tell whether there was anything to do."""
        if not self._transport.open:
            self._take()  # what was sent before counts
            return False
        busy = not self._greeted or bool(self._transport.said)
        if not self._greeted:
            self._greeted = True
            self._answer("greeting")
        self._take()
        return busy

    def say_unasked(self, text: bytes) -> None:
        """Only when all that the proxy wrote is answered: else it would be an answer."""
        if self._transport.open and self._greeted and not self._mute and not self._transport.said:
            self._over = True
            self._transport.deliver(text)

    def go(self) -> None:
        self._transport.lose()

    @property
    def unended(self) -> tuple[Message, bytes] | None:
        """The message that is under way, with what there is of its last line."""
        if self._message is None:
            return None
        rest = b"" if self._message.chunks else self._buffer
        return self._message, self._message.content + rest

    def _take(self) -> None:
        assert not (self._over and self._transport.said), bytes(self._transport.said)
        self._buffer += self._transport.said
        self._transport.said.clear()
        while self._take_chunk() if self._chunk is not None else self._take_line():
            pass
        # What ends in half a line must not hold half a line end that counts elsewhere.
        assert self._chunk is not None or b"\n" not in self._buffer

    def _take_line(self) -> bool:
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return False
        self._buffer = rest
        assert b"\r" not in line, line
        assert b"\n" not in line, line
        message = self._message
        if message is None or message.chunks:
            self._command(line.decode())
        elif line == b".":
            self._end(message)
        else:
            message.content += line + b"\r\n"
        return True

    def _take_chunk(self) -> bool:
        assert self._chunk is not None
        part, self._buffer = self._buffer[: self._chunk], self._buffer[self._chunk :]
        if self._message is not None:
            self._message.content += part
        self._chunk -= len(part)
        if self._chunk:
            return False
        self._chunk = None
        assert "PIPELINING" in self._announced or not self._buffer, self._buffer
        if self._message is None:  # one before it was refused
            self._say(503, "BDAT out of sequence")
        elif self._last:
            self._end(self._message)
        elif self._answer("BDAT") >= 400:
            self._message = None  # RFC 3030 section 2
            self._sender, self._recipients = None, []
            self._over = True
        return True

    def _end(self, message: Message) -> None:
        """The end of the message: what is said of it."""
        assert not self._buffer, "something behind the end of a message"
        assert message.recipients, "a message for nobody"
        assert not message.ended
        message.ended = True
        self._message = None
        self._sender, self._recipients = None, []
        self._size(len(message.content) if message.chunks else len(unstuffed(message.content)))
        number = message.number
        if message.prdr and self._script.next("single") == "accept":
            self._say(353, f"wait {number}")
            for place in range(len(message.recipients)):
                self._judge(message, f"recipient {number} {place}")
            self._judge(message, f"overall {number}")
        elif message.lmtp:
            for place in range(len(message.recipients)):
                self._judge(message, f"recipient {number} {place}")
        else:
            self._judge(message, f"message {number}")

    def _judge(self, message: Message, subject: str) -> None:
        if code := self._answer(subject):
            message.said[subject] = code

    def _command(self, line: str) -> None:
        verb = line.split(" ", 1)[0].split(":")[0]
        assert verb in CARRIED, line
        assert line.isprintable(), line
        assert line.isascii() or "SMTPUTF8" in self._announced, line
        if verb == "BDAT":
            self._bdat(line)
            return
        assert not (self._message and self._message.chunks), f"{line} between chunks"
        self._check_flight(verb)
        if verb == "MAIL":
            self._check_mail(line)
        code = self._answer(line)
        if not 200 <= code < 400:
            return
        if verb in HELLOS:
            self._announced = () if verb == "HELO" else self._extensions
        if verb in HELLOS or verb in ("XCLIENT", "RSET"):
            self._sender, self._recipients = None, []
        elif verb == "MAIL":
            assert self._sender is None, "MAIL inside a transaction"
            self._sender, self._recipients = path(line), []
            self._parameters = line.partition("> ")[2].split()
        elif verb == "RCPT":
            assert self._sender is not None, "RCPT without MAIL"
            self._recipients.append(path(line))
            assert len(self._recipients) <= self._limit("RCPTMAX")
        elif verb == "DATA":
            # RFC 2920 section 3.1: it may go ahead though nobody is accepted; then it gets nothing.
            self._begin(chunks=False)
            self._over = not self._recipients

    def _bdat(self, line: str) -> None:
        match = re.fullmatch(r"BDAT (\d+)( LAST)?", line)
        assert match, line
        assert "CHUNKING" in self._announced
        assert not self._shadow
        self._chunk, self._last = int(match[1]), bool(match[2])
        assert self._message is None or self._message.chunks
        if self._message is None and self._recipients:
            self._begin(chunks=True)
        assert self._message is not None or self._over, "a chunk of nothing"

    def _begin(self, chunks: bool) -> None:
        assert not self._shadow
        number = len(self._messages)
        self._message = Message(
            number,
            self._address,
            self._sender or "",
            self._recipients,
            self._announced,
            self._parameters,
            chunks,
            self._lmtp,
        )
        self._messages.append(self._message)

    def _check_flight(self, verb: str) -> None:
        if verb not in PIPELINED or "PIPELINING" not in self._announced:
            assert not self._buffer, f"{self._buffer!r} behind {verb}"

    def _check_mail(self, line: str) -> None:
        self._mails += 1
        assert self._mails <= self._limit("MAILMAX")
        for word in line.partition("> ")[2].split():
            needed = NEEDED.get(word) or NEEDED[word.partition("=")[0]]
            assert any(each.split()[0] == needed for each in self._announced), line
            assert needed != "PRDR" or not self._lmtp
            if word.startswith("SIZE="):
                self._size(int(word.removeprefix("SIZE=")))

    def _size(self, octets: int) -> None:
        for each in self._announced:
            keyword, *words = each.split()
            if keyword == "SIZE" and words and int(words[0]):
                assert octets <= int(words[0]), "more than it said that it takes"

    def _limit(self, name: str) -> int:
        for each in self._announced:
            if match := re.search(rf"LIMITS.* {name}=(\d+)", each):
                return int(match[1])
        return 1000

    def _answer(self, subject: str) -> int:
        """Answer by the script; the code, or 0 where that was none that means anything."""
        if self._mute or not self._transport.open:
            return 0
        verb = subject.partition(" ")[0]
        success = SUCCESS.get(verb, 250)
        kind = self._script.next(subject)
        # Out of sequence is refused, as any server does, but for what some do to DATA.
        if subject.startswith("RCPT") and self._sender is None:
            kind = "5xx"
        elif subject == "DATA" and not self._recipients:
            kind = "accept" if kind == "wrong" else "5xx"
        code = {"4xx": 451, "5xx": 550, "5xx and gone": 550}.get(kind, success)
        code = 421 if kind.startswith("421") else code
        if kind == "wrong":
            code = 250 if success == 354 else 354
        if kind == "mute":
            self._mute = True
            return 0
        if kind == "gone":
            self.go()
            return 0
        if kind in ("garbage", "half"):
            self._mute = True
            # Chunks need not wait for the other half.
            self._over = kind == "garbage" or verb != "BDAT"
            self._transport.deliver(b"garbage\r\n" if kind == "garbage" else b"250-half\r\n25")
            return 0
        words = [f"{code}-two lines\r\n"] if kind == "long" else []
        if verb in ("EHLO", "LHLO") and code == 250:
            words += [f"{code}-{line}\r\n" for line in ("mx.test", *self._extensions)]
        words.append(f"{code} {'shadow' if self._shadow else f'x for {subject}'}\r\n")
        # Only where nothing else is to be answered: it would be the answer to that.
        if kind == "surplus" and not self._buffer and verb not in ("BDAT", "recipient"):
            words.append("250 surplus\r\n")
            self._over = True
        if code == 421 or (verb == "greeting" and code >= 400):
            self._over = True
        self._transport.deliver("".join(words).encode())
        if kind.endswith("and gone"):
            self.go()
        if kind == "wrong":
            self._mute = self._over = True
            return 0
        return code

    def _say(self, code: int, text: str) -> None:
        if not self._mute and self._transport.open:
            self._transport.deliver(f"{code} {text}\r\n".encode())


def path(line: str) -> str:
    return line[line.index("<") + 1 : line.rindex(">")]


def unstuffed(content: bytes) -> bytes:
    """The message behind what was sent by DATA."""
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:]
