"""Bytes in every portion, and what a wire core makes of them, in a form to be compared."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from hypothesis import strategies as st

from smtpproxy.smtp.client import ClientConnection
from smtpproxy.smtp.commands import Bdat, Plain, Rcpt, Verb
from smtpproxy.smtp.content import DataReader
from smtpproxy.smtp.errors import ProtocolError
from smtpproxy.smtp.replies import Reply, ReplyReader
from smtpproxy.smtp.server import (
    Content,
    EndOfChunk,
    EndOfContent,
    Event,
    Refusal,
    ServerConnection,
)

Chunks = list[bytes]


def whole(data: bytes) -> Chunks:
    return [data]


def byte_by_byte(data: bytes) -> Chunks:
    return [data[place : place + 1] for place in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> Chunks:
    """`data` cut at `places`, which need no order; empty portions are among the result."""
    ends = sorted(min(place, len(data)) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def every_way(data: bytes) -> Iterator[Chunks]:
    """`data` whole, byte by byte, and in two portions, cut at each place."""
    yield whole(data)
    yield byte_by_byte(data)
    for place in range(1, len(data)):
        yield cut(data, [place])


def chunkings(data: bytes) -> st.SearchStrategy[Chunks]:
    return st.lists(st.integers(0, len(data)), max_size=12).map(lambda places: cut(data, places))


def mixtures(*fragments: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, and often what is dangerous."""
    pieces = st.one_of(st.sampled_from(fragments), st.binary(max_size=6))
    return st.lists(pieces, max_size=30).map(b"".join)


def held(core: object) -> int:
    """The octets that `core` holds, wherever it keeps them; some hundred are its own form's."""
    return len(pickle.dumps(core))


# The content of a message.


def relayed(chunks: Chunks) -> tuple[bytes, bytes | None, DataReader]:
    """What a `DataReader` makes of the bytes behind a 354: the content, and what follows its end.

    Chunks after the end are no more its business, and are counted to what follows.
    """
    reader = DataReader()
    content, rest = b"", None
    for chunk in chunks:
        if rest is None:
            part, rest = reader.feed(chunk)
            content += part
        else:
            rest += chunk
    return content, rest, reader


def stuffed(message: bytes) -> bytes:
    """What a client sends behind a 354 for `message`, whose lines end in CRLF."""
    lines = message.split(b"\r\n")
    assert lines.pop() == b"", "the last line has no end"
    return b"".join((b"." if line[:1] == b"." else b"") + line + b"\r\n" for line in lines)


def unstuffed(content: bytes) -> bytes:
    """The message that a server reads in `content`: all that came before the final dot."""
    lines = content.split(b"\r\n")
    assert lines.pop() == b"", "the last line has no end"
    assert b"." not in lines, "an end of data inside the content"
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines)


# Replies.


def replies(chunks: Chunks) -> list[Reply | str]:
    """What a `ReplyReader` finds, up to the first error, whose text is not compared."""
    reader = ReplyReader()
    found: list[Reply | str] = []
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while (reply := reader.next_reply()) is not None:
                found.append(reply)
        except ProtocolError:
            return [*found, "ProtocolError"]
    return found


# The two ends of a connection.

OK = Reply.of(250, "", "ok")
GO_AHEAD = Reply.of(354, "", "go")

GREETING = b"220 mx.example.net\r\n"


def shown(event: Event | None) -> str:
    """An event on one line: a command as it is encoded, a refusal as `! 503 5.5.1 Text`."""
    match event:
        case None:
            return "nothing"
        case Refusal():
            return f"! {event.reply}"
        case Content():
            return f"content {event.data!r}"
        case EndOfContent():
            marks = ("" if event.ascii else " 8-bit") + (" bare" if event.bare else "")
            return f"end of {event.size}{marks}" + ("" if event.header_ascii else " 8-bit header")
        case EndOfChunk():
            return "end of chunk"
        case _:
            return event.encode().decode().removesuffix("\r\n")


def agreeable(event: Event) -> Reply | None:
    """The answer of a server that takes all, but is deaf to STARTTLS and ends nothing."""
    match event:
        case Refusal():
            return event.reply
        case Content() | Bdat():
            return None
        case Plain(Verb.DATA):
            return GO_AHEAD
        case Plain(Verb.STARTTLS):
            return Reply.of(454, "4.7.0", "not now")
        case _:
            return OK


def greeted(lmtp: bool = False, chunking: bool = True) -> ServerConnection:
    connection = ServerConnection(lmtp)
    connection.chunking = chunking
    connection.reply(Reply.of(220, "", "mx.example.net"))
    return connection


def append(events: deque[Event], event: Event) -> None:
    """Parts of one message, however it was cut, count as one event."""
    last = events[-1] if events else None
    if isinstance(last, Content) and isinstance(event, Content):
        events[-1] = Content(last.data + event.data, event.size)
    else:
        events.append(event)


def served(
    chunks: Chunks,
    answer: Callable[[Event], Reply | None] = agreeable,
    *,
    lmtp: bool = False,
    chunking: bool = True,
    looks: Iterator[bool] | None = None,
) -> tuple[list[str], ServerConnection]:
    """The events that a server sees; contiguous parts of a message are shown as one.

    `looks` says, at each moment, whether it looks ahead; what it saw there must come.
    """
    connection = greeted(lmtp, chunking)
    events: deque[Event] = deque()
    ahead: deque[Event] = deque()

    def look() -> None:
        if looks is None or not next(looks):
            return
        seen = connection.ahead()
        assert seen[: len(ahead)] == [*ahead][: len(seen)]
        assert all(isinstance(each, Rcpt) for each in seen[:-1])
        ahead.extend(seen[len(ahead) :])

    for chunk in chunks:
        look()
        connection.receive(chunk)
        look()
        while (event := connection.next_event()) is not None:
            look_back(ahead, event)
            append(events, event)
            look()
            reply = answer(event)
            if reply is not None:
                connection.reply(reply)
                if reply.code == 421:
                    ahead.clear()
            look()
    assert not ahead
    return [shown(event) for event in events], connection


def look_back(ahead: deque[Event], event: Event) -> None:
    """What was seen ahead is what came; a DATA where nobody was accepted is a refusal."""
    if not ahead:
        return
    seen = ahead.popleft()
    if seen == Plain(Verb.DATA) and isinstance(event, Refusal):
        assert event.verb == "DATA"
        assert event.reply.code in (503, 554)
    else:
        assert event is seen


def client(*exchanges: tuple[Verb, int]) -> ClientConnection:
    """A connection that was greeted, on which each verb was said and answered by the code."""
    connection = ClientConnection()
    connection.receive(GREETING)
    assert connection.next_reply()
    for verb, code in exchanges:
        connection.send_verb(verb, b"")
        connection.receive(b"%d text\r\n" % code)
        assert connection.next_reply()
    return connection
