"""The administrator's commands that workers answer, each made one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from smtpproxy.control import Command
from smtpproxy.feed import Feed
from smtpproxy.metrics import Process, Snapshot, Together
from smtpproxy.metrics.families import RELOADED_AT
from smtpproxy.request import ControlError, NobodyAnswers
from smtpproxy.tasks import start
from smtpproxy.workers.asking import Asker
from smtpproxy.workers.child import Child
from smtpproxy.workers.crew import Crew
from smtpproxy.workers.following import Following
from smtpproxy.workers.merging import MERGED


class Commands:
    """Asks all workers, whatever is asked."""

    def __init__(self, crew: Crew, asker: Asker, process: Process) -> None:
        """`process` is the parent, which has metrics, too."""
        self._crew = crew
        self._asker = asker
        self._process = process
        self._together = Together()
        self._merged = {**MERGED, "metrics": self._metrics}
        self._followings: list[Following] = []
        crew.joined = self._joined

    def by_name(self) -> dict[str, Command]:
        """What can be asked so."""
        return {**{name: partial(self.ask, name) for name in self._merged}, "tail": self.tail}

    async def ask(self, command: str, /, **members: Any) -> Mapping[str, Any]:
        """One answer, with those workers as `silent` of which there was none.

        Raises `ControlError` where it is refused, or none answers.
        """
        answers: list[Mapping[str, Any]] = []
        serving = self._crew.serving
        silent = [str(each) for each in serving if each.hangs]
        request = {**members, "command": command}
        asked = [each for each in serving if not each.hangs]
        for child, said in await self._asker.all(asked, request):
            if isinstance(said, NobodyAnswers):
                silent.append(str(child))
            elif isinstance(said, ControlError):
                raise said
            else:
                answers.append(said)
        if not answers:
            raise ControlError(f"{' and '.join(silent)}: no answer")
        merged = self._merged[command](answers)
        if command == "upstream":
            self._crew.stand(merged["name"], merged["standing"])
        return {**merged, "silent": silent} if silent else merged

    async def tail(self, **members: Any) -> Feed:
        """The lines of all workers, also of those that begin later; raises `ControlError`."""
        following = Following(self._asker, {**members, "command": "tail"})
        joining = [start(following.join(child)) for child in self._crew.serving]
        refused = []
        for each in joining:
            try:
                await each
            except ControlError as error:
                refused.append(error)
        if len(refused) == len(joining) or not all(
            isinstance(each, NobodyAnswers) for each in refused
        ):
            following.end()
            raise refused[0]
        self._followings.append(following)
        following.ended = partial(self._followings.remove, following)
        return following.feed

    def stop(self) -> None:
        """Nobody follows any more."""
        for following in tuple(self._followings):
            following.end()

    def _joined(self, child: Child) -> None:
        for following in self._followings:
            start(self._join(following, child))

    async def _join(self, following: Following, child: Child) -> None:
        with suppress(ControlError):
            await following.join(child)

    def _metrics(self, answers: Sequence[Snapshot]) -> Snapshot:
        ours = self._process.snapshot()
        # Files that were read again are known to workers alone.
        known = [each for each in ours["metrics"] if each["name"] != RELOADED_AT.name]
        return self._together.merged([*answers, {**ours, "metrics": known}])
