"""Every state of both conversations times every command has an answer, and it is the one here.

The tables below are written down a second time, by column, and each of their cells is tried on
a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproxy.smtp.client import ClientConnection
from smtpproxy.smtp.commands import Verb
from smtpproxy.smtp.errors import LocalProtocolError, ProtocolError
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Content, EndOfChunk, EndOfContent, Refusal, ServerConnection
from smtpproxy.smtp.states import CLIENT, SERVER, State
from tests.support.wire import chunkings, client, greeted, served

# A command and where it leads once it is taken, or the code that refuses it; of a client whom
# nobody trusts.
SMTP = """
             GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  EHLO       READY     READY     READY       READY       READY
  HELO       READY     READY     READY       READY       READY
  LHLO       500       500       500         500         500
  STARTTLS   GREETED   GREETED   503         503         503
  XCLIENT    502       502       502         502         502
  XFORWARD   502       502       502         502         502
  MAIL       503       SENDER    503         503         503
  RCPT       503       503       RECIPIENTS  RECIPIENTS  503
  DATA       503       503       554         CONTENT     503
  BDAT       503       503       554         CONTENT     CONTENT
  RSET       GREETED   READY     READY       READY       READY
  NOOP       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  VRFY       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  EXPN       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  HELP       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  AUTH       503       503       503         503         503
  QUIT       ENDED     ENDED     ENDED       ENDED       ENDED
"""

# The same with LMTP (RFC 2033).
LMTP = """
             GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  EHLO       500       500       500         500         500
  HELO       500       500       500         500         500
  LHLO       READY     READY     READY       READY       READY
  STARTTLS   GREETED   GREETED   503         503         503
  XCLIENT    502       502       502         502         502
  XFORWARD   502       502       502         502         502
  MAIL       503       SENDER    503         503         503
  RCPT       503       503       RECIPIENTS  RECIPIENTS  503
  DATA       503       503       503         CONTENT     503
  BDAT       503       503       503         CONTENT     CONTENT
  RSET       GREETED   READY     READY       READY       READY
  NOOP       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  VRFY       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  EXPN       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  HELP       GREETED   READY     SENDER      RECIPIENTS  CHUNKS
  AUTH       503       503       503         503         503
  QUIT       ENDED     ENDED     ENDED       ENDED       ENDED
"""

# A command and where it leads once the server took it, or "-" where it is not sent.
AS_CLIENT = """
             NEW  GREETED   READY     SENDER      RECIPIENTS  CONTENT  CHUNKS  ENDED
  EHLO       -    READY     READY     -           -           -        -       -
  HELO       -    READY     READY     -           -           -        -       -
  LHLO       -    READY     READY     -           -           -        -       -
  STARTTLS   -    -         GREETED   -           -           -        -       -
  XCLIENT    -    GREETED   GREETED   -           -           -        -       -
  XFORWARD   -    -         -         -           -           -        -       -
  MAIL       -    -         SENDER    -           -           -        -       -
  RCPT       -    -         -         RECIPIENTS  RECIPIENTS  -        -       -
  DATA       -    -         -         -           CONTENT     -        -       -
  BDAT       -    -         -         -           CHUNKS      -        CHUNKS  -
  RSET       -    -         READY     READY       READY       -        -       -
  NOOP       -    GREETED   READY     SENDER      RECIPIENTS  -        -       -
  VRFY       -    -         READY     SENDER      RECIPIENTS  -        -       -
  EXPN       -    -         READY     SENDER      RECIPIENTS  -        -       -
  HELP       -    -         READY     SENDER      RECIPIENTS  -        -       -
  AUTH       -    -         -         -           -           -        -       -
  QUIT       -    ENDED     ENDED     ENDED       ENDED       -        -       -
