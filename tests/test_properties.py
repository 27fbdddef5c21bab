"""What holds whatever happens: any client, any upstreams, any order of events.

A client sends a transcript, cut into pieces anywhere: messages by DATA or in chunks, all of it sent
without a look at the replies, by SMTP, with PRDR, or by LMTP.  Upstreams offer what they like, and
answer by a script, or say what nobody asked for, or go.  What the two ends saw is then compared
(`tests.support.ends`), by what knows nothing of the proxy.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs

from smtpproxy.routing import Row, Server, TryAgain, Upstream
from smtpproxy.upstream import PoolLimits
from tests.support.dialogue import ONE, TWO, Settings, World, announcing, upstream
from tests.support.ends import Ends
from tests.support.scripted import Message, Script, ScriptedUpstream

# Where mail for a domain goes, by address.
PLACES = {
    "example.com": ["192.0.2.1"],
    "example.net": ["192.0.2.2"],
    "several.test": ["192.0.2.3", "192.0.2.4"],
    "store.test": ["192.0.2.5"],
}
STORE = Upstream((Server("192.0.2.5", 24, lmtp=True),))
SHADOW = "192.0.2.7"  # is asked of recipients of example.com, and says of nothing what it is for

# What the client says

RECIPIENTS = ["a@example.com", "b@example.com", "c@example.com", "d@example.net", "e@several.test"]
RECIPIENTS += ["f@store.test", "g@store.test", "h@example.net"]
ODD_RECIPIENTS = ["x@unknown.test", "x@fails.test", "x", "grün@example.com"]
HELLOS = ["EHLO client.example.com", "EHLO other.example.com", "HELO x", "EHLO", "LHLO x"]
PARAMETERS = ["", "", *[" PRDR"] * 4, " BODY=8BITMIME", " SMTPUTF8 BODY=8BITMIME"]
PARAMETERS += [" PRDR BODY=BINARYMIME", " SIZE=150", " BODY=BINARYMIME", " FOO"]
OTHERS = ["NOOP", "RSET", "VRFY a", "HELP", "EXPN list", "STARTTLS", "AUTH PLAIN AGEAYg==", ""]
OTHERS += ["FOO", "XCLIENT ADDR=192.0.2.1", "BDAT 7 LAST\r\nQUIT\r\n!", "DATA", *HELLOS]
PIECES = [b"one", b"two", b".", b"..", b"\r\n", b"\r\n", b"\n", b"\r", b"\xfc", b"QUIT\r\n"]
PIECES += [b"MAIL FROM:<evil@x.test>\r\n", b"\r\n.", b"x" * 300]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


def mostly(usual: str, *odd: str) -> st.SearchStrategy[str]:
    return st.sampled_from([usual] * (3 * len(odd)) + list(odd))


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A message by BDAT, with what does not belong there between its chunks now and then."""
    parts = draw(st.lists(CONTENT, min_size=1, max_size=4))
    said = [
        b"BDAT %d%s\r\n" % (len(part), b" LAST" * (number == len(parts))) + part
        for number, part in enumerate(parts, 1)
    ]
    if draw(st.integers(0, 5)) == 5:
        other = draw(st.sampled_from([*OTHERS, "RCPT TO:<c@example.com>", "MAIL FROM:<z@x.test>"]))
        said.insert(draw(st.integers(1, len(said))), other.encode() + b"\r\n")
    return b"".join(said)


@st.composite
def transactions(draw: st.DrawFn, number: int) -> bytes:
    sender = draw(mostly(f"<s{number}@example.org>", "<>", "s"))
    commands = [f"MAIL FROM:{sender}{draw(st.sampled_from(PARAMETERS))}"]
    for _ in range(draw(st.integers(1, 4))):
        recipient = draw(st.sampled_from(RECIPIENTS * 3 + ODD_RECIPIENTS))
        commands.append(f"RCPT TO:<{recipient}>{draw(mostly('', ' NOTIFY=NEVER'))}")
    if draw(st.integers(0, 4)) == 4:
        commands.insert(draw(st.integers(1, len(commands))), draw(st.sampled_from(OTHERS)))
    envelope = "".join(f"{command}\r\n" for command in commands).encode()
    match draw(st.integers(0, 8)):
        case 8:
            return envelope + b"RSET\r\n"
        case 0 | 1 | 2 | 3:
            return envelope + draw(chunks())
        case _:
            return envelope + b"DATA\r\n" + draw(CONTENT) + b"\r\n.\r\n"


