"""The program of one worker: `python -m smtpproxy.workers.worker`, which the parent starts.

It is the same service as in a program of one process, but for what it serves with, which the
parent tells it, and for the signals: it ends after SIGTERM, or after its parent, and each time
finishes what it has in hand.  Only the parent has it hurry.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import globalLogBeginner

from smtpproxy import descriptors
from smtpproxy.chain import Loop
from smtpproxy.config import Config
from smtpproxy.deadlines import Deadlines
from smtpproxy.faults import Faults, NotStarted
from smtpproxy.logs import TwistedLog
from smtpproxy.parts import open_parts
from smtpproxy.service import Proxy
from smtpproxy.steady import make_steady
from smtpproxy.workers.channel import Channel, receive
from smtpproxy.workers.child import READY, SERVES
from smtpproxy.workers.share import share_of
from smtpproxy.workers.terms import Lent

# It tells of them through the channel: a signal would end one that is just beginning.
HEARD_BY_THE_PARENT = (signal.SIGHUP, signal.SIGUSR1)
MOST_SAID = 16 * 1024  # octets of why it cannot begin


def main(arguments: list[str]) -> None:
    """Serve until the parent has it stop."""
    parser = ArgumentParser(prog="smtpproxy-worker")
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--of", type=int, required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--channel", type=int, required=True)
    asked = parser.parse_args(arguments)
    # A terminal tells every process of Ctrl-C and of its end; the parent knows what follows.
    _leave_to_the_parent(signal.SIGINT, *HEARD_BY_THE_PARENT)
    make_steady(reactor)
    descriptors.allow()
    end = socket.socket(fileno=asked.channel)
    worker = Worker(end, asked.number)
    try:
        worker.begin(partial(share_of, workers=asked.of, control=asked.control))
    except NotStarted as fault:
        end.setblocking(True)
        end.send(str(fault.faults).encode()[:MOST_SAID])
        raise SystemExit(1) from None
    reactor.run()
    with suppress(OSError):  # the last one cleans up, where the parent did not
        Path(asked.control).parent.rmdir()


class Worker:
    """A proxy that serves with what its parent tells it."""

    _proxy: Proxy  # once there is one that serves

    def __init__(self, end: socket.socket, number: int) -> None:
        self._end = end
        self._number = number
        self._lent = Lent()
        self._standings: Mapping[str, str] = {}
        self._may_serve = False
        self._channel: Channel | None = None  # once it serves; until then, nothing else is to do
        self._words = {
            **self._lent.words,
            "standings": self._follow,
            "serve": self._serve,
            "alive": self._say_so,
            "reopen": self._reopen,
            "cut": self._cut,
        }

    def begin(self, share: Callable[[Config], Config]) -> None:
        """Serve from now on, and answer once the reactor runs; raises `NotStarted`.

        All is read first, and then the parent says whether that is still what is in force.
        """
        while not self._lent.complete:
            self._hear(*receive(self._end))
        proxy = self._opened(share)
        self._end.send(READY)
        while not self._may_serve:
            self._hear(*receive(self._end))
        proxy.privilegedStartService()
        proxy.startService()
        _leave_to_the_parent(*HEARD_BY_THE_PARENT)
        proxy.upkeep.follow(self._standings)
        self._proxy = proxy
        reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        # Behind the proxy's own, which is set once the reactor runs.
        reactor.callWhenRunning(signal.signal, signal.SIGTERM, self._terminate)
        self._channel = Channel(self._end, reactor, self._hear, self._orphaned)
        self._say_so()

    def _opened(self, share: Callable[[Config], Config]) -> Proxy:
        """A proxy with what it was told, to take later what it is told by then."""
        deadlines = Deadlines(reactor)
        try:
            config = share(self._lent.config)
            parts = open_parts(config, lambda: Loop(reactor, deadlines))
        except Faults as error:
            raise NotStarted(error) from None
        read = lambda: share(self._lent.config)  # noqa: E731
        proxy = Proxy(config, parts, deadlines, reactor, read, self._lent.bind, self._number)
        globalLogBeginner.beginLoggingTo([TwistedLog(proxy.log)], redirectStandardIO=False)
        return proxy

    # What the parent says.

    def _hear(self, data: bytes, descriptors: Sequence[int]) -> None:
        if not data:
            raise SystemExit("smtpproxy: the parent has ended")
        said: Mapping[str, Any] = json.loads(data)
        for word, value in said.items():
            self._words[word](value, descriptors)

    def _follow(self, standings: Mapping[str, str], _: Sequence[int]) -> None:
        """What an administrator has said of upstreams."""
        self._standings = standings
        if self._channel is not None:
            self._proxy.upkeep.follow(standings)

    def _serve(self, *_: object) -> None:
        self._may_serve = True

    def _say_so(self, *_: object) -> None:
        if self._channel is not None:
            self._channel.send(SERVES)

    def _reopen(self, *_: object) -> None:
        """The log file was moved away; one that begins only now has the new one."""
        if self._channel is not None:
            self._proxy.log.reopen()

    def _cut(self, *_: object) -> None:
        """All sessions are to end now."""
        if self._channel is not None:
            self._proxy.cut()

    # The end.

    def _stop(self) -> Deferred[None]:
        # systemd may tell all processes at once, and then the parent tells us, too: no hurry.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        stopped = self._proxy.stopService()
        _leave_to_the_parent(signal.SIGTERM, signal.SIGINT)
        self._lent.close()
        return stopped

    def _terminate(self, *_: object) -> None:
        woken: Any = reactor  # a signal may come at any time
        woken.callFromThread(self._leave)

    def _orphaned(self) -> None:
        """The parent is gone: nobody could have us reload or stop any more."""
        if self._proxy.running:
            self._proxy.say("the parent has ended: so does this worker")
            self._leave()

    def _leave(self) -> None:
        with suppress(ReactorNotRunning):  # it is told a second time
            reactor.stop()


def _leave_to_the_parent(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main(sys.argv[1:])
