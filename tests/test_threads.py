"""Work in threads: how many, what waits, what is given up, how it ends."""

from __future__ import annotations

import threading
from threading import Event, current_thread

import pytest
from twisted.internet.defer import CancelledError, Deferred

from smtpproxy.threads import Busy, Stopped, Threads
from tests.support.turns import Turns


class Gate:
    """Work that does not end before it is let go."""

    def __init__(self) -> None:
        self.begun = Event()
        self.open = Event()
        self.wanted: bool | None = None

    def __call__(self, wanted):
        self.begun.set()
        assert self.open.wait(10)
        self.wanted = wanted()
        return "done"


@pytest.fixture
def reactor():
    return Turns()


@pytest.fixture
def threads(reactor):
    threads = Threads(reactor, "test", most=2, backlog=3)
    yield threads
    threads.stop()


def outcome(deferred: Deferred) -> list:
    """Filled with what the deferred gives, or the exception it fails with."""
    seen: list = []
    deferred.addCallbacks(seen.append, lambda failure: seen.append(failure.value))
    return seen


def test_work_is_done_in_a_thread_of_ours(reactor, threads):
    name, daemon = reactor.until(
        threads.run(lambda _: (current_thread().name, current_thread().daemon))
    )
    assert name == "test-0"
    assert daemon


def test_what_work_raises_is_raised_where_it_is_waited_for(reactor, threads):
    with pytest.raises(ZeroDivisionError):
        reactor.until(threads.run(lambda _: 1 / 0))
    assert reactor.until(threads.run(lambda _: "and it goes on")) == "and it goes on"


def test_a_thread_is_started_only_when_none_is_free(reactor, threads):
    names = {reactor.until(threads.run(lambda _: current_thread().name)) for _ in range(5)}
    assert names == {"test-0"}
    gate = Gate()
    busy = threads.run(gate)
    assert reactor.until(threads.run(lambda _: current_thread().name)) in {"test-0", "test-1"}
    gate.open.set()
    assert reactor.until(busy) == "done"
    assert repr(threads) == "<Threads test: 2 of 2, 0 to do>"


def test_more_than_the_backlog_is_refused_at_once(reactor, threads):
    gates = [Gate() for _ in range(5)]  # two at work, three wait
    work = [threads.run(gate) for gate in gates]
    with pytest.raises(Busy):
        threads.run(Gate())
    for gate in gates:
        gate.open.set()
    assert [reactor.until(each) for each in work] == ["done"] * 5
    assert reactor.until(threads.run(lambda _: "free again")) == "free again"


def test_a_system_without_threads_to_spare(reactor, threads, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Busy):
        threads.run(lambda _: "in the first")
    monkeypatch.undo()
    gate = Gate()
    first = threads.run(gate)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = threads.run(lambda _: "after the first")
    gate.open.set()
    assert [reactor.until(first), reactor.until(second)] == ["done", "after the first"]


def test_what_is_given_up_in_the_queue_is_never_begun(reactor, threads):
    at_work = [Gate(), Gate()]
    work = [threads.run(gate) for gate in at_work]
    waiting = Gate()
    given_up = threads.run(waiting)
    seen = outcome(given_up)
    given_up.cancel()
    assert isinstance(seen[0], CancelledError)
    for gate in at_work:
        gate.open.set()
    while len(threads):
        reactor.turn()
    assert [outcome(each) for each in work] == [["done"]] * 2
    assert not waiting.begun.is_set()


def test_what_is_under_way_is_told_that_it_was_given_up(reactor, threads):
    gate = Gate()
    work = threads.run(gate)
    seen = outcome(work)
    assert gate.begun.wait(10)
    work.cancel()
    gate.open.set()
    reactor.turn()
    assert gate.wanted is False
    assert len(seen) == 1 and isinstance(seen[0], CancelledError)


def test_stop_waits_for_nothing_and_tells_those_who_do(reactor):
    left = Event()
    threads = Threads(reactor, "stopped", most=1, leave=left.set)
    gate = Gate()
    seen, waits = outcome(threads.run(gate)), outcome(threads.run(Gate()))
    assert gate.begun.wait(10)
    threads.stop()  # with a thread that hangs
    assert isinstance(seen[0], Stopped) and isinstance(waits[0], Stopped)
    with pytest.raises(Stopped):
        threads.run(Gate())
    assert not left.is_set()
    gate.open.set()
    assert left.wait(10)
    for thread in threading.enumerate():
        if thread.name.startswith("stopped-"):
            thread.join(10)
            assert not thread.is_alive()
