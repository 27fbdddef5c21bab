"""One flat JSON object a line (RFC 8259), in ASCII."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from smtpproxy.events import Event
from smtpproxy.logs.escape import clipped, json_string
from smtpproxy.logs.fields import NAMES, Fields, fields
from smtpproxy.logs.levels import Level
from smtpproxy.logs.words import rounded

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

    def _line(self, level: Level, name: str, found: Fields) -> str:
        priority = f"<{level:d}>" if self._journal else ""
        head = f'{{"time":"{self._time()}","level":"{level.word}","event":"{name}"'
        return f"{priority}{head}{_members(found)}}}\n"

    def _time(self) -> str:
        """UTC with milliseconds (RFC 3339)."""
        milliseconds = int(self._now() * 1000)
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{rest:03}Z"


def _members(found: Fields) -> str:
    """Each with a comma in front.

    The encoder of `json` takes twice as long: it escapes the names each time, which are ours.
    """
    return "".join([f',"{name}":{_VALUES[type(value)](value)}' for name, value in found.items()])


def _array(texts: list[str]) -> str:
    return f"[{','.join(map(json_string, texts))}]"


_VALUES: dict[type, Callable[..., str]] = {
    str: json_string,
    int: str,
    float: rounded,
    bool: json.dumps,
    list: _array,
}
