"""The server's end: commands one at a time, content, and nothing that was not said.

In the dialogues `C:` is what the client sends, `E:` the event it makes, `S:` our reply.
"""

from __future__ import annotations

from collections import deque
from itertools import cycle, repeat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpproxy.smtp.commands import MAX_COMMAND_LINE, Bdat, Hello, Mail, Plain, Rcpt, Verb
from smtpproxy.smtp.errors import LocalProtocolError
from smtpproxy.smtp.paths import Path
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import (
    MOST_AHEAD,
    Content,
    EndOfChunk,
    EndOfContent,
    Event,
    Refusal,
    ServerConnection,
)
from smtpproxy.smtp.states import State
from tests.support.wire import (
    OK,
    agreeable,
    append,
    byte_by_byte,
    chunkings,
    cut,
    every_way,
    greeted,
    held,
    mixtures,
    served,
    shown,
    unstuffed,
    whole,
)

READY = """
    C: EHLO client.example.org
    E: EHLO client.example.org
    S: 250 mx.example.net
"""
ACCEPTED = f"""{READY}
    C: MAIL FROM:<a@example.org>
    E: MAIL FROM:<a@example.org>
    S: 250 ok
    C: RCPT TO:<b@example.com>
    E: RCPT TO:<b@example.com>
    S: 250 ok
"""
INSIDE = f"""{ACCEPTED}
    C: DATA
    E: DATA
    S: 354 go
"""


def play(script: str, chunking=whole) -> ServerConnection:
    """Run a dialogue from the greeting on; lines of `C:` one after the other come in one flight."""
    connection = greeted()
    events: deque[Event] = deque()

    def pump() -> None:
        while (event := connection.next_event()) is not None:
            append(events, event)

    flight = b""
    for line in [*(line.strip() for line in script.splitlines() if line.strip()), "E: nothing"]:
        who, text = line[:2], line[3:]
        if who == "C:":
            flight += text.encode().decode("unicode_escape").encode("latin-1") + b"\r\n"
            continue
        for chunk in chunking(flight):
            connection.receive(chunk)
            pump()
        flight = b""
        if who == "S:":
            code, _, rest = text.partition(" ")
            assert connection.reply(Reply.of(int(code), "", rest)) == text.encode() + b"\r\n"
            pump()
        elif text == "nothing":
            assert not events
        else:
            assert events and shown(events.popleft()) == text
    return connection


