"""The regex mapping: its rows, its faults, and the bound on the work of a look-up."""

from __future__ import annotations

import re
import sys
from pathlib import Path as FilePath
from threading import Event, Thread
from time import sleep, thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.faults import Faults
from smtpproxy.routing import (
    Found,
    NoRoute,
    Question,
    Route,
    Row,
    Server,
    TryAgain,
    Upstream,
    upstreams_in,
)
from smtpproxy.routing.regex import BUDGET, MAX_ROWS, RegexMapping, RegexTable, parse_expression
from smtpproxy.smtp.paths import NULL_PATH, Path, parse_path

HEADER = "pattern;server;percent;shadow;note\n"

# Exponential, or of a high power, also for a module that knows a few of them by heart.
HOSTILE = [
    r"(?:x{1,100}){1,100}y",
    r"((x{1,9}){1,9}){1,9}[yz]",
    r"(x?){200}x{200}y\1",
    r"(?=((x{1,9}){1,9}){1,9}[yz]).*",
]
LONG = f"{'x' * 320}@example.com"


@pytest.fixture
def load(tmp_path):
    def load(content: str) -> RegexTable:
        file = tmp_path / "patterns.csv"
        file.write_text(content, "utf-8")
        return RegexTable.load(file, "patterns.csv")

    return load


@pytest.fixture
def faults(load):
    def faults(content: str) -> list[str]:
        with pytest.raises(Faults) as caught:
            load(content)
        return str(caught.value).split("\n")

    return faults


def ask(table: RegexTable, address: str, budget: float = 1.0):
    path = parse_path(address)
    assert path is not None
    coroutine = RegexMapping("regex", table, budget).lookup(Question(path, "+", "mx.example.net"))
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    return caught.value.value


def host(table: RegexTable, address: str) -> str:
    answer = ask(table, address)
    return answer.route.upstream.servers[0].host if isinstance(answer, Found) else ""


def test_the_first_row_that_matches_wins(load):
    table = load(
        HEADER
        + r"sales\..*@example\.com;one.test"
        + "\n# everyone else\n"
        + r".*@example\.com;two.test:26"
        + "\n"
        + r"sales\.a@example\.com;three.test"
        + "\n"
    )
    assert len(table) == 3
    assert host(table, "sales.a@example.com") == "one.test"
    assert ask(table, "Alice+x@Example.com") == Found(
        Route(
            Row(Upstream((Server("two.test", 26),))),
            "regex",
            "alice+x@example.com",
            "patterns.csv:4",
        )
    )
    assert ask(table, "alice@example.net") == NoRoute()


def test_an_expression_matches_the_whole_address(load):
    table = load(HEADER + "alice;a\nexample\\.com;b\n.*@example.com;c\na|ab@example.net;d\n")
    assert host(table, "alice@example.net") == ""
    assert host(table, "alice@example.com") == "c"
    assert host(table, "alice@sub.example.com") == ""
    assert host(table, "alice@example.com.test") == ""
    assert host(table, "ab@example.net") == "d"


def test_case_does_not_count_on_either_side(load):
    table = load(HEADER + "ALICE@Example\\.COM;a\n[B-C]ob@.*;b\nJOSÉ@.*;c\n(?-i:D)ave@.*;d\n")
    assert host(table, "aLice@example.com") == "a"
    assert host(table, "BOB@example.net") == "b"
    assert host(table, "josé@example.net") == host(table, "jose\u0301@example.net") == "c"
    assert host(table, "Dave@example.net") == ""
    assert host(load(HEADER + "strasse@.*;one.test\n"), "straße@example.net") == ""


def test_it_is_asked_for_the_address_with_its_suffix_and_in_its_canonical_form(load):
    table = load(
        HEADER
        + r"alice\+.*@example\.com;suffix"
        + "\n"
        + r"a b@example\.com;quoted"
        + "\n"
        + r".*@xn--bcher-kva\.example;idna"
        + "\n"
        + r"postmaster(@.*)?;postmaster"
        + "\n"
    )
    assert host(table, "alice+x@example.com") == "suffix"
    assert host(table, "alice@example.com") == ""
    assert host(table, '"a b"@example.com') == "quoted"
    assert host(table, "x@Bücher.example") == "idna"
    assert host(table, "Postmaster") == host(table, "postmaster@example.com") == "postmaster"
    mapping = RegexMapping("regex", table)
    question = Question(Path("Alice+x", "example.com"), "+")
    assert mapping.keys(question) == ("alice+x@example.com",)
    assert mapping.keys(Question(NULL_PATH)) == ()


