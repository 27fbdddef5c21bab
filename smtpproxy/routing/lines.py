"""Which line of a file each key stands on, for a million keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator

_SHARE = 250  # octets of the file for one string: some six rows
_FEWEST = 1024  # strings, for a file that does not tell its size


class Lines(Collection[str]):
    """Keys, in no order, and the line of each.

    A dict takes 150 octets for a key and its line, and holds up all threads when it grows
    or goes.  Here the keys are in many short strings, by their hash: `\\n`, and then for each
    key `key\\0line\\n`.  That is half of it, and nothing that is there ever moves.

    Keys hold neither `\\n` nor `\\0`.
    """

    def __init__(self, size: int) -> None:
        """`size` is that of the file, in octets: a guess will do."""
        self._strings = ["\n"] * max(size // _SHARE, _FEWEST)
        self._count = 0

    def setdefault(self, key: str, line: int) -> int:
        """The line of `key`, which from now on is `line` where it had none."""
        place = hash(key) % len(self._strings)
        string = self._strings[place]
        if (found := _line(string, key)) is not None:
            return found
        self._strings[place] = f"{string}{key}\0{line}\n"
        self._count += 1
        return line

    def get(self, key: str) -> int | None:
        return _line(self._strings[hash(key) % len(self._strings)], key)

    def items(self) -> Iterator[tuple[str, int]]:
        for string in self._strings:
            for item in string.split("\n")[1:-1]:
                key, _, line = item.partition("\0")
                yield key, int(line)

    def discard(self) -> None:
        """Give the memory back bit by bit; nothing may be looked up any more."""
        while self._strings:
            self._strings.pop()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.items())

    def __len__(self) -> int:
        return self._count


def _line(string: str, key: str) -> int | None:
    start = string.find(f"\n{key}\0")
    if start < 0:
        return None
    start += len(key) + 2
    return int(string[start : string.index("\n", start)])