DIALOGUES = {
    "one at a time": f"""{INSIDE}
        C: Hello
        C: .
        E: content b'Hello\\r\\n'
        E: end of 7
        S: 250 queued
        C: QUIT
        E: QUIT
        S: 221 bye
        C: NOOP
        E: nothing
    """,
    "pipelined, each command waits for the reply before it": f"""{READY}
        C: MAIL FROM:<>
        C: RCPT TO:<b@example.com>
        C: RCPT TO:<c@example.com>
        C: DATA
        E: MAIL FROM:<>
        E: nothing
        S: 250 ok
        E: RCPT TO:<b@example.com>
        E: nothing
        S: 550 no
        E: RCPT TO:<c@example.com>
        S: 250 ok
        E: DATA
        E: nothing
        S: 354 go
        C: .
        C: QUIT
        E: end of 0
        E: nothing
        S: 250 ok
        E: QUIT
        S: 221 bye
    """,
    "no recipient was taken": f"""{READY}
        C: MAIL FROM:<>
        C: RCPT TO:<b@example.com>
        C: DATA
        C: QUIT
        E: MAIL FROM:<>
        S: 250 ok
        E: RCPT TO:<b@example.com>
        S: 451 later
        E: ! 554 5.5.1 No valid recipients
        E: QUIT
    """,
    "DATA is refused: what follows is commands": f"""{READY}
        C: MAIL FROM:<>
        C: RCPT TO:<b@example.com>
        C: DATA
        C: RSET
        E: MAIL FROM:<>
        S: 250 ok
        E: RCPT TO:<b@example.com>
        S: 250 ok
        E: DATA
        S: 451 later
        E: RSET
        S: 250 ok
        C: DATA
        E: ! 503 5.5.1 Send MAIL first
    """,
    "EHLO ends a transaction": f"""{READY}
        C: MAIL FROM:<>
        E: MAIL FROM:<>
        S: 250 ok
        C: EHLO again
        E: EHLO again
        S: 250 ok
        C: RCPT TO:<b@example.com>
        E: ! 503 5.5.1 Send MAIL first
    """,
    "bare line ends": f"""{INSIDE}
        C: one\\n.\\r.\\ntwo\\xff
        C: .
        E: content b'one\\r\\n..\\r\\n..\\r\\ntwo\\xff\\r\\n'
        E: end of 17 8-bit bare 8-bit header
        S: 250 ok
    """,
    "lines that are no commands": """
        C: NOOP\\nQUIT
        E: ! 500 5.5.2 Lines end in CR LF
        E: QUIT
        S: 250 stay
    """,
    "the octets of a chunk that is refused never run as commands": f"""{READY}
        C: BDAT 12 LAST
        C: QUIT
        C: QUIT
        C: NOOP
        E: ! 503 5.5.1 Send MAIL first
        E: NOOP
        S: 250 ok
        C: BDAT 0 LAST
        E: ! 503 5.5.1 Send MAIL first
        C: BDAT 3
        C: abcBDAT 6
        E: ! 503 5.5.1 Send MAIL first
        C: QUIT
        E: ! 503 5.5.1 Send MAIL first
        C: MAIL FROM:<a@example.org>
        E: MAIL FROM:<a@example.org>
        S: 250 ok
        C: BDAT 6 LAST
        C: QUIT
        E: ! 554 5.5.1 No valid recipients
        C: BDAT 2
        E: nothing
    """,
    "nor do those of one that is taken": f"""{ACCEPTED}
        C: BDAT 12
        C: QUIT
        C: QUIT
        E: BDAT 12
        E: content b'QUIT\\r\\nQUIT\\r\\n'
        E: end of chunk
        E: nothing
        S: 250 go on
        C: BDAT 6
        C: .
        E: BDAT 6
        E: content b'.\\r\\n'
        E: nothing
        C: .
        E: content b'.\\r\\n'
        E: end of chunk
        S: 250 go on
        C: BDAT 2 LAST
        C:
        E: BDAT 2 LAST
        E: content b'\\r\\n'
        E: end of 20
        S: 250 queued
        C: QUIT
        E: QUIT
    """,
    "a message in chunks, in one flight": f"""{ACCEPTED}
        C: BDAT 1
        C: .BDAT 0
        C: BDAT 1 LAST
        C: .NOOP
        E: BDAT 1
        E: content b'.'
        E: end of chunk
        E: nothing
        S: 250 go on
        E: BDAT 0
        E: end of chunk
        S: 250 go on
        E: BDAT 1 LAST
        E: content b'.'
        E: end of 2
        S: 250 queued
        E: NOOP
        S: 250 ok
        C: BDAT 0 LAST
        E: ! 503 5.5.1 Send MAIL first
    """,
    "a chunk that is refused ends the message, the others are skipped": f"""{ACCEPTED}
        C: BDAT 4
        C: abcdBDAT 4
        C: QUITBDAT 4 LAST
        C: QUITNOOP
        E: BDAT 4
        E: content b'abcd'
        E: end of chunk
        S: 452 no
        E: ! 503 5.5.1 Send MAIL first
        E: ! 503 5.5.1 Send MAIL first
        E: NOOP
    """,
    "between chunks": f"""{ACCEPTED}
        C: BDAT 3
        C: a
        E: BDAT 3
        E: content b'a\\r\\n'
        E: end of chunk
        S: 250 go on
        C: DATA
        C: RCPT TO:<c@example.com>
        C: MAIL FROM:<>
        C: STARTTLS
        C: NOOP
        E: ! 503 5.5.1 The message goes on with BDAT; send RSET to leave it
        E: ! 503 5.5.1 The message goes on with BDAT; send RSET to leave it
        E: ! 503 5.5.1 A transaction is under way; send RSET to leave it
        E: ! 503 5.5.1 A transaction is under way; send RSET to leave it
        E: NOOP
        S: 250 ok
        C: BDAT 1 LAST
        C: b
        E: BDAT 1 LAST
        E: content b'b'
        E: end of 4
        S: 250 queued
        E: ! 500 5.5.2 Command not recognised
    """,
    "a message that is left between chunks is no part of the next": f"""{ACCEPTED}
        C: BDAT 3
        C: \\xff\\r\\r
        E: BDAT 3
        E: content b'\\xff\\r\\n'
        E: end of chunk
        S: 250 go on
        E: ! 500 5.5.2 Command not recognised
        C: RSET
        E: RSET
        S: 250 ok
        C: MAIL FROM:<>
        E: MAIL FROM:<>
        S: 250 ok
        C: RCPT TO:<b@example.com>
        E: RCPT TO:<b@example.com>
        S: 250 ok
        C: BDAT 3 LAST
        C: a
        E: BDAT 3 LAST
        E: content b'a\\r\\n'
        E: end of 3
    """,
    "binary, in chunks": f"""{READY}
        C: MAIL FROM:<> BODY=binarymime
        E: MAIL FROM:<> BODY=binarymime
        S: 250 ok
        C: RCPT TO:<b@example.com>
        E: RCPT TO:<b@example.com>
        S: 250 ok
        C: BDAT 5
        C: a\\n.\\n\\rBDAT 3 LAST
        C: a
        E: BDAT 5
        E: content b'a\\n.\\n\\r'
        E: end of chunk
        S: 250 ok
        E: BDAT 3 LAST
        E: content b'a\\r\\n'
        E: end of 8
    """,
}


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("chunking", [whole, byte_by_byte])
def test_dialogues(name: str, chunking) -> None:
    play(DIALOGUES[name], chunking)