def test_percent_goes_on_to_the_next_row(load):
    table = load(HEADER + ".*;new.test;0\n.+;newer.test;0\n.*@.*;old.test\n")
    answer = ask(table, "alice@example.com")
    assert isinstance(answer, Found)
    assert answer.route.place == "patterns.csv:4"
    assert [route.place for route in answer.passed] == ["patterns.csv:2", "patterns.csv:3"]
    answer = ask(load(HEADER + ".*;new.test;0\n"), "alice@example.com")
    assert isinstance(answer, NoRoute)
    assert [route.place for route in answer.passed] == ["patterns.csv:2"]


def test_upstreams_are_listed_once_with_shadows(load):
    table = load(HEADER + "a;one.test;;two.test\nb;one.test\n")
    mapping = RegexMapping("regex", table)
    assert [str(each) for each in upstreams_in(mapping.listed())] == ["one.test:25", "two.test:25"]


def test_separators_and_quotes_in_an_expression(load):
    table = load(HEADER + '"[;a]b@.*";one.test\n"""c""@.*";two.test\n\\#d@.*;three.test\n')
    assert host(table, '";b"@example.com') == host(table, "ab@example.com") == "one.test"
    assert list(table.keys()) == ["[;a]b@.*", '"c"@.*', "\\#d@.*"]
    assert host(table, "#d@example.com") == "three.test"


def test_every_fault_is_told_at_once_with_line_and_position(faults):
    assert faults(
        HEADER
        + "(a|b@example.com;one.test\n"
        + ".*@example.com;nowhere:99999\n"
        + "# comment\n"
        + "a{e<=1};one.test\n"
        + ".*@EXAMPLE.com;one.test\n"
        + ".*@example.com;two.test\n"
        + "*;one.test\n"
        + ";one.test\n"
    ) == [
        "patterns.csv:2: pattern: '(a|b@example.com' is not an expression:"
        " missing ), unterminated subpattern at position 0",
        "patterns.csv:3: server: '99999' is not a port; give a number from 1 to 65535",
        r"patterns.csv:5: pattern: 'a{e<=1}': a { that begins no repetition at position 1;"
        r" write \{",
        "patterns.csv:7: .*@example.com is on line 3 already; keep one of the two lines",
        "patterns.csv:8: pattern: '*' repeats nothing; for all recipients give .*",
        r"patterns.csv:9: pattern: is empty; give an expression, such as .*@example\.com",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a**", "multiple repeat at position 2"),
        ("a)", "unbalanced parenthesis at position 1"),
        ("[a", "unterminated character set at position 0"),
        (r"\1", "invalid group reference 1 at position 1"),
        ("(?<=a+)b", "look-behind requires fixed-width pattern"),
        ("(" * 3000 + ")" * 3000, "("),
        ("x{99999999999}", "is too large"),
        # known to `regex` alone
        (r"\p{Lu}", r"bad escape \p at position 0"),
        ("(?R)", "unknown extension ?R at position 1"),
        ("(?e)a", "unknown extension ?e at position 1"),
        ("(?:foo){e}", r"begins no repetition at position 7; write \{"),
        ("[[:alpha:]]", "Possible nested set at position 1; write a backslash there"),
        ("[a--b]", "Possible set difference at position 2"),
    ],
)
def test_what_is_no_expression_of_python(text, hint):
    with pytest.raises(ValueError) as caught:
        parse_expression(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.sampled_from(["a", "b", "@", ".", "x+", "(a|ab)", "[a-b]", r"\w*", "a{1,2}", "^", "$"])
        | st.sampled_from([r"\b", "(?:b?)*", "(?!a)", "(?=b)", "[^@]", "a*?", "a++", r"\.", r"\{"]),
        max_size=8,
    ).map("".join),
    st.text("ab@.x{", max_size=8),
)
def test_expressions_mean_what_python_says(text, key):
    try:
        expected = re.compile(text, re.IGNORECASE)
    except re.error:
        return
    if text:
        matched = parse_expression(text).fullmatch(key)
        assert (matched is None) == (expected.fullmatch(key) is None)


def test_too_many_rows_are_a_fault(load, faults):
    rows = [f"u{number}@.*;one.test\n" for number in range(MAX_ROWS + 1)]
    assert len(load(HEADER + "".join(rows[:-1]))) == MAX_ROWS
    (fault,) = faults(HEADER + "".join(rows))
    assert fault == (
        "patterns.csv: has 1001 rows, and each costs every look-up time; give at most 1000,"
        " and put addresses and domains into a csv mapping"
    )


