"""Messages inside messages: no trick about the end of data makes two of one, whoever the upstream.

Each content holds a second message, behind what some server somewhere takes for the end of data
(SMTP smuggling).  It goes through the running proxy to a Postfix, an Exim and an OpenSMTPD, by DATA
and by BDAT, in portions and chunks that are cut inside the trick.  `pytest -s` shows the tables.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support import exim, opensmtpd, postfix
from tests.support.ends import Sent
from tests.support.exim import Exim
from tests.support.needs import need
from tests.support.opensmtpd import OpenSmtpd
from tests.support.postfix import Postfix
from tests.support.processes import short_folder, wait_until
from tests.support.proxy import Proxy, row
from tests.support.wire import cut, unstuffed

AT_ONCE = 6  # sessions for each upstream
IN_ONE = 8  # messages in one session
PAUSE = 0.001  # seconds between two segments, so that they stay two
LONGEST = 60  # seconds that deliveries may take on a busy machine
END = b"\r\n.\r\n"

LINE_ENDS = {
    "CRLF": b"\r\n",
    "LF": b"\n",
    "CR": b"\r",
    "CRCRLF": b"\r\r\n",
    "LFCR": b"\n\r",
    "NUL": b"\0",
    "CRLF NUL": b"\r\n\0",
    "NUL CRLF": b"\0\r\n",
    "CR NUL LF": b"\r\0\n",
}
TRICKS = {
    f"{a} . {b}": one + b"." + two for (a, one), (b, two) in product(LINE_ENDS.items(), repeat=2)
}
TRICKS |= {
    "LF . LF . LF": b"\n.\n.\n",
    "LF .. CRLF": b"\n..\r\n",
    "CRLF .CR . LF": b"\r\n.\r.\n",
    "CRLF . blank CRLF": b"\r\n. \r\n",
    "CRLF . VT CRLF": b"\r\n.\v\r\n",
    "CRLF . FF CRLF": b"\r\n.\f\r\n",
    "NEL . NEL": b"\x85.\x85",
    "LS . LS": "\u2028.\u2028".encode(),
}
# What ends the content of DATA in truth is no trick there; in a chunk it is content.
BY_DATA = {name: trick for name, trick in TRICKS.items() if END not in trick}

HEADER = (
    b"Date: Fri, 20 Nov 2026 09:00:00 +0000\r\nMessage-Id: <%d@example.org>\r\n"
    b"From: <sender@example.org>\r\nTo: <list@example.org>\r\nSubject: a test\r\nX-Case: %d\r\n\r\n"
)
EVIL = "evil@example.org"
SECOND = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\nX-Case: smuggled\r\n\r\nsmuggled\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """One message: the content with a trick in it, and the portions in which it is sent.

    By BDAT each portion is a chunk of its own.
    """

    number: int
    trick: str
    way: str
    content: bytes
    portions: Sequence[bytes]

    def message(self, upstream: Upstream) -> bytes:
        """What is to be delivered, from its own field on, its lines ended by LF."""
        sent = Sent("", (), chunks=self.way.startswith("BDAT"), content=self.content)
        by_chunks = sent.chunks and upstream.takes_chunks
        message = sent.by_chunks() if by_chunks else unstuffed(sent.by_data())
        lines = message[message.index(b"X-Case") :].split(b"\r\n")
        if not upstream.keeps_nul:
            lines = [line.partition(b"\0")[0] for line in lines]
        return b"\n".join(lines)

    @property
    def bare(self) -> bool:
        return re.search(rb"\r(?!\n)|(?<!\r)\n", self.content) is not None


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server with one mailbox for the messages, and one for what must not arrive."""

    name: str
    server: Postfix | Exim | OpenSmtpd
    mailbox: str
    other: str
    takes_chunks: bool = True
    keeps_nul: bool = True

    def cases(self, ways: Sequence[str], first: int) -> list[Case]:
        """Every trick in every way, with numbers from `first` on."""
        found: list[Case] = []
        for way in ways:
            for trick, octets in (TRICKS if way.startswith("BDAT") else BY_DATA).items():
                number = first + len(found)
                head = HEADER % (number, number) + b"before"
                second = SECOND % (EVIL.encode(), self.other.encode())
                content = head + octets + second
                inside = range(len(head) - 1, len(head) + len(octets) + 2)
                places: Sequence[int] = ()
                if way == "DATA cut":
                    places = inside
                elif way == "BDAT cut":  # elsewhere in each
                    places = [inside[number % len(inside)], inside[number % 3]]
                found.append(Case(number, trick, way, content, cut(content, places)))
        return found

    def take(self, count: int) -> dict[int, list[bytes]]:
        """Wait for so many messages in the mailbox; by case, from their own field on."""

        def all_there() -> bool:
            return len(self.server.delivered(self.mailbox)) >= count

        wait_until(all_there, LONGEST, f"{count} messages at the {self.name}")
        found: dict[int, list[bytes]] = {}
        for message in self.server.delivered(self.mailbox):
            rest = message[message.index(b"X-Case: ") :]
            found.setdefault(int(rest[8 : rest.index(b"\n")]), []).append(rest)
        return found

    def empty(self) -> None:
        self.server.empty(self.mailbox)
        self.server.empty(self.other)

    def heard_evil(self) -> int:
        """How often its log has the sender of the second message."""
        return self.server.log.read_text(errors="replace").count(EVIL)