def test_events_are_values() -> None:
    connection = greeted()
    content = b"a\xff\r\n..\r\n"
    for data, event, reply in [
        (b"EHLO x\r\n", Hello("x"), 250),
        (b"MAIL FROM:<> SIZE=1\r\n", Mail(Path(""), {"SIZE": "1"}), 250),
        (b"RCPT TO:<postmaster>\r\n", Rcpt(Path("postmaster")), 250),
        (
            b"MAIL x\r\n",
            Refusal("MAIL", Reply.of(501, "5.5.4", "Syntax: MAIL FROM:<address>")),
            501,
        ),
        (b"DATA\r\n", Plain(Verb.DATA), 354),
        (content + b".\r\n", Content(content, size=len(content) - 1, last=True), 0),
        (b"", EndOfContent(len(content) - 1, False, False, False, len(content)), 250),
        (b"MAIL FROM:<>\r\n", Mail(Path("")), 250),
        (b"RCPT TO:<postmaster>\r\n", Rcpt(Path("postmaster")), 250),
        (b"BDAT 6\r\na: b", Bdat(6, last=False), 0),
        (b"", Content(b"a: b", size=4), 0),
        (b"\r\n", Content(b"\r\n", size=6), 0),
        (b"", EndOfChunk(), 250),
        (b"bdat 4 last\r\n\r\n..", Bdat(4, last=True), 0),
        (b"", Content(b"\r\n..", size=10, last=True), 0),
        (b"", EndOfContent(size=10, ascii=True, bare=False, header_size=6), 250),
    ]:
        connection.receive(data)
        assert connection.next_event() == event
        if reply:
            connection.reply(Reply.of(reply, "", "text"))


