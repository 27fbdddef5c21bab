"""What is fuzzed: functions that take any bytes, and raise where a promise is broken.

The first two octets say how the rest is used: into portions of what size it is cut, and which
options it meets.  Only the exceptions that a function declares may come out of what it calls, so
those are caught here and no others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat

from smtpproxy.routing.keys import keys_of
from smtpproxy.smtp.chunks import ChunkReader, Stuffer
from smtpproxy.smtp.client import ClientConnection
from smtpproxy.smtp.commands import (
    MAX_COMMAND_LINE,
    BadCommand,
    Command,
    Introduction,
    Mail,
    Plain,
    Rcpt,
    Verb,
    parse_command,
)
from smtpproxy.smtp.content import has_bare_line_end
from smtpproxy.smtp.errors import LocalProtocolError, ProtocolError
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.parameters import check_mail, check_rcpt
from smtpproxy.smtp.paths import parse_path
from smtpproxy.smtp.replies import MAX_REPLY, MAX_REPLY_LINE, Reply, ReplyReader
from smtpproxy.smtp.states import State
from tests.fuzz import identities, sessions
from tests.fuzz.words import ENDS, HEADERS, LINES, PARAMETERS, PARTS, SAID, WORDS
from tests.support.dialogue import announcing
from tests.support.ends import Sent, normalised
from tests.support.wire import (
    Chunks,
    byte_by_byte,
    cut,
    held,
    relayed,
    replies,
    served,
    unstuffed,
    whole,
)

REPLY_LINE = re.compile(rb"[2-5][0-9][0-9][ -][^\x00-\x08\x0a-\x1f\x7f]*\r\n")


def ways(data: bytes, step: int) -> Sequence[Chunks]:
    """`data` whole, byte by byte, and in portions of `step` octets."""
    return whole(data), byte_by_byte(data), cut(data, range(step, len(data), max(step, 1)))


def is_safe(content: bytes) -> None:
    """What goes on to an upstream between its 354 and our final dot."""
    assert not has_bare_line_end(content)
    lines = content.split(b"\r\n")
    assert b"." not in lines
    assert b"." not in [line.partition(b"\0")[0] for line in lines], "for who stops at NUL"
    assert b"." not in content.replace(b"\0", b"").split(b"\r\n"), "for who passes over NUL"


def fuzz_data(step: int, options: int, data: bytes) -> None:
    """`DataReader`: the end of data is CRLF . CRLF, and nothing else could be taken for it."""
    message, end, behind = (b"\r\n" + data).partition(b"\r\n.\r\n")
    for chunks in ways(data, step):
        content, rest, reader = relayed(chunks)
        is_safe(content)
        if not end:
            assert rest is None
            assert held(reader) < 1000
            continue
        assert rest == behind
        assert content == b"" or content.endswith(b"\r\n")
        assert content == (normalised((message + b"\r\n")[2:]) if message else b"")
        assert reader.size == len(unstuffed(content))


def fuzz_chunks(step: int, options: int, data: bytes) -> None:
    """`ChunkReader`, and `Stuffer` behind it: any content arrives as one message, by DATA too."""
    binary = bool(options & 1)
    size = options >> 1 or len(data)
    parts = [data[place : place + size] for place in range(0, len(data), size or 1)] or [b""]
    found = [in_chunks(parts, each, binary) for each in (len(data) + 1, 1, max(step, 1))]
    assert found.count(found[0]) == len(found)
    message = found[0]
    if binary:
        assert message == data
        return
    assert message == re.sub(rb"\r\n|\r|\n", b"\r\n", data)
    stuffer = Stuffer()
    content = b"".join(map(stuffer.feed, cut(message, range(step, len(message), max(step, 1)))))
    content += stuffer.end()
    is_safe(content)
    assert content == Sent("", (), chunks=True, content=data).by_data()


def in_chunks(parts: Sequence[bytes], step: int, binary: bool) -> bytes:
    """The message that a `ChunkReader` makes of chunks that come in portions of `step` octets."""
    reader = ChunkReader(binary)
    message = b""
    for number, part in enumerate(parts, 1):
        reader.begin(len(part), number == len(parts))
        rest: bytes | None = None
        for portion in cut(part, range(step, len(part), step)):
            assert rest is None, "the chunk ended early"
            content, rest = reader.feed(portion)
            message += content
        assert rest == b""
        assert held(reader) < 1000
    assert reader.size == len(message)
    return message


def fuzz_server(step: int, options: int, data: bytes) -> None:
    """`ServerConnection`: the same commands however they come, each in one form alone."""
    lmtp, chunking, looks = bool(options & 1), not options & 2, repeat(bool(options & 4))
    found = []
    for chunks in ways(data, step):
        events, connection = served(chunks, lmtp=lmtp, chunking=chunking, looks=looks)
        found.append(events)
        most = MAX_COMMAND_LINE + max(map(len, chunks), default=0)
        assert connection.buffered <= most or connection.state is State.ENDED
    assert found.count(found[0]) == len(found)


def parsed(line: bytes) -> Command | Introduction | Reply:
    """The command in `line`, or the reply that it deserves."""
    try:
        return parse_command(line)
    except BadCommand as bad:
        return bad.reply


def fuzz_command(step: int, options: int, data: bytes) -> None:
    """`parse_command`: what is understood can be said on in one line, and is understood again."""
    command = parsed(data)
    if isinstance(command, Reply):
        are_lines(command)
        assert command.permanent or command.code == 421
        return
    if isinstance(command, Introduction):  # is never sent on
        return
    line = command.encode()
    assert line.endswith(b"\r\n")
    assert not re.search(rb"[\x00-\x1f\x7f]", line[:-2])
    assert parse_command(line[:-2]) == command
    if isinstance(command, Mail | Rcpt):
        check = check_mail if isinstance(command, Mail) else check_rcpt
        reply = check(command.parameters, ANNOUNCED)
        assert reply is None or reply.permanent


ANNOUNCED = announcing(
    *("SIZE 1000", "8BITMIME", "BINARYMIME", "SMTPUTF8", "DSN", "REQUIRETLS", "MT-PRIORITY STANAG"),
    *("DELIVERBY 10", "FUTURERELEASE 1000 2030-01-01T00:00:00Z", "PRDR"),
)


def fuzz_path(step: int, options: int, data: bytes) -> None:
    """`parse_path`, and the keys made of it: no control character, and no two ways to read it."""
    try:
        path = parse_path(data.decode())
    except UnicodeDecodeError:
        return
    if path is None:
        return
    assert parse_path(str(path)) == path
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", str(path))
    for delimiters in ("", "+", "-+"):
        keys = keys_of(path, delimiters, "mx.example.net")
        assert bool(keys) is not path.null
        for key in keys:
            assert not re.search(r"[\x00-\x1f\x7f]", key), key
        assert all("@" not in key or key.startswith("[") for key in keys[-1:])


def fuzz_replies(step: int, options: int, data: bytes) -> None:
    """`ReplyReader`: bounded, and whatever it gives goes on to a client as lines of a reply."""
    found = [replies(chunks) for chunks in ways(data, step)]
    assert found.count(found[0]) == len(found)
    for reply in found[0]:
        if isinstance(reply, Reply):
            are_lines(reply)
    reader = ReplyReader()
    with suppress(ProtocolError):
        for number in range(options):  # again and again
            reader.feed(data.replace(b"#", b"%d" % number))
            while reader.next_reply() is not None:
                pass
    assert held(reader) < 2 * MAX_REPLY + MAX_REPLY_LINE + len(data)


def are_lines(reply: Reply) -> None:
    lines = reply.encode().splitlines(keepends=True)
    assert b"".join(lines) == reply.encode()
    encoded = reply.encode()
    matches = REPLY_LINE.findall(encoded)
    assert b"".join(matches) == encoded
    assert len(matches) == len(reply.lines)


def fuzz_client(step: int, options: int, data: bytes) -> None:
    """`ClientConnection`: commands where the options say so, and any bytes for replies."""
    core = ClientConnection()
    for number, portion in enumerate(cut(data, range(step, len(data), max(step, 1)))):
        core.receive(portion)
        try:
            while core.next_reply() is not None:
                pass
        except ProtocolError:
            return
        with suppress(LocalProtocolError, ProtocolError):
            say(core, (options + 7 * number) % 17)
        assert core.state in State


def say(core: ClientConnection, which: int) -> None:
    """One of the things that an upstream may be told."""
    content = core.state is State.CONTENT
    if content:
        core.check_early()
    match which:
        case 0 | 1:
            core.send_content(b"x\r\n")
            assert content
        case 2 | 3:
            core.end_content(recipients=which, prdr=which == 2)
            assert content
        case 4:
            core.send_chunk(b"x")
        case 5 | 6:
            core.end_chunks(b"x", recipients=which)
        case _:
            verbs = (Verb.EHLO, Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.RSET, Verb.STARTTLS)
            core.send(Plain(verbs[which % 6]))
            assert not content, "a command inside the content"


def fuzz_extensions(step: int, options: int, data: bytes) -> None:
    """`Extensions`: whatever an EHLO is answered, it can be looked at, and announced again."""
    for found in replies(whole(data)):
        if not isinstance(found, Reply):
            continue
        extensions = Extensions.of(found)
        assert extensions.size_limit is None or 0 < extensions.size_limit < 10**20
        assert all(0 < number < 10**6 for number in extensions.limits.values())
        assert extensions.number("DELIVERBY") is None or extensions.number("DELIVERBY") >= 0  # type: ignore[operator]
        are_lines(Reply.of(250, "", "mx.example.net", *extensions.lines()))


@dataclass(frozen=True, slots=True)
class Target:
    """`run` is given the first octet, the second, and the rest; `words` are worth trying."""

    run: Callable[[int, int, bytes], None]
    words: tuple[bytes, ...]

    def __call__(self, data: bytes) -> None:
        step, options, *_ = (*data[:2], 0, 0)
        self.run(step, options, data[2:])


TARGETS: Mapping[str, Target] = {
    "data": Target(fuzz_data, ENDS),
    "chunks": Target(fuzz_chunks, ENDS),
    "server": Target(fuzz_server, SAID + ENDS),
    "command": Target(fuzz_command, SAID + PARTS + PARAMETERS),
    "path": Target(fuzz_path, PARTS),
    "replies": Target(fuzz_replies, LINES),
    "client": Target(fuzz_client, LINES),
    "extensions": Target(fuzz_extensions, LINES),
    "xclient": Target(identities.fuzz_said, PARTS),
    "introduction": Target(identities.fuzz_introduction, WORDS),
    "proxy_header": Target(identities.fuzz_header, HEADERS),
    "session": Target(sessions.play, SAID + ENDS),
}
