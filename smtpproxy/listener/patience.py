"""How long a client is waited for: with its next command, with content, and in all."""

from __future__ import annotations

from collections.abc import Callable

from smtpproxy.deadlines import TimedOut
from smtpproxy.listener.profile import Profile
from smtpproxy.smtp.server import Event, ServerConnection
from smtpproxy.stream import Stream


class TooSlow(TimedOut):
    """A client that is heard of now and then, and still takes too long; the text says how."""

    def __init__(self, seconds: float, text: str) -> None:
        Exception.__init__(self, text)
        self.seconds = seconds


class Patience:
    """Waits for one client.

    A command has its time however often a bit of it comes.  Content has a stock of seconds, as
    many as a pause may take: waiting uses it up, and each octet that comes adds to it what an
    octet may take at the least rate.  So pauses are forgiven where much comes between them, and
    a trickle is not.  Time in which we do not read, since an upstream is slow, does not count.
    The session may end at any of these waits; never between the end of a message and its reply,
    where it is the upstream that is waited for.
    """

    __slots__ = ("_ends", "_now", "_profile", "_stock")

    def __init__(self, profile: Profile, now: Callable[[], float]) -> None:
        """`now` gives seconds that never go back."""
        self._profile = profile
        self._now = now
        self._ends = now() + profile.session_time
        self._stock = profile.data_time

    async def next_event(self, core: ServerConnection, stream: Stream) -> Event:
        """What the client says next, where `core` lacks octets for it.

        Raises `TimedOut`, or what `Stream.receive` does.
        """
        inside = core.inside_content
        left = self._stock if inside else self._profile.command_time
        event: Event | None = None
        now = self._now()
        while event is None:
            rest = self._ends - now
            if rest <= 0:
                raise self._over()
            try:
                data = await stream.receive(min(left, rest))
            except TimedOut:
                raise (self._late(inside, left) if left < rest else self._over()) from None
            core.receive(data)
            event = core.next_event()
            if event is not None and not inside:  # as most commands come: whole
                break
            before, now = now, self._now()
            left -= now - before
            if inside:
                left = self._refilled(left, len(data))
            elif core.inside_content:
                inside, left = True, self._profile.data_time  # a chunk that is refused has begun
        self._stock = left if inside else self._profile.data_time
        return event

    def _refilled(self, left: float, octets: int) -> float:
        data_time, rate = self._profile.data_time, self._profile.limits.data_rate
        return min(data_time, left + octets / rate) if rate else data_time

    def _over(self) -> TimedOut:
        return TooSlow(
            self._profile.session_time, f"the session took {self._profile.session_time:g} s"
        )

    def _late(self, inside: bool, left: float) -> TimedOut:
        if not inside:
            return TimedOut(self._profile.command_time)
        if left < self._profile.data_time:
            rate = self._profile.limits.data_rate
            return TooSlow(left, f"content came at less than {rate} octets a second")
        return TimedOut(self._profile.data_time)
