"""Every stage of a session with an upstream × every fault: what the client is told, and when.

All of it is played in memory, by the clock of the test.  What is expected stands in the grid of
docs/failures.md; `pytest -rP tests/test_fault_grid.py` prints the whole of it as it was seen.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from twisted.logger import LogLevel, capturedLogs

from smtpproxy.relay import delivery
from smtpproxy.smtp.replies import MAX_REPLY
from smtpproxy.stream import HIGH_WATER
from tests.support import upstream_faults as faults
from tests.support.fault_scene import BEGINNING, LATER, Answer, Scene, Way
from tests.support.faulty import Fault

ENVELOPE = ["MAIL", "first RCPT", "further RCPT"]
BY_DATA = [*BEGINNING, *ENVELOPE, "DATA", "content", "end of the message", "RSET", *LATER, "QUIT"]
BY_CHUNKS = [*BEGINNING, *ENVELOPE, "a part", "last part", "RSET", *LATER, "QUIT"]
WAYS = {
    "one by one": (Way(("TRUSTED",)), BY_DATA),
    "in flights": (Way(("PIPELINING", "TRUSTED"), flight=True), BY_DATA),
    "in parts": (Way(("CHUNKING", "TRUSTED"), chunks=True), BY_CHUNKS),
    "in parts, in flights": (
        Way(("PIPELINING", "CHUNKING", "TRUSTED"), flight=True, chunks=True),
        BY_CHUNKS,
    ),
    "LMTP": (Way(("PIPELINING", "TRUSTED"), lmtp=True), [*BY_DATA, "further end"]),
    "kept between sessions": (Way(("PIPELINING",), pooled=True), LATER),
}


def refusal(code: int) -> bytes:
    return b"%d trouble %d\r\n" % (code, code)


# The columns of the page, and the faults that come to the same.
COLUMNS: dict[str, dict[str, Fault]] = {
    "says nothing": {
        "silent": faults.silent,
        "late": faults.late,
        "drips on": faults.drips_on,
    },
    "hangs up": {
        "closes": faults.closes,
        "half-closes": faults.half_closes,
        "resets": faults.resets,
        "half reply": faults.half_a_reply,
    },
    "speaks no SMTP": {
        "garbage": partial(faults.says, b"\0\xff garbage\r\n"),
        "long line": partial(faults.endless, b"250 fine" * 100),
        "long reply": partial(faults.endless, b"250-fine\r\n" * 10),
    },
    "`421`": {
        "421": partial(faults.says, refusal(421)),
        "421 closes": partial(faults.says_and_closes, refusal(421)),
    },
    "`4xx`": {
        "450": partial(faults.refuses, refusal(450)),
        "450 closes": partial(faults.says_and_closes, refusal(450)),
    },
    "`5xx`": {
        "550": partial(faults.refuses, refusal(550)),
        "550 closes": partial(faults.says_and_closes, refusal(550)),
    },
    "`2xx` for `354` or the reverse": {"wrong": faults.another},
    "a second reply": {"surplus": faults.surplus, "surplus, on": faults.surplus_and_on},
    "": {"slow": faults.silent, "drips": faults.drips},  # nothing that the client would notice
}
FAULTS = {name: fault for column in COLUMNS.values() for name, fault in column.items()}
COLUMN = {name: column for column, named in COLUMNS.items() for name in named}

# Seconds that an upstream has at a stage, where it is not all that a recipient may take.
DEADLINES = {"connecting": 30, "TLS handshake": 30, "next MAIL": 120}
DEADLINES |= dict.fromkeys(("further RCPT", "DATA", "content", "a part", "RSET"), 300)
DEADLINES |= dict.fromkeys(("end of the message", "further end", "last part"), 600)
RECIPIENT = 240

# What can be at stages that are not replies.
POSSIBLE = {
    "connecting": {"silent", "closes"},
    "TLS handshake": {"silent", "closes", "half-closes", "resets"},
    "content": {*FAULTS} - {"late", "drips"},
    "between messages": {*FAULTS} - {"silent", "late", "slow", "drips"},
}


# Where a flight may go on behind a reply too many: nobody can tell it from the next one.
FLIGHT = {"MAIL", "first RCPT", "further RCPT", "next MAIL", "a part", "end of the message"}


def faults_at(name: str, stage: str) -> set[str]:
    possible = {*POSSIBLE.get(stage, FAULTS)}
    if "PIPELINING" in WAYS[name][0].announced and stage in FLIGHT:
        possible -= {"surplus"}
    return possible


def fault_at(stage: str, name: str) -> Fault:
    seconds = DEADLINES.get(stage, RECIPIENT)
    if stage == "content" and name in ("silent", "slow"):
        return partial(faults.stalls, seconds - 2 if name == "slow" else 9999)
    return partial(faults.slow, seconds - 2) if name == "slow" else FAULTS[name]


def shown(scene: Scene, answer: Answer) -> str:
    """An answer in the words of the page."""
    theirs = re.search(r"^(?:\d\.\d\.\d )?trouble (\d{3})", answer.text)
    if theirs:
        return "theirs" if int(theirs[1]) == answer.code else f"theirs, as `{answer.code}`"
    if answer.success or answer.code == 354:
        return "goes on"
    return f"`{answer.code} {answer.text.split()[0]}`" + ", in doubt" * scene.in_doubt


# What is expected

PAGE = Path(__file__).parent.parent / "docs" / "failures.md"

# Where the page is too coarse.
EITHER = {
    # It is seen only after the refusal, which alone would not be the end.
    ("EHLO", "550 closes"): ["`451 4.4.1`"],
    ("EHLO over TLS", "550 closes"): ["`451 4.4.1`"],
    ("STARTTLS", "450 closes"): ["`451 4.4.2`"],
    ("STARTTLS", "550 closes"): ["`451 4.4.2`"],
    ("next MAIL", "450 closes"): ["theirs", "goes on"],
    ("next MAIL", "550 closes"): ["theirs", "goes on"],
}
# What cannot be told from the reply to the next command of a flight.
SHIFTED = {("MAIL", "surplus"), ("MAIL", "surplus, on")}


@cache
def page() -> dict[str, dict[str, str]]:
    """The grid of the page: by stage and column."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text("utf-8").partition("## Stage by stage")[2].splitlines()
        if line.startswith("|")
    ]
    columns = rows[0][1:]
    return {stage: dict(zip(columns, cells, strict=True)) for stage, *cells in rows[2:]}


