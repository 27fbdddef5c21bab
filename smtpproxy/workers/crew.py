"""The workers of a program: started, started again where one dies, and stopped together."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.logs import Level, Log
from smtpproxy.periodic import Periodic
from smtpproxy.reload import Outcome
from smtpproxy.request import ControlError, NobodyAnswers
from smtpproxy.workers.asking import Asker
from smtpproxy.workers.child import Child
from smtpproxy.workers.terms import Terms

FIRST_REST, LONGEST_REST = 1.0, 30.0  # seconds before one that has just begun is started again
LIFE = 10.0  # seconds after which one that dies is started again at once
LOOK_EVERY = 10.0  # seconds after which each is asked whether it is alive
MOST_SILENT = 6  # times that one does not answer, until it is killed
MOST_BEGINNING = 60  # the same before it serves: it may have much to read
RELOAD_TIME = 600.0  # seconds to read everything anew
KILL_TIME = 5.0  # seconds for the system to end one that was killed


class Crew:
    """As many workers as there are to be."""

    def __init__(
        self,
        count: int,
        folder: Path,
        asker: Asker,
        reactor: Any,
        deadlines: Deadlines,
        log: Log,
        complete: Callable[[], object],
        failed: Callable[[str], object],
    ) -> None:
        """`folder` is for their control sockets.

        `complete` is called once all of them serve, `failed` with a reason if one ends before.
        """
        self.count = count
        self._folder = folder
        self._asker = asker
        self._reactor = reactor
        self._deadlines = deadlines
        self._log = log
        self._complete: Callable[[], object] | None = complete
        self._failed = failed
        self.joined: Callable[[Child], object] = lambda child: None  # told of each that serves
        self._terms: Terms
        self._standings: dict[str, str] = {}
        self._children: dict[int, Child] = {}
        self._since: dict[int, float] = {}
        self._rests: dict[int, float] = {}
        self._waiting: dict[int, IDelayedCall] = {}
        self._empty: Deferred[None] | None = None
        self._looking = Periodic(reactor, LOOK_EVERY, self._look, "asking the workers")

    def __repr__(self) -> str:
        return f"<Crew: {len(self.serving)} of {self.count} workers serve>"

    @property
    def serving(self) -> list[Child]:
        """Those that accept clients, by their numbers; raises `ControlError` where none does."""
        serving = [each for _, each in sorted(self._children.items()) if each.serves]
        if not serving:
            raise ControlError("no worker serves; the log says why")
        return serving

    def start(self, terms: Terms) -> None:
        """Start all of them; raises OSError."""
        self._terms = terms
        for number in range(1, self.count + 1):
            self._start(number)
        self._looking.start(now=False)

    def signal(self, number: int) -> None:
        """Send a signal to each."""
        for child in self._children.values():
            child.signal(number)

    def cut(self) -> None:
        """Have all sessions end now."""
        self._tell("cut", True)

    def reopen(self) -> None:
        """Have each begin a new log file."""
        self._tell("reopen", True)

    def stand(self, name: str, standing: str) -> None:
        """An administrator says it of upstreams: all workers are to know, also later ones."""
        self._standings[name] = standing
        self._tell("standings", self._standings)

    async def renew(self, terms: Terms, force: bool) -> Outcome:
        """Have one take them, reading all files anew, and all others if it does.

        One that does not take what the first took is replaced.  Raises `ControlError`.
        """
        first = self.serving[0]
        self._offer(terms)
        request = {"command": "reload", "force": force}
        try:
            said = await self._asker.one(first, request, RELOAD_TIME)
        except ControlError as error:
            if isinstance(error, NobodyAnswers):
                first.signal(signal.SIGKILL)  # nobody knows what it has by now
            said = {"taken": False, "lines": [str(error)]}
        if not said["taken"]:
            self._offer(self._terms)
            return Outcome(False, tuple(said["lines"]))
        first.terms = self._terms = terms
        others = [each for each in self.serving if each.terms is not terms]
        for other, answer in await self._asker.all(others, request, RELOAD_TIME):
            if isinstance(answer, dict) and answer["taken"]:
                other.terms = terms
            else:
                self._log.note(Level.ERROR, f"{other} does not take what {first} took: replaced")
                other.retire()
        return Outcome(True, tuple(said["lines"]))

    async def stop(self, seconds: float) -> None:
        """Have them end, each after its sessions; what is left after `seconds` is killed."""
        self._looking.stop()
        for call in self._waiting.values():
            call.cancel()
        self._waiting.clear()
        self.signal(signal.SIGTERM)
        if not await self._ended_within(seconds):
            for child in self._children.values():
                self._log.note(Level.ERROR, f"{child} does not end: killed")
                child.signal(signal.SIGKILL)
            await self._ended_within(KILL_TIME)

    async def _ended_within(self, seconds: float) -> bool:
        if self._children:
            self._empty = Deferred()
            try:
                await self._deadlines.limit(self._empty, seconds)
            except TimedOut:
                return False
        return True

    def _tell(self, word: str, value: Any) -> None:
        for child in self._children.values():
            child.tell(word, value)

    def _offer(self, terms: Terms) -> None:
        for child in self._children.values():
            child.offer(terms)

    def _start(self, number: int) -> None:
        self._waiting.pop(number, None)
        self._since[number] = self._deadlines.seconds()
        child = Child(
            number, self._folder, self._terms, self._reactor, self._ready, self._begun, self._ended
        )
        child.start(self.count)
        self._children[number] = child
        child.tell("standings", self._standings)
        child.offer(self._terms)

    def _ready(self, child: Child) -> None:
        if child.terms is self._terms:
            child.tell("serve", True)
        else:  # there was a reload meanwhile
            child.retire()

    def _begun(self, child: Child) -> None:
        if child.terms is not self._terms:
            child.retire()
            return
        self._log.note(Level.INFO, f"{child} serves")
        self.joined(child)
        if self._complete is not None and len(self.serving) == self.count:
            complete, self._complete = self._complete, None
            complete()

    def _ended(self, child: Child, how: str) -> None:
        del self._children[child.number]
        why = f":\n{child.why}" if child.why else ""
        if self._empty is not None:
            if not self._children and not self._empty.called:
                self._empty.callback(None)
        elif self._complete is not None:
            self._complete = None
            self._failed(f"{child} {how} before it served{why}")
        else:
            self._again(child.number, f"{child} {how}{why}", child.retired)

    def _again(self, number: int, text: str, well: bool = False) -> None:
        lived = self._deadlines.seconds() - self._since[number]
        rest = 0.0 if well or lived >= LIFE else self._rests.get(number, 0.0)
        self._rests[number] = min(max(2 * rest, FIRST_REST), LONGEST_REST)
        when = f"in {rest:g} s" if rest else "now"
        level = Level.INFO if well else Level.ERROR
        first, *why = text.splitlines()
        self._log.note(level, f"{first.rstrip(':')}; it is started again {when}")
        for line in why:
            self._log.note(level, line)
        self._waiting[number] = self._reactor.callLater(rest, self._start_again, number)

    def _start_again(self, number: int) -> None:
        try:
            self._start(number)
        except OSError as error:
            self._again(number, f"worker {number} cannot be started: {error.strerror}")

    async def _look(self) -> None:
        """One that hangs would serve nobody, and keep others from knowing."""
        for child in list(self._children.values()):
            if child.silent < (MOST_SILENT if child.serves else MOST_BEGINNING):
                child.ask()
            else:
                self._log.note(Level.ERROR, f"{child} does not answer: killed")
                child.signal(signal.SIGKILL)
