"""What twistd starts and stops, be it one process or the parent of several: its life.

It begins with signals, and ends in order; between the two it is reloaded, takes commands, and
tells systemd how it is.  What it serves, and by whom, is said by those who inherit.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from smtpproxy.config import Config
from smtpproxy.control import Command, ControlError
from smtpproxy.doors import Bind, Bound
from smtpproxy.faults import Faults, NotStarted
from smtpproxy.fittings import Fittings
from smtpproxy.logs import Level, TwistedLog
from smtpproxy.notify import Notify
from smtpproxy.periodic import Periodic
from smtpproxy.reload import Outcome, Reloader
from smtpproxy.tasks import start
from smtpproxy.threads import Threads
from smtpproxy.watched import Watched

log = Logger()


class Program(ABC, Service):
    """A service with a log, a control socket, a status page, and somebody who reloads it."""

    def __init__(self, config: Config, reactor: Any, bind: Bind) -> None:
        """`bind` gives the sockets for an address; raises `NotStarted`."""
        self._reactor = reactor
        try:
            self._fittings = Fittings(config, reactor, bind, self.commands)
        except Faults as error:
            raise NotStarted(error) from None
        self.log = self._fittings.log
        self._sockets: Bound = {}
        self._threads = Threads(reactor, "reload", most=1)
        self._reloader = Reloader(
            self._watched, self._renew, self._threads, reactor, self._reloaded
        )
        self._notify = Notify()
        self._living = Periodic(reactor, self._notify.every, self._live, "telling systemd")

    # What one program has, and the other has otherwise.

    @property
    @abstractmethod
    def config(self) -> Config:
        """What is in force."""

    @abstractmethod
    def commands(self) -> dict[str, Command]:
        """What an administrator may ask, by name."""

    @abstractmethod
    def cut(self) -> None:
        """End all sessions now."""

    @abstractmethod
    def _bind_listeners(self, config: Config) -> Bound:
        """Sockets for those listeners that have none; raises `Faults`, and keeps none then."""

    @abstractmethod
    def _shut(self) -> None:
        """Let nobody in any more."""

    @abstractmethod
    async def _drain(self) -> None:
        """Wait for the sessions that are left, each to end after its transaction."""

    @abstractmethod
    def _let_go(self) -> None:
        """No session is left: let go of all that served them."""

    @abstractmethod
    async def _succeed(self, force: bool) -> Outcome:
        """Read everything anew, and have it in force; with `force`, also what drops many keys."""

    @abstractmethod
    def _reloaded(self, outcome: Outcome) -> None:
        """Something was read anew, or could not be."""

    def _watched(self) -> Iterable[Watched]:
        """The files that are read again by themselves."""
        return ()

    def _reopen(self) -> None:
        """Begin a new log file."""
        self.log.reopen()

    # The beginning and the end.

    def setServiceParent(self, parent: Any) -> None:
        """Have twistd write its own lines into our log."""
        parent.setComponent(ILogObserver, TwistedLog(self.log))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Bind, while there may still be the right to."""
        try:
            self._sockets = self._bind_listeners(self.config)
        except Faults as error:
            if self.config.log.file:  # else it is where the faults are shown anyway
                self._tell(error.faults)
                self.log.flush()
            raise NotStarted(error) from None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # Twisted leaves SIGHUP as it is, which ends the program.
        self._on(signal.SIGHUP, self._hang_up)
        self._on(signal.SIGUSR1, self._reopen)
        # Only once Twisted has set its own, which has the process end as if it was killed.
        self._reactor.callWhenRunning(self._on, signal.SIGTERM, self._end)
        if self._notify.every:
            self._living.start(now=True)

    def stopService(self) -> Deferred[None]:
        return start(self._stop())

    async def _stop(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._notify.stopping()
        # Asked a second time, it does not wait for anybody.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._on(number, self.cut)
        self._reloader.stop()
        try:
            self._shut()
            await self._fittings.control.close()
            await self._drain()
        finally:
            await self._fittings.web.close()  # it says that we stop, until we have
            self._living.stop()
            self._let_go()
            self.say("stopped")
            self.log.stop()

    def _end(self) -> None:
        with suppress(ReactorNotRunning):  # it is asked a second time before it has begun to stop
            self._reactor.stop()

    def _on(self, number: signal.Signals, call: Callable[[], object]) -> None:
        signal.signal(number, lambda *_: self._reactor.callFromThread(call))

    async def _live(self) -> None:
        self._notify.alive()

    # What it says.

    def say(self, text: str) -> None:
        self.log.note(Level.INFO, text)

    def _tell(self, faults: Iterable[object]) -> None:
        for each in faults:
            self.log.note(Level.ERROR, str(each))

    def _warn(self, warnings: Iterable[object]) -> None:
        """Tell of what is done all the same, and had better not be."""
        for each in warnings:
            self.log.note(Level.WARNING, str(each))

    # Reloading.

    def _hang_up(self) -> None:
        """SIGHUP: read everything anew, and begin a new log file."""
        self._reopen()
        start(self._reloader.command()).addErrback(_failed)

    async def _renew(self, force: bool) -> Outcome:
        self._notify.reloading()
        status = "the last reload failed"
        try:
            outcome = await self._succeed(force)
            status = "" if outcome.ok else "the last reload was not taken: see the log"
        finally:
            self._notify.ready(status)
        return outcome


def _failed(failure: Failure) -> None:
    if not failure.check(ControlError):  # type: ignore[no-untyped-call]
        log.failure("reloading failed", failure=failure)
