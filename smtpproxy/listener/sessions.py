"""All sessions of the program: who may begin one, and how they end together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from smtpproxy.deadlines import Deadlines
from smtpproxy.events import Observer, Refused, Side
from smtpproxy.listener.naming import ReverseName
from smtpproxy.listener.profile import Profile
from smtpproxy.listener.session import Session
from smtpproxy.mail import Client, Peer
from smtpproxy.smtp.replies import Reply
from smtpproxy.stream import Stream
from smtpproxy.upstream import Pool

TOO_MANY = Reply.of(421, "4.7.0", "Too many connections; try again later")
TOO_MANY_FROM_YOU = Reply.of(421, "4.7.0", "Too many connections from your address")

log = Logger()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The most client connections at once, in all and for one address."""

    total: int
    per_address: int


class Sessions:
    """The sessions that are under way."""

    def __init__(
        self,
        *,
        names: Callable[[], str],
        pool: Pool,
        reverse_name: ReverseName,
        observe: Observer,
        limits: ConnectionLimits,
        deadlines: Deadlines,
    ) -> None:
        self._names = names
        self._pool = pool
        self._reverse_name = reverse_name
        self._observe = observe
        self._limits = limits
        self._deadlines = deadlines
        self._running: dict[Session, Deferred[None]] = {}
        self._of_address: Counter[str] = Counter()
        self._empty: Deferred[None] | None = None  # who waits for the last one to end

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, peer: Peer, stream: Stream, profile: Profile) -> None:
        """Run the session of a client that has just connected, if one more is allowed."""
        name = self._names()
        refusal = self._refusal(peer.address)
        if refusal is not None:
            client = Client(peer)
            self._observe(Refused(name, client, "CONNECT", refusal, Side.PROXY))
            stream.write(refusal.encode())
            stream.close()
            return
        session = Session(
            name, peer, stream, profile, self._pool, self._reverse_name, self._observe
        )
        self._of_address[peer.address] += 1
        task = Deferred.fromCoroutine(session.run())
        self._running[session] = task
        stream.on_lost = lambda: task.cancel() if session.may_be_dropped() else None
        task.addErrback(
            lambda failure: log.failure("session {name} failed", failure=failure, name=name)
        )
        task.addBoth(lambda _: self._ended(session, peer.address))

    async def stop(self, seconds: float) -> None:
        """End all sessions: each after its transaction, and what is left after `seconds`."""
        for session in tuple(self._running):
            session.stop()
        if not self._running:
            return
        self._empty = Deferred()
        hurry = self._deadlines.add(seconds, self.cut)
        try:
            await self._empty
        finally:
            hurry.cancel()

    def cut(self) -> None:
        """End all sessions now, but for the time that their last words take to leave."""
        for task in tuple(self._running.values()):
            task.cancel()

    def _refusal(self, address: str) -> Reply | None:
        if len(self._running) >= self._limits.total:
            return TOO_MANY
        if address and self._of_address[address] >= self._limits.per_address:
            return TOO_MANY_FROM_YOU
        return None

    def _ended(self, session: Session, address: str) -> None:
        del self._running[session]
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]
        if self._empty is not None and not self._running and not self._empty.called:
            self._empty.callback(None)