def expected(name: str, stage: str, fault: str) -> list[str]:
    way, _ = WAYS[name]
    if way.lmtp and stage in ("EHLO", "EHLO over TLS") and COLUMN[fault] == "`5xx`":
        return ["`451 4.4.0`"]  # there is no HELO in LMTP
    if (stage, fault) in EITHER:
        return EITHER[stage, fault]
    if COLUMN[fault] == "" or ((stage, fault) in SHIFTED and "PIPELINING" in way.announced):
        return ["goes on"]
    cell = page()[stage][COLUMN[fault]]
    if way.lmtp and cell == "theirs" and COLUMN[fault] == "`421`" and stage not in BEGINNING:
        return ["theirs, as `451`"]  # other recipients have their part in the session
    if stage == "a part" and way.flight and cell.startswith("`451"):
        return [f"{cell}, in doubt"]  # the last part is on its way already
    return [cell]


def check_time(name: str, stage: str, fault: str, answer: Answer) -> None:
    """Neither early nor late: by the second, as the scene counts."""
    silent = fault in ("silent", "late", "drips on") and (stage, fault) != ("content", "drips on")
    if stage in ("QUIT", "between messages"):
        silent = False
        deadline = 0
    elif stage == "a part" and WAYS[name][0].flight:
        deadline = DEADLINES["last part"] if silent else DEADLINES[stage]
    else:
        deadline = DEADLINES.get(stage, RECIPIENT)
    if silent:
        assert deadline <= answer.seconds <= deadline + 2, f"it took {answer.seconds:g} s"
    elif fault == "slow":
        assert answer.seconds <= deadline
    else:
        assert answer.seconds <= (10 if fault == "drips" else 0), f"it took {answer.seconds:g} s"