def test_all_the_rows_there_may_be_fit_into_the_budget(load):
    rows = "".join(rf"[a-z.]+{number}@example\.com;one.test" + "\n" for number in range(MAX_ROWS))
    table = load(HEADER + rows)
    # the best of some, since a test may have a slow machine, and a tracer, to itself
    assert NoRoute() in [ask(table, "x@example.com", BUDGET) for _ in range(5)]


@pytest.mark.parametrize("expression", HOSTILE)
def test_an_expression_that_takes_too_long_is_tried_again(load, expression):
    table = load(f"{HEADER}a;one.test\n{expression};two.test\n.*;three.test\n")
    before = thread_time()
    answer = ask(table, LONG, budget=0.02)
    assert thread_time() - before < 0.2
    assert isinstance(answer, TryAgain)
    assert answer.reason.startswith(f"{LONG!r} was not looked up within 20 ms; ")
    assert "the slowest expression is in patterns.csv:3, and took " in answer.reason
    assert host(load(f"{HEADER}.*;one.test\n{expression};two.test\n"), LONG) == "one.test"


def test_the_bound_is_for_all_rows_together(load):
    slow = "".join(rf"(x+x+)+y{number};one.test" + "\n" for number in range(25))
    for rows in (f"{slow}{HOSTILE[0]};two.test\n", many_slow_rows()):
        table = load(HEADER + rows)
        before = thread_time()
        assert isinstance(ask(table, LONG, budget=0.06), TryAgain)
        assert thread_time() - before < 0.075


def many_slow_rows() -> str:
    return "".join(rf"(x+x+)+y{number};one.test" + "\n" for number in range(MAX_ROWS))


def test_the_slowest_expression_is_named_wherever_the_time_runs_out(load, monkeypatch):
    table = load(HEADER + "a;one.test\nb;one.test\nc;one.test\nd;one.test\n")
    times = iter([0.0, 0.001, 0.007, 0.009, 0.011])
    monkeypatch.setattr("smtpproxy.routing.regex.thread_time", lambda: next(times))
    assert ask(table, "x@example.com", budget=0.010) == TryAgain(
        "'x@example.com' was not looked up within 10 ms;"
        " the slowest expression is in patterns.csv:3, and took 6.0 ms"
    )


def test_a_match_counts_even_if_it_came_late(load, monkeypatch):
    table = load(HEADER + "x@.*;one.test\n")
    times = iter([0.0, 0.5])
    monkeypatch.setattr("smtpproxy.routing.regex.thread_time", lambda: next(times))
    assert isinstance(ask(table, "x@example.com", budget=0.010), Found)


def test_no_other_thread_runs_between_two_rows(load):
    """Given away for each row, the interpreter's lock takes up to 5 ms to come back."""
    table = load(HEADER + "".join(rf"u{number}@.*;one.test" + "\n" for number in range(100)))
    turns = [0]
    started, stop = Event(), Event()

    def other() -> None:
        while not stop.is_set():
            turns[0] += 1
            started.set()
            sleep(0)  # gives the lock away, and wants it back

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # seconds: nobody takes the lock, so it must be given
    thread = Thread(target=other)
    thread.start()
    try:
        started.wait()
        before = turns[0]
        assert ask(table, "x@example.com") == NoRoute()
        assert turns[0] == before
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_the_example_in_the_documentation_works(load):
    page = FilePath(__file__).parents[1].joinpath("docs", "mappings-regex.md").read_text("utf-8")
    (example,) = (block for block in page.split("```") if "\npattern;server" in block)
    table = load(example.lstrip("\n"))
    assert host(table, "sales.berlin@example.com") == "sales.example.net"
    assert host(table, "a1234567@students.example.org") == "students.example.net"
    assert host(table, "anna@students.example.org") == "staff.example.net"
    assert host(table, '"bounce-7;8"@example.com') == "bounces.example.net"


def test_rows_that_are_passed_over_use_up_the_budget_too(load) -> None:
    """A time that is used up is no time at all: below 0, `regex` would take it for no limit."""
    passed = "".join(f"(?:{number}|.)*@slow\\.test;a.test;0\n" for number in range(990))
    table = load(HEADER + passed + "(a|aa|a.)+c@slow\\.test;a.test\n")
    before = thread_time()
    answer = ask(table, f"{'a' * 26}@slow.test", budget=0.001)
    assert isinstance(answer, TryAgain)
    assert thread_time() - before < 1, "it took seconds"
