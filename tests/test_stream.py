"""The stream: nobody is sent or kept more than is taken, and every wait ends."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.stream import CLOSE_TIME, HIGH_WATER, LINGER_TIME, Disconnected, Stream
from smtpproxy.tasks import start
from tests.support.dialogue import MemoryTransport

HERE = IPv4Address("TCP", "198.51.100.1", 25)
THERE = IPv4Address("TCP", "192.0.2.9", 40000)


class Ends:
    """A stream, its clock, and the other end of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.peer = MemoryTransport(self.clock, HERE, THERE)
        self.stream = Stream(self.deadlines)
        self.peer.connect(self.stream)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)


@pytest.fixture
def ends():
    made = Ends()
    yield made
    if made.peer.open:
        made.peer.lose()
    made.clock.advance(0)
    assert not len(made.deadlines), "a wait is over and its deadline is not"


def begun(work) -> list[Any]:
    """Runs `work`: what it gave, or the exception it raised, once it did."""
    got: list[Any] = []
    task = start(work)
    task.addCallbacks(got.append, lambda failure: got.append(failure.value))
    return got


def test_what_was_received_is_given_at_once(ends) -> None:
    ends.peer.deliver(b"one")
    ends.peer.deliver(b"two")
    assert begun(ends.stream.receive(5)) == [b"onetwo"]
    assert ends.stream.unread == 0


def test_what_comes_later_is_waited_for(ends) -> None:
    got = begun(ends.stream.receive(5))
    assert got == []
    ends.peer.deliver(b"one")
    assert got == [b"one"]


def test_a_wait_for_bytes_has_a_deadline(ends) -> None:
    got = begun(ends.stream.receive(5))
    ends.pass_time(4.5)
    assert got == []
    ends.pass_time(1)
    assert isinstance(got[0], TimedOut)
    ends.peer.deliver(b"late")
    assert begun(ends.stream.receive(5)) == [b"late"]


def test_what_came_before_the_end_is_given_before_it_is_told(ends) -> None:
    ends.peer.deliver(b"last words")
    ends.peer.lose()
    assert begun(ends.stream.receive(5)) == [b"last words"]
    assert isinstance(begun(ends.stream.receive(5))[0], Disconnected)


@pytest.mark.parametrize("wait", ["receive", "drain", "start_tls"])
def test_the_end_ends_every_wait(ends, wait) -> None:
    told = []
    ends.stream.on_lost = lambda: told.append(str(ends.stream.lost))
    ends.peer.stalled = True
    ends.stream.write(b"x")
    calls = {
        "receive": lambda: ends.stream.receive(5),
        "drain": lambda: ends.stream.drain(5),
        "start_tls": lambda: ends.stream.start_tls(object(), 5),
    }
    got = begun(calls[wait]())
    assert got == []
    ends.peer.lose()
    assert isinstance(got[0], Disconnected)
    assert told == [str(got[0])]
    assert isinstance(begun(calls[wait]())[0], Disconnected)


def test_a_wait_that_is_cancelled_leaves_nothing(ends) -> None:
    task = start(ends.stream.receive(5))
    task.addErrback(lambda failure: failure.trap(CancelledError))
    task.cancel()
    assert not len(ends.deadlines)
    ends.peer.deliver(b"more")
    assert begun(ends.stream.receive(5)) == [b"more"]


def test_a_wait_that_is_interrupted(ends) -> None:
    ends.stream.interrupt(KeyError("nobody waits"))
    got = begun(ends.stream.receive(5))
    ends.stream.interrupt(KeyError("now"))
    assert isinstance(got[0], KeyError)
    ends.peer.deliver(b"more")
    assert begun(ends.stream.receive(5)) == [b"more"]


# Back-pressure


