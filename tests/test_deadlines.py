"""Deadlines: never early, at most one resolution late, and gone when nothing waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from smtpproxy.deadlines import Deadlines, TimedOut, Waiter
from smtpproxy.tasks import start

RESOLUTION = 0.25


class Story:
    """A clock, deadlines by it, and what was called back when."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock, RESOLUTION)
        self.called: list[tuple[str, float]] = []

    def add(self, name, seconds):
        return self.deadlines.add(seconds, lambda: self.called.append((name, self.clock.seconds())))

    def names(self):
        return [name for name, _ in self.called]

    def pass_time(self, seconds, step=0.05):
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(step)


@pytest.fixture
def story():
    return Story()


@given(st.lists(st.floats(0, 20), max_size=20), st.floats(0.01, 0.4))
def test_never_early_and_late_by_at_most_one_resolution(waits, step):
    story = Story()
    for number, seconds in enumerate(waits):
        story.add(str(number), seconds)
    story.pass_time(21, step)
    assert sorted(story.names()) == sorted(str(number) for number in range(len(waits)))
    for name, when in story.called:
        # the clock itself stands still between two steps
        assert waits[int(name)] <= when <= waits[int(name)] + RESOLUTION + step + 1e-9


def test_not_called_from_within_add(story):
    story.add("now", 0)
    assert story.called == []
    story.clock.advance(RESOLUTION)
    assert story.names() == ["now"]


def test_a_cancelled_deadline_is_not_called(story):
    deadline = story.add("cancelled", 1)
    story.add("kept", 1)
    assert deadline.active
    deadline.cancel()
    deadline.cancel()
    assert not deadline.active
    story.pass_time(2)
    assert story.names() == ["kept"]


def test_cancelling_after_the_call_does_nothing(story):
    deadline = story.add("called", 1)
    story.pass_time(2)
    assert not deadline.active
    deadline.cancel()
    assert story.names() == ["called"]


def test_a_big_jump_calls_all_that_is_due_in_the_order_of_time(story):
    story.add("third", 300)
    story.add("first", 1)
    story.add("second", 30)
    story.add("later", 4000)
    story.clock.advance(3600)
    assert story.names() == ["first", "second", "third"]
    story.clock.advance(400)
    assert story.names()[3:] == ["later"]


def test_a_short_wait_added_beside_a_long_one_is_not_overlooked(story):
    story.add("long", 300)
    story.pass_time(1)
    story.add("short", 1)
    story.pass_time(1.5)
    assert story.names() == ["short"]


def test_no_timer_runs_when_nothing_waits(story):
    assert story.clock.getDelayedCalls() == []
    story.add("cancelled", 100).cancel()
    story.add("called", 1)
    assert len(story.clock.getDelayedCalls()) == 1
    story.pass_time(2)
    assert story.clock.getDelayedCalls() == []
    story.add("again", 1)
    story.pass_time(2)
    assert story.names() == ["called", "again"]


def test_one_timer_for_many_waits(story):
    for number in range(1000):
        story.add(str(number), 5)
    story.pass_time(1)
    assert len(story.clock.getDelayedCalls()) == 1
    assert len(story.deadlines) == 1000
    assert repr(story.deadlines) == "<Deadlines: 1000 waiting>"


def test_stop_forgets_all(story):
    story.add("forgotten", 1)
    story.deadlines.stop()
    assert story.clock.getDelayedCalls() == []
    story.pass_time(2)
    assert story.called == []
    story.deadlines.stop()


def test_stop_and_start_anew(story):
    story.add("forgotten", 1)
    story.deadlines.stop()
    story.add("kept", 3)
    story.pass_time(4)
    assert story.names() == ["kept"]


def test_a_callback_may_cancel_another_that_is_due(story):
    later = story.deadlines.add(2, lambda: story.called.append(("second", 0)))
    story.deadlines.add(1, later.cancel)
    story.clock.advance(10)
    assert story.called == []
    assert len(story.deadlines) == 0


def test_a_callback_may_add_another(story):
    story.deadlines.add(1, lambda: story.add("at once", 0))
    story.deadlines.add(1, lambda: story.add("later", 1))
    story.clock.advance(1)
    assert story.names() == []
    story.clock.advance(RESOLUTION)
    assert story.names() == ["at once"]
    story.pass_time(2)
    assert story.names() == ["at once", "later"]
    assert story.clock.getDelayedCalls() == []


def test_a_callback_may_stop_everything(story):
    story.deadlines.add(1, story.deadlines.stop)
    story.add("second", 2)
    story.add("third", 100)
    story.clock.advance(10)
    assert story.called == []
    assert story.clock.getDelayedCalls() == []


