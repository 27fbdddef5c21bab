"""One generation after the other: a reload of everything, which is taken whole or not at all.

Whatever may fail comes first, with the old generation serving; what blocks is done in a thread.
The change itself is one step, between two events of the reactor.  Sockets that are listened to
before and after stay open, so that no client ever finds nobody there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial

from twisted.python.failure import Failure

from smtpproxy import doors
from smtpproxy.chain import Chain, Loop
from smtpproxy.config import Config
from smtpproxy.config.table import Table
from smtpproxy.doors import Doors
from smtpproxy.faults import Faults
from smtpproxy.fittings import Fittings
from smtpproxy.generation import Generation
from smtpproxy.lasting import Lasting
from smtpproxy.opening import Opened
from smtpproxy.parts import Parts, open_parts
from smtpproxy.reload import Outcome
from smtpproxy.threads import Stopped, Threads

STAYS = "not taken: the configuration, mappings and certificates in force stay as they are"


class Succession:
    """The generation that serves, and those whose sessions have not all ended."""

    def __init__(
        self,
        first: Generation,
        lasting: Lasting,
        doors: Doors,
        fittings: Fittings,
        read: Callable[[], Config],
        threads: Threads,
    ) -> None:
        """`read` gives the configuration as it is written by now; raises `Faults`."""
        self.now = first
        self._lasting = lasting
        self._doors = doors
        self._fittings = fittings
        self._read = read
        self._threads = threads
        self._retired: list[Generation] = []

    def __repr__(self) -> str:
        return f"<Succession: {self.now}, and {len(self._retired)} before it>"

    def __len__(self) -> int:
        """How many generations have sessions, or may have."""
        return 1 + len(self._retired)

    async def renew(self, force: bool) -> Outcome:
        """Read everything anew, and have it in force; with `force`, also what drops many keys."""
        try:
            config, parts = await self._threads.run(lambda _: self._open(force))
            try:
                lines = self._take(config, parts)
            except BaseException:
                await self._threads.run(lambda _: parts.chain.give_back(self._chains()))
                raise
        except Faults as error:
            return Outcome(False, (*map(str, error.faults), STAYS))
        await self._threads.run(lambda _: parts.chain.discard())
        return Outcome(True, tuple(lines))

    def stop(self) -> None:
        """Let go of everything; to be called when no session is left."""
        for generation in (*self._retired, self.now):
            generation.release([])
        self._retired.clear()

    def _open(self, force: bool) -> tuple[Config, Parts]:
        """In a thread; raises `Faults`."""
        config = self._read()
        loop = Loop(self._lasting.reactor, self._lasting.deadlines)
        return config, open_parts(config, lambda: loop, self.now.parts.chain, force)

    def _take(self, config: Config, parts: Parts) -> list[str]:
        """Have it serve instead of what serves now; raises `Faults`, and then nothing was done."""
        old = self.now
        with ExitStack() as undo:
            new = Generation(config, parts, self._lasting, old)
            undo.callback(new.release, [*self._retired, old])
            bound = self._doors.bind(doors.places(config))
            undo.callback(doors.close, bound)
            fit = self._fittings.open(config, old.config, undo)
            undo.pop_all()
        fit()
        lines = [*_news(old, new), *parts.chain.take()]
        parts.chain.forget()
        self._doors.follow(new.receivers(), bound)
        self.now = new
        self._retired.append(old)
        old.retire(partial(self._release, old))
        new.begin()
        return lines

    def _release(self, old: Generation) -> None:
        """The last of its sessions has ended."""
        self._retired.remove(old)
        opened = old.release((*self._retired, self.now))
        with suppress(Stopped):
            discarding = self._threads.run(lambda _: _discard(opened))
            discarding.addErrback(_stopped)

    def _chains(self) -> list[Chain]:
        return [each.parts.chain for each in (*self._retired, self.now)]


def _discard(opened: Iterable[Opened]) -> None:
    for each in opened:
        each.discard()


def _stopped(failure: Failure) -> None:
    failure.trap(Stopped)  # type: ignore[no-untyped-call]


def _news(old: Generation, new: Generation) -> Iterator[str]:
    """What a reload has changed, but for the files of rows."""
    changes = differences(old.config, new.config)
    changed = ", ".join(each for each in changes if each != "workers")  # not before a restart
    yield f"configuration in force, {f'changed: {changed}' if changed else 'as it was'}"
    before = [each for each in old.parts.certificates if each]
    for each in dict.fromkeys(filter(None, new.parts.certificates)):
        if not any(each.same_as(other) for other in before):
            yield each.told()


def differences(old: Table, new: Table, prefix: str = "") -> Iterator[str]:
    """The names of those settings that are not the same: `domain`, `limits.max_errors`."""
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(after, Table):
            yield from differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}"
