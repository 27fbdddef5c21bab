"""A whole session in memory that is fuzzed: a client that says anything, before two upstreams.

`ScriptedUpstream` holds the proxy to what may be said to an upstream; what the client is told, and
what is logged, is looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smtpproxy.logs.json_lines import JsonShape
from smtpproxy.logs.levels import level_of
from smtpproxy.logs.text import TextShape
from smtpproxy.routing import TryAgain
from tests.support.dialogue import ONE, TWO, Settings, World, announcing
from tests.support.ends import Reply, read_replies
from tests.support.scripted import Message, Script, ScriptedUpstream
from tests.support.wire import cut, whole

OFFER = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN")
# What upstreams offer.
OFFERED = (
    ("PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "BINARYMIME", "DSN", "PRDR"),
    ("8BITMIME", "SIZE 200", "XCLIENT NAME ADDR PORT PROTO HELO"),
)
FAULTS = ("4xx", "5xx", "421", "gone", "garbage", "half", "surplus", "long")
MOMENTS = ("message", "RCPT", "DATA", "MAIL", "greeting", "EHLO", "BDAT")
MAIL = b"MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\n"
OPENINGS = (
    b"",
    MAIL,
    MAIL + b"DATA\r\n",
    MAIL + b"RCPT TO:<b@example.com>\r\nDATA\r\nSubject: x\r\n",
)
TEXT = TextShape(lambda: 0, "mx.example.net", lambda: 1, journal=False)
JSON = JsonShape(lambda: 0, journal=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the two ends of a session saw: the client's replies, and the messages of upstreams."""

    replies: Sequence[Reply]
    messages: Sequence[tuple[str, Sequence[str], bytes]]


def play(step: int, options: int, data: bytes) -> None:
    """The same comes of it however it is cut, where upstreams take all; else, nothing breaks."""
    settings = Settings(
        reject_bare_newline=bool(options & 1),
        lmtp=bool(options & 2),
        max_errors=50,
        offer=announcing(*OFFER, *(() if options & 2 else ("PRDR",))),
    )
    data = OPENINGS[options >> 6] + data
    portions = cut(data, range(step, len(data), max(step, 1)))
    if options & 4:
        kinds = {(MOMENTS[(options >> 3) % 7], step % 2): FAULTS[step % 8]}
        seen(portions, settings, kinds)
        return
    several, at_once = seen(portions, settings, {}), seen(whole(data), settings, {})
    assert several == at_once


def seen(portions: Sequence[bytes], settings: Settings, kinds: dict[tuple[str, int], str]) -> Seen:
    """A session from its greeting to its end, with what must hold in any."""
    world = World(
        {"example.com": ONE, "example.net": TWO, "fails.test": TryAgain("down")}, settings=settings
    )
    world.client.deliver(b"LHLO x\r\n" if settings.lmtp else b"EHLO x\r\n")
    messages: list[Message] = []
    upstreams: list[ScriptedUpstream] = []
    script = Script(kinds)

    def quieten() -> None:
        busy = True
        while busy:
            world.clock.advance(0)
            for address, transport in world.upstreams[len(upstreams) :]:
                extensions = OFFERED[address == TWO.servers[0].host]
                upstreams.append(ScriptedUpstream(address, transport, script, messages, extensions))
            busy = sum(each.act() for each in upstreams) > 0
            busy = busy or len(upstreams) < len(world.upstreams)

    quieten()
    for portion in portions:
        world.client.deliver(portion)
        quieten()
    replies = tuple(read_replies(bytes(world.client.said)))
    world.client.lose()
    for _ in range(40):
        quieten()
        if not len(world.sessions) and not len(world.deadlines):
            break
        world.clock.advance(100)
    quieten()
    assert not len(world.sessions)
    assert not len(world.deadlines)
    assert not any(transport.open for _, transport in world.upstreams)
    for event in world.events:
        for line in TEXT.event(level_of(event), event).splitlines():
            assert line.isprintable()
        assert JSON.event(level_of(event), event)[:-1].isprintable()
    ended = [message for message in messages if message.ended]
    said = b"".join(portions)
    ends = said.count(b"\r\n.\r\n") + len(re.findall(rb"LAST *\r\n", said, re.IGNORECASE))
    for place in {message.address for message in ended}:
        assert sum(message.address == place for message in ended) <= ends, "one that nobody ended"
    taken = [(it.sender, it.recipients, it.content) for it in ended]
    return Seen(replies, taken)
