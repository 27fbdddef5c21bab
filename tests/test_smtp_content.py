"""Promise: the end of data is CRLF . CRLF and nothing else; what is relayed is what was sent."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.content import DataReader, HeaderSection, has_bare_line_end
from tests.support.messages import OURS
from tests.support.wire import (
    chunkings,
    cut,
    every_way,
    held,
    mixtures,
    relayed,
    stuffed,
    unstuffed,
)

END = b".\r\n"
TAIL = b"QUIT\r\n.\r\nRSET\r\n"


@dataclass(frozen=True)
class Read:
    """What is known of a message once its end was met."""

    content: bytes
    rest: bytes | None
    size: int
    bare: bool
    ascii: bool
    header_ascii: bool


def read(chunks: list[bytes]) -> Read:
    content, rest, reader = relayed(chunks)
    return Read(content, rest, reader.size, reader.bare, reader.ascii, reader.header_ascii)


def reference(data: bytes) -> Read | None:
    """The same, from the whole message at once and line by line; None where it has no end."""
    before, end, rest = (b"\r\n" + data).partition(b"\r\n.\r\n")
    if not end:
        return None
    bare = any(octet in b"\r\n" for octet in before.replace(b"\r\n", b""))
    lines = before.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[1:]
    content = b"".join(harmless(line) + b"\r\n" for line in lines)
    header = (b"\r\n" + content).partition(b"\r\n\r\n")[0]
    size = len(unstuffed(content))
    return Read(content, rest, size, bare, before.isascii(), header.isascii())


def harmless(line: bytes) -> bytes:
    """A line as it goes on, which nobody takes for a lone dot."""
    if line.startswith(b".\0"):
        line = line[1:]
    visible = line.lstrip(b"\0")
    if line == b"." or (visible != line and visible.startswith(b".")):
        return line[: len(line) - len(visible)] + b"." + visible
    return line


# What the client sends behind the 354, and what the upstream gets before the final dot.
MESSAGES = {
    "empty": (b".\r\n", b""),
    "one line": (b"a\r\n.\r\n", b"a\r\n"),
    "one empty line": (b"\r\n.\r\n", b"\r\n"),
    "empty lines": (b"\r\n\r\n\r\n.\r\n", b"\r\n\r\n\r\n"),
    "a stuffed dot": (b"..\r\n.\r\n", b"..\r\n"),
    "stuffed lines": (b"..a\r\n...\r\n.\r\n", b"..a\r\n...\r\n"),
    "a dot too few": (b".a\r\n.\r\n", b".a\r\n"),
    "a dot ends a line": (b"a.\r\n.\r\n", b"a.\r\n"),
    "8-bit and NUL": (b"\x00\xff\x85\r\n.\r\n", b"\x00\xff\x85\r\n"),
}

# What somebody takes for it who stops reading a line at NUL, or passes over each of them.
HIDDEN = {
    "CR LF . NUL CR LF": (b"a\r\n.\0\r\nb\r\n.\r\n", b"a\r\n\0\r\nb\r\n"),
    "CR LF NUL . CR LF": (b"a\r\n\0.\r\nb\r\n.\r\n", b"a\r\n\0..\r\nb\r\n"),
    "CR LF NUL NUL . NUL": (b"a\r\n\0\0.\0b\r\n.\r\n", b"a\r\n\0\0..\0b\r\n"),
    "CR LF . NUL . CR LF": (b"a\r\n.\0.\r\n.\r\n", b"a\r\n\0..\r\n"),
    "NUL . CR LF at once": (b"\0.\r\nb\r\n.\r\n", b"\0..\r\nb\r\n"),
}

# CVE-2023-51764 and its kin: what somebody takes for the end of data, and we do not.
SMUGGLED = {
    "LF . LF": (b"a\n.\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "LF . CR LF": (b"a\n.\r\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "LF . CR": (b"a\n.\rb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "CR . CR": (b"a\r.\rb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "CR . LF": (b"a\r.\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "CR . CR LF": (b"a\r.\r\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "CR LF . LF": (b"a\r\n.\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "CR LF . CR": (b"a\r\n.\rb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "CR LF . CR CR LF": (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n..\r\n\r\nb\r\n"),
    "CR CR LF . CR LF": (b"a\r\r\n.\r\n", b"a\r\n\r\n"),
    "LF CR . LF": (b"a\n\r.\nb\r\n.\r\n", b"a\r\n\r\n..\r\nb\r\n"),
    "LF . LF . LF": (b"a\n.\n.\nb\r\n.\r\n", b"a\r\n..\r\n..\r\nb\r\n"),
    "LF . CR LF . CR LF": (b"a\n.\r\n.\r\n", b"a\r\n..\r\n"),
    "LF . CR CR LF . CR LF": (b"a\n.\r\r\n.\r\n", b"a\r\n..\r\n\r\n"),
    "CR LF . CR . CR LF": (b"a\r\n.\r.\r\nb\r\n.\r\n", b"a\r\n..\r\n..\r\nb\r\n"),
    "LF stuffed LF": (b"a\n..\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
    "LF NUL . LF": (b"a\n\0.\nb\r\n.\r\n", b"a\r\n\0..\r\nb\r\n"),
    "CR NUL LF . CR LF": (b"a\r\0\n.\r\nb\r\n.\r\n", b"a\r\n\0\r\n..\r\nb\r\n"),
    ". LF at once": (b".\nb\r\n.\r\n", b"..\r\nb\r\n"),
    ". CR at once": (b".\rb\r\n.\r\n", b"..\r\nb\r\n"),
    ". CR CR LF at once": (b".\r\r\n.\r\n", b"..\r\n\r\n"),
    "LF . CR LF at once": (b"\n.\r\nb\r\n.\r\n", b"\r\n..\r\nb\r\n"),
    "bare LF": (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
    "bare CR": (b"a\rb\r\n.\r\n", b"a\r\nb\r\n"),
    "bare LF before the end": (b"a\n\r\n.\r\n", b"a\r\n\r\n"),
    "bare LF first": (b"\n.\r\n.\r\n", b"\r\n..\r\n"),
    "bare CR first": (b"\r\r\n.\r\n", b"\r\n\r\n"),
}


ALL = MESSAGES | HIDDEN | SMUGGLED


@pytest.mark.parametrize(("sent", "content"), ALL.values())
def test_content_and_its_end(sent: bytes, content: bytes) -> None:
    expected = reference(sent)
    assert expected is not None and expected.content == content  # the reference is right here
    for chunks in every_way(sent):
        assert read(chunks) == expected
        assert expected.rest == b""


@pytest.mark.parametrize("sent", [sent for sent, _ in ALL.values()])
def test_what_follows_the_end_is_given_back_untouched(sent: bytes) -> None:
    for chunks in every_way(sent + TAIL):
        content, rest, _ = relayed(chunks)
        assert (content, rest) == (relayed([sent])[0], TAIL)


@pytest.mark.parametrize(
    ("sent", "bare"),
    [(sent, False) for sent, _ in (MESSAGES | HIDDEN).values()]
    + [(sent, True) for sent, _ in SMUGGLED.values()],
)
def test_bare_line_ends_are_told(sent: bytes, bare: bool) -> None:
    for chunks in every_way(sent):
        assert relayed(chunks)[2].bare is bare


@pytest.mark.parametrize("length", range(4))
@pytest.mark.parametrize("lines", range(4))
def test_one_octet_among_lines_of_one_length_can_be_bare(length: int, lines: int) -> None:
    text = b"x" * length + b"\r\n"
    for before, behind in ((b"", b""), (b"xxxxx\r\n", b"x"), (b"\n", b"\r"), (b"x", b"\rx")):
        content = before + text * lines + behind
        for place in range(len(content)):
            for octet in (b"", b"\r", b"\n", b"\r\n", b"x"):
                changed = content[:place] + octet + content[place + 1 :]
                rest = changed.replace(b"\r\n", b"")
                assert has_bare_line_end(changed) is (b"\r" in rest or b"\n" in rest)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("size", [1, 7, 4096, 65536])
def test_real_messages_pass_unchanged(name: str, size: int) -> None:
    message = OURS[name][-20_000:] if size < 4096 else OURS[name]
    sent = stuffed(message) + END
    content, rest, reader = relayed(cut(sent, range(size, len(sent), size)))
    assert content + END == sent
    assert unstuffed(content) == message
    assert rest == b""
    assert (reader.size, reader.bare, reader.ascii) == (len(message), False, message.isascii())


# The header section, as far as the first empty line; what follows it may be of any kind.
HEADERS = {
    b"": True,
    b"\xe9\r\n": False,
    b"a: \xe9": False,
    b"a: b\r\n\r\n\xe9\r\n": True,
    b"a: b\r\n\xe9: b\r\n\r\n": False,
    b"a: b\r\n\xe9\r\n": False,
    b"\r\n\xe9\r\n": True,
    b"\r\n\r\n\xe9\r\n": True,
    b"a: b\r\n.\xe9\r\n": False,
    b"a: b\r\n \r\n\xe9\r\n": False,
    b"a: b\r\n..\r\n\xe9\r\n": False,
}


@pytest.mark.parametrize(("message", "clear"), HEADERS.items())
def test_the_header_section_ends_at_the_first_empty_line(message: bytes, clear: bool) -> None:
    for parts in every_way(message):
        section = HeaderSection()
        for part in parts:
            section.feed(part)
        assert section.ascii is clear
    for chunks in every_way(message + b"\r\n.\r\n"):
        assert relayed(chunks)[2].header_ascii is clear


def test_a_bare_line_end_ends_a_header_section_too() -> None:
    """What the upstream gets counts: there it is an empty line."""
    for chunks in every_way(b"a: b\n\r\xe9\r\n.\r\n"):
        assert relayed(chunks)[2].header_ascii


def test_nothing_of_a_long_header_section_is_kept() -> None:
    section = HeaderSection()
    before = held(section)
    for _ in range(100):
        section.feed(b"x" * 1000 + b"\r\n")
        assert held(section) <= before + 4


def test_a_message_without_its_end_gives_all_that_is_sure() -> None:
    """What is held back is what may yet be the end; none of it is lost when it is not."""
    for held_back in [b"\r", b"\r\n", b"\r\n.", b"\r\n.\r"]:
        for chunks in every_way(b"Hello" + held_back):
            assert relayed(chunks)[:2] == (b"Hello", None)
            assert read([*chunks, b"x\r\n.\r\n"]) == reference(b"Hello" + held_back + b"x\r\n.\r\n")


# All that is dangerous is made of six octets.
streams = st.one_of(
    st.text("\r\n.\0ax", max_size=24).map(str.encode),
    mixtures(
        b"\r\n", b".", b"\r\n.\r\n", b"\r\n.", b".\r", b"\n.\n", b"\r.\r", b"..", b"\xe9", b"a"
    ),
)


@given(st.data(), streams)
def test_any_chunking_gives_what_the_reference_gives(data: st.DataObject, stream: bytes) -> None:
    chunks = data.draw(chunkings(stream))
    expected = reference(stream)
    if expected is not None:
        assert read(chunks) == expected
    else:
        content, rest, reader = relayed(chunks)
        assert rest is None
        # What was given out so far is a beginning of the message, however that goes on.
        for more in (b"\r\n.\r\n", b".\r\n", b"\n.\r\n", b"x\r\n.\r\n"):
            finished = reference(stream + more)
            if finished is not None:
                assert finished.content.startswith(content)
        assert held(reader) <= held(DataReader()) + 8


@given(streams, st.data())
def test_no_server_finds_an_end_before_ours(stream: bytes, data: st.DataObject) -> None:
    """Whatever line ends the upstream takes: it reads one message, and we said where it ends."""
    content, _, _ = relayed(data.draw(chunkings(stream + b"\r\n.\r\n")))
    wire = b"\r\n" + content + END
    lenient = [match.end() for match in re.finditer(rb"(?<=[\r\n])\.(?:\r\n|\r|\n)", wire)]
    assert lenient == [len(wire)]
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert b"\r\n.\r\n" not in wire[:-3]
    # One stops reading a line at NUL, another passes over each of them.
    assert [line.partition(b"\0")[0] for line in wire.split(b"\r\n")].count(b".") == 1
    assert wire.replace(b"\0", b"").split(b"\r\n").count(b".") == 1


@given(st.data(), streams)
def test_the_message_delivered_is_the_message_sent(data: st.DataObject, stream: bytes) -> None:
    message = stream.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
    message = re.sub(rb"(?<=\n)\0+(?=\.)", b"", b"\n" + message)[1:]
    content, rest, reader = relayed(data.draw(chunkings(stuffed(message) + END)))
    assert unstuffed(content) == message
    assert (rest, reader.size, reader.bare) == (b"", len(message), False)


@given(st.data(), streams, streams)
def test_the_size_so_far_is_that_of_what_was_given_out(
    data: st.DataObject, stream: bytes, more: bytes
) -> None:
    reader = DataReader()
    content = b""
    for chunk in data.draw(chunkings(stream + b"\r\n" + more)):
        part, rest = reader.feed(chunk)
        content += part
        dots = sum(line.startswith(b".") for line in content.split(b"\r\n"))
        assert reader.size == len(content) - dots
        if rest is not None:
            break
