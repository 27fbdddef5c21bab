"""The client's end: a reply answers what was asked, and what nobody asked for ends the connection.

In the dialogues `C:` is what we send to the upstream, `U:` what it sends, `R:` the reply
that we take for the answer; `!` is a `ProtocolError`, `?` what we do not say.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.smtp.client import ClientConnection, UnexpectedReply
from smtpproxy.smtp.commands import Command, Hello, Mail, Plain, Rcpt, Verb
from smtpproxy.smtp.errors import LocalProtocolError, ProtocolError
from smtpproxy.smtp.paths import NULL_PATH, Path, parse_path
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.states import State
from tests.support.wire import (
    GREETING,
    byte_by_byte,
    chunkings,
    client,
    every_way,
    mixtures,
    relayed,
    stuffed,
    unstuffed,
    whole,
)

SENDER = ((Verb.EHLO, 250), (Verb.MAIL, 250))
RECIPIENTS = (*SENDER, (Verb.RCPT, 250))
CONTENT = (*RECIPIENTS, (Verb.DATA, 354))
COMMANDS: dict[str, Command] = {
    "EHLO": Hello("mx.example.net"),
    "MAIL": Mail(NULL_PATH),
    "RCPT": Rcpt(Path("a", "example.com")),
    **{verb.value: Plain(verb) for verb in (Verb.DATA, Verb.RSET, Verb.QUIT, Verb.STARTTLS)},
}


def play(script: str, chunking=whole) -> ClientConnection:
    """Run a dialogue; what the upstream says in one flight is on one line, with `|` for CR LF."""
    connection = ClientConnection()
    for line in (line.strip() for line in script.splitlines() if line.strip()):
        who, text = line[:2], line[3:]
        if who == "U:":
            for chunk in chunking(text.replace("|", "\r\n").encode()):
                connection.receive(chunk)
        elif line == "R: !":
            with pytest.raises(ProtocolError):
                connection.next_reply()
        elif who == "R:":
            reply = connection.next_reply()
            assert text == (str(reply) if reply else "nothing")
        elif who == "C:" and text.endswith(" !"):
            with pytest.raises(ProtocolError):
                say(connection, text.removesuffix(" !"))
        elif who == "C:" and text.endswith(" ?"):
            with pytest.raises(LocalProtocolError):
                say(connection, text.removesuffix(" ?"))
        elif who == "C:":
            assert say(connection, text)
        else:
            assert connection.state.name == line
    return connection


def say(connection: ClientConnection, text: str) -> bytes:
    """A command, or a part of a message; behind its end, how many recipients get a reply."""
    what, *ways = text.split()
    recipients = int(ways[0]) if ways else 1
    match what:
        case ".":
            return connection.end_content(recipients, prdr="PRDR" in ways)
        case "content":
            return connection.send_content(b"a\r\n")
        case "chunk":
            return connection.send_chunk(b"a\r\n")
        case "last":
            return connection.end_chunks(b"a\r\n", recipients, prdr="PRDR" in ways)
        case _:
            return connection.send(COMMANDS[text])


ACCEPTED = """
    U: 220 hello|
    R: 220 hello
    C: EHLO
    U: 250 ok|
    R: 250 ok
    C: MAIL
    C: RCPT
    C: RCPT
    U: 250 ok|250 ok|250 ok|
    R: 250 ok
    R: 250 ok
    R: 250 ok
    RECIPIENTS
