"""What databases share: a query with one place for the key, and rows of its result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from smtpproxy.routing.answers import Row
from smtpproxy.routing.keyed import LookupFailed
from smtpproxy.routing.rows import COLUMNS, BadRow, parse_row
from smtpproxy.values import value

_EXAMPLE = "SELECT server FROM routes WHERE pattern = ?"
_KEY = r"(?P<key>\?|%s\b)"


@value
class Dialect:
    """How a kind of database reads a query.

    `tokens` finds what a placeholder cannot stand in (group `key` is a placeholder, group
    `open` what begins and has no end); `key` is how the driver wants its placeholder, and
    `percent` how it wants a `%`.
    """

    tokens: re.Pattern[str]
    key: str
    percent: str


MYSQL = Dialect(
    re.compile(
        r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|/\*.*?\*/|\#[^\n]*|--(?:\s[^\n]*|\Z)|"""
        rf"""{_KEY}|(?P<open>['"`]|/\*)""",
        re.DOTALL,
    ),
    key="%s",
    percent="%%",
)
SQLITE = Dialect(
    re.compile(
        rf"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|/\*.*?\*/|--[^\n]*|{_KEY}|(?P<open>['"`\[])""",
        re.DOTALL,
    ),
    key="?",
    percent="%",
)


def keyed_query(query: str, dialect: Dialect) -> str:
    """`query` as the driver wants it.

    Raises `ValueError` unless there is one `?` (or `%s`) in it, outside quotes and comments.
    """
    text, keys = _translated(query, dialect)
    if not keys and re.search(_KEY, query):
        raise ValueError(f"the ? is in quotes or in a comment; write it bare, as in {_EXAMPLE}")
    if not keys:
        raise ValueError(f"there is no ? in it; write one for what is looked up, as in {_EXAMPLE}")
    if keys > 1:
        once = "SELECT server FROM routes, (SELECT ? AS asked) AS given WHERE ..."
        raise ValueError(f"there are {keys} ? in it; write one, and name it where need be: {once}")
    return text


def keyless_query(query: str, dialect: Dialect) -> str:
    """`query` as it is; raises `ValueError` if there is a `?` in it."""
    if _translated(query, dialect)[1]:
        raise ValueError("there is a ? in it; nothing is looked up here, so write none")
    return query


def _translated(query: str, dialect: Dialect) -> tuple[str, int]:
    """`query` in the driver's form, and how many placeholders it has."""
    parts: list[str] = []
    keys = end = 0
    for token in dialect.tokens.finditer(query):
        if token["open"]:
            raise ValueError(f"what begins at {query[token.start() :][:20]!r} has no end")
        keys += token["key"] is not None
        plain = query[end : token.start() if token["key"] else token.end()]
        parts += plain.replace("%", dialect.percent), dialect.key if token["key"] else ""
        end = token.end()
    return "".join((*parts, query[end:].replace("%", dialect.percent))), keys


def names_of(columns: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns, in lower case; raises `LookupFailed` unless all are known."""
    names = tuple(column.lower() for column in columns)
    known = f"the query may give the columns {', '.join(COLUMNS)}"
    for name in names:
        if name not in COLUMNS:
            raise LookupFailed(f"unknown column {name!r}; {known}")
        if names.count(name) > 1:
            raise LookupFailed(f"column {name} is there twice; {known}")
    if "server" not in names:
        raise LookupFailed(f"no column server; {known}")
    return names


def row_of(names: tuple[str, ...], values: Sequence[object]) -> Row | None:
    """What a row says, None where its server is NULL or empty; raises `LookupFailed`."""
    return _row(names, tuple(map(_text, values)))


@lru_cache(1000)  # many keys have the same row
def _row(names: tuple[str, ...], texts: tuple[str, ...]) -> Row | None:
    fields = dict(zip(names, texts, strict=True))
    if not fields["server"].strip():
        return None
    try:
        return parse_row(fields)
    except BadRow as error:
        raise LookupFailed(f"a row is wrong: {error}") from None


def _text(value: object) -> str:
    """The value as it would stand in a CSV file; "" for NULL."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case b"\0" | b"\1":  # BIT(1)
            return "1" if value == b"\1" else "0"
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise LookupFailed(f"{value[:20]!r} in a row is not UTF-8") from None
    text = str(value)
    whole, point, rest = text.partition(".")  # 50.00, of DECIMAL or REAL
    return whole if point and not rest.strip("0") and not isinstance(value, str) else text