@pytest.fixture(scope="module")
def upstreams() -> Iterator[list[Upstream]]:
    need("postfix", root=True)
    with ExitStack() as stack:

        def folder() -> Path:
            return stack.enter_context(short_folder())

        one = ("alice@example.com", "bob@example.com")
        two = ("carol@example.net", "dave@example.net")
        three = ("erin@example.org", "frank@example.org")
        yield [
            Upstream(
                "Postfix", stack.enter_context(Postfix(folder(), postfix.Settings(one))), *one
            ),
            Upstream("Exim", stack.enter_context(Exim(folder(), exim.Settings(two))), *two),
            Upstream(
                "OpenSMTPD",
                stack.enter_context(OpenSmtpd(folder(), opensmtpd.Settings(three))),
                *three,
                takes_chunks=False,
                keeps_nul=False,
            ),
        ]


def proxy_before(folder: Path, servers: Sequence[Upstream], **settings: Any) -> Proxy:
    rows = [row(each.mailbox.partition("@")[2], each.server.server) for each in servers]
    return Proxy(folder, rows, extensions=["+CHUNKING"], **settings)


class Client:
    """One session; `send` gives the code and the text that end a message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def greeted(cls, port: int) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        assert (await client.hear()).startswith("220 ")
        assert (await client.ask(b"EHLO client.example.net\r\n")).startswith("250 ")
        return client

    async def hear(self) -> str:
        while line := await asyncio.wait_for(self._reader.readline(), LONGEST):
            if line[3:4] == b" ":
                return line.decode().rstrip("\r\n")
        return "closed"

    async def ask(self, *portions: bytes) -> str:
        for portion in portions:
            self._writer.write(portion)
            await self._writer.drain()
            if len(portions) > 1:
                await asyncio.sleep(PAUSE)
        return await self.hear()

    async def send(self, case: Case, recipient: str) -> str:
        sender = f"MAIL FROM:<sender@example.org>\r\nRCPT TO:<{recipient}>\r\n".encode()
        assert (await self.ask(sender)).startswith("250 ")
        assert (await self.hear()).startswith("250 ")
        if not case.way.startswith("BDAT"):
            assert (await self.ask(b"DATA\r\n")).startswith("354 ")
            return await self.ask(*case.portions, END.removeprefix(b"\r\n"))
        for portion in case.portions[:-1]:
            assert (await self.ask(b"BDAT %d\r\n" % len(portion) + portion)).startswith("250 ")
        last = case.portions[-1]
        return await self.ask(b"BDAT %d LAST\r\n" % len(last) + last)

    async def quit(self) -> None:
        """Nothing may come but the answer: one more reply would be that to the second message."""
        assert (await self.ask(b"QUIT\r\n")).startswith("221 ")
        assert await self._reader.read() == b""
        self._writer.close()


async def send_all(port: int, work: dict[str, list[Case]]) -> dict[int, str]:
    """Send the cases of each recipient, many at once; the last reply to each."""
    answers: dict[int, str] = {}

    async def session(recipient: str, cases: Sequence[Case], gate: asyncio.Semaphore) -> None:
        async with gate:
            client = await Client.greeted(port)
            for case in cases:
                answers[case.number] = await client.send(case, recipient)
            await client.quit()

    sessions = []
    for recipient, cases in work.items():
        gate = asyncio.Semaphore(AT_ONCE)
        parts = [cases[place : place + IN_ONE] for place in range(0, len(cases), IN_ONE)]
        sessions += [session(recipient, part, gate) for part in parts]
    await asyncio.gather(*sessions)
    return answers


def table(upstreams: Sequence[Upstream], work: dict[str, list[Case]], cell: dict[int, str]) -> None:
    """A line for each trick: what became of it at each upstream, in each way."""
    ways = list(dict.fromkeys(case.way for case in work[upstreams[0].mailbox]))
    columns = [(upstream.name, way) for upstream in upstreams for way in ways]
    for heads in zip(*columns, strict=True):
        print(f"{'':20}" + "".join(f"{head:>12}" for head in heads))
    for trick in TRICKS:
        found = {
            (upstream.name, case.way): cell[case.number]
            for upstream in upstreams
            for case in work[upstream.mailbox]
            if case.trick == trick
        }
        print(f"{trick:20}" + "".join(f"{found.get(column, ''):>12}" for column in columns))


def check(
    upstreams: Sequence[Upstream], port: int, ways: Sequence[str], *, refused: bool = False
) -> None:
    """Every case is one message, or where it is to be refused none, and there is no second one."""
    work: dict[str, list[Case]] = {}
    for each in upstreams:
        each.empty()
        work[each.mailbox] = each.cases(ways, 1 + sum(map(len, work.values())))
    heard = [each.heard_evil() for each in upstreams]
    answers = asyncio.run(send_all(port, work))
    cells: dict[int, str] = {}
    wrong: list[str] = []
    for each in upstreams:
        cases = work[each.mailbox]
        delivered = each.take(sum(answers[case.number].startswith("250 ") for case in cases))
        for case in cases:
            there, answer = delivered.get(case.number, []), answers[case.number]
            cells[case.number] = str(len(there)) if there else answer[:10]
            wants = [] if refused and case.bare else [case.message(each)]
            if there != wants or answer[0] != ("2" if wants else "5"):
                wrong.append(
                    f"{each.name}, {case.way}, {case.trick}: {answer}, {there} not {wants}"
                )
    table(upstreams, work, cells)
    assert wrong == []
    assert [each.heard_evil() for each in upstreams] == heard
    assert [each.server.delivered(each.other) for each in upstreams] == [[], [], []]


def test_one_message_of_one(folder: Path, upstreams: list[Upstream]) -> None:
    with proxy_before(folder, upstreams) as proxy:
        check(upstreams, proxy.port, ["DATA", "DATA cut", "BDAT cut"])


def test_refused_or_one(folder: Path, upstreams: list[Upstream]) -> None:
    with proxy_before(folder, upstreams, bare_newline="reject") as proxy:
        check(upstreams, proxy.port, ["DATA cut", "BDAT cut"], refused=True)


def test_one_message_of_one_where_data_becomes_chunks(
    folder: Path, upstreams: list[Upstream]
) -> None:
    with proxy_before(folder, upstreams, upstreams={"chunking": "preferred"}) as proxy:
        check(upstreams, proxy.port, ["DATA cut"])


def test_a_second_message_would_be_seen(upstreams: list[Upstream]) -> None:
    """Without the proxy, behind a true end of data: each of these servers takes both."""
    for each in upstreams:
        each.empty()
        heard = each.heard_evil()
        second = SECOND % (EVIL.encode(), each.other.encode())
        asyncio.run(both(each, HEADER % (1, 1) + b"before" + END, second + END))
        assert len(each.take(1)) == 1
        wait_until(partial(each.server.delivered, each.other), LONGEST, "the second")
        assert each.heard_evil() > heard
        each.empty()


async def both(upstream: Upstream, first: bytes, second: bytes) -> None:
    """A line at a time: where a server takes no pipelining, this must not be why it refuses."""
    client = await Client.greeted(int(upstream.server.server.rpartition(":")[2]))
    for line in (b"MAIL FROM:<sender@example.org>", b"RCPT TO:<%s>" % upstream.mailbox.encode()):
        assert (await client.ask(line + b"\r\n")).startswith("250 ")
    assert (await client.ask(b"DATA\r\n")).startswith("354 ")
    assert (await client.ask(first)).startswith("250 ")
    commands, content = second.partition(b"DATA\r\n")[::2]
    for line in commands.splitlines(keepends=True):
        assert (await client.ask(line)).startswith("250 ")
    assert (await client.ask(b"DATA\r\n")).startswith("354 ")
    assert (await client.ask(content)).startswith("250 ")
    await client.quit()