# Lines.


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"NOOP\nQUIT\r\n", ["! 500 5.5.2 Lines end in CR LF", "QUIT"]),
        (b"NOOP\r\r\nQUIT\r\n", ["! 500 5.5.2 Control characters in a command", "QUIT"]),
        (b"NOOP\rQUIT\r\nQUIT\r\n", ["! 500 5.5.2 Control characters in a command", "QUIT"]),
        (b"\r\nQUIT\r\n", ["! 500 5.5.2 Command not recognised", "QUIT"]),
        (b"\n\nQUIT\r\n", ["! 500 5.5.2 Lines end in CR LF"] * 2 + ["QUIT"]),
        (b"NOOP \xff\r\nQUIT\r\n", ["! 500 5.5.2 The command is not UTF-8 text", "QUIT"]),
        (b"GET / HTTP/1.1\r\nQUIT\r\n", ["! 421 4.7.0 This is an SMTP server"]),
        (b"BDAT x LAST\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        # So it is behind a line that only looks like BDAT.
        (b"bdat 6\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT\t6\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT\xa06\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT " + b" " * 3000 + b"6\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT 6\r\nQUIT\r\nNOOP\r\n", ["! 503 5.5.1 Send EHLO first", "NOOP"]),
        (b"BDAT 999999999999999999\r\nQUIT\r\n", []),
        # Where such a chunk ends, nobody knows: no number has a meaning there.
        (b"BDAT 1000000000000000000\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT -1\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT 0x6\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        (b"BDAT 6 LAST LAST\r\nQUIT\r\n", ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
        ("BDAT ６\r\nQUIT\r\n".encode(), ["! 421 4.5.4 Syntax: BDAT size [LAST]"]),
    ],
)
def test_lines_in_any_portions(data: bytes, events: list[str]) -> None:
    for chunks in every_way(data):
        assert served(chunks)[0] == events


@pytest.mark.parametrize("chunking", [whole, byte_by_byte])
def test_the_longest_line_is_the_same_in_any_portions(chunking) -> None:
    room = MAX_COMMAND_LINE - len(b"NOOP \r\n")
    longest, too_long = "NOOP " + "x" * room, "! 500 5.5.2 Line too long"
    for line, expected in [
        (longest, longest),
        (longest + "x", too_long),
        (longest + "\r", too_long),
        (longest + "x" * 5000, too_long),
    ]:
        data = line.encode() + b"\r\nQUIT\r\n"
        assert served(chunking(data))[0] == [expected, "QUIT"]


def test_a_line_without_an_end_is_not_kept() -> None:
    connection = greeted()
    for _ in range(100):
        connection.receive(b"NOOP \r" * 1000)
        assert connection.next_event() is None
        assert connection.buffered <= MAX_COMMAND_LINE
    connection.receive(b"\r\nQUIT\r\n")
    assert shown(connection.next_event()) == "! 500 5.5.2 Line too long"
    assert connection.next_event() == Plain(Verb.QUIT)


def test_what_waits_for_an_answer_is_counted() -> None:
    connection = greeted()
    connection.receive(b"NOOP\r\nNOOP\r\nRS")
    assert connection.buffered == 14
    assert connection.next_event() and connection.next_event() is None
    assert connection.buffered == 8
    connection.reply(OK)
    assert connection.next_event() and connection.buffered == 2


# Replies move the state.


@pytest.mark.parametrize("code", [421, 451, 521, 554])
def test_after_a_refused_greeting_nothing_is_read(code: int) -> None:
    connection = ServerConnection()
    connection.receive(b"EHLO early\r\n")
    assert connection.next_event() is None  # before the greeting neither
    connection.reply(Reply.of(code, "", "no"))
    assert connection.state is State.ENDED
    assert connection.next_event() is None


@pytest.mark.parametrize("sent", [b"", b"a", b"abcdefNOOP\r\n"])
@pytest.mark.parametrize("last", [b"", b" LAST"])
def test_after_421_nothing_is_read_inside_a_chunk_neither(sent: bytes, last: bytes) -> None:
    connection = play(ACCEPTED)
    connection.receive(b"BDAT 6%s\r\n" % last + sent)
    assert connection.next_event() == Bdat(6, bool(last))
    connection.reply(Reply.of(421, "4.3.2", "stop"))
    assert connection.state is State.ENDED
    connection.receive(b"\r\n.\r\nNOOP\r\n")
    assert connection.next_event() is None


@pytest.mark.parametrize("sent", [b"", b"a\r\nb", b"BDAT 3\r\n", b".\r\nNOOP\r\n"])
def test_after_421_nothing_is_read_inside_the_content_neither(sent: bytes) -> None:
    connection = play(INSIDE)
    connection.receive(sent)
    connection.reply(Reply.of(421, "4.3.2", "stop"))
    assert connection.state is State.ENDED
    connection.receive(b"\r\n.\r\nNOOP\r\n")
    assert connection.next_event() is None


