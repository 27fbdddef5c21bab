"""CSV tables: files of rows `pattern;server;tls_verify`, and the further columns of `rows`.

Not read with the csv module: that takes a quote to be CSV's own and lines to be whatever
quotes make of them, while here a row is a line, and `"a;b"@example.com` an address.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path as FilePath

from smtpproxy.faults import Fault, Faults, unreadable
from smtpproxy.routing.answers import Row
from smtpproxy.routing.keyed import Hit
from smtpproxy.routing.keys import CATCH_ALL, POSTMASTER, address_key, domain_key
from smtpproxy.routing.lines import Lines
from smtpproxy.routing.rows import COLUMNS, BadRow, parse_row
from smtpproxy.smtp.paths import parse_path

# Octets, read at once.  At each read, the interpreter's lock is given up and taken back: where
# that comes more often than its switch interval, other threads wait for it for seconds.
_BUFFER = 1 << 20

MAX_LINE = 8192  # octets
MAX_FAULTS = 1000  # of one file, before the rest of it is not looked at
_REQUIRED = ("pattern", "server")
_KNOWN = ("pattern", *COLUMNS)
_USUAL = "pattern;server;tls_verify"
_HEADER = f"the first line must name pattern and server, and may name {', '.join(_KNOWN[2:])}"

_FIELD = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^;"])*)(;|$)')


class CsvTable:
    """The rows of one file, in memory, as they were when it was loaded.

    Made for a million rows: for each key the line it stands on, for each line a number
    that stands for what it says.  Nothing in there costs the garbage collector time, and
    loading holds up no other thread.
    """

    lists_all = True

    def __init__(
        self,
        name: str,
        lines: Lines,
        by_line: array[int],
        rows: Sequence[Row],
        first_parent: int = 0,
    ) -> None:
        """`first_parent` is the first line whose key is a parent domain, 0 for none."""
        self.name = name
        self.first_parent = first_parent
        self._lines = lines
        self._by_line = by_line
        self._rows = tuple(rows)

    @classmethod
    def load(cls, file: FilePath, name: str) -> CsvTable:
        """Read `file`, which logs and faults call `name`.

        Raises `Faults` with everything that is wrong in it.
        """
        lines = Lines(_size(file))
        read = read_file(file, name, pattern_key, lines)
        return cls(name, lines, read.by_line, tuple(read.rows), read.first_parent)

    async def find(self, keys: Sequence[str]) -> CsvTable:
        return self  # it takes no time to look a key up once its turn comes, if it ever does

    def get(self, key: str, /) -> Hit | None:
        """The row of a key."""
        line = self._lines.get(key)
        if line is None:
            return None
        return Hit(self._rows[self._by_line[line]], f"{self.name}:{line}")

    def listed(self) -> Iterable[Row]:
        return self._rows

    def rows(self) -> Iterator[tuple[str, int, Row]]:
        """Key, line and row of all rows, as they stand in the file."""
        in_order = sorted(self._lines.items(), key=itemgetter(1))
        return ((key, line, self._rows[self._by_line[line]]) for key, line in in_order)

    def keys(self) -> Collection[str]:
        """In no order."""
        return self._lines

    def discard(self) -> None:
        """Give the memory back bit by bit; nothing can be looked up any more."""
        self._lines.discard()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._lines)


def read_file(
    file: FilePath,
    name: str,
    key: Callable[[str], str],
    lines: dict[str, int] | Lines | None = None,
) -> Reading:
    """The rows of `file`, which faults call `name`; raises `Faults` with all that is wrong in it.

    `key` gives what a pattern stands for, and raises `ValueError` where it is none.  The
    lines of the keys go into `lines`, by default a dict.
    """
    reading = Reading(name, key, {} if lines is None else lines)
    try:
        with open(file, "rb", _BUFFER, opener=_open) as content:
            reading.read(iter(lambda: content.readline(MAX_LINE + 1), b""))
    except OSError as error:
        reading.fault(0, unreadable(error))
    if reading.faults:
        raise Faults(reading.faults)
    return reading


def _open(name: str, flags: int) -> int:
    """Open what is a file alone: a pipe would be waited for, and a device has no end."""
    opened = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(opened).st_mode) or stat.S_ISDIR(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise OSError(errno.EINVAL, "Not a regular file")


def _size(file: FilePath) -> int:
    try:
        return file.stat().st_size
    except OSError:  # which reading it will tell
        return 0


class Reading:
    """What the lines of a file say, and all that is wrong with them.

    `lines` has the line of each key, `by_line` the place in `rows` for each line.
    """

    def __init__(self, name: str, key: Callable[[str], str], lines: dict[str, int] | Lines) -> None:
        self.faults: list[Fault] = []
        self.lines = lines
        self.by_line = array("I", [0])
        self.rows: dict[Row, int] = {}
        self.first_parent = 0
        self._name = name
        self._key = key
        self._columns: tuple[str, ...] = ()
        self._known: dict[tuple[str, ...], int] = {}  # many lines say the same of their key

    def fault(self, line: int, text: str) -> None:
        """Note what is wrong in `line`, or in the whole file for 0."""
        self.faults.append(Fault(f"{self._name}:{line}" if line else self._name, text))

    def read(self, lines: Iterable[bytes]) -> None:
        """Take in all lines; without a right header, none that comes after it."""
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_LINE:
                self.fault(number, f"is longer than {MAX_LINE} octets; is this a file of rows?")
                return
            if len(self.faults) >= MAX_FAULTS:
                self.fault(0, f"is not read beyond line {number - 1}, for its many faults")
                return
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
        if not set(columns) & set(_KNOWN):
            self.fault(number, _no_header(columns))
            return
        before = len(self.faults)
        for column in dict.fromkeys(columns):
            if column not in _KNOWN:
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
        columns = dict(zip(self._columns, fields, strict=False))
        try:
            key = self._key(columns.pop("pattern", ""))
        except ValueError as error:
            self.fault(number, f"pattern: {error}")
        else:
            if not self.first_parent and key.startswith("."):
                self.first_parent = number
            if (first := self.lines.setdefault(key, number)) != number:
                self.fault(number, f"{key} is on line {first} already; keep one of the two lines")
        columns.pop("note", None)
        said = tuple(columns.values())
        if said not in self._known:
            try:
                row = parse_row(columns)
            except BadRow as error:
                for column, text in error.faults:
                    self.fault(number, f"{column}: {text}")
                return
            self._known[said] = self.rows.setdefault(row, len(self.rows))
        self.by_line[number] = self._known[said]


def _no_header(columns: Sequence[str]) -> str:
    """What is wrong with a first line that names no column."""
    for sign, named in ((",", "commas"), ("\t", "tabs")):
        names = [name.strip(' "') for name in columns[0].split(sign)]
        if len(columns) == 1 and len(names) > 1 and set(names) & set(_KNOWN):
            return f'fields are separated by ";", not by {named}: {_USUAL}'
    return f"the header line is missing: {_USUAL}"


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


def pattern_key(pattern: str) -> str:
    """The key that a pattern stands for; `ValueError` where it is none."""
    if not pattern:
        raise ValueError("is empty; give an address, a domain, postmaster, or *")
    if pattern == CATCH_ALL:
        return CATCH_ALL
    if pattern.startswith(("*@", "@*", "*.", "@.")):
        hint = "write .example.org for all domains in a domain, * for all recipients"
        raise ValueError(f"{pattern!r}: there are no such wildcards; {hint}")
    if pattern.lower() == POSTMASTER:
        return POSTMASTER
    domain = pattern.removeprefix("@")
    dot = "." if domain.startswith(".") else ""
    path = parse_path(pattern if "@" in domain else f"x@{domain.removeprefix('.')}")
    if path is None or (dot and path.domain.startswith("[")):
        raise ValueError(f"{pattern!r} is neither an address nor a domain nor postmaster")
    return address_key(path) if "@" in domain else f"{dot}{domain_key(path.domain)}"
