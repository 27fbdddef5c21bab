"""What a program has besides its listeners: its log, the socket of commands, the status page.

A reload may want others: all that may fail is opened first, and takes its place in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from twisted.internet.interfaces import IListeningPort

from smtpproxy.config import Config
from smtpproxy.control import Command, ControlFactory, ControlSocket
from smtpproxy.doors import Bind
from smtpproxy.faults import Fault, Faults
from smtpproxy.logs import Level, Log, open_log
from smtpproxy.logs.writer import Schedule
from smtpproxy.sockets import listen_privately
from smtpproxy.web.listener import Web


class Fittings:
    """`log` is there from the beginning, `control` and `web` listen once told so by `begin`."""

    def __init__(
        self, config: Config, reactor: Any, bind: Bind, commands: Callable[[], dict[str, Command]]
    ) -> None:
        """`bind` gives the sockets of an address, `commands` what may be asked; raises `Faults`."""
        self._reactor = reactor
        self._commands = commands
        self.log = _log_of(config, reactor.callLater)
        self.control = ControlSocket(self._listen)
        self.web = Web(reactor, self._ask, bind)

    def begin(self, config: Config) -> None:
        """Take commands, where `config` says so; without them mail flows all the same."""
        path = config.control
        try:
            self.control.move(path, self.control.open(path))
        except OSError as error:
            self.log.note(Level.ERROR, f"no control socket {path}: {error.strerror or error}")
        try:
            self.web.move(self.web.open(config))
        except Faults as error:
            for each in error.faults:
                self.log.note(Level.ERROR, f"no status page: {each}")

    def open(self, config: Config, before: Config, undo: ExitStack) -> Callable[[], None]:
        """Open what `config` wants and `before` did not; what is given has it take its place.

        Raises `Faults`; `undo` lets go of it again.
        """
        log = None
        if config.log != before.log:
            log = _log_of(config, self._reactor.callLater)
            undo.callback(log.close)
        port = self.control.open_for(config)
        if port is not None:
            undo.callback(port.stopListening)
        page = self.web.open(config)
        undo.callback(page.discard)

        def take_place() -> None:
            if log is not None:
                self.log.become(log)
            self.control.move(config.control, port)
            self.web.move(page)

        return take_place

    async def _ask(self, command: str, /, **members: Any) -> Mapping[str, Any]:
        """As through the control socket, for the status page."""
        return await self._commands()[command](**members)  # type: ignore[return-value]

    def _listen(self, path: str) -> IListeningPort:
        factory = ControlFactory(self._commands(), self._reactor)
        return listen_privately(self._reactor, path, factory)


def _log_of(config: Config, schedule: Schedule) -> Log:
    """The log that `config` asks for; raises `Faults`."""
    settings = config.log
    try:
        return open_log(settings.format, settings.level, settings.file, schedule)
    except OSError as error:
        text = f"{settings.file or 'standard output'} cannot be opened: {error.strerror}"
        hint = "" if settings.file else "; name a file here, or leave it open"
        raise Faults([Fault(config.place("log", "file"), text + hint)]) from None