def test_the_message_is_not_answered_before_its_end() -> None:
    connection = play(INSIDE)
    for sent in [b"", b"a\r\n", b".\r\n"]:
        connection.receive(sent)
        with pytest.raises(LocalProtocolError):
            connection.reply(OK)
        assert connection.state is State.CONTENT
        assert connection.next_event() or not sent
    # The part before the end was given out, the end not yet.
    with pytest.raises(LocalProtocolError):
        connection.reply(OK)
    assert isinstance(connection.next_event(), EndOfContent)
    connection.reply(OK)
    assert connection.state is State.READY


@pytest.mark.parametrize("last", [False, True])
def test_a_chunk_is_not_answered_before_its_end(last: bool) -> None:
    connection = play(ACCEPTED)
    connection.receive(b"BDAT 3 LAST\r\n" if last else b"BDAT 3\r\n")
    assert connection.next_event() == Bdat(3, last)
    for sent in [b"", b"a", b"bc"]:
        connection.receive(sent)
        for answer in (connection.reply, connection.interim):
            with pytest.raises(LocalProtocolError):
                answer(OK)
        assert connection.state is State.CONTENT
        assert connection.next_event() or not sent
    with pytest.raises(LocalProtocolError):
        connection.reply(OK)
    assert isinstance(connection.next_event(), EndOfContent if last else EndOfChunk)
    connection.reply(OK)
    assert connection.state is (State.READY if last else State.CHUNKS)


@pytest.mark.parametrize("opening", [INSIDE, ACCEPTED])
def test_several_replies_to_the_end_of_a_message_are_one_answer(opening: str) -> None:
    """RFC 2033 section 4.2; the last of them is what the next command has waited for."""
    connection = play(opening)
    connection.receive(b".\r\nRSET\r\n" if opening is INSIDE else b"BDAT 0 LAST\r\nRSET\r\n")
    if opening is ACCEPTED:
        assert connection.next_event() == Bdat(0, last=True)
    with pytest.raises(LocalProtocolError):
        connection.interim(OK)
    assert isinstance(connection.next_event(), EndOfContent)
    for code in (353, 250, 550):
        reply = Reply.of(code, "", "said")
        assert connection.interim(reply) == reply.encode()
        assert connection.state is State.CONTENT
        assert connection.next_event() is None
    connection.reply(Reply.of(450, "", "not all"))
    assert connection.state is State.READY
    assert connection.next_event() == Plain(Verb.RSET)
    with pytest.raises(LocalProtocolError):
        connection.interim(OK)


@pytest.mark.parametrize("code", [250, 452, 550, 554])
def test_whatever_is_said_of_a_message_the_next_may_follow(code: int) -> None:
    connection = play(INSIDE)
    connection.receive(b".\r\nMAIL FROM:<>\r\n")
    assert connection.next_event() == EndOfContent(size=0, ascii=True, bare=False)
    assert connection.next_event() is None
    connection.reply(Reply.of(code, "", "said"))
    assert connection.next_event() == Mail(Path(""))


def test_a_session_cut_short_has_no_end_of_content() -> None:
    opening = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n"
    session = opening + b"a\r\n..\r\nb\n.\nc\r\n.\r\n"
    for length in range(len(session)):
        for chunks in (whole(session[:length]), byte_by_byte(session[:length])):
            assert not [event for event in served(chunks)[0] if event.startswith("end")]
    assert served([session])[0][-1] == "end of 15 bare"


@pytest.mark.parametrize(
    "chunks",
    [
        b"BDAT 5 LAST\r\na\r\nb\n",
        b"BDAT 5\r\na\r\nb\nBDAT 0 LAST\r\n",
        b"BDAT 2\r\na\rBDAT 3 LAST\r\n\nb\n",
        b"BDAT 0\r\nBDAT 4\r\na\r\nbBDAT 1 LAST\r\n\n",
    ],
)
def test_a_session_cut_short_in_its_chunks_has_no_end_of_content(chunks: bytes) -> None:
    opening = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\n"
    session = opening + chunks
    for length in range(len(session)):
        for portions in (whole(session[:length]), byte_by_byte(session[:length])):
            assert not [event for event in served(portions)[0] if event.startswith("end of 6")]
    for portions in every_way(session):
        assert served(portions)[0][-1] == "end of 6 bare"


