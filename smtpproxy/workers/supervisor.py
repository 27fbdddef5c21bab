"""The parent of several workers, as the service that twistd starts and stops."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from smtpproxy import __version__
from smtpproxy.config import Config
from smtpproxy.control import Command, ControlError
from smtpproxy.deadlines import Deadlines
from smtpproxy.doors import Bind, Bound, bind_missing, close, places
from smtpproxy.faults import Fault, Faults, NotStarted
from smtpproxy.metrics import Process
from smtpproxy.program import Program
from smtpproxy.reload import Outcome
from smtpproxy.status import last_reload
from smtpproxy.succession import STAYS
from smtpproxy.workers.asking import Asker
from smtpproxy.workers.commands import Commands
from smtpproxy.workers.crew import Crew
from smtpproxy.workers.share import workers_stay
from smtpproxy.workers.terms import Terms

LAST = 5.0  # seconds more than sessions have, for a worker to end


class Supervisor(Program):
    """It has the sockets, the signals and the control socket, and no session."""

    def __init__(
        self,
        config: Config,
        workers: int,
        deadlines: Deadlines,
        reactor: Any,
        read: Callable[[], Config],
        bind: Bind,
    ) -> None:
        """`read` gives the configuration anew, and `bind` the sockets for a listener's address."""
        super().__init__(config, reactor, bind)
        self._config = config
        self._workers = workers
        self._deadlines = deadlines
        self._read = read
        self._bind = bind
        self._process = Process(self.log, workers)
        self._refused: dict[str, Any] | None = None  # the last reload, where it was not taken
        self._stopping = False

    @property
    def config(self) -> Config:
        return self._config

    def startService(self) -> None:
        super().startService()
        try:
            self._start_workers()
        except OSError as error:
            fault = Fault(self._config.place("workers"), f"none can be started: {error}")
            raise NotStarted(Faults([fault])) from None
        self._fittings.begin(self._config)

    def _start_workers(self) -> None:
        """Raises OSError, and leaves nothing behind then."""
        self._folder = Path(tempfile.mkdtemp(prefix="smtpproxy-"))
        asker = Asker(self._reactor, self._deadlines)
        self._crew = Crew(
            self._workers,
            self._folder,
            asker,
            self._reactor,
            self._deadlines,
            self.log,
            self._complete,
            self._fail,
        )
        self._commands = Commands(self._crew, asker, self._process)
        try:
            self._crew.start(Terms(self._config, self._sockets))
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _complete(self) -> None:
        self.say(f"smtpproxy {__version__} started, with {self._workers} workers")
        self._notify.ready()

    def _fail(self, reason: str) -> None:
        """A worker could not begin: neither can the program."""
        self._tell(reason.splitlines())
        if sys.__stderr__ is not None:  # the other one goes to the log by now
            sys.__stderr__.write(f"smtpproxy: not started, for these faults:\n{reason}\n")
        atexit.register(_exit_with_fault)
        self._end()

    def cut(self) -> None:
        self._crew.cut()

    def _shut(self) -> None:
        self._stopping = True
        self.say("stopping")
        self._give_back(self._sockets)

    async def _drain(self) -> None:
        await self._crew.stop(self._config.timeouts.drain + LAST)

    def _let_go(self) -> None:
        self._commands.stop()
        self._deadlines.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _reopen(self) -> None:
        super()._reopen()
        self._crew.reopen()

    # The sockets.

    def _bind_listeners(self, config: Config) -> Bound:
        wanted = places(config)
        seen = set()
        for address, place in wanted:
            if address in seen:  # port 0, which nothing else can have twice
                raise Faults([Fault(place, f"with workers, {address} can be listened to once")])
            seen.add(address)
        return bind_missing(self._bind, wanted, self._sockets)

    def _give_back(self, sockets: Bound) -> None:
        """Nobody listens there from now on; a Unix socket's path goes with it."""
        close(sockets)
        for address, _ in sockets:
            if address.path:
                with suppress(OSError):
                    os.unlink(address.path)

    # Reloading, and the administrator's commands.

    def commands(self) -> dict[str, Command]:
        """By name; what is not the parent's own, workers answer."""
        own = {"reload": self._reloader.command, "status": self.status}
        return {**self._commands.by_name(), **own}

    async def status(self) -> Mapping[str, Any]:
        """As workers have it; what the parent refused, they have not heard of.

        Raises `ControlError` while it stops: workers take no more commands then.
        """
        if self._stopping:
            raise ControlError("stopping")
        said = await self._commands.ask("status")
        if self._refused is None:
            return said
        return {**said, "configuration": {**said["configuration"], "reload": self._refused}}

    def _reloaded(self, outcome: Outcome) -> None:
        """Workers have logged what became of it, where they were asked."""
        self._process.reloaded(outcome.ok)
        self._refused = None if outcome.ok else last_reload(outcome)
        self._warn(outcome.warnings)

    async def _succeed(self, force: bool) -> Outcome:
        """All that may fail comes first; what follows on the first worker's word does not."""
        try:
            config = await self._threads.run(lambda _: self._read())
            with ExitStack() as undo:
                bound = self._bind_listeners(config)
                undo.callback(self._give_back, bound)
                fit = self._fittings.open(config, self._config, undo)
                wanted = {address for address, _ in places(config)}
                sockets = {**self._sockets, **bound}
                staying = {each: it for each, it in sockets.items() if each[0] in wanted}
                outcome = await self._crew.renew(Terms(config, staying), force)
                if not outcome.ok:
                    return outcome
                undo.pop_all()
        except Faults as error:
            lines = (*map(str, error.faults), STAYS)
            self._tell(lines)
            return Outcome(False, lines)
        self._give_back({each: it for each, it in sockets.items() if each not in staying})
        self._config, self._sockets = config, staying
        fit()
        return outcome.warning(workers_stay(self._workers, config))


def _exit_with_fault() -> None:
    """twistd itself always ends with status 0 once its reactor has run."""
    for each in filter(None, (sys.__stdout__, sys.__stderr__)):
        each.flush()
    os._exit(1)