@pytest.fixture(autouse=True)
def each_part_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gathered before it is sent."""
    monkeypatch.setattr(delivery, "MOST_HELD", 0)


@pytest.fixture(autouse=True)
def nothing_fails() -> Iterator[None]:
    """No fault of ours, also none that nobody looked at: that is logged when it is forgotten."""
    with capturedLogs() as logged:
        yield
        gc.collect()
    assert [it for it in logged if it["log_level"] >= LogLevel.warn] == []


@pytest.mark.parametrize("name", WAYS)
def test_every_stage_and_every_fault(name: str) -> None:
    way, stages = WAYS[name]
    wrong = []
    print(f"{name:22}" + "".join(f"{fault:>12}" for fault in FAULTS))
    for stage in stages:
        cells = []
        for fault in FAULTS:
            if fault not in faults_at(name, stage):
                cells.append("")
                continue
            scene = Scene(way, stage, fault_at(stage, fault))
            try:
                scene.play()
                answer = scene.answers[stage]
                cell = shown(scene, answer)
                cells.append(brief(cell))
                assert cell in expected(name, stage, fault), f"the client is told {cell}"
                check_time(name, stage, fault, answer)
                scene.check()
                if scene.upstreams:
                    assert scene.first.behind in (b"", b"QUIT\r\n"), "it was used further"
                    assert scene.first.said < 2 * (MAX_REPLY + HIGH_WATER)
            except AssertionError as error:
                wrong.append(f"{stage}, {fault}: {error}")
        print(f"{stage:22}" + "".join(f"{cell:>12}" for cell in cells))
    assert not wrong, "\n".join(wrong)


def brief(cell: str) -> str:
    return cell.replace("`", "").replace("theirs, as", "as").replace(", in doubt", " ?")


def test_the_page_has_all_of_it() -> None:
    """Every stage and column, and a dash where there is no such fault."""
    stages = dict.fromkeys(stage for _, stages in WAYS.values() for stage in stages)
    assert list(page()) == sorted(page(), key=[*stages].index)
    assert set(page()) == set(stages)
    for stage, cells in page().items():
        assert list(cells) == [column for column in COLUMNS if column]
        possible = {COLUMN[fault] for fault in POSSIBLE.get(stage, FAULTS)}
        assert {column for column, cell in cells.items() if cell != "-"} == possible - {""}


# A session cut off anywhere

HANGS_UP = [(name, "closes") for name in WAYS]
LEAVES = [(name, False) for name in WAYS if not WAYS[name][0].pooled]
END = re.compile(rb"three\r\n(\.\r\n)?")  # of each message


@pytest.mark.parametrize(
    ("name", "fault"), [*HANGS_UP, ("in flights", "resets"), ("in flights", "silent")]
)
def test_an_upstream_that_ends_at_any_octet(name: str, fault: str) -> None:
    """What was not taken is told as trouble that passes, and is taken by the next connection."""
    way, _ = WAYS[name]
    whole = Scene(way)
    whole.play()
    for octets in range(whole.first.said):
        scene = Scene(way, fault=FAULTS[fault], most=octets)
        scene.steps = 20.0
        scene.play()
        scene.check()
        assert any(answer.success for number in (2, 3) for answer in scene.told[number])
        for stage, answer in scene.answers.items():
            fits = answer.success or answer.code == 354 or answer.code == 451
            out_of_order = stage == "DATA" and answer.text == "5.5.1 No valid recipients"
            assert fits or out_of_order, f"{octets} octets, {stage}: {answer}"


@pytest.mark.parametrize(("name", "at_once"), [*LEAVES, ("in flights", True)])
def test_a_client_that_ends_at_any_octet(name: str, at_once: bool) -> None:
    """Nothing gets its end but what the client ended; that is waited for, and all is let go."""
    way, _ = WAYS[name]
    whole = Scene(way)
    whole.play()
    sent = bytes(whole.sent)
    ends = [match.end() for match in END.finditer(sent)]
    assert len(ends) == 2
    for octets in range(len(sent)):
        scene = Scene(way)
        scene.steps = 20.0
        scene.send(sent[:octets])
        if not at_once:
            scene.settle()
        scene.world.client.lose()
        scene.end()
        scene.check()
        for number, end in enumerate(ends, 1):
            copies = len(scene.ended(number))
            assert copies <= (octets >= end)
            assert at_once or copies == (octets >= end)


@pytest.mark.parametrize("name", WAYS)
def test_octet_by_octet(name: str) -> None:
    """However small the pieces are on either side, it is the same session."""
    way, _ = WAYS[name]
    whole, dripping = Scene(way), Scene(way, drips=True)
    for scene in (whole, dripping):
        scene.play()
        scene.check()
    assert dripping.answers == whole.answers
    assert len(dripping.ended(1)) == len(dripping.ended(2)) == 1
