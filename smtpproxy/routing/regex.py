"""Regular expressions: an ordered file of rows, of which the first that matches counts.

The expressions are Python's, and are matched by the `regex` module from PyPI, not by `re`:
an expression such as `(a+)+b` takes `re` years for an address that anyone may send, and
nothing can stop it.  `regex` keeps a time limit, also while it backtracks (seen to be late by
0.1 ms at most).  RE2 would need no limit, but knows no look-ahead and no back-reference, and
its many rows together have no bound either.

What `regex` takes beyond Python is refused, so that an expression means what Python's
documentation says.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path as FilePath
from time import thread_time

import regex

from smtpproxy.faults import Fault, Faults
from smtpproxy.routing.answers import Answer, Found, NoRoute, Question, Route, Row, TryAgain
from smtpproxy.routing.csv import read_file
from smtpproxy.values import value

MAX_ROWS = 1000
"""One look-up may have to try them all, at about 2 us each."""

BUDGET = 0.010
"""Seconds of processor time for one look-up."""

# To `regex`, "{e<=1}" allows an error, where it is letters to Python.
_NO_REPETITION = re.compile(r"(?<!\\)(?<!\\N)\{(?!\d*,?\d*\})")


@value
class RegexRow:
    """A row, with the expression that a whole address must match, in any case of letters."""

    expression: regex.Pattern[str]
    row: Row
    place: str


class RegexTable:
    """The rows of one file, in memory, in their order."""

    def __init__(self, rows: Iterable[RegexRow]) -> None:
        self.rows = tuple(rows)

    @classmethod
    def load(cls, file: FilePath, name: str) -> RegexTable:
        """Read `file`, in the form of a CSV mapping's, which logs and faults call `name`.

        Raises `Faults` with everything that is wrong in it.
        """
        expressions: dict[str, regex.Pattern[str]] = {}

        def key(pattern: str) -> str:
            expressions[pattern] = parse_expression(pattern)
            return pattern

        read = read_file(file, name, key)
        if len(read.lines) > MAX_ROWS:
            text = f"has {len(read.lines)} rows, and each costs every look-up time"
            hint = "put addresses and domains into a csv mapping"
            raise Faults([Fault(name, f"{text}; give at most {MAX_ROWS}, and {hint}")])
        rows = tuple(read.rows)
        return cls(
            RegexRow(expressions[pattern], rows[read.by_line[line]], f"{name}:{line}")
            for pattern, line in read.lines.items()
        )

    def listed(self) -> Iterable[Row]:
        return dict.fromkeys(each.row for each in self.rows)

    def keys(self) -> Collection[str]:
        """The expressions, in their order."""
        return dict.fromkeys(each.expression.pattern for each in self.rows)

    def discard(self) -> None:
        """A thousand rows at most: nothing that would be felt."""

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)


class RegexMapping:
    """Asks the rows of `table`, in their order, for the recipient's address or `postmaster`.

    All rows together may take `budget` seconds of processor time; after it the answer is
    `TryAgain`, since an untried row might be the right one.
    """

    lists_all = True

    def __init__(self, name: str, table: RegexTable, budget: float = BUDGET) -> None:
        self.name = name
        self.table = table
        self._budget = budget

    def keys(self, question: Question) -> tuple[str, ...]:
        return question.keys[:1]

    async def lookup(self, question: Question) -> Answer:
        passed: list[Route] = []
        for key in self.keys(question):
            before = thread_time()
            end = before + self._budget
            longest, slowest = 0.0, ""
            for each in self.table.rows:
                # A time below 0 is no limit to `regex`.
                matched = _matches(each.expression, key, max(0.0, end - before))
                now = thread_time()
                if now - before > longest:
                    longest, slowest = now - before, each.place
                before = now
                if matched:
                    route = Route(each.row, self.name, key, each.place)
                    if each.row.is_for(question):
                        return Found(route, tuple(passed))
                    passed.append(route)
                if now >= end:
                    return TryAgain(_too_slow(self._budget, slowest, longest, key))
        return NoRoute(tuple(passed))

    def listed(self) -> Iterable[Row]:
        return self.table.listed()


def parse_expression(text: str) -> regex.Pattern[str]:
    """The expression of a row; `ValueError` where it is none, with the place in it."""
    if not text:
        raise ValueError("is empty; give an expression, such as .*@example\\.com")
    if text == "*":
        raise ValueError("'*' repeats nothing; for all recipients give .*")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # sets in sets: `regex` has them already
            re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not an expression: {error}") from None
    except FutureWarning as error:
        raise ValueError(f"{text!r}: {error}; write a backslash there") from None
    except (OverflowError, RecursionError):
        raise ValueError(f"{text!r} is too large; give a simpler expression") from None
    if brace := _NO_REPETITION.search(text):
        where = f"at position {brace.start()}"
        raise ValueError(f"{text!r}: a {{ that begins no repetition {where}; write \\{{")
    try:
        return regex.compile(text, regex.IGNORECASE | regex.VERSION0)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} cannot be used: {error}") from None


def _matches(expression: regex.Pattern[str], key: str, seconds: float) -> bool:
    """Does all of `key` match, as far as can be found out in `seconds`?

    The interpreter's lock is kept: to give it away and get it back for each row costs up
    to 0.5 ms a row where another thread is busy, of which there are some.
    """
    try:
        return bool(expression.fullmatch(key, timeout=seconds, concurrent=False))
    except TimeoutError:
        return False


def _too_slow(budget: float, place: str, seconds: float, key: str) -> str:
    return (
        f"{key!r} was not looked up within {budget * 1000:g} ms; "
        f"the slowest expression is in {place}, and took {seconds * 1000:.1f} ms"
    )
