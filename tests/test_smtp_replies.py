"""Replies: what a server says is found in any portions, bounded, and passed on as it came."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.smtp.errors import ProtocolError
from smtpproxy.smtp.replies import (
    MAX_REPLY,
    MAX_REPLY_LINE,
    MAX_REPLY_LINES,
    Reply,
    ReplyReader,
    clean,
)
from tests.support.wire import (
    byte_by_byte,
    chunkings,
    cut,
    every_way,
    held,
    mixtures,
    replies,
    whole,
)

BROKEN = "ProtocolError"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 ok\r\n", [Reply(250, (b"ok",))]),
        (b"250 ok\n", [Reply(250, (b"ok",))]),
        (b"250 \r\n", [Reply(250, (b"",))]),
        (b"250\r\n", [Reply(250, (b"",))]),
        (b"250-\r\n250\r\n", [Reply(250, (b"", b""))]),
        (b"250  two  spaces \r\n", [Reply(250, (b" two  spaces ",))]),
        (b"250-a\r\n250-b\r\n250 c\r\n", [Reply(250, (b"a", b"b", b"c"))]),
        (b"250-a\n250-b\r\n250 c\n", [Reply(250, (b"a", b"b", b"c"))]),
        (b"250 one\r\n354 two\r\n", [Reply(250, (b"one",)), Reply(354, (b"two",))]),
        (b"421 bye\r\n", [Reply(421, (b"bye",))]),
        (b"599 odd\r\n", [Reply(599, (b"odd",))]),
        # The codes differ: the last one counts (RFC 5321 4.2.1).
        (b"250-yes\r\n550 no\r\n", [Reply(550, (b"yes", b"no"))]),
        (b"550-no\r\n250-x\r\n451 later\r\n", [Reply(451, (b"no", b"x", b"later"))]),
        # 8-bit passes, control characters are made visible, TAB is text.
        (b"550 gr\xc3\xbc\xc3\x9fe \xff\x85\r\n", [Reply(550, (b"gr\xc3\xbc\xc3\x9fe \xff\x85",))]),
        (b"550 a\x00b\x1bc\x7fd\te\r\n", [Reply(550, (b"a?b?c?d\te",))]),
        (b"550 a\r250 ok\r\n", [Reply(550, (b"a?250 ok",))]),
        (b"550 a\r\r\n", [Reply(550, (b"a?",))]),
        # No reply.
        (b"\r\n", [BROKEN]),
        (b"hello\r\n", [BROKEN]),
        (b"25 ok\r\n", [BROKEN]),
        (b"2500 ok\r\n", [BROKEN]),
        (b"250ok\r\n", [BROKEN]),
        (b"250\tok\r\n", [BROKEN]),
        (b"250_ok\r\n", [BROKEN]),
        (b" 250 ok\r\n", [BROKEN]),
        (b"150 ok\r\n", [BROKEN]),
        (b"650 ok\r\n", [BROKEN]),
        (b"000 ok\r\n", [BROKEN]),
        (b"\xff\xfe\r\n", [BROKEN]),
        ("\u0662\u0665\u0660 ok\r\n".encode(), [BROKEN]),
        (b"HTTP/1.1 400 Bad Request\r\n", [BROKEN]),
        (b"\x15\x03\x01\x00\x02\x02\n", [BROKEN]),
        (b"250-a\r\n\r\n", [BROKEN]),
        (b"250-a\r\nb\r\n", [BROKEN]),
        (b"250 ok\r\nnonsense\r\n", [Reply(250, (b"ok",)), BROKEN]),
    ],
)
def test_replies_in_bytes(data: bytes, expected: list[Reply | str]) -> None:
    for chunks in every_way(data):
        assert replies(chunks) == expected
    if expected[-1] != BROKEN:
        for chunks in every_way(data + b"220 tail\r\n25"):
            assert replies(chunks) == [*expected, Reply(220, (b"tail",))]


@pytest.mark.parametrize("data", [b"", b"2", b"250", b"250 ok", b"250 ok\r", b"250-a\r\n", b"x"])
def test_a_reply_that_has_not_ended_is_none_yet(data: bytes) -> None:
    for chunks in every_way(data):
        assert replies(chunks) == []


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("chunking", [whole, byte_by_byte])
def test_the_longest_line_is_the_same_in_any_portions(line_end: bytes, chunking) -> None:
    text = b"x" * (MAX_REPLY_LINE - 4 - len(line_end))
    assert replies(chunking(b"250 " + text + line_end)) == [Reply(250, (text,))]
    assert replies(chunking(b"250 x" + text + line_end)) == [BROKEN]


def test_the_longest_reply() -> None:
    most = b"250-x\r\n" * (MAX_REPLY_LINES - 1)
    [reply] = replies([most + b"250 x\r\n"])
    assert isinstance(reply, Reply) and len(reply.lines) == MAX_REPLY_LINES
    assert replies([most + b"250-x\r\n250 x\r\n"]) == [BROKEN]


def test_the_longest_reply_in_octets() -> None:
    line = b"250-" + b"x" * 1018 + b"\r\n"
    most = line * (MAX_REPLY // len(line) - 1)
    [reply] = replies([most + line.replace(b"-", b" ")])
    assert isinstance(reply, Reply)
    assert replies([most + line + line.replace(b"-", b" ")]) == [BROKEN]


@pytest.mark.parametrize("stream", [b"x", b"250 ", b"250-x\r\n", b"\0", b"\r"])
def test_a_reply_without_an_end_is_an_error_soon(stream: bytes) -> None:
    reader = ReplyReader()
    data = stream * 10_000
    for chunk in cut(data, range(512, len(data), 512)):
        reader.feed(chunk)
        try:
            assert reader.next_reply() is None
        except ProtocolError:
            return
        assert held(reader) < MAX_REPLY_LINES * 40
    pytest.fail("no end, and no error")


def test_what_is_unread_is_known_and_can_be_thrown_away() -> None:
    reader = ReplyReader()
    assert reader.empty and not reader.clear()
    reader.feed(b"220 go\r\n")
    assert not reader.empty
    assert reader.next_reply() and reader.empty
    for unread in [b"2", b"250-x\r\n", b"250 x\r\n"]:
        reader.feed(unread)
        if unread == b"250-x\r\n":
            assert reader.next_reply() is None  # the line is read, the reply is not
        assert not reader.empty and reader.clear()
        assert reader.empty and reader.next_reply() is None
    reader.feed(b"250 after\r\n")
    assert reader.next_reply() == Reply(250, (b"after",))


@pytest.mark.parametrize(
    ("reply", "wire", "text"),
    [
        (Reply.of(250, "2.1.0", "Ok"), b"250 2.1.0 Ok\r\n", "250 2.1.0 Ok"),
        (Reply.of(250, "", "mx", "SIZE"), b"250-mx\r\n250 SIZE\r\n", "250 mx SIZE"),
        (
            Reply.of(550, "5.7.1", "a", "b"),
            b"550-5.7.1 a\r\n550 5.7.1 b\r\n",
            "550 5.7.1 a 5.7.1 b",
        ),
        (Reply.of(250, "", ""), b"250 \r\n", "250"),
        (Reply.of(250, "", "a\r\n550 b\tc"), b"250 a??550 b\tc\r\n", "250 a??550 b\tc"),
        (Reply(550, (b"\xff",)), b"550 \xff\r\n", r"550 \xff"),
    ],
)
def test_a_reply_on_the_wire_and_for_people(reply: Reply, wire: bytes, text: str) -> None:
    assert reply.encode() == wire
    assert str(reply) == text


@pytest.mark.parametrize(
    ("code", "positive", "success", "permanent"),
    [
        (220, True, True, False),
        (299, True, True, False),
        (354, True, False, False),
        (421, False, False, False),
        (499, False, False, False),
        (500, False, False, True),
        (599, False, False, True),
    ],
)
def test_what_a_code_means(code: int, positive: bool, success: bool, permanent: bool) -> None:
    reply = Reply(code, (b"",))
    assert (reply.positive, reply.success, reply.permanent) == (positive, success, permanent)


@pytest.mark.parametrize(
    ("line", "enhanced"),
    [
        (b"2.1.5 ok", "2.1.5"),
        (b"5.7.1", "5.7.1"),
        (b"5.100.999 x", "5.100.999"),
        (b"", ""),
        (b"3.1.1 x", ""),
        (b"5.7 x", ""),
        (b"5.7.1000 x", ""),
        (b"5.7.1x", ""),
        (b"5.7.1.2 x", ""),
        (b" 5.7.1 x", ""),
        (b"said 5.7.1 x", ""),
    ],
)
def test_the_enhanced_code_is_the_first_word_of_the_first_line(line: bytes, enhanced: str) -> None:
    assert Reply(550, (line, b"5.9.9 y")).enhanced == enhanced


def test_clean_text_has_no_control_character_but_tab() -> None:
    every = bytes(range(256))
    assert re.findall(rb"[\x00-\x1f\x7f]", clean(every)) == [b"\t"]
    assert len(clean(every)) == 256 and clean(every)[0x80:] == every[0x80:]


# Properties.

streams = mixtures(
    b"250 ok\r\n", b"250-a\r\n", b"250", b"550 no\n", b"-", b" ", b"\r\n", b"\n", b"\r",
    b"421 bye\r\n", b"\0", b"2", b"354 go\r\n", b"\xe9", b"999 x\r\n",
)  # fmt: skip


@given(st.data(), streams)
def test_any_chunking_gives_the_same_replies_or_the_same_error(
    data: st.DataObject, stream: bytes
) -> None:
    assert replies(data.draw(chunkings(stream))) == replies([stream])


@settings(max_examples=25)
@given(streams.filter(bool), st.integers(1, 2000))
def test_however_much_is_sent_little_is_held(stream: bytes, size: int) -> None:
    reader = ReplyReader()
    flood = stream * (100_000 // len(stream))
    for chunk in cut(flood, range(size, len(flood), size)):
        reader.feed(chunk)
        try:
            while reader.next_reply() is not None:
                pass
        except ProtocolError:
            return
        assert held(reader) < MAX_REPLY_LINE + MAX_REPLY_LINES * 200


@given(streams)
def test_a_server_can_put_no_second_reply_into_one(stream: bytes) -> None:
    for reply in replies([stream]):
        if isinstance(reply, Reply):
            wire = reply.encode()
            assert wire.count(b"\r") == wire.count(b"\n") == len(reply.lines)
            assert replies([wire]) == [reply]  # read again, it is the same one


texts = st.binary(max_size=12).map(clean)


@given(
    st.lists(st.builds(Reply, st.integers(200, 599), st.lists(texts, min_size=1).map(tuple))),
    st.data(),
)
def test_a_reply_is_read_as_it_was_written(sent: list[Reply], data: st.DataObject) -> None:
    stream = b"".join(reply.encode() for reply in sent)
    assert replies(data.draw(chunkings(stream))) == sent
