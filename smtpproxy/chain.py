"""The chain of mappings that a configuration names, opened, and what keeps it running."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from smtpproxy import config as settings
from smtpproxy.config import Config
from smtpproxy.faults import Fault, Faults
from smtpproxy.opening import Loop, Opened, Opener, marks_of
from smtpproxy.routing import LookupFailed, Router
from smtpproxy.watched import Change, Watched, WatchedFile, give_back, read_all

if TYPE_CHECKING:
    from smtpproxy.routing.database import DatabaseTable

__all__ = ["Chain", "Loop", "open_chain"]


@dataclass(slots=True)
class Chain:
    """The router, and those of its mappings that are more than a table in memory.

    `changes` are what files of rows say that were read again, not in force as yet.
    `databases` are by the place of their settings; `failing` are the places of those that did not
    answer when they were asked last.  `warnings` are of what can be served, and is likely not
    meant so.
    """

    router: Router = field(default_factory=lambda: Router((), "", ""))
    opened: list[Opened] = field(default_factory=list)
    changes: list[tuple[Watched, Change]] = field(default_factory=list)
    databases: dict[str, DatabaseTable[Any]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    warnings: list[Fault] = field(default_factory=list)
    stopped: bool = False

    @property
    def files(self) -> list[WatchedFile]:
        """Those of its mappings, in their order."""
        return [each.file for each in self.opened if each.file is not None]

    async def check(self, loop: Callable[[], Loop], seconds: float) -> list[Fault]:
        """Ask the databases whether they would answer, each within `seconds`; what is wrong."""
        from smtpproxy.deadlines import TimedOut

        faults = []
        for place, database in self.databases.items():
            try:
                await loop().deadlines.limit(database.check(), seconds)
            except (LookupFailed, TimedOut) as error:
                faults.append(Fault(place, str(error)))
        return faults

    async def refresh(self, told: Callable[[bool, str], object]) -> None:
        """Ask the databases whether they answer, and learn their upstreams anew.

        What fails is as it was.  `told` hears when one begins to fail (False), and when it
        answers again (True), with words.
        """
        for place, database in self.databases.items():
            try:
                await database.check()
            except LookupFailed as error:
                if not self.stopped and place not in self.failing:
                    self.failing.add(place)
                    told(False, f"{place}: {error}")
            else:
                if place in self.failing:
                    self.failing.remove(place)
                    told(True, f"{place}: the database answers again")

    def forget(self) -> None:
        """Ask databases again, whatever caches hold."""
        for each in self.opened:
            if each.cache is not None:
                each.cache.expire()

    def take(self) -> list[str]:
        """Have all that was read again in force; what to tell of it."""
        return [line for _, change in self.changes for line in change.take()]

    def discard(self) -> None:
        """Give back what was in force before; to be called in a thread."""
        for _, change in self.changes:
            change.discard()
        self.changes.clear()

    def give_back(self, others: Iterable[Chain]) -> None:
        """It is not wanted after all: all of it is as it was, to be called in a thread."""
        give_back(self.changes)
        for each in self.stop(others):
            each.discard()

    def stop(self, others: Iterable[Chain] = ()) -> list[Opened]:
        """Stop its mappings, but for those that `others` have, too; which ones that were."""
        self.stopped = True
        kept = [each.mapping for chain in others for each in chain.opened]
        stopped = [each for each in self.opened if not any(each.mapping is other for other in kept)]
        for each in stopped:
            each.stop()
        return stopped


def open_chain(
    config: Config,
    loop: Callable[[], Loop],
    before: Chain | None = None,
    force: bool = False,
) -> Chain:
    """The mappings of `config`; raises `Faults` with all that is wrong in any of them.

    `loop` is called when a mapping needs it: reading files needs none.  A mapping with the same
    settings in the chain `before` is taken over with its connections, and what it remembers; if
    it has a file, that is read, for `changes`: with `force`, also if it drops many keys.
    """
    chain = Chain()
    faults: list[Fault] = []
    there = list(before.opened) if before else []
    files: list[WatchedFile] = []  # of what is taken over
    for number, mapping in enumerate(config.mappings):
        place = config.place("mappings", number)
        if (same := _like(mapping, there)) is not None:
            there.remove(same)
            chain.opened.append(replace(same, place=place))
            if same.file is not None:
                files.append(same.file)
            continue
        try:
            chain.opened.append(Opener(chain.warnings, loop, place).open(mapping))
        except Faults as error:
            faults += error.faults
        except ValueError as error:
            faults.append(Fault(place, str(error)))
    try:
        chain.changes = read_all(files, force)
    except Faults as error:
        faults += error.faults
    if faults:
        chain.give_back([before] if before else [])
        raise Faults(config.naming(faults))
    _complete(chain, config, before)
    return chain


def _like(mapping: settings.Mapping, there: Sequence[Opened]) -> Opened | None:
    """The one that these settings would make again."""
    marks = marks_of(mapping)
    same = (each for each in there if each.settings == mapping and each.marks == marks)
    return next(same, None)


def _complete(chain: Chain, config: Config, before: Chain | None) -> None:
    mappings = [each.mapping for each in chain.opened]
    router = before.router if before else None
    chain.router = Router(mappings, config.recipient_delimiter, config.domain, router)
    for each in chain.opened:
        if each.database is not None:
            chain.databases[each.place] = each.database
    failing = [before.databases[place] for place in before.failing] if before else []
    chain.failing = {place for place, database in chain.databases.items() if database in failing}
