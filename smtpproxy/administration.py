"""What an administrator may ask of the running program, through the control socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from smtpproxy.chain import Chain
from smtpproxy.control import Command, ControlError
from smtpproxy.deadlines import Deadlines
from smtpproxy.events import Event, ShadowAnswered
from smtpproxy.explain import explained, recipient_of
from smtpproxy.reload import Reloader
from smtpproxy.routing import Upstream
from smtpproxy.threads import Stopped

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


class Administration:
    """The commands, each with its answer as plain values."""

    def __init__(
        self,
        chain: Chain,
        reloader: Reloader,
        shadows: ShadowCounts,
        upstreams: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`upstreams` reports what is known of them."""
        self._chain = chain
        self._reloader = reloader
        self._shadows = shadows
        self._upstreams = upstreams

    def commands(self) -> dict[str, Command]:
        """By name."""
        return {
            "lookup": self.lookup,
            "reload": self.reload,
            "shadows": self.shadows,
            "upstreams": self.upstreams,
        }

    async def lookup(self, address: str) -> Mapping[str, Any]:
        """How the running program would route, its caches included."""
        if not isinstance(address, str):
            raise ControlError("address must be a string")
        try:
            recipient = recipient_of(address)
        except ValueError as error:
            raise ControlError(f"{address!r} {error}") from None
        return explained(await self._chain.router.explain(recipient))

    async def reload(self, force: bool = False) -> Mapping[str, Any]:
        """Read all files, forget what databases said: what became of each file."""
        if not isinstance(force, bool):
            raise ControlError("force must be true or false")
        self._chain.forget()
        try:
            outcomes = await self._reloader.reload(force)
        except Stopped:
            raise ControlError("smtpproxy is stopping") from None
        lines = [line for outcome in outcomes for line in outcome.lines]
        return {"taken": all(outcome.ok for outcome in outcomes), "lines": lines}

    async def shadows(self) -> Mapping[str, Any]:
        """What shadows have said since the start."""
        return {"shadows": self._shadows.counts()}

    async def upstreams(self) -> Mapping[str, Any]:
        """What upstreams offer, and what listeners announce by it."""
        return self._upstreams()