@st.composite
def transcripts(draw: st.DrawFn, lmtp: bool) -> bytes:
    """Commands and messages, from EHLO on, sent without a look at the replies."""
    usual = "LHLO client.example.com" if lmtp else HELLOS[0]
    hello = draw(mostly(usual, "HELO x", "EHLO")) + "\r\n"
    parts = [draw(transactions(number)) for number in range(draw(st.integers(1, 4)))]
    return hello.encode() + b"".join(parts) + draw(st.sampled_from([b"QUIT\r\n", b""]))


# What upstreams say: by the verb, and how many of them were answered before; all others are
# accepted.
FAULTS = ["4xx", "5xx", "421", "421 and gone", "accept and gone", "5xx and gone", "gone"]
FAULTS += ["garbage", "half", "mute", "surplus", "surplus", "long", "wrong"]
LAST = ["message", "recipient", "recipient", "overall", "overall"]
LATE = ["DATA", "BDAT", "single", *LAST]
VERBS = [*LATE, "greeting", "EHLO", "LHLO", "XCLIENT", "MAIL", "RCPT", "RSET", "QUIT", "NOOP"]


def scripts(
    verbs: Sequence[str], at_least: int = 0
) -> st.SearchStrategy[dict[tuple[str, int], str]]:
    moments = st.tuples(st.sampled_from(verbs), st.sampled_from([0, 0, 0, 1, 1, 2]))
    return st.dictionaries(moments, st.sampled_from(FAULTS), min_size=at_least, max_size=4)


EXTENSIONS = st.lists(
    st.sampled_from(
        ["PIPELINING"] * 6
        + ["CHUNKING", "PRDR"] * 6
        + ["8BITMIME"] * 2
        + ["SIZE", "SIZE 200", "SMTPUTF8", "BINARYMIME", "DSN", "XCLIENT ADDR"]
        + ["XCLIENT NAME HELO PROTO", "LIMITS RCPTMAX=2", "LIMITS RCPTMAX=1 MAILMAX=1"]
    ),
    unique_by=lambda line: line.split()[0],
)
OFFER = ["PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN"]
OFFERS = [OFFER, *[[*OFFER, "PRDR"]] * 4, ["8BITMIME"]]

# So many octets of the transcript, and what happens then.
UNASKED = {
    "success": b"250 early\r\n",
    "permanent": b"552 early\r\n",
    "transient": b"451 early\r\n",
    "closing": b"421 early\r\n",
    "half": b"25",
    "garbage": b"hello\r\n",
}
STEP = st.tuples(
    st.sampled_from([0, 1, 2, 5, 20, 50, 100, 400]),
    st.sampled_from(
        ["act"] * 40 + ["nothing"] * 8 + ["go", "stall", "take", "client stalls", "wait", *UNASKED]
    ),
)


NO_POOL = PoolLimits(idle=0.0, age=60.0, uses=10, each=5)
POOL = PoolLimits(idle=100.0, age=1000.0, uses=3, each=2, ready=1)


@dataclass(frozen=True)
class Cut:
    """The client leaves behind so many octets of its transcript, at once or when all is quiet."""

    octets: int
    at_once: bool


