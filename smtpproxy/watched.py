"""Files that are edited while the program runs: noticing a change, and reading what they say now.

A file has changed when what `stat` says of it has (a rename and a switched symbolic link
show as well, on network mounts too), and it has stood still for a look.  Nothing here waits
or knows of a loop: reading may be done in a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from smtpproxy.faults import Fault, Faults

Signature = tuple[int, ...]
Signatures = tuple[Signature | None, ...]  # of several files

MOST_TOLD = 100  # faults of one file

_NEVER: Signatures = ()  # no files have it: they are to be read, whatever they are


class Change(Protocol):
    """What was read, and is not in force before it is taken."""

    @property
    def refused(self) -> str:
        """Why it is not to be taken, unless that is meant; "" where it may be."""

    @property
    def warnings(self) -> Sequence[object]:
        """What is wrong with it, or soon will be, though it may be taken."""

    def take(self) -> Sequence[str]:
        """Have it in force; what to tell of it, but for the warnings."""

    def discard(self) -> None:
        """Give back what is not in force: the old content of what was taken, else the new."""


class Watched:
    """Files that belong together, and are read together."""

    stays = "the old content stays in force"  # said where a change is not taken

    def __init__(self, files: Sequence[Path], seen: Signatures) -> None:
        """`seen` are the signatures of `files` before they were read for the first time."""
        self.files = files
        self._was = self._read = self._looked = seen
        self.trouble = ""  # why what was read last is not in force

    def __str__(self) -> str:
        return str(self.files[0])

    def changed(self) -> bool:
        """A file is not what was read last, and all have stood still since the last look."""
        now = signatures(*self.files)
        settled, self._looked = now == self._looked, now
        return settled and now != self._read

    def read(self, force: bool = False) -> Change | None:
        """What the files say now; None where one was written while it was read.

        Raises `Faults`.  With `force`, no change is refused.
        """
        before, self._was, self._read = signatures(*self.files), self._read, _NEVER
        try:
            change = self._load(force)
        except Exception as error:
            if signatures(*self.files) != before:  # of half a file
                return None
            self._read = before  # they are told once
            self.trouble = (str(error).splitlines() or [repr(error)])[0]
            raise
        if signatures(*self.files) != before:
            change.discard()
            return None
        self._read = before
        self.trouble = change.refused
        return change

    def put_back(self) -> None:
        """What was read last is not taken, for no fault of its own: it is to be read again."""
        self._read = self._was

    def _load(self, force: bool) -> Change:
        raise NotImplementedError


class Content(Protocol):
    """What a file of rows says, read."""

    def keys(self) -> Collection[str]:
        """The key of each row; to look one up in it takes no time."""

    def __len__(self) -> int: ...

    def discard(self) -> None:
        """Give the memory back, bit by bit: a million rows at once would stop everything."""


class Mapping(Protocol):
    """A mapping that answers from the content of a file."""

    table: Any


class WatchedFile(Watched):
    """A mapping's file.  What it says is the mapping's `table`, and later contents are in turn."""

    def __init__(
        self,
        mapping: Mapping,
        file: Path,
        load: Callable[[], Content],
        max_shrink: float,
        seen: Signature | None,
    ) -> None:
        """`load` reads the file and raises `Faults`; `max_shrink` is a part of 1.

        `mapping` has the file's content already; `seen` is the file's signature before.
        """
        super().__init__((file,), (seen,))
        self.generation = 1  # how often there was another content, and this one
        self.since = time.time()
        self._mapping = mapping
        self._load_file = load
        self._max_shrink = max_shrink

    def _load(self, force: bool) -> Change:
        content = self._load_file()
        old, new = self._mapping.table.keys(), content.keys()
        dropped = sum(key not in new for key in old)
        refused = ""
        if dropped > self._max_shrink * len(old) and not force:
            refused = (
                f"it would drop {dropped} of {len(old)} keys, more than "
                f"max_shrink allows; {self.stays}. If that is meant: smtpproxy reload --force"
            )
        return _Rows(self, self._mapping, content, refused)

    def taken(self) -> None:
        """What it says now is in force."""
        self.generation += 1
        self.since = time.time()


@dataclass(slots=True)
class _Rows:
    """A file's new content, or once taken its old one."""

    file: WatchedFile
    mapping: Mapping
    content: Content
    refused: str
    warnings: Sequence[object] = ()

    def take(self) -> Sequence[str]:
        old, self.mapping.table = self.mapping.table, self.content
        new, self.content = self.content, old
        self.file.taken()
        return (f"{self.file}: {len(new)} rows in force, {len(old)} before",)

    def discard(self) -> None:
        self.content.discard()


def signature(file: Path) -> Signature | None:
    """What changes when a file does, whoever changes it how; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    # With the time of chmod: it may be what makes the file readable.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size


def signatures(*files: Path) -> Signatures:
    """Those of several files, in their order."""
    return tuple(map(signature, files))


def read_all(watched: Iterable[Watched], force: bool) -> list[tuple[Watched, Change]]:
    """What each says now; raises `Faults`, where one has some, and then nothing was read.

    To be called in a thread.
    """
    read: list[tuple[Watched, Change]] = []
    faults: list[Fault] = []
    try:
        for each in watched:
            try:
                change = each.read(force)
            except Faults as error:
                faults += error.faults[:MOST_TOLD]
                continue
            if change is None:
                text = "is being written; it is read again once it stands still"
                faults.append(Fault(str(each), text))
            elif change.refused:
                faults.append(Fault(str(each), f"NOT TAKEN: {change.refused}"))
                change.discard()
            else:
                read.append((each, change))
        if faults:
            raise Faults(faults)
    except BaseException:
        give_back(read)
        raise
    return read


def give_back(read: Iterable[tuple[Watched, Change]]) -> None:
    """Nothing of it is taken, for the fault of something else.  To be called in a thread."""
    for watched, change in read:
        watched.put_back()
        change.discard()
