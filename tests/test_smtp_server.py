"""The server's end: commands one at a time, content, and nothing that was not said.

In the dialogues `C:` is what the client sends, `E:` the event it makes, `S:` our reply.
"""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.smtp.commands import MAX_COMMAND_LINE, Hello, Mail, Plain, Rcpt, Verb
from smtpproxy.smtp.errors import LocalProtocolError
from smtpproxy.smtp.paths import Path
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Content, EndOfContent, Event, Refusal, ServerConnection
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
INSIDE = f"""{READY}
    C: MAIL FROM:<a@example.org>
    E: MAIL FROM:<a@example.org>
    S: 250 ok
    C: RCPT TO:<b@example.com>
    E: RCPT TO:<b@example.com>
    S: 250 ok
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
        E: end of 17 8-bit bare
        S: 250 ok
    """,
    "lines that are no commands": """
        C: NOOP\\nQUIT
        E: ! 500 5.5.2 Lines end in CR LF
        E: QUIT
        S: 250 stay
    """,
    "the octets of BDAT never run as commands": f"""{READY}
        C: BDAT 12 LAST
        C: QUIT
        C: QUIT
        C: NOOP
        E: ! 502 5.5.1 Command not implemented
        E: NOOP
        S: 250 ok
        C: BDAT 0 LAST
        E: ! 502 5.5.1 Command not implemented
        C: BDAT 3
        C: abcBDAT 6
        E: ! 502 5.5.1 Command not implemented
        C: QUIT
        E: ! 502 5.5.1 Command not implemented
        C: BDAT 2
        E: nothing
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
        (content + b".\r\n", Content(content, size=len(content) - 1), 0),
        (b"", EndOfContent(size=len(content) - 1, ascii=False, bare=False), 250),
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
        (b"BDAT 6\r\nQUIT\r\nNOOP\r\n", ["! 502 5.5.1 Command not implemented", "NOOP"]),
        (b"BDAT 999999999999999999\r\nQUIT\r\n", []),
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
    b"AUTH PLAIN\r\n",
)  # fmt: skip
opened = st.just(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n") | st.just(b"")


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


@given(opened, streams, st.integers(1, 5000))
def test_nothing_that_was_read_is_kept(opening: bytes, stream: bytes, size: int) -> None:
    data = (opening + stream) * 20
    connection = greeted()
    bound = held(connection) + MAX_COMMAND_LINE + 600
    for chunk in cut(data, range(size, len(data), size)):
        connection.receive(chunk)
        while (event := connection.next_event()) is not None:
            if not isinstance(event, Content):
                connection.reply(agreeable(event) or OK)
        assert held(connection) < bound or connection.state is State.ENDED


@given(opened, streams)
def test_content_given_out_is_safe_to_send_on(opening: bytes, stream: bytes) -> None:
    content: list[bytes] = []

    def answer(event: Event) -> Reply | None:
        if isinstance(event, Content):
            content.append(event.data)
        elif isinstance(event, EndOfContent):
            message = b"".join(content)
            assert len(unstuffed(message)) == event.size
            assert message.count(b"\r") == message.count(b"\n") == message.count(b"\r\n")
            content.clear()
        return agreeable(event)

    served([opening + stream + b"\r\n.\r\n"], answer)