def test_reading_pauses_at_the_high_water_mark_and_resumes(ends) -> None:
    ends.peer.deliver(b"x" * (HIGH_WATER - 1))
    assert not ends.peer.paused
    ends.peer.deliver(b"x")
    assert ends.peer.paused
    ends.peer.deliver(b"behind")
    assert ends.stream.unread == HIGH_WATER
    assert len(ends.stream.take()) == HIGH_WATER
    assert not ends.peer.paused
    ends.clock.advance(0)
    assert ends.stream.take() == b"behind"


def test_reading_goes_on_where_somebody_waits_for_it(ends) -> None:
    ends.peer.pauseProducing = None  # it is not to be called
    got = begun(ends.stream.receive(5))
    ends.peer.deliver(b"x" * HIGH_WATER)
    assert got == [b"x" * HIGH_WATER]


def test_drain_waits_while_the_other_side_takes_nothing(ends) -> None:
    ends.stream.write(b"one")
    assert begun(ends.stream.drain(5)) == [None]
    ends.peer.stalled = True
    ends.stream.write(b"two")
    got = begun(ends.stream.drain(5))
    assert got == []
    ends.peer.drained()
    assert got == [None]


def test_a_wait_for_the_other_side_has_a_deadline(ends) -> None:
    ends.peer.stalled = True
    ends.stream.write(b"one")
    got = begun(ends.stream.drain(5))
    ends.pass_time(4.5)
    assert got == []
    ends.pass_time(1)
    assert isinstance(got[0], TimedOut)


def test_a_handshake_has_a_deadline_and_forgets_plaintext(ends) -> None:
    ends.peer.deliver(b"MAIL FROM:<evil@x.test>\r\n" + b"x" * HIGH_WATER)
    assert ends.peer.paused
    got = begun(ends.stream.start_tls(object(), 5))
    assert ends.stream.unread == 0
    assert not ends.peer.paused, "the handshake has to be read"
    ends.pass_time(5.5)
    assert isinstance(got[0], TimedOut)


# The end


def test_close_sends_what_was_written_and_nothing_after(ends) -> None:
    ends.stream.write(b"221 bye\r\n")
    ends.stream.close()
    ends.stream.write(b"more")
    ends.stream.close()
    assert ends.peer.said == b"221 bye\r\n"
    assert ends.peer.closed
    ends.clock.advance(0)
    assert ends.stream.lost
    ends.stream.close()
    ends.stream.abort()
    assert not ends.peer.cut


def test_what_comes_after_close_is_not_kept(ends) -> None:
    ends.stream.close()
    ends.stream.dataReceived(b"x" * HIGH_WATER)
    assert ends.stream.unread == 0


def test_a_peer_that_does_not_let_go_is_reset(ends) -> None:
    ends.peer.loseConnection = lambda: None  # what is written never leaves
    ends.stream.close()
    ends.pass_time(CLOSE_TIME - 0.5)
    assert not ends.peer.cut
    ends.pass_time(1)
    assert ends.peer.cut


def test_a_peer_that_does_not_close_as_well_is_let_go(ends) -> None:
    ends.peer.loseWriteConnection = lambda: None
    ends.stream.close(linger=True)
    ends.pass_time(LINGER_TIME - 0.5)
    assert not ends.peer.closed
    ends.pass_time(1)
    assert ends.peer.closed and not ends.peer.cut


def test_a_peer_that_is_to_close_first_does(ends) -> None:
    ends.stream.hold()
    ends.stream.let_close(5.0)
    assert not ends.peer.paused  # else its end would not be seen
    ends.stream.dataReceived(b"x" * HIGH_WATER)
    assert ends.stream.unread == 0
    ends.pass_time(4.5)
    assert not ends.peer.closed
    ends.peer.lose()
    ends.pass_time(20)
    assert not ends.peer.closed and not ends.peer.cut


def test_a_peer_that_is_to_close_first_has_its_time(ends) -> None:
    ends.stream.let_close(5.0)
    ends.pass_time(4.5)
    assert not ends.peer.closed
    ends.pass_time(1)
    assert ends.peer.closed and not ends.peer.cut


