"""What holds whatever happens: any client, any upstreams, any order of events.

A client sends a transcript, cut into pieces anywhere; upstreams answer by a script, or say what
nobody asked for, or go.  What the two ends saw is then compared.  `Ends` below knows nothing of
the proxy: it reads the client's bytes, the replies the client got, and what upstreams recorded.
"""

from __future__ import annotations

import gc
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs

from smtpproxy.routing import Row, TryAgain
from tests.support.dialogue import ONE, TWO, MemoryTransport, Settings, World, upstream

# Where mail for a domain goes, by address.
PLACES = {
    "example.com": ["192.0.2.1"],
    "example.net": ["192.0.2.2"],
    "several.test": ["192.0.2.3", "192.0.2.4"],
}
CARRIED = {"EHLO", "HELO", "XCLIENT", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "VRFY", "EXPN"}
CARRIED |= {"HELP", "QUIT"}
END_OF_DATA = "the end of data"
SHADOW = "192.0.2.7"  # is asked of recipients of example.com, and says of nothing what it is for


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


@dataclass(eq=False)  # two alike are two
class Message:
    """What an upstream got, from its own 354 on."""

    address: str
    sender: str
    recipients: list[str]
    content: bytes = b""  # as it came, stuffed
    ended: bool = False
    answer: int = 0  # 0: none that means anything


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
        extensions: list[str],
    ) -> None:
        self._address = address
        self._transport = transport
        self._script = script
        self._messages = messages
        self._extensions = extensions
        self._buffer = b""
        self._message: Message | None = None
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._greeted = self._mute = False

    def act(self) -> bool:
        """Answer all that came; tell whether there was anything to do."""
        if not self._transport.open:
            self._take()  # what was sent before counts
            return False
        busy = not self._greeted or bool(self._transport.said)
        if not self._greeted:
            self._greeted = True
            self._answer("greeting", 220)
        self._take()
        return busy

    def _take(self) -> None:
        self._buffer += self._transport.said
        self._transport.said.clear()
        while b"\r\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            assert b"\r" not in line, line
            assert b"\n" not in line, line
            self._line(line)
        # What ends in half a line must not hold half a line end that counts elsewhere.
        assert b"\n" not in self._buffer

    @property
    def unended(self) -> bytes:
        """The content that is under way, with what there is of its last line."""
        return self._message.content + self._buffer if self._message else b""

    def say_unasked(self, text: bytes) -> None:
        """Only when all that the proxy wrote is answered: else it would be an answer."""
        if self._transport.open and self._greeted and not self._mute and not self._transport.said:
            self._transport.deliver(text)

    def go(self) -> None:
        self._transport.lose()

    def _line(self, line: bytes) -> None:
        if self._message is None:
            self._command(line.decode())
        elif line == b".":
            message, self._message = self._message, None
            message.ended = True
            self._sender, self._recipients = None, []
            number = self._messages.index(message)
            message.answer = self._answer(f"message {number}", 250)
        else:
            self._message.content += line + b"\r\n"

    def _command(self, line: str) -> None:
        verb = line.split(" ", 1)[0].split(":")[0]
        assert verb in CARRIED, line
        assert self._address != SHADOW or verb != "DATA"
        assert line.isprintable(), line
        taken = (
            200
            <= self._answer(line, {"DATA": 354, "XCLIENT": 220, "QUIT": 221}.get(verb, 250))
            < 400
        )
        if taken and verb in ("EHLO", "HELO", "XCLIENT", "RSET"):
            self._sender, self._recipients = None, []
        elif taken and verb == "MAIL":
            assert self._sender is None, "MAIL inside a transaction"
            self._sender, self._recipients = path(line), []
        elif taken and verb == "RCPT":
            assert self._sender is not None, "RCPT without MAIL"
            self._recipients.append(path(line))
        elif taken and verb == "DATA":
            assert self._sender is not None
            assert self._recipients, "DATA without a recipient"
            self._message = Message(self._address, self._sender, self._recipients)
            self._messages.append(self._message)

    def _answer(self, subject: str, success: int) -> int:
        """Answer by the script; the code, or 0 where that was none that means anything."""
        if self._mute or not self._transport.open:
            return 0
        # Out of sequence is refused, whatever the script says, as any server does.
        out_of_sequence = (subject.startswith("RCPT") and self._sender is None) or (
            subject == "DATA" and not self._recipients
        )
        kind = "5xx" if out_of_sequence else self._script.next(subject)
        code = {"4xx": 451, "5xx": 550, "421": 421, "421 and gone": 421}.get(kind, success)
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
            self._transport.deliver(b"garbage\r\n" if kind == "garbage" else b"250-half\r\n25")
            return 0
        words = [f"{code}-two lines\r\n"] if kind == "long" else []
        if subject.startswith("EHLO") and code == 250:
            words += [f"{code}-{extension}\r\n" for extension in self._extensions]
        about = "shadow" if self._address == SHADOW else f"x for {subject}"
        words.append(f"{code} {about}\r\n")
        # Only where nothing else is to be answered: it would be the answer to that.
        if kind == "surplus" and not self._buffer:
            words.append("250 surplus\r\n")
        self._transport.deliver("".join(words).encode())
        if kind.endswith("and gone"):
            self.go()
        return code if kind != "wrong" else 0


