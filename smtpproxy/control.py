"""The control socket: how `smtpproxy reload` and its like talk to the running program.

A Unix socket for root and the program's own user.  A request is one line of JSON,
`{"command": "reload", "force": true}`, and so is the answer: `{"ok": true, ...}` or
`{"ok": false, "error": "..."}`.  Where the answer goes on, `{"ok": true}` is its first line, and
each further line an object, until one side closes.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime, ITransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from smtpproxy.config import Config
from smtpproxy.faults import Fault, Faults
from smtpproxy.feed import Feed
from smtpproxy.request import ControlError, request
from smtpproxy.tasks import start

__all__ = ["ControlError", "ControlFactory", "ControlProtocol", "request"]

REQUEST_TIME = 10.0  # seconds for a connection to say what it wants
MAX_REQUEST = 64 * 1024  # octets

Command = Callable[..., Awaitable[Mapping[str, Any] | Feed]]
CarryOut = Callable[[bytes], Awaitable[Mapping[str, Any] | Feed]]

log = Logger()


class ControlProtocol(LineOnlyReceiver, TimeoutMixin):
    """One connection of an administrator's command.

    What was asked for is carried out, even if nobody waits for the answer any more.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_REQUEST
    transport: ITransport

    def __init__(self, carry_out: CarryOut, clock: IReactorTime) -> None:
        self.callLater = clock.callLater  # type: ignore[method-assign, assignment]
        self._carry_out = carry_out
        self._asked = False
        self._feed: Feed | None = None
        self._gone = False

    def connectionMade(self) -> None:
        self.setTimeout(REQUEST_TIME)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.setTimeout(None)  # type: ignore[no-untyped-call]
        self._gone = True
        if self._feed is not None:
            self._feed.stopProducing()

    def lineReceived(self, line: bytes) -> None:
        if not self._asked:
            self._asked = True
            self.setTimeout(None)  # type: ignore[no-untyped-call]
            start(self._answer(line))

    def lineLengthExceeded(self, line: bytes) -> None:
        if not self._asked:
            self._asked = True
            self._say({"ok": False, "error": f"a request has at most {MAX_REQUEST} octets"})

    async def _answer(self, line: bytes) -> None:
        try:
            said = await self._carry_out(line)
            if isinstance(said, Feed):
                self._follow(said)
                return
            self._say({"ok": True, **said})
        except ControlError as error:
            self._say({"ok": False, "error": str(error)})
        except Exception as error:  # an answer that JSON does not know, too
            log.failure("a command failed")
            self._say({"ok": False, "error": f"internal error: {error!r}"})

    def _follow(self, feed: Feed) -> None:
        """Send all that comes, as fast as it is read, for as long as somebody is there."""
        self._feed = feed
        if self._gone:
            feed.stopProducing()
            return
        self._write({"ok": True})
        self.transport.registerProducer(feed, True)  # type: ignore[attr-defined]
        feed.begin(self._write, self._end)

    def _end(self) -> None:
        self.transport.unregisterProducer()  # type: ignore[attr-defined]
        self.transport.loseConnection()

    def _say(self, answer: Mapping[str, Any]) -> None:
        self._write(answer)
        self.transport.loseConnection()

    def _write(self, line: Mapping[str, Any]) -> None:
        self.transport.write(json.dumps(line).encode() + b"\n")


class ControlSocket:
    """Where commands are listened for: a path that may change while the program runs."""

    def __init__(self, listen: Callable[[str], IListeningPort]) -> None:
        """`listen` raises OSError."""
        self._listen = listen
        self._path = ""
        self._port: IListeningPort | None = None

    def open(self, path: str) -> IListeningPort | None:
        """A port for `path`, None where it is there already or "" says none; raises OSError."""
        return self._listen(path) if path and path != self._path else None

    def open_for(self, config: Config) -> IListeningPort | None:
        """As `open`, for the path that `config` has; raises `Faults`."""
        try:
            return self.open(config.control)
        except OSError as error:
            text = f"{config.control}: cannot listen: {error.strerror or error}"
            raise Faults([Fault(config.place("control"), text)]) from None

    def move(self, path: str, port: IListeningPort | None) -> None:
        """Listen at `path` from now on, with the port that was opened for it."""
        if path != self._path:
            self.close()
            self._path, self._port = path, port

    def close(self) -> Deferred[Any]:
        """Take no more commands; fires once the path is gone.  Who waits for an answer gets it."""
        port, self._path, self._port = self._port, "", None
        return maybeDeferred(port.stopListening) if port is not None else succeed(None)


class ControlFactory(ServerFactory):
    """Knows the commands: each is called with the request's other members."""

    noisy = False

    def __init__(self, commands: Mapping[str, Command], clock: IReactorTime) -> None:
        self._commands = commands
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> ControlProtocol:
        return ControlProtocol(self.carry_out, self._clock)

    async def carry_out(self, line: bytes) -> Mapping[str, Any] | Feed:
        """The answer to one request; raises `ControlError`."""
        try:
            request = json.loads(line)
            name = request.pop("command")
            command = self._commands[name]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            known = ", ".join(sorted(self._commands))
            raise ControlError(f"not a request; the commands are {known}") from None
        try:
            carried_out = command(**request)
        except TypeError:  # a coroutine has done nothing yet
            raise ControlError(f"{name} does not take these: {', '.join(request)}") from None
        return await carried_out
