"""Shadows: a second upstream is asked what it would say of a recipient, and gets no mail.

Before mailboxes move to a new server, this shows which of them are missing there.  A
shadow is asked once the client's own answer is known, by itself and in the background:
it never changes or delays what the client is told, and never sees DATA.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from smtpproxy.relay.carried import NotCarried
from smtpproxy.relay.delivery import Delivery, DeliveryTimes
from smtpproxy.routing import Upstream
from smtpproxy.smtp.commands import Mail, Rcpt
from smtpproxy.smtp.replies import Reply
from smtpproxy.tasks import start
from smtpproxy.upstream import BROKEN_REPLY, Broken, Caller, Connector, UpstreamError

MOST = 100  # shadows at once; what is more is not asked
MOST_EACH = 20  # of them at one upstream: where it hangs, others are asked all the same
CONNECT_TIME = 30.0  # seconds for the connection up to MAIL
REPLY_TIMES = DeliveryTimes(reply=30.0, final=30.0)  # nobody waits for it: it is soon given up

Compared = Callable[[str, Upstream, Reply, Reply], object]

log = Logger()


class Shadows:
    """All shadows of one configuration."""

    def __init__(self, connector: Connector, skipped: Callable[[Upstream], object]) -> None:
        """`skipped` is told of each recipient that a shadow is not asked of, for want of room."""
        self.connector = connector
        self.skipped = skipped
        self._running: dict[Shadow, Deferred[None]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def begin(
        self, upstream: Upstream, mail: Mail, caller: Caller, compared: Compared
    ) -> Shadow | None:
        """A shadow for one transaction, or for now None, where there are too many already.

        `compared` is told recipient, shadow, the client's reply and the shadow's.
        """
        alike = sum(shadow.upstream == upstream for shadow in self._running)
        if len(self._running) >= MOST or alike >= MOST_EACH:
            self.skipped(upstream)
            return None
        shadow = Shadow(self, upstream, mail, caller, compared)
        task = self._running[shadow] = start(shadow.run())
        task.addErrback(_unless_cancelled)
        task.addBoth(lambda _: self._ended(shadow))
        return shadow

    def _ended(self, shadow: Shadow) -> None:
        del self._running[shadow]

    def stop(self) -> None:
        for task in tuple(self._running.values()):
            task.cancel()


class Shadow:
    """One upstream's part in one transaction, as an onlooker."""

    def __init__(
        self,
        shadows: Shadows,
        upstream: Upstream,
        mail: Mail,
        caller: Caller,
        compared: Compared,
    ) -> None:
        self.upstream = upstream
        self._shadows = shadows
        self._mail = mail
        self._caller = caller
        self._compared = compared
        self._asked: deque[tuple[Rcpt, Reply]] = deque()
        self._ended = False
        self._news: Deferred[None] | None = None

    def ask(self, rcpt: Rcpt, told: Reply) -> None:
        """Have it say something of `rcpt`, of which the client was `told`."""
        self._asked.append((rcpt, told))
        self._wake()

    def end(self) -> None:
        """No more recipients come."""
        self._ended = True
        self._wake()

    async def run(self) -> None:
        shadows = self._shadows
        connection = None
        delivery = None
        lost: Reply | None = None
        try:
            while await self._more():
                rcpt, told = self._asked.popleft()
                if delivery is not None and not delivery.has_room([rcpt]):
                    shadows.skipped(self.upstream)
                    continue
                try:
                    if lost is not None:
                        reply = lost
                    elif delivery is None:
                        connection = await shadows.connector.connect(
                            self.upstream, self._caller, CONNECT_TIME, _unheard
                        )
                        delivery = Delivery(connection, self._mail, REPLY_TIMES)
                        reply = await delivery.begin([rcpt])
                        if reply.success:
                            reply = await delivery.recipient()
                        else:
                            lost = reply
                    else:
                        delivery.offer([rcpt])
                        reply = await delivery.recipient()
                except (UpstreamError, NotCarried) as error:
                    reply = lost = error.reply
                except Broken:
                    reply = lost = BROKEN_REPLY
                self._compared(str(rcpt.recipient), self.upstream, told, reply)
        finally:
            if connection is not None:
                connection.leave()

    async def _more(self) -> bool:
        """Wait for a recipient; False when none comes any more."""
        while not self._asked and not self._ended:
            self._news = Deferred()
            await self._news
        return bool(self._asked)

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.called:
            news.callback(None)


def _unheard(*_: object) -> None:
    """A shadow's address that is no use shows in what it is compared with."""


def _unless_cancelled(failure: object) -> None:
    if not failure.check(CancelledError):  # type: ignore[attr-defined]
        log.failure("a shadow failed", failure=failure)  # type: ignore[arg-type]