def test_a_chunk_of_any_size_is_taken_as_far_as_it_comes() -> None:
    connection = play(ACCEPTED)
    connection.receive(b"BDAT 999999999999999999 LAST\r\n")
    assert connection.next_event() == Bdat(10**18 - 1, last=True)
    for number in range(1, 4):
        connection.receive(b"QUIT\r\n" * 1000)
        assert connection.next_event() == Content(b"QUIT\r\n" * 1000, 6000 * number)
        assert connection.next_event() is None
        assert connection.buffered == 0


# Looking ahead (RFC 2920): what has arrived and is sure to come.

TO = "RCPT TO:<%s@example.com>"
A, B, C = (f"RCPT TO:<{each}@example.com>" for each in "abc")


def seen(flight: str, after: str = A) -> list[str]:
    """What is seen behind the command `after`, of a flight in which `|` stands for CR LF."""
    connection = play(READY)
    connection.receive(f"MAIL FROM:<>|{flight}".replace("|", "\r\n").encode())
    while (event := connection.next_event()) is not None and shown(event) != after:
        connection.reply(OK)
    assert event
    return [shown(each) for each in connection.ahead()]


@pytest.mark.parametrize(
    ("behind", "ahead"),
    [
        ("|", []),
        (f"|{B}", []),
        (f"|{B}\r", []),
        (f"|{B}|", [B]),
        (f"|{B}|{C}|DAT", [B, C]),
        (f"|{B}|{C}|DATA|", [B, C, "DATA"]),
        ("|data|", ["DATA"]),
        ("|DATA|RSET|", ["DATA"]),
        (f"|DATA|{B}|", ["DATA"]),
        (f"|{B}|RSET|{C}|", [B]),
        (f"|{B}|BDAT 3 LAST|abc", [B]),
        (f"|BDAT 50|{C}|", []),
        (f"|{B}|NOOP|{C}|DATA|", [B]),
        (f"|{B}|DATA x|{C}|", [B]),
        (f"|{B}|RCPT TO:<x|{C}|", [B]),
        (f"|{B}\n{C}|", []),
        (f"|{B}|{C}\n|", [B]),
        ("|" + TO % ("b" * (MAX_COMMAND_LINE - 22)) + f"|{C}|", []),
    ],
)
def test_what_is_seen_ahead(behind: str, ahead: list[str]) -> None:
    assert seen(A + behind) == ahead


def test_nothing_is_seen_behind_other_commands() -> None:
    for first in ["MAIL FROM:<>", "NOOP", "RSET", "QUIT", "HELP", "EHLO x"]:
        before = "" if first.startswith("MAIL") else f"{first}|"
        assert seen(f"{before}{A}|DATA|", first) == []
    assert seen(f"{A}|DATA|{B}|DATA|", "DATA") == []


def test_it_is_seen_again_as_long_as_it_was_not_given_out() -> None:
    connection = play(READY)
    connection.receive(f"MAIL FROM:<>\r\n{A}\r\n{B}\r\n".encode())
    assert connection.ahead() == []
    for _ in range(2):
        assert connection.next_event()
        assert [shown(each) for each in connection.ahead()] in ([], [B])
        connection.reply(OK)
        assert connection.ahead() == []
    connection.receive(f"{C}\r\nDATA\r\n".encode())
    event = connection.next_event()
    assert shown(event) == B
    assert [shown(each) for each in connection.ahead()] == [C, "DATA"]
    assert connection.buffered == len(f"{C}\r\nDATA\r\n")
    connection.reply(Reply.of(550, "", "no"))
    assert shown(connection.next_event()) == C
    connection.reply(Reply.of(421, "", "no"))
    assert connection.ahead() == []
    assert connection.next_event() is None


def test_not_all_of_a_long_flight_is_looked_at() -> None:
    assert len(seen(f"{A}|" + f"{B}|" * (MOST_AHEAD + 1))) == MOST_AHEAD


# STARTTLS (RFC 3207 section 4.2): nothing that came in plaintext is obeyed.