def path(line: str) -> str:
    return line[line.index("<") + 1 : line.rindex(">")]


@dataclass
class Ends:
    """What the two ends saw, read without a look at the proxy."""

    sent: bytes
    said: bytes
    messages: list[Message]
    contents: list[bytes] = field(default_factory=list)  # that the client ended
    open_content: bytes | None = None
    leftover: list[Reply] = field(default_factory=list)
    unanswered: bool = False

    def replies(self) -> list[Reply]:
        assert not self.said or self.said.endswith(b"\r\n")
        replies, texts = [], []
        for line in self.said.split(b"\r\n")[:-1]:
            match = re.fullmatch(rb"([2-5]\d\d)([ -])([\t\x20-\x7e\x80-\xff]*)", line)
            assert match, line
            texts.append(match[3].decode())
            if match[2] == b" ":
                replies.append(Reply(int(match[1]), " ".join(texts)))
                texts = []
        assert not texts
        return replies

    def exchanges(self) -> Iterator[tuple[str, Reply | None]]:
        """Each command of the client, or END_OF_DATA, and its reply."""
        replies = deque(self.replies())
        assert replies
        assert replies.popleft().code == 220
        rest = self.sent
        while b"\n" in rest:
            line, _, after = rest.partition(b"\n")
            if chunk := re.fullmatch(rb"BDAT (\d+)(?: LAST)?\r", line):
                if len(after) < int(chunk[1]):
                    break
                after = after[int(chunk[1]) :]
            rest = after
            reply = replies.popleft() if replies else None
            yield line.decode("utf-8", "replace").rstrip("\r"), reply
            if reply is None:
                self.unanswered = True
                return
            if reply.code == 354:
                content, end, after = (b"\r\n" + rest).partition(b"\r\n.\r\n")
                if not end:
                    self.open_content = content[2:]
                    break
                rest = after
                self.contents.append((content + b"\r\n")[2:])
                reply = replies.popleft() if replies else None
                yield END_OF_DATA, reply
                if reply is None:
                    self.unanswered = True
                    return
        self.leftover = list(replies)

    def check(self, cut: bool) -> None:
        sender, recipients = "", list[str]()
        told: list[int] = []  # the messages that the client was told of
        for command, reply in self.exchanges():
            verb = command.upper().split(" ")[0]
            if reply is None:
                break
            if command == END_OF_DATA:
                assert reply.subject or not reply.success, "a success of our own making"
                if reply.subject:
                    told.append(self._check_message(sender, recipients, reply))
            elif verb == "MAIL" and reply.success:
                sender, recipients = path(command), []
            elif verb == "RCPT":
                self._check_recipient(command, sender, reply)
                if reply.success:
                    recipients.append(path(command))
            elif verb == "DATA":
                assert not reply.success
                assert reply.code != 354 or reply.subject == "DATA"
            elif reply.subject:
                assert reply.subject.split()[0] == verb, (command, reply)
        # A session ends with the answer to QUIT, or with a 421, which nobody need have asked for.
        assert cut or self.replies()[-1].code in (221, 421)
        assert len(self.leftover) <= 1
        assert all(reply.code == 421 for reply in self.leftover)
        if self.leftover and "Timeout" in self.leftover[0].text:
            assert not self.unanswered
        self._check_upstreams(told, cut)

    def _check_recipient(self, command: str, sender: str, reply: Reply) -> None:
        assert reply.subject or not reply.success, "a recipient that no upstream accepted"
        if reply.subject.startswith("RCPT"):
            assert path(reply.subject) == path(command), "the answer to another command"
        elif reply.subject.startswith("MAIL"):
            assert path(reply.subject) == sender
            assert not reply.success

    def _check_message(self, sender: str, recipients: list[str], reply: Reply) -> int:
        """The end of data is answered by the upstream that got this message, and got all of it."""
        number = int(reply.subject.removeprefix("message "))
        message = self.messages[number]
        assert message.ended
        assert message.answer == reply.code
        assert message.content == normalised(self.contents[-1])
        assert (message.sender, message.recipients) == (sender, recipients)
        return number

    def _check_upstreams(self, told: list[int], cut: bool) -> None:
        """Nobody got a final dot, or content, that the client did not send."""
        ended = [normalised(content) for content in self.contents]
        for number, message in enumerate(self.messages):
            for recipient in message.recipients:
                assert message.address in PLACES[recipient.partition("@")[2]]
            if message.ended:
                assert message.content in ended, "content that the client did not end"
                assert number in told or cut or not message.answer, "a success that was not told"
        assert told == sorted(set(told))

    def check_begun(self, content: bytes) -> None:
        """Content that never got its final dot is the beginning of what the client sent."""
        begun = map(normalised, [*self.contents, self.open_content or b""])
        assert any(whole.startswith(content) for whole in begun)