"""

DIALOGUES = {
    "a message in chunks, each answered": f"""{ACCEPTED}
        C: chunk
        RECIPIENTS
        U: 250 1|
        R: 250 1
        CHUNKS
        C: QUIT ?
        C: RSET ?
        C: content ?
        C: . ?
        C: chunk
        U: 250 2|
        R: 250 2
        C: last
        CHUNKS
        C: chunk ?
        C: last ?
        C: MAIL ?
        U: 250 queued|
        R: 250 queued
        READY
        C: chunk ?
        C: MAIL
    """,
    "a message in chunks, in one flight": f"""{ACCEPTED}
        C: chunk
        C: RSET ?
        C: DATA ?
        C: chunk
        C: last
        C: last ?
        U: 250 1|250 2|250 queued|
        R: 250 1
        R: 250 2
        CHUNKS
        R: 250 queued
        READY
        R: nothing
    """,
    "a chunk that is refused": f"""{ACCEPTED}
        C: chunk
        C: last
        U: 452 full|503 no|
        R: 452 full
        RECIPIENTS
        R: 503 no
        READY
    """,
    "421 between chunks": f"""{ACCEPTED}
        C: chunk
        C: chunk
        U: 250 1|421 bye|
        R: 250 1
        R: 421 bye
        ENDED
        C: last ?
    """,
    "a surplus reply between chunks": f"""{ACCEPTED}
        C: chunk
        U: 250 1|250 2|
        R: 250 1
        C: chunk !
        C: last !
        R: !
    """,
    "an early reply to the last chunk": f"""{ACCEPTED}
        U: 250 early|
        C: last !
        C: chunk !
    """,
    "a reply for each recipient (LMTP)": f"""{ACCEPTED}
        C: DATA
        U: 354 go|
        R: 354 go
        C: . 2
        C: QUIT ?
        U: 250 one|
        R: 250 one
        C: MAIL ?
        C: QUIT ?
        U: 552 two|
        R: 552 two
        READY
        R: nothing
        C: MAIL
    """,
    "the same behind chunks": f"""{ACCEPTED}
        C: chunk
        C: last 2
        U: 250 1|250 one|552 two|250 three|
        R: 250 1
        R: 250 one
        C: MAIL ?
        R: 552 two
        C: MAIL !
        R: !
    """,
    "421 to one of the recipients (LMTP)": f"""{ACCEPTED}
        C: DATA
        U: 354 go|
        R: 354 go
        C: . 2
        U: 421 one|250 two|
        R: 421 one
        ENDED
        R: 250 two
        ENDED
    """,
    "PRDR": f"""{ACCEPTED}
        C: DATA
        U: 354 go|
        R: 354 go
        C: . 2 PRDR
        U: 353 wait|250 one|
        R: 353 wait
        CONTENT
        R: 250 one
        C: MAIL ?
        U: 550 two|
        R: 550 two
        C: MAIL ?
        U: 250 all|
        R: 250 all
        READY
        C: MAIL
    """,
    "PRDR behind chunks": f"""{ACCEPTED}
        C: chunk
        C: last 2 PRDR
        U: 250 1|353 wait|250 one|550 two|451 all|
        R: 250 1
        R: 353 wait
        R: 250 one
        R: 550 two
        R: 451 all
        READY
    """,
    "PRDR, and one reply for all": f"""{ACCEPTED}
        C: DATA
        U: 354 go|
        R: 354 go
        C: . 2 PRDR
        U: 550 spam|
        R: 550 spam
        READY
        C: MAIL
    """,
    "PRDR, and 353 again": f"""{ACCEPTED}
        C: DATA
        U: 354 go|
        R: 354 go
        C: . 2 PRDR
        U: 353 wait|353 wait|
        R: 353 wait
        R: !
    """,
    "353 that nobody asked for": f"""{ACCEPTED}
        C: DATA
        U: 354 go|
        R: 354 go
        C: . 2
        U: 353 wait|
        R: !
    """,
    "one message": """
        NEW
        U: 220-mx|220 hello|
        R: 220 mx hello
        GREETED
        C: EHLO
        U: 250-mx|250 SIZE|
        R: 250 mx SIZE
        READY
        C: MAIL
        U: 250 ok|
        R: 250 ok
        SENDER
        C: RCPT
        U: 250 ok|
        R: 250 ok
        RECIPIENTS
        C: DATA
        R: nothing
        U: 354 go|
        R: 354 go
        CONTENT
        C: content
        C: .
        CONTENT
        U: 250 2.0.0 queued as 1234|
        R: 250 2.0.0 queued as 1234
        READY
        C: QUIT
        U: 221 bye|
        R: 221 bye
        ENDED
    """,
    "pipelined": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|
        R: 250 ok
        C: MAIL
        C: RCPT
        C: RCPT
        C: DATA
        U: 250 1|550 2|250 3|354 4|
        R: 250 1
        R: 550 2
        SENDER
        R: 250 3
        RECIPIENTS
        R: 354 4
        CONTENT
        C: .
        U: 550 5.7.1 no|
        R: 550 5.7.1 no
        READY
    """,
    "pipelined, and MAIL refused": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|
        R: 250 ok
        C: MAIL
        C: RCPT
        C: DATA
        U: 550 1|503 2|503 3|
        R: 550 1
        R: 503 2
        R: 503 3
        READY
        C: MAIL
    """,
    "greeted by a refusal": """
        U: 554 no|
        R: 554 no
        ENDED
    """,
    "not greeted at all": """
        U: SSH-2.0-x|
        R: !
    """,
    "421 to a command": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 421 bye|
        R: 421 bye
        ENDED
    """,
    "421 and nothing brings it back": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|
        R: 250 ok
        C: MAIL
        C: RCPT
        C: DATA
        U: 250 1|421 2|354 3|
        R: 250 1
        R: 421 2
        ENDED
        R: 354 3
        ENDED
    """,
    "421 between commands": """
        U: 220 hello|421 bye|
        R: 220 hello
        C: EHLO !
        R: !
    """,
    "half a reply between commands": """
        U: 220 hello|4
        R: 220 hello
        C: EHLO !
    """,
    "a surplus reply": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|250 ok|
        R: 250 ok
        C: MAIL !
        C: QUIT !
        R: !
    """,
    "a reply with the 354": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|
        R: 250 ok
        C: MAIL
        C: RCPT
        C: DATA
        U: 250 ok|250 ok|354 go|250 taken|
        R: 250 ok
        R: 250 ok
        R: 354 go
        C: content !
        C: . !
        R: !
    """,
    "garbage behind a reply": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|what?|
        R: 250 ok
        R: !
    """,
    "STARTTLS": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|
        R: 250 ok
        C: STARTTLS
        U: 220 go|
        R: 220 go
        GREETED
        C: EHLO
    """,
    "STARTTLS refused": """
        U: 220 hello|
        R: 220 hello
        C: EHLO
        U: 250 ok|
        R: 250 ok
        C: STARTTLS
        U: 454 not now|
        R: 454 not now
        READY
        C: MAIL
    """,
}


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("chunking", [whole, byte_by_byte])
def test_dialogues(name: str, chunking) -> None:
    play(DIALOGUES[name], chunking)


def test_what_is_sent_is_the_command() -> None:
    connection = client((Verb.EHLO, 250))
    assert connection.send(Mail(NULL_PATH, {"SIZE": "1"})) == b"MAIL FROM:<> SIZE=1\r\n"
    recipient = parse_path('"a b"@example.com')
    assert recipient is not None
    assert connection.send(Rcpt(recipient)) == b'RCPT TO:<"a b"@example.com>\r\n'


@pytest.mark.parametrize(
    ("said", "verb", "codes"),
    [
        ((), Verb.EHLO, [354, 334]),
        (SENDER[:1], Verb.STARTTLS, [354, 334]),
        (SENDER[:1], Verb.MAIL, [354, 334]),
        (SENDER, Verb.RCPT, [354, 334]),
        (RECIPIENTS, Verb.DATA, [200, 250, 334, 353, 355]),
        (RECIPIENTS, Verb.QUIT, [354]),
    ],
)
def test_a_reply_that_cannot_be_meant_ends_the_connection(said, verb: Verb, codes) -> None:
    for code in codes:
        connection = client(*said)
        connection.send_verb(verb, b"")
        connection.receive(b"%d what?\r\n" % code)
        with pytest.raises(ProtocolError):
            connection.next_reply()
        assert connection.state is not State.CONTENT


@pytest.mark.parametrize("code", [300, 354, 399])
def test_the_end_of_data_is_answered_by_yes_or_no(code: int) -> None:
    connection = client(*CONTENT)
    connection.end_content()
    connection.receive(b"%d go on\r\n" % code)
    with pytest.raises(ProtocolError):
        connection.next_reply()


@pytest.mark.parametrize("code", [250, 421, 452, 550])
@pytest.mark.parametrize("read", [True, False])
def test_an_early_answer_is_never_taken_for_that_to_the_end_of_data(code: int, read: bool) -> None:
    connection = client(*CONTENT)
    connection.send_content(b"a\r\n")
    connection.receive(b"%d early\r\n" % code)
    if read:
        with pytest.raises(UnexpectedReply) as caught:
            connection.next_reply()
        assert caught.value.reply == Reply(code, (b"early",))
    else:
        with pytest.raises(ProtocolError):
            connection.end_content()
        with pytest.raises(ProtocolError):
            connection.send_content(b"b\r\n")


@pytest.mark.parametrize("early", [b"2", b"250", b"250-x\r\n", b"\r\n"])
def test_half_an_early_answer_neither(early: bytes) -> None:
    connection = client(*CONTENT)
    for chunk in byte_by_byte(early):
        connection.receive(chunk)
    with pytest.raises(ProtocolError):
        connection.end_content()


def test_the_content_is_ended_once() -> None:
    connection = client(*CONTENT)
    connection.end_content()
    for attempt in (connection.end_content, lambda: connection.send_content(b"a\r\n")):
        with pytest.raises(LocalProtocolError):
            attempt()
    with pytest.raises(LocalProtocolError):
        connection.send(Plain(Verb.QUIT))


def test_chunks_are_ended_once() -> None:
    connection = client(*RECIPIENTS)
    assert connection.send_chunk(b"ab") == b"BDAT 2\r\nab"
    assert connection.end_chunks(b"") == b"BDAT 0 LAST\r\n"
    for what in ("chunk", "last", "content", ".", "QUIT"):
        with pytest.raises(LocalProtocolError):
            say(connection, what)


def test_a_reply_is_owed_for_chunks_until_it_came() -> None:
    connection = client(*RECIPIENTS)
    assert not connection.chunks_owed
    connection.send_chunk(b"a")
    connection.send_chunk(b"b")
    connection.end_chunks(b"c")
    for number, owed in enumerate((True, True, False)):
        assert bool(connection.chunks_owed) is owed
        assert not connection.quiet
        connection.receive(b"250 %d\r\n" % number)
        assert connection.next_reply()
    assert connection.quiet and not connection.chunks_owed


def test_it_is_owed_for_what_stands_before_the_chunk_first() -> None:
    connection = client(*SENDER)
    connection.send(COMMANDS["RCPT"])
    connection.send_chunk(b"a")
    assert not connection.chunks_owed
    connection.receive(b"250 recipient\r\n")
    assert connection.next_reply() and connection.chunks_owed


@pytest.mark.parametrize("recipients", [1, 3])
@pytest.mark.parametrize("prdr", [False, True])
def test_as_many_replies_are_owed_as_were_asked_for(recipients: int, prdr: bool) -> None:
    for chunks in (False, True):
        connection = client(*(RECIPIENTS if chunks else CONTENT))
        if chunks:
            connection.end_chunks(b"", recipients, prdr)
        else:
            connection.end_content(recipients, prdr)
        if prdr:
            connection.receive(b"353 wait\r\n")
            assert connection.next_reply()
        for _ in range(recipients + prdr):
            assert not connection.quiet
            connection.receive(b"250 ok\r\n")
            assert connection.next_reply()
        assert connection.quiet
        assert connection.state is State.READY


def test_content_waits_for_every_reply() -> None:
    connection = client(*RECIPIENTS)
    connection.send(Plain(Verb.DATA))
    with pytest.raises(LocalProtocolError):
        connection.send_content(b"a\r\n")
    with pytest.raises(LocalProtocolError):
        connection.end_content()


# STARTTLS (RFC 3207 section 4.2): what came in plaintext is nobody's word.


@pytest.mark.parametrize(
    "behind", [b"2", b"\r\n", b"250 mx\r\n", b"250-mx\r\n250 XCLIENT ADDR\r\n", b"\x16\x03\x03"]
)
def test_plaintext_behind_the_220_ends_the_connection(behind: bytes) -> None:
    for chunks in every_way(b"220 go\r\n" + behind):
        connection = client((Verb.EHLO, 250))
        connection.send(Plain(Verb.STARTTLS))
        for chunk in chunks:
            connection.receive(chunk)
        with pytest.raises(ProtocolError):
            connection.next_reply()
        assert connection.quiet  # thrown away, too


@pytest.mark.parametrize("behind", [b"2", b"250 mx\r\n"])
def test_plaintext_that_comes_later_is_no_answer_to_the_next_ehlo(behind: bytes) -> None:
    connection = client((Verb.EHLO, 250), (Verb.STARTTLS, 220))
    connection.receive(behind)
    assert not connection.quiet
    with pytest.raises(ProtocolError):
        connection.send(COMMANDS["EHLO"])


# Quiet.


def test_quiet_means_that_all_was_answered_and_nothing_besides() -> None:
    connection = ClientConnection()
    assert not connection.quiet  # the greeting is owed
    connection.receive(GREETING)
    assert not connection.quiet
    assert connection.next_reply() and connection.quiet
    connection.send(COMMANDS["EHLO"])
    assert not connection.quiet
    connection.receive(b"250 ok\r\n4")
    assert connection.next_reply() and not connection.quiet


# Anything at all.

streams = mixtures(
    b"220 hello\r\n", b"250 ok\r\n", b"250-a\r\n", b"354 go\r\n", b"421 bye\r\n", b"550 no\r\n",
    b"353 wait\r\n", b"250 1\r\n250 2\r\n250 3\r\n",
    b"\r\n", b"\r", b"\n", b"2", b"-", b"\0", b"\xff",
)  # fmt: skip
FLIGHTS = [  # said before the upstream says anything
    [],
    ["MAIL", "RCPT", "RCPT", "DATA"],
    ["MAIL", "RCPT", "RSET", "MAIL", "QUIT"],
    ["MAIL", "RCPT", "chunk", "chunk", "last"],
    ["MAIL", "RCPT", "RCPT", "chunk", "last 2"],
    ["MAIL", "RCPT", "RCPT", "last 2 PRDR"],
]
LATER = [
    "content",
    ".",
    "EHLO",
    "MAIL",
    "RCPT",
    "DATA",
    "chunk",
    "last",
    "STARTTLS",
    "RSET",
    "QUIT",
]


def heard(chunks: list[bytes], greeted: bool, flight: list[str]) -> list[str]:
    """What becomes of a session with an upstream that says `chunks`, whatever we say."""
    connection = client((Verb.EHLO, 250)) if greeted else ClientConnection()
    for text in flight if greeted else []:
        assert say(connection, text)
    result: list[str] = []
    for chunk in chunks:
        connection.receive(chunk)
        try:
            while (reply := connection.next_reply()) is not None:
                result.append(f"{reply} {connection.state.name} {connection.chunks_owed}")
        except ProtocolError:
            return [*result, "!"]
    for text in LATER:
        try:
            result.append(f"said {text} {say(connection, text)!r}")
        except (ProtocolError, LocalProtocolError) as error:
            result.append(type(error).__name__)
    return result


@settings(max_examples=300)
@given(st.data(), streams, st.booleans(), st.sampled_from(FLIGHTS))
def test_any_bytes_in_any_portions_end_in_the_same_way(
    data: st.DataObject, stream: bytes, greeted: bool, flight: list[str]
) -> None:
    portions = data.draw(chunkings(stream))
    assert heard(portions, greeted, flight) == heard([stream], greeted, flight)


@given(st.data(), st.text("\r\n.ab", max_size=40).map(str.encode))
def test_an_upstream_reads_the_message_that_the_client_sent(
    data: st.DataObject, text: bytes
) -> None:
    """Through both ends: from the 354 to the client to the final dot to the upstream."""
    message = text.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
    content, rest, reader = relayed(data.draw(chunkings(stuffed(message) + b".\r\n")))
    assert rest == b"" and reader.size == len(message)
    connection = client(*CONTENT)
    parts = data.draw(chunkings(content))
    wire = b"".join([*map(connection.send_content, parts), connection.end_content()])
    before, end, after = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    assert end and not after
    assert unstuffed(before.removeprefix(b"\r\n") + b"\r\n") == message


@given(st.data(), st.binary(max_size=40))
def test_an_upstream_reads_the_chunks_that_we_sent(data: st.DataObject, message: bytes) -> None:
    *parts, last = data.draw(chunkings(message))
    connection = client(*RECIPIENTS)
    wire = b"".join([*map(connection.send_chunk, parts), connection.end_chunks(last)])
    read, ended = b"", False
    while wire:
        assert not ended
        line, _, wire = wire.partition(b"\r\n")
        verb, size, *words = line.split()
        assert verb == b"BDAT" and words in ([], [b"LAST"])
        ended = bool(words)
        read, wire = read + wire[: int(size)], wire[int(size) :]
    assert ended and read == message
