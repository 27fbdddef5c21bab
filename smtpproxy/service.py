"""The program, started and stopped by twistd."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.python import usage

from smtpproxy import __version__, descriptors
from smtpproxy.activation import Sockets, environment, given
from smtpproxy.administration import Administration
from smtpproxy.chain import Loop
from smtpproxy.config import DEFAULT_FILE, Config, config_file, load
from smtpproxy.control import Command
from smtpproxy.deadlines import Deadlines
from smtpproxy.doors import Bind, Bound, Doors, places
from smtpproxy.faults import Faults, NotStarted
from smtpproxy.generation import Generation
from smtpproxy.lasting import Lasting
from smtpproxy.logs import Level
from smtpproxy.metrics import State
from smtpproxy.parts import Parts, open_parts
from smtpproxy.periodic import Periodic
from smtpproxy.program import Program
from smtpproxy.reload import Outcome
from smtpproxy.status import Status
from smtpproxy.steady import make_steady
from smtpproxy.succession import Succession
from smtpproxy.upkeep import Upkeep
from smtpproxy.watched import Watched
from smtpproxy.workers import Supervisor, number_of, workers_stay

REFRESH_EVERY = 300.0  # seconds after which databases are asked for their upstreams again


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


class Proxy(Program):
    """One process that serves."""

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
        super().__init__(config, reactor, bind)
        self._lasting = lasting = Lasting(reactor, deadlines, self.log, worker)
        self._worker = worker
        self._doors = Doors(
            bind, lasting.poll, deadlines, lasting.listening, self.say, lent=worker > 0
        )
        self._status = Status(lasting, lambda: self._generation)
        first = Generation(config, parts, lasting)
        self._succession = Succession(
            first, lasting, self._doors, self._fittings, read, self._threads
        )
        self._administration = Administration(
            lambda: self._generation.parts.chain.router,
            self._reloader,
            lasting.shadow_counts,
            lambda: self._generation.report(),
            lasting.upkeep.set,
            State(lasting, self._succession).snapshot,
            self._status.report,
            lasting.tails,
        )
        self._refreshing = Periodic(reactor, REFRESH_EVERY, self._refresh, "asking the databases")

    @property
    def _generation(self) -> Generation:
        return self._succession.now

    @property
    def config(self) -> Config:
        return self._generation.config

    @property
    def upkeep(self) -> Upkeep:
        """What is said of upstreams by commands, among others."""
        return self._lasting.upkeep

    def commands(self) -> dict[str, Command]:
        return self._administration.commands()

    def startService(self) -> None:
        super().startService()
        self._doors.follow(self._generation.receivers(), self._sockets)
        self._fittings.begin(self.config)
        self._status.serving = True
        self._generation.begin()
        self._reloader.start()
        self._refreshing.start(now=True)
        self._warn(self._warnings())
        self.say(f"smtpproxy {__version__} started")
        self._notify.ready()
        # What is there now stays, and a session is freed without the garbage collector, as it ends.
        # With the usual 700 it would look at all of them whenever some more begin than end.
        gc.freeze()
        gc.set_threshold(10_000)

    def cut(self) -> None:
        self._lasting.sessions.cut()

    def _bind_listeners(self, config: Config) -> Bound:
        return self._doors.bind(places(config))

    def _shut(self) -> None:
        self._status.stopping = True
        self._doors.close()

    async def _drain(self) -> None:
        sessions = self._lasting.sessions
        if len(sessions):
            self.say(f"stopping: {len(sessions)} sessions to end")
        await sessions.stop(self.config.timeouts.drain)

    def _let_go(self) -> None:
        self._succession.stop()
        self._refreshing.stop()
        self._lasting.stop()

    def _warnings(self) -> Iterable[str]:
        """What can be served, and had better not be."""
        shortage = descriptors.shortage(self.config.limits.max_connections)
        return filter(None, map(str, [*self._generation.parts.warnings, shortage]))

    def _watched(self) -> Iterable[Watched]:
        return self._generation.parts.watched

    async def _succeed(self, force: bool) -> Outcome:
        outcome = await self._succession.renew(force)
        if outcome.ok:
            self._warn(self._warnings())
            self._refreshing.reset()
            if not self._worker:  # of several workers, the parent says it
                outcome = outcome.warning(workers_stay(1, self.config))
        return outcome

    def _reloaded(self, outcome: Outcome) -> None:
        self._lasting.process.reloaded(outcome.ok)
        self._status.reloaded(outcome)
        for line in outcome.lines:
            self.log.note(Level.INFO if outcome.ok else Level.ERROR, line)
        self._warn(outcome.warnings)
        self._generation.list_upstreams()

    async def _refresh(self) -> None:
        await self._generation.parts.chain.refresh(self._lasting.note)
        self._generation.list_upstreams()