def test_abort_resets(ends) -> None:
    ends.stream.write(b"half a mess")
    ends.stream.abort()
    assert ends.peer.cut
    ends.clock.advance(0)
    assert ends.stream.lost


def test_the_reason_of_the_end_is_kept(ends) -> None:
    ends.peer.lose(ConnectionDone("they left"))
    assert str(ends.stream.lost) == Failure(ConnectionDone("they left")).getErrorMessage()


class RealStreamTest(TestCase):
    """The same against the kernel's sockets, which Twisted reads and writes."""

    timeout = 20

    def setUp(self) -> None:
        self.deadlines = Deadlines(reactor)
        self.addCleanup(self.deadlines.stop)
        self.accepted: Deferred[Stream] = Deferred()
        port = self.listen(lambda: Stream(self.deadlines, self.accepted.callback))
        self.peer = socket.create_connection(("127.0.0.1", port))
        self.addCleanup(self.peer.close)
        self.peer.setblocking(False)

    def listen(self, make) -> int:
        """The port at which a stream from `make` waits."""
        factory = Factory.forProtocol(make)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[arg-type]
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def later(self) -> Deferred[None]:
        """After a turn of the reactor."""
        done: Deferred[None] = Deferred()
        reactor.callLater(0.001, done.callback, None)
        return done

    def ended(self, stream: Stream) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        stream.on_lost = lambda: done.callback(None)
        return done

    @inlineCallbacks
    def push(self, stream: Stream):
        """The peer sends until it can no more; the octets that left it."""
        sent = blocked = 0
        while blocked < 20:
            try:
                sent += self.peer.send(b"x" * 65536)
                blocked = 0
            except BlockingIOError:
                blocked += 1
            yield self.later()
        return sent

    @inlineCallbacks
    def test_a_flood_is_not_taken_in(self):
        stream = yield self.accepted
        sent = yield self.push(stream)
        self.assertLess(stream.unread, 4 * HIGH_WATER)
        self.assertGreater(sent, stream.unread, "the rest waits in the kernel")
        taken = 0
        while taken < sent:
            data = yield start(stream.receive(5))
            self.assertLess(len(data), 4 * HIGH_WATER)
            taken += len(data)
        self.assertEqual(taken, sent)
        ended = self.ended(stream)
        self.peer.close()
        yield ended
        self.assertEqual(len(self.deadlines), 0)

    @inlineCallbacks
    def test_a_peer_that_reads_nothing_is_waited_for_and_then_reset(self):
        self.patch(stream_module(), "CLOSE_TIME", 0.5)
        stream = yield self.accepted
        waiting = start(stream.drain(5))
        yield waiting
        for _ in range(100):
            stream.write(b"x" * 100_000)
        drained = start(stream.drain(0.3))
        yield self.assertFailure(drained, TimedOut)
        ended = self.ended(stream)
        stream.close()
        yield ended
        self.assertEqual(len(self.deadlines), 0)
        with self.assertRaises(ConnectionResetError):
            while self.peer.recv(65536):
                pass

    @inlineCallbacks
    def test_a_peer_that_reads_again_gets_all_and_the_end(self):
        stream = yield self.accepted
        whole = bytes(range(256)) * 40_000
        stream.write(whole)
        drained = start(stream.drain(10))
        got = bytearray()
        while not drained.called:
            yield self.later()
            try:
                got += self.peer.recv(1 << 20)
            except BlockingIOError:
                continue
        yield drained
        stream.close()
        while True:
            yield self.later()
            try:
                data = self.peer.recv(1 << 20)
            except BlockingIOError:
                continue
            if not data:
                break
            got += data
        self.assertEqual(bytes(got), whole)
        yield self.later()
        self.assertEqual(len(self.deadlines), 0)


def stream_module():
    import smtpproxy.stream

    return smtpproxy.stream
