"""The program, started and stopped by twistd."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure

from smtpproxy import __version__, descriptors
from smtpproxy.activation import Sockets, environment, given
from smtpproxy.administration import Administration
from smtpproxy.chain import Loop
from smtpproxy.config import DEFAULT_FILE, Config, config_file, load
from smtpproxy.control import ControlError, ControlFactory, ControlSocket
from smtpproxy.deadlines import Deadlines
from smtpproxy.doors import Bind, Bound, Doors, places
from smtpproxy.faults import Faults, NotStarted
from smtpproxy.generation import Generation
from smtpproxy.lasting import Lasting
from smtpproxy.logs import Level, TwistedLog
from smtpproxy.metrics import State
from smtpproxy.notify import Notify
from smtpproxy.parts import Parts, open_parts
from smtpproxy.periodic import Periodic
from smtpproxy.reload import Outcome, Reloader
from smtpproxy.sockets import listen_privately
from smtpproxy.status import Status
from smtpproxy.steady import make_steady
from smtpproxy.succession import Succession, log_of
from smtpproxy.tasks import start
from smtpproxy.threads import Threads
from smtpproxy.upkeep import Upkeep
from smtpproxy.web.listener import Web
from smtpproxy.workers import Supervisor, number_of, workers_stay

REFRESH_EVERY = 300.0  # seconds after which databases are asked for their upstreams again

log = Logger()


class Options(usage.Options):
    """What stands behind `twistd smtpproxy`."""

    synopsis = "[options]"
    longdesc = (
        "A transparent, recipient-routed MX proxy. The configuration is "
        f"{DEFAULT_FILE}; smtpproxy.toml(5) describes it, and `smtpproxy check` reads it without "
        "starting anything."
    )
    optFlags: ClassVar = [
        ["check", None, "Check configuration, certificates and mappings, and exit."]
    ]
    optParameters: ClassVar = [
        [
            "config",
            "c",
            None,
            f"The configuration file (default: $SMTPPROXY_CONFIG, else {DEFAULT_FILE}).",
        ]
    ]


def makeService(options: Options) -> Service:
    """The service that the plugin makes; ends the program where the configuration has faults."""
    file = config_file(options["config"], os.environ).absolute()
    make_steady(reactor)
    descriptors.allow()
    deadlines = Deadlines(reactor)
    try:
        config = load(file, os.environ)
        parts = open_parts(config, lambda: Loop(reactor, deadlines))
    except Faults as error:
        raise NotStarted(error) from None
    if options["check"]:
        for warning in parts.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        raise SystemExit(0)
    if not config.log.file and options.parent and not options.parent.get("nodaemon", True):
        place = config.place("log", "file")
        sys.stderr.write(f"warning: {place}: name a file: in the background, nothing is logged\n")
    sockets = Sockets(given(environment()))
    read = partial(load, file, os.environ)
    if (workers := number_of(config)) > 1:
        parts.chain.stop([])
        return Supervisor(config, workers, deadlines, reactor, read, sockets.bind)
    return Proxy(config, parts, deadlines, reactor, read, sockets.bind)


class Proxy(Service):
    """One process: what twistd starts and stops, and what signals and timers set going."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        deadlines: Deadlines,
        reactor: Any,
        read: Callable[[], Config],
        bind: Bind,
        worker: int = 0,
    ) -> None:
        """`read` gives the configuration anew, and `bind` the sockets for a listener's address.

        `worker` is the number among several that share these sockets, 0 for one that is alone.
        """
        self._reactor = reactor
        try:
            self.log = log_of(config, reactor.callLater)
        except Faults as error:
            raise NotStarted(error) from None
        self._lasting = Lasting(reactor, deadlines, self.log, worker)
        lasting = self._lasting
        self._worker = worker
        self._doors = Doors(
            bind, lasting.poll, deadlines, lasting.listening, self.say, lent=worker > 0
        )
        self._bound: Bound = {}
        self._control = ControlSocket(self._listen_for_commands)
        self._web = Web(reactor, self._ask, bind)
        self._status = Status(self._lasting, lambda: self._generation)
        threads = Threads(reactor, "reload", most=1)
        first = Generation(config, parts, self._lasting)
        self._succession = Succession(
            first, self._lasting, self._doors, self._control, self._web, read, threads
        )
        self._reloader = Reloader(
            lambda: self._generation.parts.watched, self._renew, threads, reactor, self._reloaded
        )
        self._administration = Administration(
            lambda: self._generation.parts.chain.router,
            self._reloader,
            self._lasting.shadow_counts,
            lambda: self._generation.report(),
            self._lasting.upkeep.set,
            State(self._lasting, self._succession).snapshot,
            self._status.report,
            self._lasting.tails,
        )
        self._refreshing = Periodic(reactor, REFRESH_EVERY, self._refresh, "asking the databases")
        self._notify = Notify()
        self._living = Periodic(reactor, self._notify.every, self._live, "telling systemd")

    @property
    def _generation(self) -> Generation:
        return self._succession.now

    def setServiceParent(self, parent: Any) -> None:
        """Have twistd write its own lines into our log."""
        parent.setComponent(ILogObserver, TwistedLog(self.log))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Bind, while there may still be the right to."""
        try:
            self._bound = self._doors.bind(places(self._generation.config))
        except Faults as error:
            if self._generation.config.log.file:  # else it is where the faults are shown anyway
                for fault in error.faults:
                    self.log.note(Level.ERROR, str(fault))
                self.log.flush()
            raise NotStarted(error) from None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # Twisted leaves SIGHUP as it is, which ends the program.
        self._on(signal.SIGHUP, self._hang_up)
        self._on(signal.SIGUSR1, self.log.reopen)
        # Only once Twisted has set its own, which has the process end as if it was killed.
        self._reactor.callWhenRunning(self._on, signal.SIGTERM, self._reactor.stop)
        self._doors.follow(self._generation.receivers(), self._bound)
        self._take_commands()
        self._status.serving = True
        self._generation.begin()
        self._reloader.start()
        self._refreshing.start(now=True)
        if self._notify.every:
            self._living.start(now=True)
        self._warn()
        self.say(f"smtpproxy {__version__} started")
        self._notify.ready()
        # What is there now stays, and a session is freed without the garbage collector, as it ends.
        # With the usual 700 it would look at all of them whenever some more begin than end.
        gc.freeze()
        gc.set_threshold(10_000)

    @property
    def upkeep(self) -> Upkeep:
        """What is said of upstreams by commands, among others."""
        return self._lasting.upkeep

    def cut(self) -> None:
        """End all sessions now."""
        self._lasting.sessions.cut()

    def stopService(self) -> Deferred[None]:
        return start(self._stop())

    async def _stop(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._notify.stopping()
        self._status.stopping = True
        sessions = self._lasting.sessions
        # Asked a second time, it does not wait for anybody.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._on(number, sessions.cut)
        self._reloader.stop()
        try:
            self._doors.close()
            await self._control.close()
            if len(sessions):
                self.say(f"stopping: {len(sessions)} sessions to end")
            await sessions.stop(self._generation.config.timeouts.drain)
        finally:
            await self._web.close()  # it says that we stop, until we have
            self._succession.stop()
            self._refreshing.stop()
            self._living.stop()
            self._lasting.stop()
            self.say("stopped")
            self.log.stop()

    def _on(self, number: signal.Signals, call: Callable[[], object]) -> None:
        signal.signal(number, lambda *_: self._reactor.callFromThread(call))

    def _warn(self) -> None:
        """Tell of what can be served, and had better not be."""
        most = self._generation.config.limits.max_connections
        warnings = [*self._generation.parts.warnings, descriptors.shortage(most)]
        for warning in filter(None, map(str, warnings)):
            self.log.note(Level.WARNING, warning)

    def say(self, text: str) -> None:
        self.log.note(Level.INFO, text)

    # Reloading, and the administrator's commands.

    def _hang_up(self) -> None:
        """SIGHUP: read everything anew, and begin a new log file."""
        self.log.reopen()
        start(self._reloader.command()).addErrback(self._failed)

    async def _renew(self, force: bool) -> Outcome:
        self._notify.reloading()
        try:
            outcome = await self._succession.renew(force)
        except BaseException:
            self._notify.ready("the last reload failed")
            raise
        if outcome.ok:
            self._warn()
            self._refreshing.reset()
            # Of several workers, the parent says it.
            if not self._worker:
                outcome = outcome.warning(workers_stay(1, self._generation.config))
        self._notify.ready("" if outcome.ok else "the last reload was not taken: see the log")
        return outcome

    def _reloaded(self, outcome: Outcome) -> None:
        self._lasting.process.reloaded(outcome.ok)
        self._status.reloaded(outcome)
        for line in outcome.lines:
            self.log.note(Level.INFO if outcome.ok else Level.ERROR, line)
        for warning in outcome.warnings:
            self.log.note(Level.WARNING, warning)
        self._generation.list_upstreams()

    async def _refresh(self) -> None:
        await self._generation.parts.chain.refresh(self._lasting.note)
        self._generation.list_upstreams()

    async def _live(self) -> None:
        self._notify.alive()

    def _take_commands(self) -> None:
        """Open the control socket, where one is configured; without it mail flows all the same."""
        path = self._generation.config.control
        try:
            self._control.move(path, self._control.open(path))
        except OSError as error:
            self.log.note(Level.ERROR, f"no control socket {path}: {error.strerror or error}")
        try:
            self._web.move(self._web.open(self._generation.config))
        except Faults as error:
            for fault in error.faults:
                self.log.note(Level.ERROR, f"no status page: {fault}")

    async def _ask(self, command: str, /, **members: Any) -> Mapping[str, Any]:
        """As through the control socket, for the status page."""
        return await self._administration.commands()[command](**members)  # type: ignore[return-value]

    def _listen_for_commands(self, path: str) -> IListeningPort:
        factory = ControlFactory(self._administration.commands(), self._reactor)
        return listen_privately(self._reactor, path, factory)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(ControlError):  # type: ignore[no-untyped-call]
            log.failure("reloading failed", failure=failure)
