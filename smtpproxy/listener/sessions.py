"""All sessions of the program: who may begin one, and how they end together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.deadlines import Deadlines
from smtpproxy.events import Observer, Refused, Side
from smtpproxy.listener.fronted import Fronted
from smtpproxy.listener.profile import Profile
from smtpproxy.listener.session import Admit, Session
from smtpproxy.listener.shared import Shared
from smtpproxy.listener.view import View
from smtpproxy.listener.visitors import TOO_MANY, ConnectionLimits, Visitor, Visitors
from smtpproxy.mail import Client, Peer
from smtpproxy.smtp.replies import Reply
from smtpproxy.stream import Stream
from smtpproxy.tap import UNHEARD, Tap
from smtpproxy.tasks import Routine

log = Logger()


Over = Callable[[Session], object]
Then = Callable[[], object]


def _nothing() -> None:
    """Nobody else has to know."""


class _Running(Routine):
    """A session that is under way."""

    __slots__ = ("_over", "_session", "_then")

    def __init__(
        self, session: Session, work: Coroutine[Any, Any, None], over: Over, then: Then
    ) -> None:
        """`work` is all of it; `over`, and then `then`, are called at the end."""
        super().__init__(work)
        self._session = session
        self._over = over
        self._then = then

    def client_left(self) -> None:
        """Nobody is there any more."""
        if self._session.may_be_dropped():
            self.interrupt()

    def ended(self, result: Failure | None) -> None:
        if result is not None:
            log.failure("session {name} failed", failure=result, name=self._session.name)
        self._over(self._session)
        self._then()


class Sessions:
    """The sessions that are under way."""

    def __init__(
        self,
        *,
        names: Callable[[], str],
        observe: Observer,
        limits: ConnectionLimits,
        deadlines: Deadlines,
        tap: Tap = UNHEARD,
    ) -> None:
        """`tap` is told what is said in sessions."""
        self._names = names
        self._tap = tap
        self._observe = observe
        self._deadlines = deadlines
        self._running: dict[Session, _Running] = {}
        self._visitors = Visitors(limits, deadlines.seconds)
        self._fronted = Fronted(names=names, observe=observe, begin=self._begin, full=self._full)
        self._empty: Deferred[None] | None = None  # who waits for the last one to end
        # One for all of them.
        self._over: Over = self._ended
        self._admit: Admit = self._moved

    def __len__(self) -> int:
        return len(self._running)

    def views(self, most: int) -> list[View]:
        """What there is to see of each, first those that began first.

        Where they are more than `most`, it is half of that from either end.
        """
        running = tuple(self._running)
        if len(running) > most:
            running = running[: most // 2] + running[-(most // 2) :]
        return [each.view() for each in running]

    @property
    def visitors(self) -> Visitors:
        """The clients."""
        return self._visitors

    def share(self, shared: Shared | None) -> None:
        """Count clients together with other processes from now on, or alone."""
        self._visitors.shared = shared

    def begin(self, peer: Peer, stream: Stream, profile: Profile, then: Then = _nothing) -> None:
        """Run the session of a client that has just connected, if one more is allowed.

        `then` is called once it has ended, or there is none.
        """
        if profile.proxy_from and peer.address in profile.proxy_from:
            self._fronted.begin(peer, stream, profile, then)
        else:
            self._begin(peer, stream, profile, then)

    def _begin(self, peer: Peer, stream: Stream, profile: Profile, then: Then) -> None:
        """The client is `peer`, whoever has connected."""
        name = self._names()
        balancer = not peer.via and peer.address in profile.proxy_from
        if balancer or peer.address in profile.xclient_from:
            # It speaks for others, who count for themselves.
            visitor = self._visitors.stranger()
        else:
            visitor = self._visitors.of(peer.address)
        refusal = TOO_MANY if self._full() else visitor.connects()
        if refusal is not None:
            self._turn_away(name, Client(peer), stream, refusal)
            then()
            return
        session = Session(
            name, peer, stream, profile, self._observe, visitor, self._tap, self._admit
        )
        self._visitors.enters(visitor)
        alone = self._visitors.shared is None or visitor.key is None
        work = session.run() if alone else self._run(session, stream)
        running = self._running[session] = _Running(session, work, self._over, then)
        stream.on_lost = running.client_left
        running.begin()

    async def stop(self, seconds: float) -> None:
        """End all sessions: each after its transaction, and what is left after `seconds`."""
        self._fronted.stop()
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
        self._fronted.stop()
        for running in tuple(self._running.values()):
            running.interrupt()

    def _full(self) -> bool:
        return len(self._running) + len(self._fronted) >= self._visitors.limits.total

    def _turn_away(self, name: str, client: Client, stream: Stream, refusal: Reply) -> None:
        self._observe(Refused(name, client, "CONNECT", refusal, Side.PROXY))
        stream.write(refusal.encode())
        stream.close()

    async def _run(self, session: Session, stream: Stream) -> None:
        """A session, unless other processes know that its client has too many."""
        try:
            refusal = await self._elsewhere(session.visitor)
        except CancelledError:  # the client is gone, or we stop
            session.never_begins()
            stream.close()
            return
        if refusal is None:
            await session.run()
        else:
            session.never_begins()
            self._turn_away(session.name, session.client, stream, refusal)

    async def _elsewhere(self, visitor: Visitor) -> Reply | None:
        """The refusal where a client that has one more session has too many, all counted."""
        shared = self._visitors.shared
        if shared is None or visitor.key is None:
            return None
        return await shared.refusal(visitor)

    async def _moved(self, session: Session, address: str) -> Reply | None:
        """The refusal where a session's client, who is another one now, has too many of them."""
        visitor = self._visitors.of(address)
        if visitor is session.visitor:
            return None
        refusal = visitor.connects()
        if refusal is not None:
            return refusal
        before, session.visitor = session.visitor, visitor
        self._visitors.leaves(before)
        self._visitors.enters(visitor)
        return await self._elsewhere(visitor)

    def _ended(self, session: Session) -> None:
        del self._running[session]
        self._visitors.leaves(session.visitor)
        if self._empty is not None and not self._running and not self._empty.called:
            self._empty.callback(None)
