"""Two messages of a client in memory, to upstreams of which the first has a fault."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smtpproxy.events import TransactionEnded
from smtpproxy.routing import Server, Tls, Upstream
from smtpproxy.upstream import PoolLimits
from tests.support.dialogue import KEEPS_NONE, ONE, MemoryTransport, Settings, World, announcing
from tests.support.faulty import Fault, FaultyUpstream, Received
from tests.support.upstream_faults import silent
from tests.support.wire import byte_by_byte

PATIENCE = 1300  # seconds that the client waits for a reply
NAME = ".".join(["long" * 15] * 4)  # XCLIENT does not fit into one command
BEGINNING = ["connecting", "greeting", "EHLO", "STARTTLS", "TLS handshake", "EHLO over TLS"]
BEGINNING += ["XCLIENT", "last XCLIENT", "EHLO behind XCLIENT"]
LATER = ["between messages", "next MAIL"]
POOL = PoolLimits(idle=100.0, age=1000.0, uses=9, each=2)
LMTP = Upstream((Server("192.0.2.1", 24, lmtp=True),), Tls.MAY)
PARTS = b"one\r\n", b".two\r\n", b"three\r\n"  # of each message, behind its number


@dataclass(frozen=True)
class Way:
    """How mail travels: `announced` is what upstreams do.

    `flight`: the client sends an envelope, and all chunks, at once.  `pooled`: the second message
    comes from another session.
    """

    announced: tuple[str, ...]
    flight: bool = False
    chunks: bool = False
    lmtp: bool = False
    pooled: bool = False


@dataclass(frozen=True)
class Answer:
    """A reply, with code 0 where there was none, and how long it took."""

    code: int
    text: str
    seconds: float

    @property
    def success(self) -> bool:
        return 200 <= self.code < 300


class Scene:
    """A world with faulty upstreams; `answers` has what the client is told, by stage."""

    def __init__(
        self,
        way: Way,
        stage: str = "",
        fault: Fault = silent,
        *,
        most: int = 1 << 40,
        drips: bool = False,
    ) -> None:
        """The fault is at `stage`, or behind the first `most` octets that upstreams say.

        `drips`: client and upstreams send each octet by itself.
        """
        offer = announcing("PIPELINING", *["CHUNKING"] * way.chunks)
        pool = POOL if way.pooled else KEEPS_NONE
        options = Settings(pool=pool, name=NAME, lmtp=way.lmtp, offer=offer)
        self.world = World({"example.com": LMTP if way.lmtp else ONE}, settings=options)
        self.upstreams: list[FaultyUpstream] = []
        self.answers: dict[str, Answer] = {}
        self.told: dict[int, list[Answer]] = {1: [], 2: [], 3: []}  # of each message's end
        self.steps = 1.0  # seconds
        self._way = way
        self.sent = bytearray()  # by the client
        self._stage = stage
        self._fault = fault
        self._most = most
        self._drips = drips
        if stage == "connecting":
            nowhere = self.world.silent if fault is silent else self.world.unreachable
            nowhere.add("192.0.2.1")

    @property
    def first(self) -> FaultyUpstream:
        return self.upstreams[0]

    @property
    def now(self) -> float:
        return self.world.clock.seconds()

    def play(self) -> None:
        """Two messages, of which the second is sent again where it was refused."""
        self.greet()
        self.message(1, "a", "b")
        self.world.silent.clear()
        self.world.unreachable.clear()
        if not any(each.success for each in self.told[1]):
            self.rest()
        self.note("RSET", self.ask("RSET"))
        if self._way.pooled:
            self.ask("QUIT")
        if self._stage == "between messages":
            self._fault(self.first, b"")
        for number in (2, 3):
            if not self.world.client.open:
                self.world.client = self.world.connect()
                self.greet()
            self.message(number, "a")
            if any(each.success for each in self.told[number]):
                break
            self.rest()
            self.ask("RSET")
        self.note("QUIT", self.ask("QUIT"))
        self.end()

    def rest(self) -> None:
        """Let time pass, so that what failed counts as down no longer."""
        for _ in range(8):
            self.settle()
            self.world.clock.advance(25)

    def end(self) -> None:
        """Let all come to its end."""
        for _ in range(10_000):
            self.settle()
            if not len(self.world.sessions) and not len(self.world.deadlines):
                return
            self.world.clock.advance(self.steps)

    def greet(self) -> None:
        self.hear()
        self.ask(("LHLO " if self._way.lmtp else "EHLO ") + NAME)

    def message(self, number: int, *recipients: str) -> None:
        """Send it as far as that is allowed."""
        commands = [f"RCPT TO:<{each}@example.com>" for each in recipients]
        commands = [f"MAIL FROM:<s{number}@example.org>", *commands]
        chunks = self._way.chunks
        if not chunks:
            commands.append("DATA")
        answers = self._envelope(commands)
        rcpts = answers[1 : len(recipients) + 1]
        first = LATER if number > 1 else (*BEGINNING, "MAIL", "first RCPT")
        for stage in first:
            self.note(stage, rcpts[0])
        if len(rcpts) > 1:
            self.note("further RCPT", rcpts[1])
        accepted = sum(each.success for each in rcpts)
        if chunks and accepted:
            self._by_chunks(number)
        elif len(answers) == len(commands):
            self.note("DATA", answers[-1])
            if answers[-1].code == 354:
                self._content(number, accepted)

    def _envelope(self, commands: Sequence[str]) -> list[Answer]:
        """The answers to them; DATA where nobody was accepted only if it was sent already."""
        if self._way.flight:
            self.send("".join(f"{each}\r\n" for each in commands).encode())
            return [self.hear() for _ in commands]
        answers = [self.ask(each) for each in commands if each != "DATA"]
        if any(each.success for each in answers[1:]) and commands[-1] == "DATA":
            answers.append(self.ask("DATA"))
        return answers

    def _content(self, number: int, accepted: int) -> None:
        first, second, last = PARTS
        for part in (b"%d\r\n" % number + first, b"." + second, last + b".\r\n"):
            self.send(part)
            self.settle()
        ends = [self.hear() for _ in range(accepted if self._way.lmtp else 1)]
        self.told[number] = ends
        for stage in ("content", "end of the message"):
            self.note(stage, ends[0])
        self.note("further end", ends[-1])

    def _by_chunks(self, number: int) -> None:
        first, *rest = PARTS
        parts = [b"%d\r\n" % number + first, *rest]
        *front, last = (b"BDAT %d\r\n" % len(part) + part for part in parts)
        chunks = [*front, last.replace(b"\r\n", b" LAST\r\n", 1)]
        answers = []
        for sent in [b"".join(chunks)] if self._way.flight else chunks:
            self.send(sent)
            answers += [self.hear() for _ in (chunks if self._way.flight else [sent])]
            if not answers[-1].success:
                break
        end = next((each for each in answers if not each.success), answers[-1])
        # In a flight, the last part is on its way before the others are answered.
        self.note("a part", end if self._way.flight else answers[:2][-1])
        self.note("last part", end)
        self.told[number] = [end]

    # The client's end of the wire.

    def note(self, stage: str, answer: Answer) -> None:
        """The first one counts."""
        self.answers.setdefault(stage, answer)

    def ask(self, command: str) -> Answer:
        self.send(f"{command}\r\n".encode())
        return self.hear()

    def send(self, data: bytes) -> None:
        self.sent += data
        for piece in byte_by_byte(data) if self._drips else [data]:
            self.world.client.deliver(piece)

    def hear(self) -> Answer:
        """The next reply; all stands still until it is there."""
        client, since = self.world.client, self.now
        while True:
            self.settle()
            match = re.match(rb"(?:\d{3}-.*\r\n)*(\d{3}) (.*)\r\n", bytes(client.said))
            if match:
                del client.said[: match.end()]
                return Answer(int(match[1]), match[2].decode(), self.now - since)
            if not client.open or self.now - since > PATIENCE:
                return Answer(0, "", self.now - since)
            self.world.clock.advance(self.steps)

    def settle(self) -> None:
        """All that happens without any time passing."""
        self.world.clock.advance(0)
        while True:
            for _, transport in self.world.upstreams[len(self.upstreams) :]:
                self._meet(transport)
            busy = [each.act() for each in self.upstreams]
            if not any(busy):
                return
            self.world.clock.advance(0)

    def _meet(self, transport: MemoryTransport) -> None:
        stage, most = (self._stage, self._most) if not self.upstreams else ("", 1 << 40)
        it = FaultyUpstream(
            transport,
            self.world.clock,
            self._way.announced,
            lmtp=self._way.lmtp,
            stage=stage,
            fault=self._fault,
        )
        it.most, it.drips = most, self._drips
        self.upstreams.append(it)

    # What came of it.

    @property
    def in_doubt(self) -> bool:
        return any(each.in_doubt for each in self.world.said(TransactionEnded))

    def check(self) -> None:
        """Nothing is left, nothing was lost, and nothing is there twice."""
        assert not len(self.world.sessions)
        assert not len(self.world.deadlines)
        assert not any(transport.open for _, transport in self.world.upstreams)
        for number, told in self.told.items():
            ended = self.ended(number)
            assert len(ended) <= 1, "it is there twice"
            if any("trouble" not in each.text and not each.success for each in told) and ended:
                assert self.in_doubt, "it may be there, and nobody says so"
            elif told:
                assert sum(each.success for each in told) == sum(it.taken for it in ended)

    def ended(self, number: int) -> list[Received]:
        """The copies of a message that got their end; those that did not are its beginning."""
        whole = b"%d\r\n" % number + b"".join(PARTS)
        messages = [message for each in self.upstreams for message in each.messages]
        mine = [it for it in messages if it.content[:1] == whole[:1]]
        assert all(whole.startswith(it.content) for it in mine)
        assert all(it.content == whole for it in mine if it.ended), "cut short, and ended"
        return [it for it in mine if it.ended]