INJECTED = [
    b"MAIL FROM:<evil@example.org>\r\n",
    b"NOOP\r\nRSET\r\nQUIT\r\n",
    b"EHLO half a li",
    b"\r",
    b"x" * (MAX_COMMAND_LINE + 1),
    b"BDAT 10\r\nabc",
]


@pytest.mark.parametrize("injected", INJECTED)
@pytest.mark.parametrize("chunking", [whole, byte_by_byte])
def test_what_came_behind_starttls_is_thrown_away(injected: bytes, chunking) -> None:
    connection = play(READY)
    for chunk in chunking(b"STARTTLS\r\n" + injected):
        connection.receive(chunk)
        event = connection.next_event()
        assert event in (None, Plain(Verb.STARTTLS))
    assert connection.buffered == len(injected)
    connection.reply(Reply.of(220, "2.0.0", "go"))
    assert connection.buffered == 0
    assert connection.next_event() is None
    connection.receive(b"MAIL FROM:<>\r\nEHLO x\r\n")
    assert shown(connection.next_event()) == "! 503 5.5.1 Send EHLO first"  # it starts anew
    assert connection.next_event() == Hello("x")


def test_behind_a_refused_starttls_the_session_goes_on() -> None:
    play(f"""{READY}
        C: STARTTLS
        C: MAIL FROM:<>
        E: STARTTLS
        S: 454 not now
        E: MAIL FROM:<>
    """)


# Anything at all.

streams = mixtures(
    b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"MAIL FROM:<a@example.com> SIZE=1\r\n", b"DATA\r\n",
    b"RCPT TO:<a@example.com>\r\nDATA\r\n", b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n",
    b"\r\n.\r\n", b".\r\n", b"\n.\n", b"\r.\r", b".", b"\r", b"\n", b"\r\n", b"BDAT 7\r\n",
    b"STARTTLS\r\n", b"NOOP ", b"VRFY a", b"\0", b"\xff", b"RSET\r\n", b"x" * 2100, b"BDAT ",
    b"AUTH PLAIN\r\n", b"BDAT 7 LAST\r\n", b"BDAT 3\r\na\r\n", b"BDAT 1\r\n\r",
    b"BDAT 2 LAST\r\n\na",
    b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 3\r\na\r\n", b"RCPT TO:<a@example.com>\r\n",
)  # fmt: skip
ENVELOPE = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n"
opened = st.sampled_from([b"", ENVELOPE, ENVELOPE + b"DATA\r\n", ENVELOPE + b"BDAT 9\r\n"])


@settings(max_examples=300)
@given(st.data(), opened, streams)
def test_any_bytes_in_any_portions_give_the_same_events(
    data: st.DataObject, opening: bytes, stream: bytes
) -> None:
    stream = opening + stream
    expected, connection = served([stream])
    events, same = served(data.draw(chunkings(stream)))
    if connection.state is State.CONTENT:
        # The last part of a message without its end: as much as is sure.
        assert [e for e in events if e[:8] != "content "] == [
            e for e in expected if e[:8] != "content "
        ]
    else:
        assert events == expected
    assert same.state is connection.state


CODES = {Verb.MAIL: [250, 250, 250, 550], Verb.RCPT: [250, 250, 550, 451], Verb.DATA: [354, 451]}
flights = mixtures(
    b"RCPT TO:<a@example.com>\r\n", b"RCPT TO:<b@example.com>\r\n", b"RCPT TO:<c@example.com>\r\n",
    b"RCPT TO:<a@example.com>\r\nDATA\r\n", b"DATA\r\n", b"\r\n.\r\nMAIL FROM:<>\r\n", b"RSET\r\n",
    b"MAIL FROM:<>\r\n", b"BDAT 25\r\n", b"BDAT 25 LAST\r\n", b"QUIT", b"\n", b"RCPT TO:<x\r\n",
)  # fmt: skip


