"""Promise: nothing that a peer sends can forge a line, or a field of ours, in the log."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.events import Connected, Disconnected, Event, Refused, Side, UpstreamFailed
from smtpproxy.logs.escape import LONGEST, bare, bracketed, quoted, shown
from smtpproxy.logs.json_lines import JsonShape
from smtpproxy.logs.levels import level_of
from smtpproxy.logs.text import TextShape
from smtpproxy.mail import Client
from smtpproxy.smtp.replies import Reply
from tests.support.log_events import CLIENT, LEFT, PEER, SENT, SESSION, TLS

# Everything, and often what is dangerous: line ends of all kinds, escape, bytes that are no
# UTF-8 (as surrogates), C1, a right-to-left override, and the beginnings of our own fields.
texts = st.lists(
    st.one_of(
        st.characters(),
        st.sampled_from(list("\r\n\0\x1b\x7f\x85\x9b\u2028\u2029\u202e\x1c\v\f \t\"'=\\<>[](),;:")),
        st.sampled_from(
            ["\udc80", "\udcff", "\ud800", "\r\nNov 20 06:44:22 mx smtpproxy/smtpd[1]: "]
        ),
        st.sampled_from(
            [" session=dead ", "to=<x>, relay=", "from=<x>, size=9", "]: a: client=b,"]
        ),
    ),
    max_size=8,
).map("".join)
replies = st.builds(
    Reply,
    st.sampled_from([250, 451, 550]),
    st.lists(
        st.one_of(st.binary(max_size=20), texts.map(lambda t: t.encode("utf-8", "replace"))),
        min_size=1,
        max_size=3,
    ).map(tuple),
)
clients = st.builds(Client, st.just(PEER), name=texts, helo=texts, login=texts)


def undone(text: str) -> str:
    r"""What was escaped: `\xNN` is an ASCII character, or a byte as Python's surrogates keep it."""

    def character(match: re.Match[str]) -> str:
        point = int(match[1][1:], 16)
        return chr(point + 0xDC00 if match[1][0] == "x" and point >= 0x80 else point)

    return re.sub(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})", character, text)


def text_lines(*events: Event) -> list[str]:
    """The physical lines, by any definition of a line; each must be a record of its own."""
    shape = TextShape(lambda: 0, "mx.example.net", os.getpid, journal=False)
    text = "".join(shape.event(level_of(event), event) for event in events)
    text.encode("utf-8")
    lines = text.splitlines()
    assert text == "".join(f"{line}\n" for line in lines)
    for line in lines:
        assert re.match(r"... .\d \d\d:\d\d:\d\d mx smtpproxy/\w+\[\d+\]: .", line), line
        assert line.isprintable(), line
    return lines


def json_line(event: Event) -> dict[str, object]:
    text = JsonShape(lambda: 0, journal=False).event(level_of(event), event)
    assert text.isascii() and text.endswith("\n") and text[:-1].isprintable()
    record = json.loads(text)
    assert isinstance(record, dict)
    return record


WORD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


def read_logfmt(text: str) -> dict[str, str]:
    """The fields of a summary, as any reader of `key=value` lines finds them."""
    found, position = {}, 0
    while position < len(text):
        match = WORD.match(text, position)
        assert match, text[position:]
        name, value = match[1], match[2]
        assert name not in found
        found[name] = json.loads(value) if value.startswith('"') else value
        position = match.end()
    return found


def well_formed(text: str) -> str:
    """`text` as JSON carries it: lone surrogates, which are no characters, are escapes."""

    def escape(match: re.Match[str]) -> str:
        point = ord(match[0])
        byte = 0xDC80 <= point <= 0xDCFF
        return f"\\x{point - 0xDC00:02x}" if byte else f"\\u{point:04x}"

    return re.sub("[\ud800-\udfff]", escape, text)


@given(texts)
def test_every_escape_can_be_undone(text: str) -> None:
    assert undone(shown(text)) == text
    assert undone(bracketed(text)[1:-1]) == text
    assert undone(bare(text)) == text
    value = quoted(text)
    read = json.loads(value) if not value or value.startswith('"') else value
    assert read == well_formed(text)


@given(texts)
def test_escaped_text_stays_in_its_place(text: str) -> None:
    assert shown(text).isprintable()
    assert not re.search(r"(client|from|to|size|relay|status|session)=", shown(text))
    assert re.fullmatch(r"<[^<>\s]*>", bracketed(text))
    assert re.fullmatch(r"[A-Za-z0-9._:\\-]*", bare(text))


def test_what_is_harmless_is_left_as_it_is() -> None:
    assert shown("5.1.1 see https://example.com/?p=1 für alice") == (
        "5.1.1 see https://example.com/?p=1 für alice"
    )
    assert bracketed("alice+x=y@bücher.example") == "<alice+x=y@bücher.example>"
    assert bare("mail-1.example.com") == "mail-1.example.com"
    assert quoted("mail.example.com[192.0.2.7]") == "mail.example.com[192.0.2.7]"


@pytest.mark.parametrize("escape", [shown, bracketed, bare])
def test_a_text_without_end_is_cut(escape) -> None:
    assert len(escape("a" * 1_000_000)) <= LONGEST + 2
    assert "..." in escape("a" * 1_000_000)