def test_a_callback_that_stops_and_adds_leaves_one_timer(story):
    def restart() -> None:
        story.deadlines.stop()
        story.add("new", 1)

    story.deadlines.add(1, restart)
    story.clock.advance(1)
    assert len(story.clock.getDelayedCalls()) == 1
    story.pass_time(2)
    assert story.names() == ["new"]


def test_a_callback_that_fails_is_logged_and_costs_nobody_else_anything(story):
    def fail() -> None:
        raise ZeroDivisionError

    story.deadlines.add(1, fail)
    story.add("second", 1)
    story.add("third", 2)
    with capturedLogs() as events:
        story.pass_time(3)
    assert story.names() == ["second", "third"]
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]


def outcome(deferred):
    """A list that will hold the one result of `deferred`."""
    results: list[object] = []
    deferred.addBoth(lambda result: results.append(getattr(result, "value", result)))
    return results


def limited(story, work, seconds):
    deferred = start(story.deadlines.limit(work, seconds))
    return deferred, outcome(deferred)


async def wait_for(deferred):
    return await deferred


@pytest.mark.parametrize("wrap", [wait_for, lambda deferred: deferred])
def test_limit_gives_what_the_work_gives(story, wrap):
    inner: Deferred[str] = Deferred()
    _, results = limited(story, wrap(inner), 1)
    assert results == [] and len(story.deadlines) == 1
    inner.callback("done")
    assert results == ["done"]
    assert len(story.deadlines) == 0


def test_limit_of_work_that_is_done_at_once(story):
    async def work():
        return "done"

    assert limited(story, work(), 1)[1] == ["done"]
    assert len(story.deadlines) == 0


@pytest.mark.parametrize("wrap", [wait_for, lambda deferred: deferred])
def test_limit_cancels_what_takes_too_long(story, wrap):
    cancelled: list[object] = []
    inner: Deferred[str] = Deferred(cancelled.append)
    _, results = limited(story, wrap(inner), 30)
    story.pass_time(29.9)
    assert results == [] and cancelled == []
    story.pass_time(0.4)
    assert cancelled == [inner]
    [error] = results
    assert isinstance(error, TimedOut)
    assert error.seconds == 30 and str(error) == "not done within 30 s"


def test_limit_passes_on_the_exception_of_the_work(story):
    inner: Deferred[str] = Deferred()
    _, results = limited(story, wait_for(inner), 1)
    inner.errback(KeyError("x"))
    assert isinstance(results[0], KeyError)
    assert len(story.deadlines) == 0


def test_limit_says_timed_out_also_when_cancelling_makes_another_error(story):
    async def work() -> None:
        try:
            await Deferred()
        except CancelledError:
            raise ConnectionError from None

    _, results = limited(story, work(), 1)
    story.pass_time(2)
    assert isinstance(results[0], TimedOut)
    assert isinstance(results[0].__cause__, ConnectionError)


def test_limit_waits_for_the_cancelled_work_to_clean_up(story):
    closed: Deferred[None] = Deferred()

    async def work() -> None:
        try:
            await Deferred()
        finally:
            await closed

    _, results = limited(story, work(), 1)
    story.pass_time(2)
    assert results == []
    closed.callback(None)
    assert isinstance(results[0], TimedOut)


def test_a_wait_that_begins_as_the_one_before_is_over_has_all_of_its_time(story):
    waiter = Waiter(story.deadlines)

    async def waits():
        with pytest.raises(TimedOut):
            await story.deadlines.limit(waiter.wait(10), 10)
        await waiter.wait(20)

    task = start(waits())
    results: list[object] = []
    task.addBoth(results.append)
    story.pass_time(29)
    assert results == []
    story.pass_time(2)
    assert [type(result.value) for result in results] == [TimedOut]


def test_limit_hands_over_a_value_that_comes_in_spite_of_the_deadline(story):
    async def work():
        try:
            await Deferred()
        except CancelledError:
            return "a connection"

    _, results = limited(story, work(), 1)
    story.pass_time(2)
    assert results == ["a connection"]


def test_cancelling_the_outer_work_cancels_the_inner_and_is_no_timeout(story):
    cancelled: list[object] = []
    outer, results = limited(story, wait_for(Deferred(cancelled.append)), 1)
    outer.cancel()
    assert len(cancelled) == 1
    assert isinstance(results[0], CancelledError)
    assert len(story.deadlines) == 0


@pytest.mark.parametrize(("outer", "inner", "expected"), [(10, 2, 2), (2, 10, 2)])
def test_of_two_limits_the_shorter_one_speaks(story, outer, inner, expected):
    work = story.deadlines.limit(wait_for(Deferred()), inner)
    _, results = limited(story, work, outer)
    story.pass_time(20)
    assert [type(result) for result in results] == [TimedOut]
    assert results[0].seconds == expected
    assert story.clock.getDelayedCalls() == []