@settings(max_examples=500)
@given(st.data(), st.booleans(), flights)
def test_looking_ahead_changes_nothing_and_shows_what_comes(
    data: st.DataObject, lmtp: bool, flight: bytes
) -> None:
    stream = (b"LHLO x\r\n" if lmtp else b"EHLO x\r\n") + b"MAIL FROM:<>\r\n" + flight
    codes = data.draw(st.lists(st.integers(0, 3), min_size=40, max_size=40))
    portions = data.draw(chunkings(stream))

    def served_with(portions: list[bytes], looks) -> tuple[list[str], ServerConnection]:
        number = 0

        def answer(event: Event) -> Reply | None:
            nonlocal number
            reply = agreeable(event)
            if reply is not None and not isinstance(event, Refusal | EndOfChunk | EndOfContent):
                given = CODES.get(event.verb)
                if given:
                    reply = Reply.of(given[codes[number % len(codes)] % len(given)], "", "said")
                    number += 1
            return reply

        return served(portions, answer, lmtp=lmtp, looks=looks)

    moments = data.draw(st.lists(st.booleans(), min_size=8, max_size=8))
    plain = served_with(portions, None)[0]
    for looks in (repeat(True), cycle(moments)):
        assert served_with(portions, looks)[0] == plain


HIDDEN = b"VRFY hidden\r\n"


@st.composite
def chunks_of_commands(draw: st.DrawFn) -> bytes:
    lines = HIDDEN * draw(st.integers(1, 3))
    octets = lines[draw(st.integers(0, 5)) : len(lines) - draw(st.integers(0, 5))]
    return b"BDAT %d%s\r\n" % (len(octets), b" LAST" * draw(st.booleans())) + octets


around = st.sampled_from(
    [b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@example.com>\r\n", b"RSET\r\n", ENVELOPE]
)


@settings(max_examples=300)
@given(st.data(), st.lists(st.one_of(around, chunks_of_commands()), max_size=12), st.booleans())
def test_the_octets_of_a_chunk_are_never_commands(
    data: st.DataObject, parts: list[bytes], chunking: bool
) -> None:
    stream = b"".join(parts)
    codes = data.draw(st.lists(st.sampled_from([250, 250, 452]), min_size=20, max_size=20))
    number = 0

    def answer(event: Event) -> Reply | None:
        nonlocal number
        if isinstance(event, EndOfChunk | EndOfContent):
            number += 1
            return Reply.of(codes[number % 20], "", "said")
        return agreeable(event)

    events, connection = served(data.draw(chunkings(stream)), answer, chunking=chunking)
    commands = [event for event in events if not event.startswith(("content", "end of"))]
    lines = [1 if part.startswith(b"BDAT") else part.count(b"\r\n") for part in parts]
    assert len(commands) == sum(lines)
    assert not [event for event in commands if "hidden" in event]
    assert connection.buffered == 0
    given = "".join(event for event in events if event.startswith("content"))
    assert given.count("hidden") <= stream.count(b"hidden")
    if not chunking:
        assert not given


@given(opened, streams, st.integers(1, 5000))
@example(b"", b"RSET\r\n" * 700 + b"x" * 1500, 5000)
def test_nothing_that_was_read_is_kept(opening: bytes, stream: bytes, size: int) -> None:
    data = (opening + stream) * 20
    connection = greeted()
    bound = held(connection) + MAX_COMMAND_LINE + 600
    for chunk in cut(data, range(size, len(data), size)):
        connection.receive(chunk)
        while (event := connection.next_event()) is not None:
            if (reply := agreeable(event)) is not None:
                connection.reply(reply)
        assert held(connection) < bound or connection.state is State.ENDED


@given(opened, streams)
def test_content_given_out_is_safe_to_send_on(opening: bytes, stream: bytes) -> None:
    content: list[bytes] = []
    chunks = False

    def answer(event: Event) -> Reply | None:
        nonlocal chunks
        if isinstance(event, Mail):
            content.clear()
            chunks = False
        elif isinstance(event, Bdat):
            chunks = True
        elif isinstance(event, Content):
            content.append(event.data)
        elif isinstance(event, EndOfContent):
            message = b"".join(content)
            assert len(message if chunks else unstuffed(message)) == event.size
            assert message.count(b"\r") == message.count(b"\n") == message.count(b"\r\n")
        return agreeable(event)

    served([opening + stream + b"\r\n.\r\n"], answer)
