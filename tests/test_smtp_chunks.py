"""Promise: chunks carry octets, not commands; what one form carries, the other carries as well."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.chunks import ChunkReader, ChunkSkipper, Stuffer, Unstuffer
from smtpproxy.smtp.content import DataReader
from tests.support.messages import OURS
from tests.support.wire import (
    Chunks,
    byte_by_byte,
    chunkings,
    cut,
    every_way,
    held,
    mixtures,
    relayed,
    stuffed,
    unstuffed,
    whole,
)

END = b".\r\n"
TAIL = b"BDAT 0 LAST\r\nQUIT\r\n.\r\n"


@dataclass(frozen=True)
class Read:
    """What is known of a message once its last chunk was read."""

    content: bytes
    size: int
    bare: bool
    ascii: bool
    header_ascii: bool


def read_chunk(reader: ChunkReader, chunk: bytes, last: bool, portions: Chunks) -> bytes:
    """The content that a chunk completes; `portions` are its octets and the tail behind them."""
    reader.begin(len(chunk), last)
    content, rest = b"", None
    for portion in portions:
        if rest is None:
            part, rest = reader.feed(portion)
            content += part
        else:
            rest += portion
    assert rest == TAIL
    return content


def read(chunks: Chunks, portioning=whole, binary: bool = False) -> Read:
    """What a `ChunkReader` makes of a message in `chunks`, each of which arrives in portions."""
    reader = ChunkReader(binary)
    content = b""
    for number, chunk in enumerate(chunks, 1):
        last = number == len(chunks)
        content += read_chunk(reader, chunk, last, portioning(chunk + TAIL))
    return Read(content, reader.size, reader.bare, reader.ascii, reader.header_ascii)


def reference(message: bytes, binary: bool = False) -> Read:
    """The same, from the whole message at once."""
    content = message if binary else re.sub(rb"\r\n|\r|\n", b"\r\n", message)
    header = (b"\r\n" + content).partition(b"\r\n\r\n")[0]
    bare = not binary and bool(re.search(rb"\r(?!\n)|(?<!\r)\n", message))
    return Read(content, len(content), bare, message.isascii(), header.isascii())


# What the chunks of a message carry, and what is made of it.
MESSAGES = {
    "empty": (b"", b""),
    "one line": (b"a\r\n", b"a\r\n"),
    "no line end": (b"a", b"a"),
    "an end of data is content": (b"a\r\n.\r\nQUIT\r\n", b"a\r\n.\r\nQUIT\r\n"),
    "an end of data first": (b".\r\n", b".\r\n"),
    "dots": (b"..\r\n.a\r\n.", b"..\r\n.a\r\n."),
    "8-bit and NUL": (b"\x00\xff\x85\r\n", b"\x00\xff\x85\r\n"),
    "8-bit header": (b"a: \xe9\r\n\r\nb\r\n", b"a: \xe9\r\n\r\nb\r\n"),
    "8-bit body": (b"a: b\r\n\r\n\xe9\r\n", b"a: b\r\n\r\n\xe9\r\n"),
}

BARE = {
    "bare LF": (b"a\nb", b"a\r\nb"),
    "bare CR": (b"a\rb", b"a\r\nb"),
    "bare CR last": (b"a\r", b"a\r\n"),
    "bare LF last": (b"a\n", b"a\r\n"),
    "bare CR first": (b"\ra", b"\r\na"),
    "bare LF first": (b"\na", b"\r\na"),
    "CR CR LF": (b"a\r\r\nb", b"a\r\n\r\nb"),
    "CR LF LF": (b"a\r\n\nb", b"a\r\n\r\nb"),
    "LF CR": (b"a\n\rb", b"a\r\n\r\nb"),
    "CR LF CR": (b"a\r\n\r", b"a\r\n\r\n"),
    "LF . LF": (b"a\n.\nb", b"a\r\n.\r\nb"),
    "bare CR alone": (b"\r", b"\r\n"),
}


@pytest.mark.parametrize(("message", "content"), [*MESSAGES.values(), *BARE.values()])
def test_content_in_any_chunks_and_portions(message: bytes, content: bytes) -> None:
    expected = reference(message)
    assert expected.content == content  # the reference is right here
    for chunks in every_way(message):
        for portioning in (whole, byte_by_byte, lambda data: cut(data, [1]), lambda d: cut(d, [2])):
            assert read(chunks, portioning) == expected
            assert read([*chunks, b""], portioning) == expected  # BDAT 0 LAST
            assert read([b"", *chunks], portioning) == expected


@pytest.mark.parametrize(
    "message", [message for message, _ in [*MESSAGES.values(), *BARE.values()]]
)
def test_nothing_of_a_binary_message_is_changed(message: bytes) -> None:
    for chunks in every_way(message):
        for portioning in (whole, byte_by_byte):
            found = read(chunks, portioning, binary=True)
            assert (found.content, found.bare) == (message, False)
            assert found == reference(message, binary=True)


def test_a_cr_is_held_back_until_it_is_known_what_follows() -> None:
    reader = ChunkReader(binary=False)
    reader.begin(2, last=False)
    assert reader.feed(b"a\r") == (b"a", b"")
    reader.begin(0, last=False)
    assert reader.feed(b"") == (b"", b"")
    reader.begin(2, last=False)
    assert reader.feed(b"\nb") == (b"\r\nb", b"")
    assert not reader.bare and reader.size == 4
    reader.begin(1, last=False)
    assert reader.feed(b"\r") == (b"", b"")
    reader.begin(0, last=True)
    assert reader.feed(b"") == (b"\r\n", b"")
    assert reader.bare and reader.size == 6


def test_a_chunk_goes_on_until_all_of_it_came() -> None:
    reader = ChunkReader(binary=False)
    reader.begin(10**18, last=True)
    before = held(reader)
    for _ in range(100):
        assert reader.feed(b"") == (b"", None)
        assert reader.feed(b"x" * 1000) == (b"x" * 1000, None)
    assert held(reader) <= before + 8


# All that is dangerous is made of five octets.
streams = st.one_of(
    st.text("\r\n.ax", max_size=24).map(str.encode),
    mixtures(b"\r\n", b"\r", b"\n", b".", b"\r\n.\r\n", b"\r\n\r\n", b"..", b"\xe9", b"a"),
)
# Message form, as a `ChunkReader` gives it; without NUL, which has rules of its own (see below).
messages = streams.map(lambda stream: reference(stream.replace(b"\0", b"a")).content)


@given(st.data(), streams, st.booleans())
def test_any_chunks_and_portions_give_what_the_reference_gives(
    data: st.DataObject, stream: bytes, binary: bool
) -> None:
    chunks = data.draw(chunkings(stream))
    found = read(chunks, lambda octets: data.draw(chunkings(octets)), binary)
    assert found == reference(stream, binary)


@given(st.data(), streams)
def test_content_so_far_is_a_beginning_of_the_content(data: st.DataObject, stream: bytes) -> None:
    reader = ChunkReader(binary=False)
    content = b""
    for chunk in data.draw(chunkings(stream)):
        content += read_chunk(reader, chunk, False, data.draw(chunkings(chunk + TAIL)))
        assert reader.size == len(content)
        assert not content.endswith(b"\r") and content.count(b"\r") == content.count(b"\r\n")
    expected = reference(stream).content
    assert content == (expected[:-2] if stream.endswith(b"\r") else expected)


# From one form to the other.


def changed(parts: Iterable[bytes], by: Stuffer | Unstuffer) -> bytes:
    return b"".join([by.feed(part) for part in parts])


def as_data(parts: Iterable[bytes]) -> bytes:
    """What follows a 354, for a message in message form."""
    stuffer = Stuffer()
    return changed(parts, stuffer) + stuffer.end() + END


def ended(message: bytes) -> bytes:
    """`message` with its last line ended, as it has to be behind a 354."""
    return message if message.endswith(b"\r\n") or not message else message + b"\r\n"


# Message form, and what goes between the 354 and the final dot.
FORMS = {
    "empty": (b"", b""),
    "one line": (b"a\r\n", b"a\r\n"),
    "no line end": (b"a", b"a\r\n"),
    "an end of data": (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
    "ends of data": (b".\r\n.\r\n", b"..\r\n..\r\n"),
    "a dot": (b".", b"..\r\n"),
    "dots": (b"...\r\n.a\r\na.\r\n", b"....\r\n..a\r\na.\r\n"),
    "a dot behind the last line end": (b"a\r\n.", b"a\r\n..\r\n"),
    "empty lines": (b"\r\n\r\n.\r\n\r\n", b"\r\n\r\n..\r\n\r\n"),
}


@pytest.mark.parametrize(("message", "behind_354"), FORMS.values())
def test_message_form_and_data_form(message: bytes, behind_354: bytes) -> None:
    for parts in every_way(message):
        assert as_data(parts) == behind_354 + END
    for parts in every_way(behind_354):
        assert changed(parts, Unstuffer()) == ended(message)


@pytest.mark.parametrize(
    ("message", "behind_354"),
    [
        (b"a\r\n.\0\r\n", b"a\r\n..\0\r\n"),
        (b"\0.\r\n\0\0.b\r\n", b"\0..\r\n\0\0..b\r\n"),
        (b"a\0.\r\n\0a.\r\n", b"a\0.\r\n\0a.\r\n"),
    ],
)
def test_a_dot_behind_nul_gets_another(message: bytes, behind_354: bytes) -> None:
    """There is a server that passes over NUL, and takes it for the end of data."""
    for parts in every_way(message):
        assert as_data(parts) == behind_354 + END


@given(st.data(), messages)
def test_the_end_of_data_is_at_the_very_end_and_nowhere_else(
    data: st.DataObject, message: bytes
) -> None:
    sent = as_data(data.draw(chunkings(message)))
    assert sent == stuffed(ended(message)) + END
    content, rest, reader = relayed(data.draw(chunkings(sent)))
    assert (content + END, rest) == (sent, b"")
    assert unstuffed(content) == ended(message)
    assert (reader.size, reader.bare) == (len(ended(message)), False)


@given(st.data(), streams)
def test_what_data_carries_is_what_chunks_would_carry(data: st.DataObject, stream: bytes) -> None:
    """Whatever a client sends behind a 354, also with a dot too few and bare line ends."""
    reader = DataReader()
    unstuffer = Unstuffer()
    message = content = b""
    for portion in data.draw(chunkings(stream + b"\r\n.\r\n")):
        part, rest = reader.feed(portion)
        content += part
        message += unstuffer.feed(part)
        assert len(message) == reader.size
        if rest is not None:
            break
    assert message == unstuffed(content)
    assert changed(data.draw(chunkings(content)), Unstuffer()) == message


@given(st.data(), messages)
def test_there_and_back(data: st.DataObject, message: bytes) -> None:
    content, _, _ = relayed(data.draw(chunkings(as_data(data.draw(chunkings(message))))))
    assert changed(data.draw(chunkings(content)), Unstuffer()) == ended(message)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("size", [1, 7, 4096, 65536])
def test_real_messages_pass_unchanged(name: str, size: int) -> None:
    message = OURS[name][-20_000:] if size < 4096 else OURS[name]
    parts = cut(message, range(size, len(message), size))
    assert read(parts) == reference(message)
    assert read(parts).content == message
    assert as_data(parts) == stuffed(message) + END
    assert changed(parts, Stuffer()) == stuffed(message)
    there = stuffed(message)
    assert changed(cut(there, range(size, len(there), size)), Unstuffer()) == message


@pytest.mark.parametrize("kind", [Stuffer, Unstuffer])
def test_no_content_is_kept(kind: type[Stuffer | Unstuffer]) -> None:
    one = kind()
    for _ in range(100):
        one.feed(b"x" * 1000)
    assert held(one) <= held(kind())


# A chunk that is refused.


@pytest.mark.parametrize("size", [0, 1, 7, 12])
@pytest.mark.parametrize("portioning", [whole, byte_by_byte])
def test_the_octets_of_a_refused_chunk_are_counted_off(size: int, portioning) -> None:
    data = b"RSET\r\nQUIT\r\n" + TAIL
    skipper = ChunkSkipper(size)
    rest = None
    for portion in portioning(data):
        rest = skipper.feed(portion) if rest is None else rest + portion
    assert rest == data[size:]


def test_a_refused_chunk_that_goes_on_is_not_kept() -> None:
    skipper = ChunkSkipper(10**18)
    before = held(skipper)
    for _ in range(100):
        assert skipper.feed(b"x" * 1000) is None
    assert held(skipper) <= before
