"""The parent of several workers, as the service that twistd starts and stops."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from smtpproxy import __version__
from smtpproxy.config import Config
from smtpproxy.control import Command, ControlError, ControlFactory, ControlSocket
from smtpproxy.deadlines import Deadlines
from smtpproxy.doors import Bind, Bound, bind_missing, close, places
from smtpproxy.faults import Fault, Faults, NotStarted
from smtpproxy.logs import Level, TwistedLog
from smtpproxy.metrics import Process
from smtpproxy.notify import Notify
from smtpproxy.periodic import Periodic
from smtpproxy.reload import Outcome, Reloader
from smtpproxy.sockets import listen_privately
from smtpproxy.status import last_reload
from smtpproxy.succession import STAYS, log_of
from smtpproxy.tasks import start
from smtpproxy.threads import Threads
from smtpproxy.web.listener import Web
from smtpproxy.workers.asking import Asker
from smtpproxy.workers.commands import Commands
from smtpproxy.workers.crew import Crew
from smtpproxy.workers.share import workers_stay
from smtpproxy.workers.terms import Terms

LAST = 5.0  # seconds more than sessions have, for a worker to end

log = Logger()


class Supervisor(Service):
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
        self._config = config
        self._workers = workers
        self._deadlines = deadlines
        self._reactor = reactor
        self._read = read
        self._bind = bind
        try:
            self._log = log_of(config, reactor.callLater)
        except Faults as error:
            raise NotStarted(error) from None
        self._process = Process(self._log, workers)
        self._sockets: Bound = {}
        self._threads = Threads(reactor, "reload", most=1)
        self._reloader = Reloader(tuple, self._renew, self._threads, reactor, self._reloaded)
        self._refused: dict[str, Any] | None = None  # the last reload, where it was not taken
        self._stopping = False
        self._control = ControlSocket(self._listen_for_commands)
        self._web = Web(reactor, self._ask, bind)
        self._notify = Notify()
        self._living = Periodic(reactor, self._notify.every, self._live, "telling systemd")

    def setServiceParent(self, parent: Any) -> None:
        """Have twistd write its own lines into our log."""
        parent.setComponent(ILogObserver, TwistedLog(self._log))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Bind, while there may still be the right to."""
        try:
            self._sockets = self._bound(self._config)
        except Faults as error:
            if self._config.log.file:  # else it is where the faults are shown anyway
                self._tell(error.faults)
                self._log.flush()
            raise NotStarted(error) from None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._on(signal.SIGHUP, self._hang_up)
        self._on(signal.SIGUSR1, self._reopen)
        self._reactor.callWhenRunning(self._on, signal.SIGTERM, self._end)
        try:
            self._start_workers()
        except OSError as error:
            fault = Fault(self._config.place("workers"), f"none can be started: {error}")
            raise NotStarted(Faults([fault])) from None
        self._take_commands()
        if self._notify.every:
            self._living.start(now=True)

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
            self._log,
            self._complete,
            self._fail,
        )
        self._commands = Commands(self._crew, asker, self._process)
        try:
            self._crew.start(Terms(self._config, self._sockets))
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _end(self) -> None:
        with suppress(ReactorNotRunning):  # it is asked a second time before it has begun to stop
            self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        return start(self._stop())

    async def _stop(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._notify.stopping()
        self._stopping = True
        self._say("stopping")
        # Asked a second time, they do not wait for anybody.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._on(number, self._crew.cut)
        self._reloader.stop()
        try:
            self._give_back(self._sockets)
            await self._control.close()
            await self._crew.stop(self._config.timeouts.drain + LAST)
        finally:
            self._commands.stop()
            await self._web.close()
            self._living.stop()
            self._deadlines.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._say("stopped")
            self._log.stop()

    def _on(self, number: signal.Signals, call: Callable[[], object]) -> None:
        signal.signal(number, lambda *_: self._reactor.callFromThread(call))

    def _say(self, text: str) -> None:
        self._log.note(Level.INFO, text)

    def _tell(self, faults: Iterable[object]) -> None:
        for each in faults:
            self._log.note(Level.ERROR, str(each))

    def _complete(self) -> None:
        self._say(f"smtpproxy {__version__} started, with {self._workers} workers")
        self._notify.ready()

    def _fail(self, reason: str) -> None:
        """A worker could not begin: neither can the program."""
        self._tell(reason.splitlines())
        if sys.__stderr__ is not None:  # the other one goes to the log by now
            sys.__stderr__.write(f"smtpproxy: not started, for these faults:\n{reason}\n")
        atexit.register(_exit_with_fault)
        self._end()

    async def _live(self) -> None:
        self._notify.alive()

    def _reopen(self) -> None:
        self._log.reopen()
        self._crew.reopen()

    # The sockets.

    def _bound(self, config: Config) -> Bound:
        """Sockets for those places that have none; raises `Faults`, and keeps none then."""
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

    def _take_commands(self) -> None:
        """Open the control socket, where one is configured; without it mail flows all the same."""
        path = self._config.control
        try:
            self._control.move(path, self._control.open(path))
        except OSError as error:
            self._log.note(Level.ERROR, f"no control socket {path}: {error.strerror or error}")
        try:
            self._web.move(self._web.open(self._config))
        except Faults as error:
            self._tell(f"no status page: {each}" for each in error.faults)

    async def _ask(self, command: str, /, **members: Any) -> Mapping[str, Any]:
        """As through the control socket, for the status page."""
        return await self.commands()[command](**members)  # type: ignore[return-value]

    def _listen_for_commands(self, path: str) -> IListeningPort:
        factory = ControlFactory(self.commands(), self._reactor)
        return listen_privately(self._reactor, path, factory)

    def commands(self) -> dict[str, Command]:
        """By name; what is not the parent's own, workers answer."""
        return {**self._commands.by_name(), "reload": self._reloader.command, "status": self.status}

    def _hang_up(self) -> None:
        """SIGHUP: read everything anew, and begin a new log file."""
        self._reopen()
        start(self._reloader.command()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(ControlError):  # type: ignore[no-untyped-call]
            log.failure("reloading failed", failure=failure)

    def _reloaded(self, outcome: Outcome) -> None:
        """Workers have logged what became of it, where they were asked."""
        self._process.reloaded(outcome.ok)
        self._refused = None if outcome.ok else last_reload(outcome)
        for warning in outcome.warnings:
            self._log.note(Level.WARNING, warning)

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

    async def _renew(self, force: bool) -> Outcome:
        self._notify.reloading()
        status = "the last reload failed"
        try:
            outcome = await self._succeed(force)
            status = "" if outcome.ok else "the last reload was not taken: see the log"
        finally:
            self._notify.ready(status)
        return outcome

    async def _succeed(self, force: bool) -> Outcome:
        """All that may fail comes first; what follows on the first worker's word does not."""
        try:
            config = await self._threads.run(lambda _: self._read())
            with ExitStack() as undo:
                bound = self._bound(config)
                undo.callback(self._give_back, bound)
                log = None
                if config.log != self._config.log:
                    log = log_of(config, self._reactor.callLater)
                    undo.callback(log.close)
                port = self._control.open_for(config)
                if port is not None:
                    undo.callback(port.stopListening)
                page = self._web.open(config)
                undo.callback(page.discard)
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
        self._control.move(config.control, port)
        self._web.move(page)
        if log is not None:
            self._log.become(log)
        return outcome.warning(workers_stay(self._workers, config))


def _exit_with_fault() -> None:
    """twistd itself always ends with status 0 once its reactor has run."""
    for each in filter(None, (sys.__stdout__, sys.__stderr__)):
        each.flush()
    os._exit(1)
