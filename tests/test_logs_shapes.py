"""The lines as an administrator's other tools read them: pflogsumm, fail2ban, the journal."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.events import Connected, Event, Refused, Side, TransactionEnded, UpstreamFailed
from smtpproxy.logs.fields import NAMES, fields
from smtpproxy.logs.json_lines import JsonShape
from smtpproxy.logs.levels import Level, level_of
from smtpproxy.logs.text import TextShape, lines
from smtpproxy.logs.words import relay, rounded
from smtpproxy.smtp.replies import Reply
from tests.support.log_events import (
    AGREES,
    BOUNCED,
    CLIENT,
    DEFERRED,
    DIFFERS,
    IN_DOUBT,
    LEFT,
    SAMPLES,
    SENT,
    SESSION,
    STRANGER,
)
from tests.support.needs import need

PAGE = Path(__file__).parent.parent / "docs" / "logs.md"


def block(language: str, words: str) -> str:
    """The code block of docs/logs.md in `language` that holds `words`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    [found] = [text for text in blocks if words in text]
    return found


def text(*events: Event, journal: bool = False) -> str:
    shape = TextShape(time.time, "mx.example.net", lambda: 4711, journal)
    return "".join(shape.event(level_of(event), event) for event in events)


def pflogsumm(log: str) -> dict[str, str]:
    """The totals, and each line of the report by its text."""
    need("pflogsumm")
    command = ["pflogsumm", "--syslog-name=smtpproxy"]
    ran = subprocess.run(command, input=log, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    found: dict[str, str] = {}
    for line in ran.stdout.splitlines():
        number, _, name = line.strip().partition("  ")
        found.setdefault(name.strip(), number.strip())
    found["report"] = re.sub(" +", " ", ran.stdout)
    return found


def test_every_event_is_among_the_samples() -> None:
    assert {type(event) for event in SAMPLES} == set(get_args(Event)) == set(NAMES)


def test_pflogsumm_counts() -> None:
    rejects = [event for event in SAMPLES if isinstance(event, Refused)]
    found = pflogsumm(text(SENT, DEFERRED, BOUNCED, *rejects))
    assert found["received"] == "3"
    assert found["delivered"] == "1"
    assert found["deferred  (2  deferrals)"] == "1"
    assert found["bounced"] == "1"
    share = 100 * len(rejects) // (len(rejects) + 1)  # of those and what was delivered
    assert found[f"rejected ({share}%)"] == str(len(rejects))
    assert found["bytes received"] == str(3 * SENT.size)
    assert found["bytes delivered"] == str(SENT.size)
    assert " 1 48213 2 0.1 s 0.1 s example.net\n" in found["report"]
    assert " 3 144639 example.com\n" in found["report"]


def test_pflogsumm_groups_by_reason() -> None:
    """A session's id in the wrong place would give each refusal a group of its own."""
    refusals = [
        Refused(f"{session:x}", CLIENT, stage, Reply(550, (said,)), Side.PROXY, "a@example.com", to)
        for session in (0xA1, 0xB2)
        for stage, said, to in (
            ("CONNECT", b"5.7.0 Go away", None),
            ("RCPT", b"5.1.1 <bob@example.net>: Recipient address rejected: Unknown", "bob@x.test"),
            ("RCPT", b"5.7.1 No route", "bob@example.net"),
            ("RCPT", b"No code here", "bob@example.net"),
        )
    ]
    failures = [
        UpstreamFailed(session, "mx1.example.net:25", "203.0.113.9", "Connection refused")
        for session in ("a1", "b2")
    ]
    report = pflogsumm(text(*refusals, *failures))["report"]
    for reason in ("Go away", "Recipient address rejected: Unknown", "No route", "No code here"):
        assert f"\n {reason} (total: 2)\n" in report
    assert "\n connection refused (total: 2)\n 2 mx1.example.net\n" in report


def test_pflogsumm_is_not_fooled() -> None:
    """Counts stay right whatever the upstream's reply and the client's HELO name say."""
    said = b"2.0.0 from=<x>, size=99 to=<x>, relay=x, delay=1, status=bounced (x) [1]: a: client=b,"
    client = replace(CLIENT, helo="[1]: a: client=b, reject: RCPT from x: y")
    event = replace(SENT, client=client, reply=Reply(250, (said,)))
    refused = Refused(SESSION, client, "RCPT", Reply(550, (said,)), Side.UPSTREAM, "", "a@b.test")
    found = pflogsumm(text(Connected(SESSION, client), event, refused))
    assert (found["received"], found["delivered"], found["bounced"]) == ("1", "1", "0")
    assert found["bytes delivered"] == str(SENT.size)
    assert found["rejected (50%)"] == "1"


def test_pflogsumm_counts_no_shadows() -> None:
    """What a shadow says is no delivery and no refusal."""
    found = pflogsumm(text(SENT, AGREES, DIFFERS))
    assert (found["received"], found["delivered"], found["bounced"]) == ("1", "1", "0")
    assert found["rejected (0%)"] == "0"


def test_pflogsumm_from_the_journal() -> None:
    """The journal knows one ident per unit; the documented command makes two of it again."""
    need("pflogsumm")
    journal = re.sub(
        "^<[0-7]>",
        "Nov 20 06:44:22 mx smtpproxy/smtpd[4711]: ",
        text(SENT, journal=True),
        flags=re.M,
    )
    command = block("sh", "sed -E").partition("|")[2]
    assert command
    ran = subprocess.run(command, shell=True, input=journal, capture_output=True, text=True)
    assert re.search(r"\n +1 +received\n +1 +delivered\n", ran.stdout), ran


def status(event: Event) -> list[str]:
    return re.findall(r"dsn=\S+, status=\w+ ", "".join(line for _, line in lines(event)))


def test_status_never_claims_what_did_not_happen() -> None:
    assert status(SENT) == ["dsn=2.0.0, status=sent "]
    assert status(DEFERRED) == ["dsn=4.4.2, status=deferred "] * 2
    assert status(BOUNCED) == ["dsn=5.7.1, status=bounced "]
    assert status(IN_DOUBT) == ["dsn=4.4.2, status=deferred "]
    # The client took its transaction back: no reply to a message, and no delivery.
    assert status(replace(SENT, error="reset")) == ["dsn=4.0.0, status=deferred "]
    # No enhanced code, or one of another class than the code.
    assert status(replace(SENT, reply=Reply(250, (b"ok",)))) == ["dsn=2.0.0, status=sent "]
    assert status(replace(BOUNCED, reply=Reply(550, (b"4.2.0 x",)))) == [
        "dsn=5.0.0, status=bounced "
    ]


# What fail2ban's postfix filter looks for, behind the ident and in modes more, errors and ddos.
HOSTILE = {
    "more": r"\w+: reject: [A-Z]{4} from [^[]*\[HOST\]: [45][50][04] [45]\.\d\.\d+ (?:<[^>]*>: )?"
    r"(?:Recipient address rejected: )?(?:Relay access denied|[Uu]ser unknown)\b",
    "errors": r"too many errors after \S+ from [^[]*\[HOST\]$",
    "ddos": r"(?:lost connection after(?! DATA) [A-Z]+ |"
    r"disconnect(?= from \S+(?: \S+=\d+)* auth=0/(?:[1-9]|\d\d+)) )from [^[]*\[HOST\]",
}
EXPECTED = {"more": 2, "errors": 1, "ddos": 3}


@pytest.mark.parametrize("mode", HOSTILE)
def test_lines_that_fail2ban_looks_for(mode: str) -> None:
    pattern = re.compile(HOSTILE[mode].replace("HOST", r"192\.0\.2\.\d+"))
    said = [line for event in SAMPLES for _, line in lines(event)]
    assert len([line for line in said if pattern.match(line)]) == EXPECTED[mode]


def test_the_journal_gets_priorities_and_no_date() -> None:
    failed = UpstreamFailed(SESSION, "mx1.example.net:25", "", "no address")
    said = text(Connected(SESSION, CLIENT), failed, journal=True).splitlines()
    assert said[0] == f"<6>connect from mail.example.com[192.0.2.7] session={SESSION}"
    assert said[1].startswith(f"<4>{SESSION}: connect to mx1.example.net[none]: no address")
    shape = JsonShape(lambda: 0, journal=True)
    assert shape.event(Level.WARNING, IN_DOUBT).startswith('<4>{"time":"1970-01-01T00:00:00.000Z"')


def test_dates() -> None:
    now = [1795157062.0]
    shape = TextShape(lambda: now[0], "mx.example.net", lambda: 4711, journal=False)
    for seconds in (0, 0.5, 1, 86400 * 12):
        now[0] = 1795157062.0 + seconds
        local = time.localtime(now[0])
        date = time.strftime("%b %e %H:%M:%S", local)
        assert shape.note(Level.INFO, "x") == f"{date} mx smtpproxy/smtpd[4711]: x\n"
    records = JsonShape(lambda: now[0], journal=False)
    now[0] = 1795157062.0625
    assert json.loads(records.note(Level.INFO, "x"))["time"] == "2026-11-20T06:44:22.062Z"


@given(st.floats(0, 1e6))
def test_seconds_are_written_as_rounded_floats(seconds: float) -> None:
    assert rounded(seconds) == str(round(seconds, 3))


@pytest.mark.parametrize("event", SAMPLES)
def test_a_line_of_json_has_the_fields_and_no_others(event: Event) -> None:
    line = JsonShape(lambda: 0, journal=False).event(Level.INFO, event)
    found = json.loads(line, parse_float=str)
    assert found.pop("event") == NAMES[type(event)]
    assert (found.pop("level"), found.pop("time")) == ("info", "1970-01-01T00:00:00.000Z")
    said = {k: rounded(v) if isinstance(v, float) else v for k, v in fields(event).items()}
    assert list(found.items()) == list(said.items())


def test_the_summary_has_the_fields_of_json() -> None:
    for event in SAMPLES:
        if isinstance(event, TransactionEnded):
            [summary] = [said for _, said in lines(event) if ": summary " in said]
            names = re.findall(r'(\w+)=(?:"[^"]*"|\S+)', summary)
            assert names == [
                name
                for name in fields(event)
                if name not in ("session", "transaction", "client_address", "client_port")
            ]


def test_levels() -> None:
    assert level_of(IN_DOUBT) is level_of(UpstreamFailed("", "", "", "")) is Level.WARNING
    assert level_of(SENT) is level_of(LEFT) is level_of(DIFFERS) is Level.INFO
    assert level_of(AGREES) is Level.DEBUG
    assert (fields(DIFFERS)["differs"], fields(AGREES)["differs"]) == (True, False)
    assert Level.ERROR < Level.WARNING < Level.INFO < Level.DEBUG
    assert [level.word for level in Level] == ["error", "warning", "info", "debug"]


def test_ipv6_and_unix_clients_and_upstreams() -> None:
    peer = replace(STRANGER.peer, address="2001:db8::7", local_address="2001:db8::1")
    event = Connected(SESSION, replace(STRANGER, peer=peer))
    assert lines(event) == [("smtpd", f"connect from unknown[2001:db8::7] session={SESSION}")]
    assert fields(event)["local"] == "[2001:db8::1]:25"
    unix = replace(STRANGER, peer=replace(peer, address="", local_address="", port=0, local_port=0))
    assert "connect from unknown[unix] " in lines(Connected(SESSION, unix))[0][1]
    relayed = lines(replace(SENT, server="[2001:db8::25]:2525", address="2001:db8::25"))[2][1]
    assert " relay=2001:db8::25[2001:db8::25]:2525, " in relayed


def test_upstreams_that_are_found_by_their_records() -> None:
    assert relay("mx:example.net:25", "") == "mx:example.net[none]:25"
    assert relay("mx:example.net:2525", "203.0.113.9") == "mx:example.net[203.0.113.9]:2525"


def test_upstreams_that_speak_lmtp_or_are_on_a_unix_socket() -> None:
    assert relay("lmtp:store.test:24", "203.0.113.9") == "store.test[203.0.113.9]:24"
    assert relay("lmtp:unix:/run/dovecot/lmtp", "/run/dovecot/lmtp") == (
        "localhost[/run/dovecot/lmtp]"
    )
    assert relay("unix:/run/a@b*3", "") == "localhost[/run/a\\x40b]"
    failed = UpstreamFailed(SESSION, "lmtp:unix:/run/lmtp", "/run/lmtp", "No such file")
    assert lines(failed) == [("smtp", f"{SESSION}: connect to localhost[/run/lmtp]: No such file")]


def test_the_page_shows_every_line() -> None:
    page = block("text", "connect from").splitlines()
    made = [f"smtpproxy/{program}[4711]: {said}" for e in SAMPLES for program, said in lines(e)]
    assert sorted(set(page)) == sorted(set(made))


def test_the_page_names_every_event_and_field() -> None:
    page = PAGE.read_text()
    for event in SAMPLES:
        assert f"`{NAMES[type(event)]}`" in page
        assert [f"`{name}`" for name in fields(event) if f"`{name}`" not in page] == []
    notes = ("note", "text", "source", "time", "level", "event")
    assert all(f"`{name}`" in page for name in notes)
    shown = json.loads(block("json", "transaction_ended"))
    made = json.loads(JsonShape(lambda: 1795157062.752, journal=False).event(Level.INFO, SENT))
    assert shown == made
