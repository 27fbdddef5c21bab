"""What a client and its upstreams saw of a session, and whether it fits: the proxy is not asked.

`Ends` reads the client's bytes and the replies that it got, one for each command, and compares
them with what upstreams recorded (see `scripted`).
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.scripted import HELLOS, Message, path, unstuffed


@dataclass(frozen=True)
class Reply:
    code: int
    text: str

    @property
    def success(self) -> bool:
        return 200 <= self.code < 300

    @property
    def subject(self) -> str:
        """What an upstream's reply says that it is the answer to; "" for the proxy's own."""
        return self.text.partition(" for ")[2]


@dataclass(eq=False)
class Sent:
    """A transaction, as the client knows it."""

    sender: str
    parameters: Sequence[str]
    recipients: list[str] = field(default_factory=list)  # accepted
    chunks: bool = False
    content: bytes = b""  # as the client sent it
    ended: bool = False

    @property
    def prdr(self) -> bool:
        return "PRDR" in self.parameters

    @property
    def binary(self) -> bool:
        return "BODY=BINARYMIME" in self.parameters

    def by_data(self) -> bytes:
        """What an upstream gets of it between its 354 and the final dot."""
        if not self.chunks:
            return normalised(self.content)
        message = self.by_chunks()
        if message and not message.endswith(b"\r\n"):
            message += b"\r\n"
        return _shown((b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:])

    def by_chunks(self) -> bytes:
        """What an upstream gets of it in chunks."""
        if not self.chunks:
            return unstuffed(normalised(self.content))
        if self.binary:
            return self.content
        return re.sub(rb"\r\n|\r|\n", b"\r\n", self.content)

    def fits(self, message: Message, content: bytes) -> bool:
        """The upstream has all that the client sent, or with `content` its beginning."""
        whole = self.by_chunks() if message.chunks else self.by_data()
        return whole == content if message.ended else whole.startswith(content)


def normalised(content: bytes) -> bytes:
    """The content with every line end made CRLF, and lines of one dot stuffed (see DataReader)."""
    lines = re.split(rb"\r\n|\r|\n", content)
    return _shown(b"\r\n".join(b".." if line == b"." else line for line in lines))


def _shown(content: bytes) -> bytes:
    """The content without dots that NUL hides (see HiddenDots)."""
    content = re.sub(rb"(?:\A|(?<=\n))\.(?=\0)", b"", content)
    return re.sub(rb"(?:\A|(?<=\n))(\0+)\.", rb"\1..", content)


class Ends:
    """Both ends of a session.

    `places` are the addresses of a domain's upstream; `cut`: the client left before the end;
    `chunks`: DATA may become chunks, and the proxy then says 354 by itself.
    """

    def __init__(
        self,
        sent: bytes,
        said: bytes,
        messages: Sequence[Message],
        places: Mapping[str, Sequence[str]],
        *,
        lmtp: bool,
        cut: bool,
        chunks: bool,
    ) -> None:
        self._rest = sent
        self._all_replies = read_replies(said)
        self._replies = deque(self._all_replies)
        self._messages = messages
        self._places = places
        self._lmtp = lmtp
        self._cut = cut
        self._chunks = chunks
        self._chunking = False  # was announced
        self._transaction: Sent | None = None
        self._sent: list[Sent] = []
        self._told: set[str] = set()  # of what upstreams said of messages
        self._unanswered = False

    def check(self) -> None:
        greeting = self._reply()
        assert greeting is not None
        assert greeting.code == 220
        while not self._unanswered and self._exchange():
            pass
        # A session ends with the answer to QUIT, or with a 421, which nobody need have asked for.
        assert self._cut or self._all_replies[-1].code in (221, 421)
        assert len(self._replies) <= 1
        assert all(reply.code == 421 for reply in self._replies)
        if self._replies and "Timeout" in self._replies[0].text:
            assert not self._unanswered
        self._check_upstreams()

    def check_begun(self, message: Message, content: bytes) -> None:
        """What never got its end is the beginning of what the client sent."""
        assert not message.ended
        if not message.recipients:
            assert not content
            return
        assert any(each.fits(message, content) for each in self._sent_as(message))

    def _reply(self) -> Reply | None:
        """The next one; one for each command, in their order."""
        if not self._replies:
            self._unanswered = True
            return None
        return self._replies.popleft()

    def _exchange(self) -> bool:
        """A command of the client, with what it is answered; False where there is none."""
        line, end, rest = self._rest.partition(b"\n")
        if not end:
            return False
        if chunk := re.fullmatch(rb"BDAT (\d+)( LAST)?\r", line):
            return self._exchange_chunk(int(chunk[1]), bool(chunk[2]), rest)
        self._rest = rest
        if (reply := self._reply()) is not None:
            self._check_reply(line.decode("utf-8", "replace").rstrip("\r"), reply)
        return True

    def _check_reply(self, command: str, reply: Reply) -> None:
        verb = command.upper().split(" ")[0]
        transaction = self._transaction
        if verb == "MAIL" and reply.success:
            assert transaction is None
            self._begin(command)
        elif verb == "RCPT":
            self._check_recipient(command, reply)
        elif verb == "DATA":
            self._check_data(reply)
        elif reply.subject:
            assert reply.subject.split()[0] == verb, (command, reply)
        if verb in (*HELLOS, "RSET") and reply.success:
            self._transaction = None
            if verb in HELLOS:
                self._chunking = "CHUNKING" in reply.text

    def _begin(self, command: str) -> None:
        self._transaction = Sent(path(command), command.partition("> ")[2].upper().split())
        self._sent.append(self._transaction)

    def _check_recipient(self, command: str, reply: Reply) -> None:
        assert reply.subject or not reply.success, "a recipient that no upstream accepted"
        if reply.subject.startswith("RCPT"):
            assert path(reply.subject) == path(command), "the answer to another command"
        elif reply.subject.startswith("MAIL"):
            assert self._transaction is not None
            assert path(reply.subject) == self._transaction.sender
            assert not reply.success
        if reply.success:
            assert self._transaction is not None
            self._transaction.recipients.append(path(command))

    def _check_data(self, reply: Reply) -> None:
        assert not reply.success
        if reply.code != 354:
            return
        transaction = self._transaction
        assert reply.subject == "DATA" or (self._chunks and reply.text == "Go ahead")
        assert transaction is not None
        assert transaction.recipients
        assert not transaction.chunks
        content, end, after = (b"\r\n" + self._rest).partition(b"\r\n.\r\n")
        if not end:
            transaction.content, self._rest = content[2:], b""
            return
        transaction.content, self._rest = (content + b"\r\n")[2:], after
        self._check_end(transaction)

    def _exchange_chunk(self, size: int, last: bool, rest: bytes) -> bool:
        """A chunk, whose octets are no commands whatever is said of it."""
        chunk, self._rest = rest[:size], rest[size:]
        transaction = self._transaction
        if transaction is None or not (transaction.recipients and self._chunking):
            reply = self._reply() if len(chunk) == size else None
            assert reply is None or (not reply.success and not reply.subject)
            return len(chunk) == size
        transaction.chunks = True
        transaction.content += chunk
        if len(chunk) < size:
            return False
        if last:
            self._check_end(transaction)
        elif (reply := self._reply()) is not None and not reply.success:
            assert not reply.subject or reply.subject.split()[0] in ("DATA", "BDAT")
            self._transaction = None
        return True

    def _check_end(self, transaction: Sent) -> None:
        """What is said of a message, once the client has ended it."""
        transaction.ended, self._transaction = True, None
        recipients = transaction.recipients
        if not (self._lmtp or transaction.prdr):
            if (reply := self._reply()) is not None:
                for place, _ in enumerate(recipients):
                    self._check_outcome(transaction, place, reply)
            return
        if not self._lmtp and (reply := self._reply()) is not None:
            assert reply.code == 353, "PRDR without its 353"
        for place, _ in enumerate(recipients):
            if (reply := self._reply()) is not None:
                assert reply.code != 421
                self._check_outcome(transaction, place, reply)
        if not self._lmtp and (reply := self._reply()) is not None:
            assert reply == Reply(250, "2.0.0 Ok, as said of each recipient")

    def _check_outcome(self, transaction: Sent, place: int, reply: Reply) -> None:
        """The end of data is answered by the upstream that got this message, and got all of it."""
        kind, *numbers = reply.subject.split() or [""]
        if kind not in ("message", "recipient", "overall"):
            assert not reply.success, "a success of our own making"
            return
        message = self._messages[int(numbers[0])]
        assert message.ended
        said = message.said[reply.subject]
        if said == 421 and (self._lmtp or transaction.prdr):
            said = 451  # it ends the session for its upstream alone
        assert reply.code == said
        assert transaction.fits(message, message.content)
        assert message.sender == transaction.sender
        mine = self._share(transaction, message)
        assert message.recipients == [transaction.recipients[it] for it in mine]
        self._told.add(reply.subject)
        assert kind != "overall" or not reply.success
        if kind == "recipient":
            assert mine[int(numbers[1])] == place, "what was said of another recipient"
        if message.prdr and kind == "recipient" and reply.success:
            assert 200 <= message.said[f"overall {message.number}"] < 300
        assert place in mine

    def _share(self, transaction: Sent, message: Message) -> list[int]:
        """The recipients that an upstream is to have, by their place among those accepted."""
        return [
            place
            for place, recipient in enumerate(transaction.recipients)
            if message.address in self._places[recipient.partition("@")[2].lower()]
        ]

    def _check_upstreams(self) -> None:
        """Nobody got the end of a message, or content, that the client did not send."""
        delivered: Counter[tuple[Sent, str]] = Counter()
        for message in self._messages:
            if not message.ended:
                continue
            candidates = [
                each
                for each in self._sent_as(message)
                if each.ended and each.fits(message, message.content)
            ]
            assert candidates, "content that the client did not end"
            transaction = candidates[0]
            assert "PRDR" not in message.parameters or self._lmtp or transaction.prdr
            eight_bit = any(each.startswith("BODY") for each in transaction.parameters)
            if eight_bit and "8BITMIME" not in message.announced and not transaction.binary:
                assert message.content.isascii()
            if len(candidates) == 1:
                delivered.update((transaction, each) for each in message.recipients)
            if not self._cut:
                self._check_told(message)
        for (transaction, recipient), times in delivered.items():
            assert times <= transaction.recipients.count(recipient), "delivered twice"

    def _check_told(self, message: Message) -> None:
        """What an upstream says of a message reaches the client."""
        closed = (
            message.prdr and 421 in message.said.values()
        )  # what it says behind that is unheard
        overall = 0 if closed else message.said.get(f"overall {message.number}", 0)
        for subject, code in message.said.items():
            lost = not overall or (overall >= 400 and code < 400)
            if subject.startswith("overall") or (message.prdr and "recipient" in subject and lost):
                continue
            assert subject in self._told, "an outcome that was not told"

    def _sent_as(self, message: Message) -> list[Sent]:
        return [each for each in self._sent if each.sender == message.sender]


def read_replies(said: bytes) -> list[Reply]:
    assert not said or said.endswith(b"\r\n")
    replies, texts = [], []
    for line in said.split(b"\r\n")[:-1]:
        match = re.fullmatch(rb"([2-5]\d\d)([ -])([\t\x20-\x7e\x80-\xff]*)", line)
        assert match, line
        texts.append(match[3].decode())
        if match[2] == b" ":
            replies.append(Reply(int(match[1]), " ".join(texts)))
            texts = []
    assert not texts
    return replies
