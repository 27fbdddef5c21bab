"""The addresses of upstreams, as the system says them."""

from __future__ import annotations

import socket
from threading import Event

import pytest
from twisted.internet.defer import CancelledError, gatherResults, inlineCallbacks
from twisted.trial.unittest import TestCase

from smtpproxy.dns import Addresses, NotFound, TryLater, system_addresses
from smtpproxy.tasks import start
from tests.support.dns_server import ClockedReactor


class Hosts:
    """A twin of getaddrinfo: answers by host; one that is an Event is waited for first."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.gate = Event()
        self.gate.set()

    def __call__(self, host):
        self.asked.append(host)
        self.gate.wait(20)
        answer = self.answers.get(host, NotFound("no such host"))
        if isinstance(answer, Exception):
            raise answer
        return answer


class AddressesTest(TestCase):
    timeout = 30

    def setUp(self):
        self.hosts = Hosts()
        self.clock = ClockedReactor()
        self.addresses = Addresses(self.clock, timeout=10, threads=2, look_up=self.hosts)
        self.addCleanup(self.hosts.gate.set)
        self.addCleanup(self.addresses.stop)

    def resolve(self, host="mx1.test"):
        return start(self.addresses.resolve(host))

    @inlineCallbacks
    def test_found_in_the_order_given(self):
        found = ("2001:db8::1", "192.0.2.1", "192.0.2.0")
        self.hosts.answers["mx1.test"] = found
        assert (yield self.resolve()) == found

    def test_an_address_is_its_own_answer(self):
        for address in ("192.0.2.1", "2001:db8::1", "fe80::1%lo"):
            assert self.successResultOf(self.resolve(address)) == (address,)
        assert self.hosts.asked == [] and self.addresses._threads._started == 0

    @inlineCallbacks
    def test_not_found(self):
        for _ in range(2):
            error = yield self.assertFailure(self.resolve(), NotFound)
            assert str(error) == "mx1.test: no such host"
        assert self.hosts.asked == ["mx1.test"]
        self.hosts.answers["mx1.test"] = ("192.0.2.1",)
        self.clock.advance(6)
        assert (yield self.resolve()) == ("192.0.2.1",)

    @inlineCallbacks
    def test_try_later(self):
        self.hosts.answers["mx1.test"] = TryLater("servers fail")
        for _ in range(2):
            error = yield self.assertFailure(self.resolve(), TryLater)
            assert str(error) == "mx1.test: servers fail"
        assert self.hosts.asked == ["mx1.test"]

    @inlineCallbacks
    def test_anything_else_that_goes_wrong_is_logged_and_tried_later(self):
        self.hosts.answers["mx1.test"] = ZeroDivisionError("odd")
        error = yield self.assertFailure(self.resolve(), TryLater)
        assert str(error) == "mx1.test: odd"
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    @inlineCallbacks
    def test_remembered_for_half_a_minute(self):
        self.hosts.answers["mx1.test"] = ("192.0.2.1",)
        yield self.resolve()
        self.hosts.answers["mx1.test"] = ("192.0.2.2",)
        self.clock.advance(29)
        assert (yield self.resolve()) == ("192.0.2.1",)
        self.clock.advance(2)
        assert (yield self.resolve()) == ("192.0.2.2",)

    @inlineCallbacks
    def test_the_last_answer_serves_while_dns_fails_for_a_day(self):
        self.hosts.answers["mx1.test"] = ("192.0.2.1",)
        yield self.resolve()
        self.hosts.answers["mx1.test"] = TryLater("servers fail")
        self.clock.advance(3600)
        assert (yield self.resolve()) == ("192.0.2.1",)
        assert (yield self.resolve()) == ("192.0.2.1",)
        assert len(self.hosts.asked) == 2, "and DNS is not asked each time"
        self.clock.advance(86400)
        yield self.assertFailure(self.resolve(), TryLater)

    @inlineCallbacks
    def test_a_host_that_is_gone_is_gone(self):
        self.hosts.answers["mx1.test"] = ("192.0.2.1",)
        yield self.resolve()
        del self.hosts.answers["mx1.test"]
        self.clock.advance(3600)
        yield self.assertFailure(self.resolve(), NotFound)

    @inlineCallbacks
    def test_equal_look_ups_share_one(self):
        self.hosts.answers["mx1.test"] = ("192.0.2.1",)
        self.hosts.gate.clear()
        waiting = [self.resolve() for _ in range(5)]
        waiting[0].cancel()
        self.failureResultOf(waiting.pop(0), CancelledError)
        self.hosts.gate.set()
        assert (yield gatherResults(waiting)) == [("192.0.2.1",)] * 4
        assert self.hosts.asked == ["mx1.test"]

    def hang(self, count):
        """Look-ups of other hosts that do not come back."""
        self.hosts.gate.clear()
        return [self.resolve(f"slow{number}.test") for number in range(count)]

    @inlineCallbacks
    def test_every_wait_has_an_end_when_all_threads_hang(self):
        waiting = self.hang(3)
        self.clock.advance(9.9)
        for deferred in waiting:
            self.assertNoResult(deferred)
        self.clock.advance(0.2)
        for deferred in waiting:
            error = self.failureResultOf(deferred, TryLater).value
            assert str(error).endswith("no answer within 10 s")
        # And once the threads are back, they serve again, but not those who have left.
        self.hosts.gate.set()
        self.hosts.answers["mx1.test"] = ("192.0.2.1",)
        assert (yield self.resolve()) == ("192.0.2.1",)
        assert "slow2.test" not in self.hosts.asked
        assert self.addresses._threads._started == 2

    def test_no_more_than_a_bounded_number_wait_for_a_thread(self):
        waiting = self.hang(102)
        error = self.failureResultOf(self.resolve(), TryLater).value
        assert str(error) == "mx1.test: too many look-ups hang"
        self.clock.advance(11)
        for deferred in waiting:
            self.failureResultOf(deferred, TryLater)
        self.clock.advance(11)
        self.failureResultOf(self.resolve(), TryLater)  # they hang still

    def test_stop(self):
        [waiting] = self.hang(1)
        self.addresses.stop()
        self.failureResultOf(waiting, TryLater)
        self.failureResultOf(self.resolve(), TryLater)
        assert self.clock.getDelayedCalls() == []


class RealLookUpTest(TestCase):
    """The system's own look-up, through a thread and back."""

    @inlineCallbacks
    def test_localhost(self):
        addresses = Addresses(ClockedReactor())
        self.addCleanup(addresses.stop)
        found = yield start(addresses.resolve("localhost"))
        assert "127.0.0.1" in found
        assert len(set(found)) == len(found)


def test_getaddrinfo_in_its_order_and_each_once(monkeypatch):
    given = ["2001:db8::2", "192.0.2.2", "2001:db8::2", "192.0.2.1"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(0, 0, 0, "", (host, 0)) for host in given]
    )
    assert system_addresses("mx1.test") == ("2001:db8::2", "192.0.2.2", "192.0.2.1")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), NotFound),
        (socket.gaierror(socket.EAI_NODATA, "no address"), NotFound),
        (socket.gaierror(socket.EAI_AGAIN, "again"), TryLater),
        (socket.gaierror(socket.EAI_FAIL, "failure"), TryLater),
        (socket.gaierror(socket.EAI_SYSTEM, "system"), TryLater),
        (OSError(24, "too many open files"), TryLater),
    ],
)
def test_how_getaddrinfo_fails(monkeypatch, error, expected):
    def fail(*args, **more):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(expected):
        system_addresses("mx1.test")


@pytest.mark.parametrize("host", ["a..test", "a" * 64 + ".test", "mx1\0.test"])
def test_what_is_no_host_name_is_not_found(host):
    with pytest.raises(NotFound):
        system_addresses(host)
