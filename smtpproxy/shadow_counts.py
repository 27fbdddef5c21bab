"""What shadows have said since the start: how often they differ, and what they are not asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smtpproxy.deadlines import Deadlines
from smtpproxy.events import Event, ShadowAnswered
from smtpproxy.routing import Upstream

TELL_EVERY = 60.0  # seconds from what a shadow was not asked to the note of it


@dataclass(slots=True)
class Count:
    """How often a shadow was asked of a recipient, or not, and how often it differed.

    `untold` are those not asked that no note has told of as yet.
    """

    asked: int = 0
    differed: int = 0
    not_asked: int = 0
    untold: int = 0


class ShadowCounts:
    """An observer that counts what shadows say, by shadow, and tells what they are not asked."""

    def __init__(self, deadlines: Deadlines, note: Callable[[str], object]) -> None:
        self._deadlines = deadlines
        self._note = note
        self._counts: dict[str, Count] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, ShadowAnswered):
            count = self._count(event.shadow)
            count.asked += 1
            count.differed += event.differs

    def skipped(self, upstream: Upstream) -> None:
        """A shadow was not asked of a recipient; one note tells of a whole minute."""
        shadow = str(upstream)
        count = self._count(shadow)
        count.not_asked += 1
        count.untold += 1
        if count.untold == 1:
            self._deadlines.add(TELL_EVERY, lambda: self._tell(shadow))

    def stop(self) -> None:
        """Tell now what is not told."""
        for shadow in self._counts:
            self._tell(shadow)

    def counts(self) -> list[dict[str, Any]]:
        """Of each shadow, since the start."""
        return [
            {
                "shadow": shadow,
                "asked": count.asked,
                "differed": count.differed,
                "not_asked": count.not_asked,
            }
            for shadow, count in sorted(self._counts.items())
        ]

    def _count(self, shadow: str) -> Count:
        return self._counts.setdefault(shadow, Count())

    def _tell(self, shadow: str) -> None:
        count = self._count(shadow)
        number, count.untold = count.untold, 0
        if number:
            recipients = "1 recipient" if number == 1 else f"{number} recipients"
            self._note(f"shadow {shadow} not asked of {recipients}: too many wait for it")
