"""One flat JSON object a line (RFC 8259), in ASCII."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from smtpproxy.events import Event
from smtpproxy.logs.escape import clipped, valid
from smtpproxy.logs.fields import NAMES, Value, fields
from smtpproxy.logs.levels import Level

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_LONGEST_NOTE = 8000  # characters; a traceback needs them


class JsonShape:
    """Whole lines; `now` gives seconds since 1970, `journal` puts a priority in front."""

    def __init__(self, now: Callable[[], float], journal: bool) -> None:
        self._now = now
        self._journal = journal
        self._second = -1
        self._date = ""

    def event(self, level: Level, event: Event) -> str:
        """The line that tells of `event`."""
        return self._line(level, NAMES[type(event)], fields(event))

    def note(self, level: Level, text: str, source: str = "") -> str:
        """One line that belongs to no session."""
        return self._line(level, "note", {"text": clipped(text, _LONGEST_NOTE), "source": source})

    def _line(self, level: Level, name: str, found: dict[str, Value]) -> str:
        record = {"time": self._time(), "level": level.word, "event": name, **found}
        line = _encode(record)
        if "\\ud" in line:  # a surrogate: half of a character, or a byte that is not UTF-8
            line = _encode({key: _valid(value) for key, value in record.items()})
        return f"<{level:d}>{line}\n" if self._journal else f"{line}\n"

    def _time(self) -> str:
        """UTC with milliseconds (RFC 3339)."""
        milliseconds = int(self._now() * 1000)
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{rest:03}Z"


def _valid(value: Value) -> Value:
    match value:
        case str():
            return valid(value)
        case list():
            return [valid(each) for each in value]
        case _:
            return value