def normalised(content: bytes) -> bytes:
    """The content with every line end made CRLF, and lines of one dot stuffed (see DataReader)."""
    lines = re.split(rb"\r\n|\r|\n", content)
    return b"\r\n".join(b".." if line == b"." else line for line in lines)


# What may happen

RECIPIENTS = ["a@example.com", "b@example.com", "c@example.com", "d@example.net", "e@several.test"]
ODD_RECIPIENTS = ["f@unknown.test", "g@fails.test", "h", "grün@example.com"]
HELLOS = ["EHLO client.example.com", "EHLO other.example.com", "HELO x", "EHLO"]
MAIL = "MAIL FROM:<s@example.org>"
ODD_MAILS = [
    "MAIL FROM:<>",
    f"{MAIL} SIZE=10 BODY=8BITMIME",
    f"{MAIL} SIZE=99999999",
    "MAIL FROM:s",
]
OTHERS = ["NOOP", "RSET", "VRFY a", "HELP", "EXPN list", "STARTTLS", "AUTH PLAIN AGEAYg==", ""]
OTHERS += ["FOO", "XCLIENT ADDR=192.0.2.1", "BDAT 7 LAST\r\nQUIT\r\n!", "DATA", *HELLOS]
PIECES = [b"one", b"two", b".", b"..", b"\r\n", b"\r\n", b"\n", b"\r", b"\xfc", b"QUIT\r\n"]
PIECES += [b"MAIL FROM:<evil@x.test>\r\n", b"\r\n.", b"x" * 300]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


def mostly(usual: str, *odd: str) -> st.SearchStrategy[str]:
    return st.sampled_from([usual] * (3 * len(odd)) + list(odd))


@st.composite
def transactions(draw: st.DrawFn) -> bytes:
    commands = [draw(mostly(MAIL, *ODD_MAILS))]
    for _ in range(draw(st.integers(1, 3))):
        recipient = draw(st.sampled_from(RECIPIENTS * 3 + ODD_RECIPIENTS))
        commands.append(f"RCPT TO:<{recipient}>")
    if draw(st.integers(0, 4)) == 4:
        commands.insert(draw(st.integers(0, len(commands))), draw(st.sampled_from(OTHERS)))
    envelope = "".join(f"{command}\r\n" for command in commands).encode()
    if draw(st.integers(0, 5)) == 5:
        return envelope + b"RSET\r\n"
    return envelope + b"DATA\r\n" + draw(CONTENT) + b"\r\n.\r\n"


@st.composite
def transcripts(draw: st.DrawFn) -> bytes:
    """Commands and messages, from EHLO on, sent without a look at the replies."""
    hello = draw(mostly(HELLOS[0], *HELLOS[1:])) + "\r\n"
    parts = draw(st.lists(transactions(), min_size=1, max_size=4))
    return hello.encode() + b"".join(parts) + draw(st.sampled_from([b"QUIT\r\n", b""]))


# By the verb, and how many of them were answered before; all others are accepted.
FAULTS = ["4xx", "5xx", "421", "421 and gone", "accept and gone", "gone", "garbage", "half"]
FAULTS += ["mute", "surplus", "surplus", "long", "wrong"]
VERBS = [
    "greeting",
    "EHLO",
    "XCLIENT",
    "MAIL",
    "RCPT",
    "DATA",
    "message",
    "message",
    "RSET",
    "QUIT",
]
SCRIPT = st.dictionaries(
    st.tuples(st.sampled_from(VERBS), st.integers(0, 2)), st.sampled_from(FAULTS), max_size=3
)
UNASKED = {
    "success": b"250 early\r\n",
    "permanent": b"552 early\r\n",
    "transient": b"451 early\r\n",
    "closing": b"421 early\r\n",
    "half": b"25",
    "garbage": b"hello\r\n",
}
# So many octets of the transcript, and what happens then.
STEP = st.tuples(
    st.sampled_from([0, 1, 2, 5, 20, 50, 100]),
    st.sampled_from(
        ["act"] * 20 + ["nothing"] * 4 + ["go", "stall", "take", "client stalls", "wait", *UNASKED]
    ),
)
EXTENSIONS = st.lists(
    st.sampled_from(["PIPELINING", "8BITMIME", "SIZE", "XCLIENT ADDR", "XCLIENT NAME HELO PROTO"]),
    unique=True,
)


