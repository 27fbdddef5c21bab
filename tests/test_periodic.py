"""Work that is done again and again, by an injected clock."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from smtpproxy.periodic import Periodic
from smtpproxy.threads import Stopped


class Work:
    """Counts its turns, and fails, or waits, as it is told."""

    def __init__(self) -> None:
        self.turns = 0
        self.error: Exception | None = None
        self.waits: Deferred[None] | None = None

    async def __call__(self) -> None:
        self.turns += 1
        if self.waits is not None:
            await self.waits
        if self.error is not None:
            raise self.error


def test_turns_come_at_once_or_later_and_again() -> None:
    clock, work = Clock(), Work()
    periodic = Periodic(clock, 5, work, "work")
    assert not periodic.running
    periodic.start(now=True)
    assert periodic.running
    assert work.turns == 1
    clock.advance(5)
    assert work.turns == 2
    periodic.stop()
    assert not periodic.running
    clock.advance(50)
    assert work.turns == 2
    assert not clock.getDelayedCalls()
    periodic.start(now=False)
    assert work.turns == 2
    clock.advance(5)
    assert work.turns == 3


def test_a_failure_is_told_and_is_not_the_last_turn() -> None:
    clock, work = Clock(), Work()
    periodic = Periodic(clock, 5, work, "looking")
    work.error = ValueError("odd")
    with capturedLogs() as events:
        periodic.start(now=True)
        clock.advance(5)
    assert work.turns == 2
    assert [event["what"] for event in events if "log_failure" in event] == ["looking", "looking"]
    periodic.stop()


def test_being_stopped_is_no_failure() -> None:
    clock, work = Clock(), Work()
    work.error = Stopped()
    with capturedLogs() as events:
        Periodic(clock, 5, work, "work").start(now=True)
    assert events == []


def test_a_turn_that_takes_long_is_the_only_one() -> None:
    clock, work = Clock(), Work()
    work.waits = Deferred()
    Periodic(clock, 5, work, "work").start(now=True)
    clock.advance(50)
    assert work.turns == 1
    work.waits.callback(None)
    work.waits = None
    clock.advance(5)
    assert work.turns == 2


def test_what_was_not_started_may_be_stopped() -> None:
    Periodic(Clock(), 5, Work(), "work").stop()
