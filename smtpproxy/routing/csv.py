"""The CSV mapping: a file of rows `pattern;server;tls_verify`.

Not read with the csv module: that takes a quote to be CSV's own and lines to be whatever
quotes make of them, while here a row is a line, and `"a;b"@example.com` an address.
"""

from __future__ import annotations

import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path as FilePath
from typing import TypeVar

from smtpproxy.faults import Fault, Faults
from smtpproxy.routing.answers import Answer, Found, NoRoute, Route
from smtpproxy.routing.keys import POSTMASTER, address_key, domain_key
from smtpproxy.routing.servers import Upstream, parse_server
from smtpproxy.smtp.paths import parse_path

COLUMNS = ("pattern", "server", "tls_verify")
_REQUIRED = COLUMNS[:2]
_HEADER = f"the first line must be {';'.join(COLUMNS)} (tls_verify may be left out)"

_FIELD = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^;"])*)(;|$)')
_TRUTH = {"true": True, "yes": True, "1": True, "": True, "false": False, "no": False, "0": False}

_Value = TypeVar("_Value")


class CsvMapping:
    """The rows of one file, in memory, as they were when it was loaded.

    Made for a million rows: for each key the line it stands on, for each line a number
    that stands for its upstream.  Nothing in there costs the garbage collector time.
    """

    def __init__(
        self, name: str, lines: dict[str, int], by_line: array[int], upstreams: Sequence[Upstream]
    ) -> None:
        self.name = f"csv {name}"
        self._file = name
        self._lines = lines
        self._by_line = by_line
        self._upstreams = tuple(upstreams)

    @classmethod
    def load(cls, file: FilePath, name: str) -> CsvMapping:
        """Read `file`, which logs and faults call `name`.

        Raises `Faults` with everything that is wrong in it.
        """
        table = _Table(name)
        try:
            with file.open("rb") as lines:
                table.read(lines)
        except OSError as error:
            table.fault(0, f"cannot be read: {error.strerror}; {file} must be a readable file")
        if table.faults:
            raise Faults(table.faults)
        return cls(name, table.lines, table.by_line, tuple(table.upstreams))

    async def lookup(self, keys: Sequence[str]) -> Answer:
        for key in keys:
            line = self._lines.get(key)
            if line is not None:
                upstream = self._upstreams[self._by_line[line]]
                return Found(Route(upstream, self.name, key, f"{self._file}:{line}"))
        return NoRoute()

    def upstreams(self) -> Iterable[Upstream]:
        return self._upstreams

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._lines)


class _Table:
    """What the lines of a file say, and all that is wrong with them.

    `lines` has the line of each key, `by_line` the place in `upstreams` for each line.
    """

    def __init__(self, name: str) -> None:
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}
        self.by_line = array("I", [0])
        self.upstreams: dict[Upstream, int] = {}
        self._name = name
        self._columns: tuple[str, ...] = ()
        self._hosts: dict[str, tuple[str, int]] = {}  # few servers, many rows

    def fault(self, line: int, text: str) -> None:
        """Note what is wrong in `line`, or in the whole file for 0."""
        self.faults.append(Fault(f"{self._name}:{line}" if line else self._name, text))

    def read(self, lines: Iterable[bytes]) -> None:
        """Take in all lines; without a right header, none that comes after it."""
        for number, line in enumerate(lines, 1):
            self.by_line.append(0)
            fields = self._fields(number, line)
            if fields and self._columns:
                self._row(number, fields)
            elif fields:
                self._header(number, fields)
                if not self._columns:
                    return
        if not self._columns and not self.faults:
            self.fault(0, f"is empty; {_HEADER}")

    def _fields(self, number: int, line: bytes) -> list[str]:
        """The fields of a line; none where it is blank, a comment, or wrong."""
        if number == 1:
            line = line.removeprefix(BOM_UTF8)
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            self.fault(number, f"is not UTF-8 at byte {error.start + 1}; save the file as UTF-8")
            return []
        if not text or text.startswith("#"):
            return []
        fields = _split(text)
        if not fields:
            self.fault(number, f'{text!r}: a quote (") without its partner; add or remove one')
        return fields

    def _header(self, number: int, columns: Sequence[str]) -> None:
        columns = tuple(column.lower() for column in columns)
        before = len(self.faults)
        for column in dict.fromkeys(columns):
            if column not in COLUMNS:
                self.fault(number, f"unknown column {column!r}; {_HEADER}")
            elif columns.count(column) > 1:
                self.fault(number, f"column {column} is there twice; {_HEADER}")
        for column in _REQUIRED:
            if column not in columns:
                self.fault(number, f"no column {column}; {_HEADER}")
        if len(self.faults) == before:
            self._columns = columns

    def _row(self, number: int, fields: Sequence[str]) -> None:
        if len(fields) > len(self._columns):
            right = ";".join(self._columns)
            self.fault(number, f"{len(fields)} fields; the header allows {right}")
            return
        row = dict(zip(self._columns, fields, strict=False))
        key = self._value(number, "pattern", row, _pattern_key)
        server = self._value(number, "server", row, self._server)
        tls_verify = self._value(number, "tls_verify", row, _truth)
        if key is not None and (first := self.lines.setdefault(key, number)) != number:
            self.fault(number, f"{key} is on line {first} already; keep one of the two lines")
        if server is not None and tls_verify is not None:
            upstream = Upstream(*server, tls_verify)
            self.by_line[number] = self.upstreams.setdefault(upstream, len(self.upstreams))

    def _value(
        self, number: int, column: str, row: dict[str, str], read: Callable[[str], _Value]
    ) -> _Value | None:
        try:
            return read(row.get(column, ""))
        except ValueError as error:
            self.fault(number, f"{column}: {error}")
            return None

    def _server(self, text: str) -> tuple[str, int]:
        server = self._hosts.get(text)
        if server is None:
            server = self._hosts[text] = parse_server(text)
        return server


def _split(text: str) -> list[str]:
    """The fields of a line, none where its quotes do not pair.

    A `;` between quotes is no end of a field.  Quotes around a whole field, as
    spreadsheets write them, are taken off; no address ends in a quote.
    """
    if '"' not in text:
        return [field.strip() for field in text.split(";")]
    fields: list[str] = []
    start = 0
    while match := _FIELD.match(text, start):
        field = match[1].strip()
        if len(field) > 1 and field[0] == field[-1] == '"':
            field = field[1:-1].replace('""', '"').strip()
        fields.append(field)
        if not match[2]:
            return fields
        start = match.end()
    return []


def _pattern_key(pattern: str) -> str:
    """The key that a pattern stands for; `ValueError` where it is none."""
    if not pattern:
        raise ValueError("is empty; give an address, a domain, or postmaster")
    if pattern == "*":
        raise ValueError("a row for everyone is not known; add a static mapping after this one")
    if pattern.startswith("*@") or pattern.startswith("@*"):
        raise ValueError(f"{pattern!r}: there are no wildcards; give the domain alone")
    if pattern.startswith((".", "*.", "@.")):
        raise ValueError(f"{pattern!r}: parent domains are not known; give each domain in full")
    if pattern.lower() == POSTMASTER:
        return POSTMASTER
    domain = pattern.removeprefix("@")
    path = parse_path(pattern if "@" in domain else f"x@{domain}")
    if path is None:
        raise ValueError(f"{pattern!r} is neither an address nor a domain nor postmaster")
    return address_key(path) if "@" in domain else domain_key(domain)


def _truth(text: str) -> bool:
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise ValueError(
            f"{text!r} is not a truth value; give true or false (or yes, no, 1, 0)"
        ) from None
