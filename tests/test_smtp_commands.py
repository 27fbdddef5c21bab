"""Commands: what a client may say becomes a value, and the value one line in one form."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.commands import (
    BadCommand,
    Bdat,
    Command,
    Hello,
    Introduction,
    Mail,
    Plain,
    Rcpt,
    Verb,
    parse_command,
)
from smtpproxy.smtp.paths import NULL_PATH, Path
from tests.support.wire import every_way, mixtures, served

A = Path("a", "example.com")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"EHLO client.example.org", Hello("client.example.org")),
        (b"HELO client.example.org", Hello("client.example.org", Verb.HELO)),
        (b"EHLO [192.0.2.1]", Hello("[192.0.2.1]")),
        (b"EHLO [IPv6:2001:db8::1]", Hello("[IPv6:2001:db8::1]")),
        (b"EHLO my_pc", Hello("my_pc")),
        (b"ehlo  x  ", Hello("x")),
        (b"EHLO " + b"x" * 255, Hello("x" * 255)),
        (b"MAIL FROM:<>", Mail(NULL_PATH)),
        (b"MAIL FROM:<a@example.com>", Mail(A)),
        (b"mail from:<a@example.com>", Mail(A)),
        (b"MAIL FROM: <a@example.com> ", Mail(A)),
        (b"MAIL  FROM:<@relay.example:a@example.com>", Mail(A)),
        (b"MAIL FROM:<a@example.com> size=123", Mail(A, {"SIZE": "123"})),
        (b"MAIL FROM:<> SIZE=1  BODY=8BITMIME SMTPUTF8",
         Mail(NULL_PATH, {"SIZE": "1", "BODY": "8BITMIME", "SMTPUTF8": ""})),
        (b"MAIL FROM:<> AUTH=<> ENVID=a+2Bb", Mail(NULL_PATH, {"AUTH": "<>", "ENVID": "a+2Bb"})),
        (b'MAIL FROM:<"a> SIZE=9"@example.com> SIZE=1',
         Mail(Path('"a> SIZE=9"', "example.com"), {"SIZE": "1"})),
        (rb'MAIL FROM:<"a\"> b"@example.com>', Mail(Path(r'"a\"> b"', "example.com"))),
        ("MAIL FROM:<grüße@bücher.example> SMTPUTF8".encode(),
         Mail(Path("grüße", "bücher.example"), {"SMTPUTF8": ""})),
        ("MAIL FROM:<> X=a\u00a0b\u3000c".encode(), Mail(NULL_PATH, {"X": "a\u00a0b\u3000c"})),
        (b"RCPT TO:<a@example.com>", Rcpt(A)),
        (b"RCPT TO:<Postmaster>", Rcpt(Path("Postmaster"))),
        (b"RCPT TO:<a@example.com> NOTIFY=NEVER ORCPT=rfc822;a@example.com",
         Rcpt(A, {"NOTIFY": "NEVER", "ORCPT": "rfc822;a@example.com"})),
        (b"DATA", Plain(Verb.DATA)),
        (b"data ", Plain(Verb.DATA)),
        (b"BDAT 0", Bdat(0, last=False)),
        (b"BDAT 86 LAST", Bdat(86, last=True)),
        (b"bdat 86  last ", Bdat(86, last=True)),
        (b"BDAT 999999999999999999", Bdat(10**18 - 1, last=False)),
        (b"RSET", Plain(Verb.RSET)),
        (b"QUIT", Plain(Verb.QUIT)),
        (b"QuIt", Plain(Verb.QUIT)),
        (b"STARTTLS", Plain(Verb.STARTTLS)),
        (b"NOOP", Plain(Verb.NOOP)),
        (b"NOOP  a  b ", Plain(Verb.NOOP, "a  b")),
        ("NOOP é\u00a0".encode(), Plain(Verb.NOOP, "é\u00a0")),
        (b"HELP", Plain(Verb.HELP)),
        (b"HELP MAIL", Plain(Verb.HELP, "MAIL")),
        (b"VRFY a@example.com", Plain(Verb.VRFY, "a@example.com")),
        (b"EXPN list", Plain(Verb.EXPN, "list")),
        (b"AUTH PLAIN AGEAYg==", Plain(Verb.AUTH, "PLAIN AGEAYg==")),
    ],
)  # fmt: skip
def test_a_line_is_a_command(line: bytes, command: Command) -> None:
    parsed = parse_command(line)
    assert parsed == command
    assert type(parsed) is type(command)
    assert parse_command(parsed.encode().removesuffix(b"\r\n")) == command


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        (500, [
            b"", b" ", b" QUIT", b"QUI", b"QUITS", b"QUIT.", b"EHLO\tx", b"NOOP\x00", b"\x7fNOOP",
            b"NOOP a\rQUIT", b"NOOP a\nQUIT", b"RCPT TO:<a\x1b@example.com>", b"NOOP \xff",
            b"RCPT TO:<gr\xfc\xdfe@example.com>", b"\x16\x03\x01\x02\x00\x01\x00", b"MAILFROM:<>",
            # Letters outside ASCII whose capitals are in it.
            "r\u017fet".encode(), "qu\u0131t".encode(), "\ufb06arttls".encode(),
        ]),
        (501, [
            b"EHLO", b"HELO ", b"EHLO a b", "EHLO bücher.example".encode(), b"EHLO " + b"x" * 256,
            b"MAIL", b"MAIL FROM", b"MAIL FROM:", b"MAIL FROM:a@example.com", b"MAIL FROM :<>",
            b"MAIL TO:<a@example.com>", b"MAIL FROM:<a@example.com", b"MAIL FROM:a@example.com>",
            b"MAIL FROM:<a@example.com>>", b"MAIL FROM:<<a@example.com>>", b"MAIL FROM:<a>",
            b"MAIL FROM:<postmaster>", b"MAIL FROM:< >", b"MAIL FROM:<>SIZE=1", b"MAIL FROM:<> =1",
            b'MAIL FROM:<"a@example.com>', b"MAIL FROM:<> SIZE=", b"MAIL FROM:<> SIZE=1=2",
            b"MAIL FROM:<> -X=1", b"MAIL FROM:<> SIZE=1 size=2", "MAIL FROM:<> \u00e9=1".encode(),
            "MAIL FROM:<>\u00a0SIZE=1".encode(), "MAIL FROM:<a\u0085@example.com>".encode(),
            b"RCPT", b"RCPT TO", b"RCPT TO:", b"RCPT TO:<>", b"RCPT FROM:<a@example.com>",
            b"RCPT TO:<a>", b"RCPT TO:<a@example.com> a b=", b"RCPT TO:<a@b.test,c@d.test>",
            b"DATA now", b"RSET all", b"QUIT now", b"STARTTLS now", b"VRFY", b"EXPN ",
        ]),
        (421, [
            b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"put", b"CONNECT mx.example.net:25 HTTP/1.1",
            # The octets that follow have no known end, and must not run as commands.
            b"BDAT", b"BDAT LAST", b"BDAT -1", b"BDAT 1 2", b"BDAT 0x10", b"BDAT 1.5",
            b"BDAT 5LAST", b"BDAT 1000000000000000000", "BDAT \u0661".encode(),
            "BDAT 5 la\u017ft".encode(),
        ]),
    ],
)  # fmt: skip
def test_a_line_that_is_no_command_says_what_it_deserves(code: int, lines: list[bytes]) -> None:
    for line in lines:
        with pytest.raises(BadCommand) as caught:
            parse_command(line)
        reply = caught.value.reply
        assert (line, reply.code) == (line, code)
        assert reply.enhanced[0] == str(code)[0]
        assert len(reply.encode()) <= 512  # RFC 5321 4.5.3.1.5, and nothing of the line in it


@pytest.mark.parametrize(
    ("line", "enhanced"),
    [
        (b"MAIL FROM:<a b@example.com>", "5.1.7"),
        (b"MAIL FROM:<postmaster>", "5.1.7"),
        (b"RCPT TO:<a b@example.com>", "5.1.3"),
        (b"RCPT TO:<>", "5.1.3"),
        (b"RCPT TO:<a@example.com> X=", "5.5.4"),
        (b"FOO", "5.5.2"),
        (b"MAIL FROM:<> " + b"X" * 1500 + b" " + b"X" * 1500, "5.5.4"),
    ],
)
def test_a_refusal_says_what_is_wrong(line: bytes, enhanced: str) -> None:
    with pytest.raises(BadCommand) as caught:
        parse_command(line)
    assert caught.value.reply.enhanced == enhanced
    assert len(caught.value.reply.encode()) <= 512


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        (b"MAIL x", "MAIL"),
        (b"bdat x", "BDAT"),
        (b"GET / HTTP/1.1", "GET"),
        (b"\rx", ""),
        (b"x", ""),
    ],
)
def test_a_refusal_names_the_verb_where_it_is_known(line: bytes, verb: str) -> None:
    with pytest.raises(BadCommand) as caught:
        parse_command(line)
    assert caught.value.verb == verb


LINES = [
    b"EHLO client.example.org",
    b"MAIL FROM:<a@example.com> SIZE=9",
    b'RCPT TO:<"> b"@example.com>',
    b"FOO",
    b"NOOP " + "é".encode() * 3,
    b"GET / HTTP/1.1",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_in_any_portions_and_with_a_tail(line: bytes) -> None:
    expected, _ = served([line + b"\r\n"])
    assert len(expected) == 1
    for chunks in every_way(line + b"\r\n"):
        assert served(chunks)[0] == expected
    if not expected[0].startswith("! 421"):
        for chunks in every_way(line + b"\r\nNOOP tail\r\nNOO"):
            assert served(chunks)[0] == [*expected, "NOOP tail"]


# What can be said is written as it is read.

printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
words = st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f", codec="utf-8"))
quoted = st.text(st.sampled_from("a.@<>[]:, é用"), max_size=9).map(lambda text: f'"{text}"')
unquoted = st.text(st.sampled_from("aZ9.+-_=é用"), min_size=1, max_size=9)
paths = st.builds(
    Path, quoted | unquoted, st.sampled_from(["b.example", "[192.0.2.1]", "例子.test"])
)
senders = st.just(NULL_PATH) | paths
recipients = st.just(Path("Postmaster")) | paths
parameters = st.dictionaries(
    st.from_regex(r"[A-Z0-9][A-Z0-9-]{0,8}", fullmatch=True),
    st.text(
        st.characters(codec="utf-8", min_codepoint=0x21, exclude_characters="=\x7f"), max_size=8
    ),
)
arguments = words.map(lambda text: text.strip(" "))
commands = st.one_of(
    st.builds(Hello, printable, st.sampled_from([Verb.EHLO, Verb.HELO, Verb.LHLO])),
    st.builds(Mail, senders, parameters),
    st.builds(Rcpt, recipients, parameters),
    st.builds(Bdat, st.integers(0, 10**18 - 1), st.booleans()),
    st.builds(Plain, st.sampled_from([Verb.DATA, Verb.RSET, Verb.QUIT, Verb.STARTTLS])),
    st.builds(Plain, st.sampled_from([Verb.NOOP, Verb.HELP, Verb.AUTH]), arguments),
    st.builds(Plain, st.sampled_from([Verb.VRFY, Verb.EXPN]), arguments.filter(bool)),
)


@given(commands)
def test_a_command_is_read_as_it_was_written(command: Command) -> None:
    assert parse_command(command.encode().removesuffix(b"\r\n")) == command


def test_what_is_said_of_others_is_no_command_that_could_be_sent_on() -> None:
    taken = parse_command(b"xclient ADDR=192.0.2.1")
    assert taken == Introduction(Verb.XCLIENT, {"ADDR": "192.0.2.1"})
    assert parse_command(b"XFORWARD ident=A+20b") == Introduction(Verb.XFORWARD, {"IDENT": "A b"})
    flawed = parse_command(b"XCLIENT ADDR=x")
    assert isinstance(flawed, Introduction) and flawed.flaw is not None
    assert not hasattr(taken, "encode")


# Any line: a command, a refusal with its reply, and never two lines of it.

lines = mixtures(
    b"EHLO ", b"helo ", b"MAIL FROM:<", b"RCPT TO:<", b"BDAT 1", b"NOOP ", b"VRFY ", b"AUTH ",
    b"a@example.com", b"postmaster", b"> ", b"SIZE=1", b" X", b" ", b'"', b"\\", b"\r", b"\n",
    b"\0", b"\r\nQUIT", b"\x85", "\x85\xa0\u2028é".encode(), b"@r.example:", b"QUIT", b"DATA",
    b" LAST",
)  # fmt: skip


@given(st.one_of(lines, st.builds(bytes.__add__, st.sampled_from([b"NOOP ", b"VRFY "]), lines)))
def test_nothing_that_a_client_sends_travels_on_as_a_second_line(line: bytes) -> None:
    try:
        command = parse_command(line)
    except BadCommand as bad:
        encoded = bad.reply.encode()
        assert len(encoded) <= 512
    else:
        encoded = command.encode()
        assert parse_command(encoded.removesuffix(b"\r\n")) == command
        assert encoded.startswith(command.verb.value.encode())
        assert len(encoded) <= len(line) + 2  # what fitted us fits an upstream like us
    assert not re.search(rb"[\x00-\x1f\x7f]", encoded.removesuffix(b"\r\n"))
