"""Where in a TOML file each key stands, since tomllib does not say.

The text has been read by tomllib before, so it is known to be TOML; what is left
is to tell keys from values. Keys inside an inline table are not looked for: they
stand where the table begins.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping

KeyPath = tuple[str | int, ...]

_STRING = r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_PART = rf"(?:[A-Za-z0-9_-]+|{_STRING})"
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_HEADER = re.compile(rf"(?P<open>\[\[?)[ \t]*(?P<key>{_KEY})[ \t]*\]\]?", re.DOTALL)
_ASSIGNMENT = re.compile(rf"(?P<key>{_KEY})[ \t]*=", re.DOTALL)
_EACH_PART = re.compile(_PART, re.DOTALL)
# In a value: a string, a comment, a bracket, the end of the line, or anything else.
_TOKEN = re.compile(rf"{_STRING}|#[^\n]*|[\[\]{{}}\n]|[^\"'#\[\]{{}}\n]+", re.DOTALL)


def locate(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each table, array element and key in the TOML document `text`."""
    lines: dict[KeyPath, int] = {}
    for path, line in _paths(text):
        for depth in range(1, len(path) + 1):
            lines.setdefault(path[:depth], line)
    return lines


def twice(text: str) -> tuple[KeyPath, int, int] | None:
    """The first table or key of `text` that is there again, and the lines of both.

    For a text that tomllib does not take for that reason.
    """
    seen: dict[KeyPath, int] = {}
    for path, line in _paths(text):
        if (first := seen.setdefault(path, line)) != line:
            return path, first, line
    return None


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int | None:
    """The line of `path`, or of the nearest thing around it that has one."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)


def dotted(path: KeyPath) -> str:
    """`path` as people write it: `listeners[0].tls_cert`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += f".{part}" if bare else f".{part!a}"
    return text.removeprefix(".")


def _paths(text: str) -> Iterator[tuple[KeyPath, int]]:
    """The path and the line of each table, array element and key, as they are written."""
    elements: dict[KeyPath, int] = {}  # of each array of tables: how many so far
    table: KeyPath = ()
    for kind, key, line in _statements(text):
        if kind == "[[":
            array = _walk(table=(), key=key[:-1], elements=elements) + key[-1:]
            elements[array] = elements.get(array, 0) + 1
        if kind in ("[", "[["):
            table = _walk((), key, elements)
        yield (table if kind != "=" else table + key), line


def _walk(table: KeyPath, key: tuple[str, ...], elements: Mapping[KeyPath, int]) -> KeyPath:
    """The path that a header means: in an array of tables, its newest element."""
    path = table
    for part in key:
        path += (part,)
        if path in elements:
            path += (elements[path] - 1,)
    return path


def _statements(text: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Each "[table]", "[[array]]" and "key =", with its key and its line."""
    position, line, counted = 0, 1, 0
    while True:
        blank = _BLANK.match(text, position)
        position = blank.end() if blank else position
        line, counted = line + text.count("\n", counted, position), position
        if match := _HEADER.match(text, position):
            kind, position = match["open"], match.end()
        elif match := _ASSIGNMENT.match(text, position):
            kind, position = "=", _value_end(text, match.end())
        else:
            return
        yield kind, tuple(_unquoted(part) for part in _EACH_PART.findall(match["key"])), line


def _value_end(text: str, position: int) -> int:
    """Where the value that begins at `position` ends: at a line end outside all brackets."""
    depth = 0
    while match := _TOKEN.match(text, position):
        found = match[0]
        depth += (found in ("[", "{")) - (found in ("]", "}"))
        if found == "\n" and depth == 0:
            break
        position = match.end()
    return position


def _unquoted(part: str) -> str:
    if part[0] not in "\"'":
        return part
    text = tomllib.loads(f"key = {part}")["key"]
    assert isinstance(text, str)
    return text