@dataclass(frozen=True)
class Cut:
    """The client leaves behind so many octets of its transcript, at once or when all is quiet."""

    octets: int
    at_once: bool


class Scene:
    """A world in which steps are taken."""

    def __init__(
        self, sent: bytes, script: Script, extensions: list[str], options: Settings, shadowed: bool
    ) -> None:
        several = upstream("mx.test")
        hosts: dict[str, Sequence[str]] = {it: [it] for it in ("192.0.2.1", "192.0.2.2", SHADOW)}
        hosts["mx.test"] = PLACES["several.test"]
        self.world = World(
            {
                "example.com": Row(ONE, shadow=upstream(SHADOW) if shadowed else None),
                "example.net": TWO,
                "several.test": several,
                "fails.test": TryAgain("the database is down"),
            },
            hosts,
            options,
        )
        self.sent = b""
        self.upstreams: list[ScriptedUpstream] = []
        self.messages: list[Message] = []
        self._left = sent
        self._script = script
        self._extensions = extensions

    def take(self, octets: int, what: str) -> None:
        self.send(octets)
        if what in UNASKED:
            self._last(lambda it: it.say_unasked(UNASKED[what]))
        elif what == "act":
            self._quieten()
        elif what == "go":
            self._last(ScriptedUpstream.go)
        elif what == "client stalls":
            self.world.client.stalled = True
        elif what in ("stall", "take"):
            self._stall(what == "stall")
        elif what == "wait":
            self._wait(170)
        self.world.clock.advance(0)
        self._meet()

    def send(self, number: int) -> None:
        client = self.world.client
        if client.open:
            self.sent += self._left[:number]
            client.deliver(self._left[:number])
            self._left = self._left[number:]

    def act(self) -> bool:
        """Have all upstreams answer; tell whether there was anything to do."""
        self._meet()
        busy = [upstream.act() for upstream in self.upstreams]
        self.world.clock.advance(0)
        return any(busy) or len(self.upstreams) < len(self.world.upstreams)

    def end(self, cut: Cut | None) -> None:
        """What is left of the transcript, then time, until all is over."""
        self._stall(False)
        self.world.client.drained()
        self.send(len(self._left))
        if cut is not None:
            if not cut.at_once:
                self._quieten()
            self.world.client.lose()
        for _ in range(40):
            self._quieten()
            if not len(self.world.sessions) and not len(self.world.deadlines):
                break
            self._wait(100)
        self.act()

    def _quieten(self) -> None:
        while self.act():
            pass

    def _last(self, action: Callable[[ScriptedUpstream], object]) -> None:
        self._quieten()  # so that it knows all that it was told
        if self.upstreams:
            action(self.upstreams[-1])

    def _wait(self, seconds: float) -> None:
        for _ in range(4):
            self.world.clock.advance(seconds / 4)

    def _meet(self) -> None:
        for address, transport in self.world.upstreams[len(self.upstreams) :]:
            self.upstreams.append(
                ScriptedUpstream(address, transport, self._script, self.messages, self._extensions)
            )

    def _stall(self, stalled: bool) -> None:
        for _, transport in self.world.upstreams:
            if stalled:
                transport.stalled = True
            else:
                transport.drained()


@settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
@given(
    sent=transcripts(),
    script=SCRIPT,
    steps=st.lists(STEP, max_size=40),
    extensions=EXTENSIONS,
    cut=st.none() | st.builds(Cut, st.integers(0, 600), st.booleans()),
    reject=st.sampled_from([False, False, True]),
    size=st.sampled_from([1_000_000, 1_000_000, 1_000_000, 100]),
    unreachable=st.sampled_from([None, None, None, "192.0.2.1", "192.0.2.3", SHADOW]),
    shadowed=st.booleans(),
)
def anything(sent, script, steps, extensions, cut, reject, size, unreachable, shadowed):
    options = Settings(reject_bare_newline=reject, max_message_bytes=size, max_errors=50)
    scene = Scene(
        sent[: cut.octets] if cut else sent, Script(script), extensions, options, shadowed
    )
    scene.world.unreachable.add(unreachable)
    for step in steps:
        scene.take(*step)
    scene.end(cut)

    assert not len(scene.world.sessions)
    assert not len(scene.world.deadlines)
    assert not len(scene.world.shadows)
    assert not any(transport.open for _, transport in scene.world.upstreams)
    ends = Ends(scene.sent, bytes(scene.world.client.said), scene.messages)
    ends.check(cut is not None)
    for each in scene.upstreams:
        ends.check_begun(each.unended)


def test_whatever_happens() -> None:
    """A success is the upstream's own, for these very bytes; nothing cut short is delivered."""
    with capturedLogs() as logged:
        anything()
        gc.collect()  # a failure that nobody looked at is logged when it is forgotten
    assert [it for it in logged if it["log_level"] >= LogLevel.warn] == []