@given(clients, texts, st.lists(texts, min_size=1, max_size=3), replies, texts, st.booleans())
def test_a_transaction_in_text(client, sender, recipients, reply, error, in_doubt) -> None:
    event = replace(
        SENT,
        client=client,
        sender=sender,
        recipients=tuple(recipients),
        reply=reply,
        error=error,
        by=Side.UPSTREAM,
        in_doubt=in_doubt,
    )
    lines = text_lines(event)
    assert len(lines) == 4 + len(recipients) + in_doubt
    assert all(f": {SESSION}01: " in line for line in lines)
    # What pflogsumm looks for, unanchored as it does, gives our values and no others.
    found = [re.search(r"from=<([^>]*)>, size=(\d+)", line) for line in lines]
    assert [(undone(m[1]), m[2]) for m in found if m] == [(sender, str(SENT.size))]
    to = (
        r"to=<([^>]*)>, relay=([^,]+), delay=([^,]+), (?:delays=[^,]+, )(?:dsn=[^,]+, )status=(\S+)"
    )
    delivered = [m for line in lines if (m := re.search(to, line))]
    assert [undone(m[1]) for m in delivered] == recipients
    assert {m[2] for m in delivered} == {"mx1.example.net[203.0.113.9]:25"}
    assert {m[4] for m in delivered} <= {"sent", "deferred", "bounced"}
    assert len([line for line in lines if re.search(r"\[\d+\]: \w+: client=", line)]) == 1
    # The summary says it all again, field by field.
    [summary] = [line for line in lines if ": summary " in line]
    fields = read_logfmt(summary.partition(": summary ")[2])
    assert fields["helo"] == well_formed(client.helo)
    assert undone(fields["from"]) == f"<{sender}>"
    assert fields["to"] == ",".join(map(bracketed, recipients))
    text = b" ".join(reply.lines).decode("utf-8", "surrogateescape")
    assert fields["reply"] == f"{reply.code} {well_formed(text)}"
    assert fields.get("error", "") == well_formed(error)
    assert fields["bytes"] == str(SENT.size) and fields["by"] == "upstream"
    assert (fields.get("in_doubt") == "true") is in_doubt


@given(clients, texts, texts, texts, replies)
def test_other_lines_in_text(client, stage, sender, recipient, reply) -> None:
    refused = Refused(SESSION, client, stage, reply, Side.UPSTREAM, sender, recipient)
    for event, count in (
        (Connected(SESSION, client), 1),
        (refused, 1),
        (UpstreamFailed(SESSION, "mx1.example.net:25", "203.0.113.9", sender), 1),
        (replace(LEFT, client=client, after="RCPT", reason=sender), 2),
        (Disconnected(SESSION, client, 0, {stage: (0, 1)}), 1),
    ):
        lines = text_lines(event)
        assert len(lines) == count
        assert all(len(re.findall(SESSION, line)) >= 1 for line in lines)
        assert all(len(re.findall(" session=", line)) <= 1 for line in lines)
    [line] = text_lines(refused)
    match = re.search(r" from=<([^>]*)> to=<([^>]*)> proto=ESMTP(?: helo=<([^>]*)>)?, by=", line)
    assert match
    assert [undone(part or "") for part in match.groups()] == [sender, recipient, client.helo]


@given(clients, texts, texts, replies, texts)
def test_lines_in_json(client, sender, recipient, reply, error) -> None:
    sent = json_line(
        replace(
            SENT, client=client, sender=sender, recipients=(recipient,), reply=reply, error=error
        )
    )
    text = b" ".join(reply.lines).decode("utf-8", "surrogateescape")
    assert sent["session"] == SESSION and sent["transaction"] == f"{SESSION}01"
    assert sent["helo"] == well_formed(client.helo)
    assert sent["from"] == well_formed(sender)
    assert sent["to"] == [well_formed(recipient)]
    assert sent["reply"] == f"{reply.code} {well_formed(text)}"
    assert sent.get("error", "") == well_formed(error)
    refused = json_line(Refused(SESSION, client, "RCPT", reply, Side.PROXY, sender, recipient))
    assert refused["from"] == well_formed(sender) and refused["to"] == [well_formed(recipient)]
    failed = json_line(UpstreamFailed(SESSION, "mx1.example.net:25", "", error))
    assert failed["error"] == well_formed(error)


def test_a_helo_name_cannot_begin_a_line() -> None:
    forged = "x\r\nNov 20 06:44:22 mx smtpproxy/smtpd[1]: connect from good[192.0.2.1]"
    client = replace(CLIENT, helo=forged)
    lines = text_lines(Refused(SESSION, client, "MAIL", Reply(550, (b"5.7.1 no",)), Side.PROXY, ""))
    assert len(lines) == 1
    assert r"helo=<x\x0d\x0aNov\x2020\x20" in lines[0]


def test_a_reverse_name_cannot_change_the_address() -> None:
    client = replace(CLIENT, name="good[198.51.100.9]: x")
    [line] = text_lines(Connected(SESSION, client))
    assert r"connect from good\x5b198.51.100.9\x5d:\x20x[192.0.2.7] session=" in line


def test_a_long_reply_with_many_recipients_stays_small() -> None:
    reply = Reply(550, (b"5.7.1 " + b"\x80" * 4000,) * 256)
    event = replace(SENT, reply=reply, recipients=("bob@example.net",) * 1000)
    assert sum(map(len, text_lines(event))) < 1000 * 5 * LONGEST
    [summary] = [line for line in text_lines(event) if "summary" in line]
    assert summary.count("<bob@example.net>") == 20
    assert "<bob@example.net>,... nrcpt=1000 " in summary and TLS.cipher in summary
