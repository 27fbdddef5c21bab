"""Files of rows: noticing a change, and reading what they say now.

A file has changed when what `stat` says of it has (a rename and a switched symbolic link
show as well, on network mounts too), and it has stood still for a look.  Nothing here waits
or knows of a loop: reading may be done in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Signature = tuple[int, ...]

_NEVER: Signature = ()  # no file has it: the file is to be read, whatever it is


class Content(Protocol):
    """What a file says, read."""

    def keys(self) -> Collection[str]:
        """The key of each row; to look one up in it takes no time."""

    def __len__(self) -> int: ...

    def discard(self) -> None:
        """Give the memory back, bit by bit: a million rows at once would stop everything."""


class Mapping(Protocol):
    """A mapping that answers from the content of a file."""

    table: Any


class WatchedFile:
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
        self.file = file
        self._mapping = mapping
        self._load = load
        self._max_shrink = max_shrink
        self._read = self._looked = seen

    def __str__(self) -> str:
        return str(self.file)

    def __len__(self) -> int:
        return len(self._content)

    def changed(self) -> bool:
        """The file is not what was read last, and has stood still since the last look."""
        now = signature(self.file)
        settled, self._looked = now == self._looked, now
        return settled and now != self._read

    def read(self, force: bool) -> Change | None:
        """What the file says now; None where it was written while it was read.

        Raises `Faults`.  A change is not in force until it is taken.
        """
        before, self._read = signature(self.file), _NEVER
        try:
            content = self._load()
        except Exception:
            if signature(self.file) != before:  # of half a file
                return None
            self._read = before  # they are told once
            raise
        if signature(self.file) != before:
            content.discard()
            return None
        self._read = before
        old, new = self._content.keys(), content.keys()
        dropped = sum(key not in new for key in old)
        too_many = dropped > self._max_shrink * len(old)
        return Change(content, len(old), dropped, refused=too_many and not force)

    def take(self, change: Change) -> Content:
        """Have `change` in force; gives the content that was."""
        old = self._content
        self._mapping.table = change.content
        return old

    @property
    def _content(self) -> Content:
        content: Content = self._mapping.table
        return content


@dataclass(frozen=True, slots=True)
class Change:
    """A file's new content, the number of rows before, and how many keys are gone."""

    content: Content
    before: int
    dropped: int
    refused: bool


def signature(file: Path) -> Signature | None:
    """What changes when a file does, whoever changes it how; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    # With the time of chmod: it may be what makes the file readable.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size
