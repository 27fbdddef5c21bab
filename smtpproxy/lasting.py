"""What lives as long as the process, whatever its configuration comes to be."""

from __future__ import annotations

import time
from typing import Any

from twisted.logger import Logger

from smtpproxy.deadlines import Deadlines
from smtpproxy.dns import Addresses
from smtpproxy.events import Event
from smtpproxy.listener import ConnectionLimits, Sessions, session_names
from smtpproxy.logs import Level, Log
from smtpproxy.metrics import Counts, Process
from smtpproxy.recent import Recent
from smtpproxy.relay import Doubts, Guard
from smtpproxy.shadow_counts import ShadowCounts
from smtpproxy.sharing import Sharing
from smtpproxy.sockets import is_ourselves
from smtpproxy.stream import Stream
from smtpproxy.tails import Tails
from smtpproxy.tap import Tap
from smtpproxy.transport import Poll
from smtpproxy.upkeep import Upkeep
from smtpproxy.upstream import Learnt, SocketDial

log = Logger()


class Lasting:
    """Clock, sockets and log; what was learnt and counted; it is given to each `Generation`."""

    def __init__(self, reactor: Any, deadlines: Deadlines, log: Log, worker: int = 0) -> None:
        """`worker` is this process's number among several, 0 where there is one."""
        self.reactor = reactor
        self.deadlines = deadlines
        self.log = log
        self.poll = Poll(reactor)
        self.addresses = Addresses(reactor)
        self.dial = SocketDial(self.poll, deadlines, lambda: Stream(deadlines))
        self.learnt = Learnt(deadlines)
        self.upkeep = Upkeep(self.learnt, deadlines, self.note)
        self.shadow_counts = ShadowCounts(deadlines, lambda text: log.note(Level.WARNING, text))
        self.recent = Recent()
        self.tap = Tap()
        self.tails = Tails(self.tap, lambda: self.sessions)
        self.counts = Counts()
        self.process = Process(log)
        self.guard = Guard(0.0, time.monotonic, self._alarm)
        self.doubts = Doubts(time.monotonic)
        self.sessions = Sessions(
            names=session_names(time.time, worker),
            observe=self.observe,
            limits=ConnectionLimits(0, 0),  # until the first `Generation` begins
            deadlines=deadlines,
            tap=self.tap,
        )
        self.sharing = Sharing(reactor, self.sessions, self.note)
        self._observers = (self.log, self.shadow_counts, self.counts, self.recent, self.tails)
        self.listening: list[tuple[str, int]] = []
        """Host and port of each socket that is listened to; a Unix socket's path and 0."""

    def is_ourselves(self, address: str, port: int) -> bool:
        """A connection to there comes back to us."""
        return is_ourselves(self.listening, address, port)

    def observe(self, event: Event) -> None:
        """Have all observers hear of what happens in a session."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # whoever writes down, or counts, must not cost anybody's mail
                log.failure("{observer} failed", observer=observer)

    def note(self, well: bool, text: str) -> None:
        """A line for the log, of what is well or not."""
        self.log.note(Level.INFO if well else Level.WARNING, text)

    def _alarm(self, well: bool, text: str) -> None:
        self.log.note(Level.INFO if well else Level.ERROR, text)

    def stop(self) -> None:
        """To be called last: the log alone goes on."""
        self.sharing.stop()
        self.shadow_counts.stop()
        self.upkeep.stop()
        self.deadlines.stop()
        self.addresses.stop()