"""

LINES = {
    Verb.EHLO: b"EHLO client.example.org",
    Verb.HELO: b"HELO client.example.org",
    Verb.LHLO: b"LHLO client.example.org",
    Verb.STARTTLS: b"STARTTLS",
    Verb.XCLIENT: b"XCLIENT ADDR=192.0.2.1",
    Verb.XFORWARD: b"XFORWARD ADDR=192.0.2.1",
    Verb.MAIL: b"MAIL FROM:<>",
    Verb.RCPT: b"RCPT TO:<a@example.com>",
    Verb.DATA: b"DATA",
    Verb.BDAT: b"BDAT 0",
    Verb.RSET: b"RSET",
    Verb.NOOP: b"NOOP",
    Verb.VRFY: b"VRFY a",
    Verb.EXPN: b"EXPN a",
    Verb.HELP: b"HELP",
    Verb.AUTH: b"AUTH PLAIN",
    Verb.QUIT: b"QUIT",
}
CODES = {Verb.DATA: 354, Verb.STARTTLS: 220, Verb.XCLIENT: 220, Verb.QUIT: 221}
WAYS = {  # what was said before, for each state in which something may be said
    State.GREETED: [],
    State.READY: [Verb.EHLO],
    State.SENDER: [Verb.EHLO, Verb.MAIL],
    State.RECIPIENTS: [Verb.EHLO, Verb.MAIL, Verb.RCPT],
    State.CONTENT: [Verb.EHLO, Verb.MAIL, Verb.RCPT, Verb.DATA],
    State.CHUNKS: [Verb.EHLO, Verb.MAIL, Verb.RCPT, Verb.BDAT],
    State.ENDED: [Verb.QUIT],
}


def cells(table: str) -> Iterator[tuple[State, Verb, str]]:
    head, *rows = table.strip().splitlines()
    for row in rows:
        verb, *answers = row.split()
        for state, answer in zip(head.split(), answers, strict=True):
            yield State[state], Verb[verb], answer


def positive(verb: Verb) -> Reply:
    return Reply.of(CODES.get(verb, 250), "", "text")


def server_in(state: State, lmtp: bool = False) -> ServerConnection:
    if state is State.NEW:
        return ServerConnection(lmtp)
    connection = greeted(lmtp)
    for verb in WAYS[state]:
        verb = Verb.LHLO if lmtp and verb is Verb.EHLO else verb
        connection.receive(LINES[verb] + b"\r\n")
        assert not isinstance(connection.next_event(), Refusal)
        if verb is Verb.BDAT:
            assert connection.next_event() == EndOfChunk()
        connection.reply(positive(verb))
    assert connection.state is state
    return connection


def client_in(state: State) -> ClientConnection:
    if state is State.NEW:
        return ClientConnection()
    connection = client(*((verb, positive(verb).code) for verb in WAYS[state]))
    assert connection.state is state
    return connection


# The tables are whole.


def test_the_server_has_an_answer_to_every_command_in_every_state_that_reads_any() -> None:
    assert set(SERVER) == set(State) - {State.NEW, State.CONTENT, State.ENDED}
    assert all(set(answers) == set(Verb) for answers in SERVER.values())
    for table in (SMTP, LMTP):
        assert {(state, verb) for state, verb, _ in cells(table)} == {
            (state, verb) for state in SERVER for verb in Verb
        }


def test_the_client_knows_in_every_state_what_may_be_said() -> None:
    assert set(CLIENT) == set(State)
    assert {(state, verb) for state, verb, _ in cells(AS_CLIENT)} == {
        (state, verb) for state in State for verb in Verb
    }


def test_a_refusal_by_the_tables_is_a_refusal() -> None:
    for answers in SERVER.values():
        for reply in answers.values():
            if isinstance(reply, Reply):
                assert reply.permanent and reply.enhanced.startswith("5.5.")


# Each cell, tried.


SERVED = [(lmtp, *cell) for lmtp, table in ((False, SMTP), (True, LMTP)) for cell in cells(table)]


@pytest.mark.parametrize(("lmtp", "state", "verb", "answer"), SERVED)
def test_a_server_takes_or_refuses(lmtp: bool, state: State, verb: Verb, answer: str) -> None:
    def given() -> tuple[ServerConnection, object]:
        connection = server_in(state, lmtp)
        connection.receive(LINES[verb] + b"\r\n")
        return connection, connection.next_event()

    connection, event = given()
    if verb is Verb.BDAT and not answer.isdigit():
        assert connection.state is State.CONTENT  # the chunk is under way
        return
    assert connection.state is state  # it moves with the reply, not before
    if answer.isdigit():
        assert isinstance(event, Refusal)
        assert (event.verb, event.reply.code) == (verb.value, int(answer))
        connection.reply(event.reply)
        assert connection.state is state
        return
    assert getattr(event, "verb", None) is verb and not isinstance(event, Refusal)
    assert connection.next_event() is None
    connection.reply(positive(verb))
    assert connection.state is State[answer]
    # A 2xx takes a command, but DATA: it takes 354.
    unmeant = 250 if verb is Verb.DATA else 354
    for code, following in [(421, State.ENDED), (451, state), (550, state), (unmeant, state)]:
        connection, _ = given()
        connection.reply(Reply.of(code, "", "no"))
        assert connection.state is following


@pytest.mark.parametrize("state", [State.RECIPIENTS, State.CHUNKS])
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    ("line", "code", "following"),
    [
        (b"BDAT 0", 250, State.CHUNKS),
        (b"BDAT 0 LAST", 250, State.READY),
        # RFC 3030 section 2: a chunk that is refused ends the transaction.
        (b"BDAT 0", 452, State.READY),
        (b"BDAT 0", 554, State.READY),
        (b"BDAT 0 LAST", 452, State.READY),
        (b"BDAT 0 LAST", 554, State.READY),
        (b"BDAT 0", 421, State.ENDED),
        (b"BDAT 0 LAST", 421, State.ENDED),
    ],
)
def test_where_a_chunk_leads(
    state: State, lmtp: bool, line: bytes, code: int, following: State
) -> None:
    connection = server_in(state, lmtp)
    connection.receive(line + b"\r\n")
    assert connection.next_event()
    assert isinstance(connection.next_event(), EndOfChunk | EndOfContent)
    connection.reply(Reply.of(code, "", "text"))
    assert connection.state is following


@pytest.mark.parametrize("state", SERVER)
@pytest.mark.parametrize("lmtp", [False, True])
def test_where_chunking_is_not_offered_no_chunk_is_taken(state: State, lmtp: bool) -> None:
    connection = server_in(state, lmtp)
    connection.chunking = False
    connection.receive(b"BDAT 6 LAST\r\nQUIT\r\n")
    event = connection.next_event()
    assert isinstance(event, Refusal)
    assert (event.verb, event.reply.code) == ("BDAT", 502)
    connection.reply(event.reply)
    assert connection.state is state
    assert connection.next_event() is None


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("state", [State.NEW, State.CONTENT, State.ENDED])
def test_a_server_takes_no_command_where_it_reads_none(state: State, verb: Verb) -> None:
    connection = server_in(state)
    connection.receive(LINES[verb] + b"\r\n")
    event = connection.next_event()
    assert event is None if state is not State.CONTENT else isinstance(event, Content)
    assert connection.state is state


@pytest.mark.parametrize(("state", "verb", "answer"), [*cells(AS_CLIENT)])
def test_a_client_says_or_does_not(state: State, verb: Verb, answer: str) -> None:
    def said(code: int) -> State:
        connection = client_in(state)
        assert connection.send_verb(verb, LINES[verb]) == LINES[verb]
        assert connection.state is state  # it moves with the reply, not before
        connection.receive(b"%d text\r\n" % code)
        assert connection.next_reply()
        return connection.state

    if answer == "-":
        connection = client_in(state)
        with pytest.raises(LocalProtocolError):
            connection.send_verb(verb, LINES[verb])
        assert connection.state is state
        return
    assert said(positive(verb).code) is State[answer]
    assert said(421) is State.ENDED
    assert said(451) is said(550) is state


@pytest.mark.parametrize("state", State)
def test_content_is_sent_inside_the_content_alone(state: State) -> None:
    connection = client_in(state)
    if state is State.CONTENT:
        assert connection.send_content(b"a\r\n") == b"a\r\n"
        assert connection.end_content() == b".\r\n"
        connection.receive(b"250 ok\r\n")
        assert connection.next_reply() and connection.state is State.READY
    else:
        with pytest.raises(LocalProtocolError):
            connection.send_content(b"a\r\n")
        with pytest.raises(LocalProtocolError):
            connection.end_content()


@pytest.mark.parametrize("state", State)
def test_a_chunk_is_sent_to_those_who_accepted_recipients_alone(state: State) -> None:
    taken = (State.RECIPIENTS, State.CHUNKS)
    for send in (ClientConnection.send_chunk, ClientConnection.end_chunks):
        connection = client_in(state)
        if state not in taken:
            with pytest.raises(LocalProtocolError):
                send(connection, b"a\r\n")
            assert connection.state is state
            continue
        last = b" LAST" if send is ClientConnection.end_chunks else b""
        assert send(connection, b"a\r\n") == b"BDAT 3" + last + b"\r\na\r\n"
        assert connection.chunks_owed is not bool(last)
        connection.receive(b"250 ok\r\n")
        assert connection.next_reply()
        assert connection.state is (State.READY if last else State.CHUNKS)


@pytest.mark.parametrize("first", Verb)
@pytest.mark.parametrize("second", Verb)
def test_only_behind_some_commands_may_others_be_sent_before_the_reply(
    first: Verb, second: Verb
) -> None:
    """RFC 2920 section 3.1, RFC 3030; the state that counts is the one the first will lead to."""
    for state, _, answer in [cell for cell in cells(AS_CLIENT) if cell[1] is first]:
        if answer == "-":
            continue
        connection = client_in(state)
        connection.send_verb(first, LINES[first])
        if first.name in ("MAIL", "RCPT", "RSET", "BDAT") and second in CLIENT[State[answer]]:
            connection.send_verb(second, LINES[second])
        else:
            with pytest.raises(LocalProtocolError):
                connection.send_verb(second, LINES[second])


# Walks.

steps = st.lists(
    st.one_of(
        st.sampled_from(list(Verb)),
        st.sampled_from([*WAYS[State.CONTENT], "content", "end"]),
        st.sampled_from(["chunk", "chunk", "last"]),
        st.sampled_from([220, 250, 354, 354, 421, 450, 550]),
    ),
    max_size=40,
)


@given(st.sampled_from(list(WAYS)), steps)
@example(State.RECIPIENTS, [Verb.BDAT, "last", 220, 220, Verb.EHLO])
def test_an_upstream_reads_what_was_said_and_no_more(
    start: State, steps: list[Verb | str | int]
) -> None:
    """Whatever is tried, and answered: no command is a line of a message, nor between its chunks,
    no message is ended but by its own end, and behind a 421 there is nothing more to say."""
    connection = client_in(start)
    inside = start is State.CONTENT
    chunks = start is State.CHUNKS  # one was accepted, and none was the last
    ended = start is State.ENDED
    unanswered: list[Verb | str] = []
    for step in steps:
        try:
            match step:
                case int():
                    connection.receive(b"%d text\r\n" % step)
                    connection.next_reply()
                    asked = unanswered.pop(0)
                    ended = ended or step == 421 or (asked is Verb.QUIT and step < 300)
                    inside = asked is Verb.DATA and step == 354 and not ended
                    if asked is Verb.BDAT and "end" not in unanswered:  # the last one is sent
                        chunks = chunks or step < 300
                case Verb():
                    connection.send_verb(step, LINES[step] + b"\r\n")
                    assert not inside and not ended
                    assert step is Verb.BDAT or not (chunks or Verb.BDAT in unanswered)
                    unanswered.append(step)
                case "chunk":
                    assert connection.send_chunk(b"QUIT\r\n") == b"BDAT 6\r\nQUIT\r\n"
                    assert not inside and not ended and "end" not in unanswered
                    unanswered.append(Verb.BDAT)
                case "last":
                    assert connection.end_chunks(b"QUIT\r\n") == b"BDAT 6 LAST\r\nQUIT\r\n"
                    assert not inside and not ended and "end" not in unanswered
                    chunks = False
                    unanswered.append("end")
                case "content":
                    connection.send_content(b"QUIT\r\n")
                    assert inside
                case _:
                    assert connection.end_content() == b".\r\n"
                    assert inside
                    inside = False
                    unanswered.append(step)
        except LocalProtocolError:
            continue
        except ProtocolError:
            return
        assert "end" not in unanswered[:-1]
        assert (connection.state is State.ENDED) == ended
        assert connection.quiet == (not unanswered)


# A client's lines; what is content and what is a command is to be known from the table alone.
CHUNK, LAST = "BDAT 6\r\nQUIT", "BDAT 6 LAST\r\nRSET"
pieces: list[list[Verb | str]] = [[*WAYS[State.CONTENT]], [*WAYS[State.CONTENT][1:]], ["a"], ["."]]
pieces += [[*WAYS[State.RECIPIENTS], CHUNK], [*WAYS[State.RECIPIENTS][1:], CHUNK], [CHUNK], [LAST]]
pieces += [[verb] for verb in Verb]
said = st.lists(st.sampled_from(pieces), max_size=12).map(lambda pieces: [*chain(*pieces)])


@given(st.data(), said, st.booleans())
def test_a_server_reads_commands_or_content_and_never_one_for_the_other(
    data: st.DataObject, said: list[Verb | str], lmtp: bool
) -> None:
    table = {(state, verb): answer for state, verb, answer in cells(LMTP if lmtp else SMTP)}
    said = [Verb.LHLO if lmtp and step is Verb.EHLO else step for step in said]
    state = State.GREETED
    expected: list[str] = []
    content = b""
    size = 0  # of a message in chunks
    lines = [LINES[step] if isinstance(step, Verb) else step.encode() for step in said]
    for step, line in zip(said, lines, strict=True):
        if state is State.CONTENT and step == ".":
            expected += [f"content {content!r}"] if content else []
            expected += [f"end of {len(content)}"]
            content, state = b"", State.READY
        elif state is State.CONTENT:
            content += line + b"\r\n"
        elif step in (CHUNK, LAST, Verb.BDAT) and state is not State.ENDED:
            answer = table[state, Verb.BDAT]
            if answer.isdigit():
                expected += [f"! {answer}"]
                continue
            head, _, chunk = (line + b"\r\n").partition(b"\r\n")
            size = (size if state is State.CHUNKS else 0) + len(chunk)
            expected += [head.decode()] + [f"content {chunk!r}"] * bool(chunk)
            expected += [f"end of {size}" if step == LAST else "end of chunk"]
            state = State.READY if step == LAST else State.CHUNKS
        elif state is not State.ENDED:
            answer = table[state, step] if isinstance(step, Verb) else "500"
            expected += [f"! {answer}" if answer.isdigit() else line.decode()]
            if not answer.isdigit() and step is not Verb.STARTTLS:  # which `served` has not
                state = State[answer]
    stream = b"".join(line + b"\r\n" for line in lines)
    events, connection = served(data.draw(chunkings(stream)), lmtp=lmtp)
    events = [event[:5] if event.startswith("!") else event for event in events]
    if state is State.CONTENT and content:
        # The last line end may yet begin the end of data.
        expected += [f"content {content[:-2]!r}"]
    assert events == expected
    assert connection.state is state