class Scene:
    """A world in which steps are taken."""

    def __init__(
        self,
        sent: bytes,
        script: Script,
        extensions: Sequence[Sequence[str]],
        options: Settings,
        *,
        shadowed: bool,
        prefer_chunks: bool,
    ) -> None:
        """`extensions` are those of upstreams, which share them where there are too few."""
        several = upstream("mx.test")
        hosts: dict[str, Sequence[str]] = {
            it: [it] for it in ("192.0.2.1", "192.0.2.2", "192.0.2.5", SHADOW)
        }
        hosts["mx.test"] = PLACES["several.test"]
        self.world = World(
            {
                "example.com": Row(ONE, shadow=upstream(SHADOW) if shadowed else None),
                "example.net": TWO,
                "several.test": several,
                "store.test": STORE,
                "fails.test": TryAgain("the database is down"),
            },
            hosts,
            options,
        )
        if prefer_chunks:
            world = self.world
            world.client.lose()
            relaying = replace(world.profile.relaying, prefer_chunks=True)
            world.profile = replace(world.profile, relaying=relaying)
            world.client = world.connect()
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
            place = int(address.rpartition(".")[2])
            self.upstreams.append(
                ScriptedUpstream(
                    address,
                    transport,
                    self._script,
                    self.messages,
                    self._extensions[place % len(self._extensions)],
                    lmtp=address in PLACES["store.test"],
                    shadow=address == SHADOW,
                )
            )

    def _stall(self, stalled: bool) -> None:
        for _, transport in self.world.upstreams:
            if stalled:
                transport.stalled = True
            else:
                transport.drained()


def few(usual: object, odd: object) -> st.SearchStrategy[object]:
    return st.sampled_from([usual] * 4 + [odd])


@settings(
    max_examples=2000, suppress_health_check=[HealthCheck.too_slow], report_multiple_bugs=False
)
@given(
    data=st.data(),
    lmtp=few(False, True),
    script=scripts(VERBS) | scripts(LATE, 2) | scripts(["RCPT", *LATE], 1) | scripts(LAST, 2),
    steps=st.lists(STEP, max_size=40),
    extensions=st.lists(EXTENSIONS, min_size=1, max_size=3),
    offer=st.sampled_from(OFFERS),
    cut=st.none() | st.none() | st.builds(Cut, st.integers(0, 600), st.booleans()),
    reject=few(False, True),
    size=few(1_000_000, 100),
    unreachable=st.sampled_from([None, None, None, "192.0.2.1", "192.0.2.3", SHADOW]),
    shadowed=st.booleans(),
    prefer_chunks=few(False, True),
    pool=few(NO_POOL, POOL),
)
def anything(
    data: st.DataObject,
    lmtp: bool,
    script: dict[tuple[str, int], str],
    steps: list[tuple[int, str]],
    extensions: list[list[str]],
    offer: list[str],
    cut: Cut | None,
    reject: bool,
    size: int,
    unreachable: str | None,
    shadowed: bool,
    prefer_chunks: bool,
    pool: PoolLimits,
) -> None:
    sent = data.draw(transcripts(lmtp), label="sent")
    options = Settings(
        reject_bare_newline=reject,
        max_message_bytes=size,
        max_errors=50,
        lmtp=lmtp,
        pool=pool,
        offer=announcing(*(each for each in offer if not (lmtp and each == "PRDR"))),
    )
    scene = Scene(
        sent[: cut.octets] if cut else sent,
        Script(script),
        extensions,
        options,
        shadowed=shadowed,
        prefer_chunks=prefer_chunks,
    )
    if unreachable is not None:
        scene.world.unreachable.add(unreachable)
    for step in steps:
        scene.take(*step)
    scene.end(cut)

    assert not len(scene.world.sessions)
    assert not len(scene.world.deadlines)
    assert not len(scene.world.shadows)
    assert not any(transport.open for _, transport in scene.world.upstreams)
    ends = Ends(
        scene.sent,
        bytes(scene.world.client.said),
        scene.messages,
        PLACES,
        lmtp=lmtp,
        cut=cut is not None,
        chunks=prefer_chunks,
    )
    ends.check()
    for each in scene.upstreams:
        if each.unended is not None:
            ends.check_begun(*each.unended)


def test_whatever_happens() -> None:
    """A success is the upstream's own, for these very bytes; nothing cut short is delivered."""
    with capturedLogs() as logged:
        anything()
        gc.collect()  # a failure that nobody looked at is logged when it is forgotten
    assert [it for it in logged if it["log_level"] >= LogLevel.warn] == []
