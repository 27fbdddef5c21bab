"""Our own transports, on real sockets: nothing is lost, told twice, or asked in vain."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.logger import capturedLogs
from zope.interface import implementer

from smtpproxy import tls
from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.tasks import start
from smtpproxy.transport import Acceptor, Poll, Transport, connect
from smtpproxy.transport.acceptor import REST
from smtpproxy.transport.poll import ROUNDS
from smtpproxy.transport.secured import RECORD, Secured
from tests import test_stream
from tests.support.certificates import Certificate
from tests.support.counted import counted
from tests.support.sockets import Listening, Recorder, Turning, pair, received, transport

RESET = struct.pack("ii", 1, 0)
MUCH = bytes(range(256)) * 40_000  # 10 MB


@pytest.fixture
def turning() -> Iterator[Turning]:
    made = Turning()
    made.poll.open()
    before = set(os.listdir("/proc/self/fd"))
    yield made
    made.turn()
    assert not made.reactor.getDelayedCalls()
    assert not made.reactor.readers, "a socket is watched, or forgotten too late"
    assert set(os.listdir("/proc/self/fd")) <= before, "a descriptor is left open"


class Ends:
    """A transport with a recorder, and the socket at the other end."""

    def __init__(self, turning: Turning, kind: str = "tcp", recorder: Recorder | None = None):
        self.turning = turning
        here, self.peer = pair(kind)
        self.recorder = recorder or Recorder()
        self.transport = transport(here, self.recorder, turning.poll)

    def close(self) -> None:
        self.peer.close()
        if not self.recorder.ends:
            self.transport.abortConnection()
        self.turning.turn()
        assert len(self.recorder.ends) == 1

    def fill(self) -> bytes:
        """Write until the peer, who takes nothing, has to be waited for."""
        written = bytearray()
        while True not in self.recorder.pauses:
            piece = bytes([len(written) >> 12 & 255]) * 50_000
            self.recorder.do("write", piece)
            written += piece
        return bytes(written)

    def take(self, size: int) -> bytes:
        """What the peer receives, until it has `size` octets."""
        got = bytearray()

        def enough() -> bool:
            got.extend(received(self.peer))
            return len(got) >= size

        self.turning.until(enough)
        return bytes(got)

    def reset(self) -> None:
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.peer.close()


@pytest.fixture(params=["tcp", "unix"])
def ends(turning, request) -> Iterator[Ends]:
    made = Ends(turning, request.param)
    yield made
    made.close()


@pytest.fixture
def tcp(turning) -> Iterator[Ends]:
    made = Ends(turning)
    yield made
    made.close()


@pytest.fixture
def client(turning) -> Iterator[Ends]:
    """The protocol may hear the end of input, and still speak."""
    made = Ends(turning, recorder=Listening())
    yield made
    made.close()


# Writing


def test_what_is_written_leaves_at_once(ends) -> None:
    ends.recorder.do("write", b"220 ")
    ends.recorder.do("write", b"ready\r\n")
    ends.recorder.do("writeSequence", [b"2", b"50\r\n"])
    assert received(ends.peer) == b"220 ready\r\n250\r\n"


def test_a_peer_that_takes_nothing_pauses_the_producer_until_it_has_all(ends) -> None:
    written = ends.fill()
    assert ends.recorder.pauses == [True]
    ends.turning.turn()
    assert ends.recorder.pauses == [True]
    ends.recorder.do("write", b"more")
    assert ends.take(len(written) + 4) == written + b"more"
    ends.turning.turn()
    assert ends.recorder.pauses == [True, False]
    assert ends.turning.idle, "nothing waits to be written any more"
    ends.recorder.pauses.clear()
    written = ends.fill()
    assert ends.take(len(written)) == written
    assert ends.recorder.pauses == [True, False]


def test_a_producer_that_comes_late_is_paused_at_once(ends) -> None:
    ends.fill()
    ends.transport.unregisterProducer()
    late = Recorder()
    ends.transport.registerProducer(late, True)
    assert late.pauses == [True]
    with pytest.raises(NotImplementedError):
        ends.transport.registerProducer(late, False)


def test_ten_megabytes_both_ways_at_once(turning) -> None:
    here, there = pair("tcp")
    one, two = Recorder(), Recorder()
    for protocol, end in ((one, here), (two, there)):
        transport(end, protocol, turning.poll)
        for at in range(0, len(MUCH), 100_000):
            protocol.do("write", MUCH[at : at + 100_000])
    turning.until(lambda: len(one.received) == len(two.received) == len(MUCH))
    assert one.received == two.received == MUCH
    assert one.pauses == two.pauses == [True, False]
    one.do("loseConnection")
    turning.until(lambda: one.ends and two.ends)
    assert one.end == two.end == "Connection was closed cleanly."


class Counting:
    """An epoll, and how often the kernel was asked to change what it watches."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += name in ("register", "modify", "unregister")
        return getattr(self._epoll, name)


def test_a_conversation_costs_one_call_for_its_socket(turning) -> None:
    counting = turning.poll._epoll = Counting(turning.poll._epoll)
    ends = Ends(turning)
    for _ in range(10):
        ends.peer.send(b"NOOP\r\n")
        turning.turn()
        ends.transport.pauseProducing()
        ends.recorder.do("write", b"250 ok\r\n")
        ends.transport.resumeProducing()
    ends.recorder.do("loseConnection")
    turning.turn()
    assert counting.calls == 1
    ends.close()


# Reading


def test_what_comes_in_is_given_in_order(ends) -> None:
    ends.peer.send(b"EHLO a")
    ends.turning.turn()
    ends.peer.send(b".test\r\n")
    ends.turning.turn()
    assert ends.recorder.received == b"EHLO a.test\r\n"


def test_nothing_is_read_while_it_is_paused(ends) -> None:
    ends.transport.pauseProducing()
    ends.peer.send(b"one")
    ends.turning.turn()
    assert ends.recorder.received == b""
    assert ends.turning.idle, "it must not turn and turn for what is not read"
    ends.peer.send(b"two")
    assert ends.turning.idle
    ends.transport.resumeProducing()
    ends.turning.turn()
    assert ends.recorder.received == b"onetwo"


def test_who_is_paused_still_writes(ends) -> None:
    ends.transport.pauseProducing()
    ends.peer.send(b"one")
    written = ends.fill()
    assert ends.take(len(written)) == written
    assert ends.recorder.received == b""
    ends.transport.resumeProducing()
    ends.turning.turn()
    assert ends.recorder.received == b"one"


def test_who_ends_it_for_what_it_reads_is_not_asked_to_write(ends) -> None:
    ends.recorder.on_data = ends.transport.abortConnection
    ends.fill()
    ends.peer.send(b"x")
    received(ends.peer)
    ends.turning.turn()
    assert ends.recorder.pauses == [True]
    assert len(ends.recorder.ends) == 1


def test_what_is_wrong_in_a_protocol_ends_its_connection_alone(turning) -> None:
    bad, good = Ends(turning), Ends(turning)
    bad.recorder.on_data = lambda: 1 // 0
    bad.peer.send(b"x")
    good.peer.send(b"y")
    with capturedLogs() as logged:
        turning.turn()
    assert [event["log_failure"].type for event in logged] == [ZeroDivisionError]
    assert len(bad.recorder.ends) == 1
    assert good.recorder.received == b"y"
    bad.close()
    good.close()


def test_what_comes_meanwhile_does_not_wait_for_the_reactor(turning) -> None:
    one, two = Ends(turning, "unix"), Ends(turning, "unix")
    one.recorder.on_data = lambda: two.peer.send(b"y")
    one.peer.send(b"x")
    turning.poll.doRead()
    assert two.recorder.received == b"y"
    one.close()
    two.close()


def test_the_reactor_has_its_turn_however_much_comes(turning) -> None:
    ends = Ends(turning, "unix")
    ends.recorder.on_data = lambda: ends.peer.send(b"x")
    ends.peer.send(b"x")
    turning.poll.doRead()
    assert len(ends.recorder.received) == ROUNDS
    ends.recorder.on_data = lambda: None
    ends.close()


def test_an_event_is_not_for_the_socket_that_got_the_number(turning) -> None:
    """Two are ready; the first ends the second, and a new one gets its number."""
    both = [Ends(turning), Ends(turning)]
    third = Recorder()
    here, there = pair("unix")
    there.send(b"y")

    def replace(other: Ends) -> None:
        number = other.transport._fd
        other.transport.abortConnection()
        again = socket.socket(fileno=os.dup2(here.fileno(), number))
        here.close()  # epoll knows a socket by its number, but forgets it with the last one
        transport(again, third, turning.poll)

    for ends, other in (both, both[::-1]):
        ends.recorder.on_data = partial(replace, other)
        ends.peer.send(b"x")
    turning.poll.serve()
    assert third.transport is not None
    assert third.received == b"", "the event was for another one"
    turning.turn()
    assert third.received == b"y"
    there.close()
    for ends in both:
        ends.close()
    third.transport.abortConnection()


# The end


def test_a_peer_that_closes(ends) -> None:
    ends.peer.send(b"QUIT\r\n")
    ends.peer.close()
    ends.turning.turn()
    assert ends.recorder.received == b"QUIT\r\n"
    assert ends.recorder.end == "Connection was closed cleanly."
    ends.recorder.do("write", b"too late")
    ends.recorder.do("loseConnection")
    ends.recorder.do("abortConnection")
    ends.recorder.do("resumeProducing")


def test_a_client_that_has_said_all_still_hears(client) -> None:
    client.peer.send(b"QUIT\r\n")
    client.peer.shutdown(socket.SHUT_WR)
    client.turning.turn()
    assert client.recorder.received == b"QUIT\r\n"
    assert client.recorder.input_ended
    assert not client.recorder.ends
    assert client.turning.idle, "the end of input is told once"
    client.transport.resumeProducing()
    assert client.turning.idle
    client.recorder.do("write", b"221 bye\r\n")
    client.recorder.do("loseConnection")
    client.turning.turn()
    assert received(client.peer) == b"221 bye\r\n"
    assert client.recorder.end == "Connection was closed cleanly."


def test_closing_sends_what_was_written_first(ends) -> None:
    written = ends.fill()
    ends.recorder.do("loseConnection")
    ends.recorder.do("write", b"not this")
    ends.peer.send(b"nor is this read")
    ends.turning.turn()
    assert not ends.recorder.ends
    assert ends.take(len(written)) == written
    ends.turning.turn()
    assert ends.recorder.end == "Connection was closed cleanly."
    assert ends.recorder.received == b""


def test_closing_is_told_afterwards(ends) -> None:
    ends.recorder.do("write", b"221 bye\r\n")
    ends.recorder.do("loseConnection")
    assert not ends.recorder.ends
    assert received(ends.peer) == b"221 bye\r\n"
    ends.turning.turn()
    assert ends.recorder.end == "Connection was closed cleanly."


def test_a_peer_that_goes_on_sending_still_gets_the_last_words(tcp) -> None:
    tcp.recorder.do("write", b"421 4.3.2 shutting down\r\n")
    tcp.recorder.do("loseWriteConnection")
    for _ in range(3):
        tcp.peer.sendall(b"NOOP\r\n" * 10_000)
        tcp.turning.turn()
    assert received(tcp.peer) == b"421 4.3.2 shutting down\r\n"
    assert tcp.peer.recv(1) == b"", "the end of what we say"
    assert not tcp.recorder.ends, "closed before the peer did"
    tcp.peer.shutdown(socket.SHUT_WR)
    tcp.turning.until(lambda: tcp.recorder.ends)
    assert not tcp.recorder.received


def test_a_peer_that_reads_late_still_gets_the_last_words(tcp) -> None:
    tcp.recorder.do("write", b"421 4.3.2 shutting down\r\n")
    tcp.recorder.do("loseWriteConnection")
    tcp.turning.turn()
    assert not tcp.recorder.ends
    tcp.recorder.do("loseConnection")
    tcp.turning.turn()
    assert tcp.recorder.ends
    assert received(tcp.peer) == b"421 4.3.2 shutting down\r\n", "reset"


def test_what_a_peer_has_not_taken_leaves_before_the_end_is_said(tcp) -> None:
    written = tcp.fill()
    tcp.recorder.do("loseWriteConnection")
    assert tcp.take(len(written)) == written
    tcp.turning.until(lambda: tcp.peer.recv(1) == b"")
    assert not tcp.recorder.ends


def test_a_peer_that_has_closed_is_not_waited_for(tcp) -> None:
    tcp.peer.shutdown(socket.SHUT_WR)
    tcp.recorder.do("loseWriteConnection")
    tcp.turning.until(lambda: tcp.recorder.ends)


def test_cutting_resets_the_connection(tcp) -> None:
    tcp.fill()
    tcp.recorder.do("abortConnection")
    assert not tcp.recorder.ends
    with pytest.raises(ConnectionResetError):
        received(tcp.peer)
    tcp.turning.turn()
    assert tcp.recorder.end.startswith("Connection was aborted")


def test_a_peer_that_resets(tcp) -> None:
    tcp.reset()
    tcp.turning.turn()
    assert tcp.recorder.end == "Connection reset by peer"


def test_a_peer_that_resets_while_nothing_is_read(tcp) -> None:
    tcp.transport.pauseProducing()
    tcp.reset()
    tcp.turning.turn()
    assert tcp.recorder.end == "Connection reset by peer"


def test_a_peer_that_resets_in_the_middle_of_a_write(tcp) -> None:
    tcp.fill()
    tcp.reset()
    tcp.recorder.do("write", b"into the buffer")
    tcp.turning.turn()
    assert tcp.recorder.end == "Connection reset by peer"


def test_a_write_that_fails_is_told_afterwards(tcp) -> None:
    tcp.reset()
    tcp.recorder.do("write", b"to nobody")
    tcp.recorder.do("write", b"to nobody")
    assert not tcp.recorder.ends
    tcp.turning.turn()
    assert tcp.recorder.end in ("Connection reset by peer", "Broken pipe")


def test_what_the_peer_said_before_it_left_is_heard(tcp) -> None:
    """It refuses the content early, and closes with some of it unread: that is a reset."""
    tcp.recorder.do("write", b"unread")
    tcp.peer.send(b"552 too big\r\n")
    tcp.peer.close()
    tcp.recorder.do("write", b"more")
    tcp.recorder.do("write", b"more")
    tcp.turning.turn()
    assert tcp.recorder.received == b"552 too big\r\n"
    assert len(tcp.recorder.ends) == 1


# Addresses


def test_addresses(tcp) -> None:
    host, port = tcp.peer.getpeername()
    assert tcp.transport.getHost() == IPv4Address("TCP", host, port)
    assert isinstance(tcp.transport.getHandle(), socket.socket)


# TLS


@pytest.fixture(scope="module")
def contexts(proxy_certificate: Certificate) -> tuple[SSL.Context, SSL.Context]:
    return (
        tls.server_context(proxy_certificate.chain, proxy_certificate.key),
        tls.client_context(proxy_certificate.authority),
    )


class Both:
    """A server's and a client's transport, connected, with TLS begun on both."""

    def __init__(self, turning: Turning, contexts: Any, protocol: Any = None) -> None:
        self.turning = turning
        here, there = pair("tcp")
        self.server, self.client = Listening(), Recorder()
        transport(here, self.server, turning.poll)
        transport(there, self.client, turning.poll)
        self.server.do("startTLS", tls.ServerTls(contexts[0]))
        self.client.do("startTLS", tls.ClientTls(contexts[1], "mx.example.net"))

    def close(self) -> None:
        for each in (self.server, self.client):
            if not each.ends:
                each.transport.abortConnection()
        self.turning.turn()


@pytest.fixture
def both(turning, contexts) -> Iterator[Both]:
    made = Both(turning, contexts)
    yield made
    made.close()


def test_a_handshake_between_our_own(both) -> None:
    both.server.do("write", b"only once it is encrypted")
    both.turning.turn()
    assert both.server.secured
    assert both.client.secured
    handle = both.client.transport.getHandle()
    assert tls.verify(handle, "mx.example.net") == ""
    assert tls.verify(handle, "mx2.test").startswith("name mx2.test does not match")
    assert tls.describe(handle).version == "TLSv1.3"
    assert tls.describe(both.server.transport.getHandle()).server_name == "mx.example.net"
    both.client.do("write", b"EHLO client.example.com\r\n")
    both.turning.turn()
    assert both.server.received == b"EHLO client.example.com\r\n"
    assert both.client.received == b"only once it is encrypted"


def test_ten_megabytes_both_ways_at_once_in_tls(both) -> None:
    both.turning.turn()
    for protocol in (both.server, both.client):
        for at in range(0, len(MUCH), 100_000):
            protocol.do("write", MUCH[at : at + 100_000])
    both.turning.until(lambda: len(both.server.received) == len(both.client.received) == len(MUCH))
    assert both.server.received == both.client.received == MUCH
    assert both.client.pauses == both.server.pauses == [True, False]
    both.client.do("loseConnection")
    both.turning.turn()
    assert both.server.input_ended


def test_nothing_is_read_of_tls_while_it_is_paused(both) -> None:
    both.turning.turn()
    both.server.transport.pauseProducing()
    both.client.do("write", b"x" * 100_000)
    both.turning.turn()
    assert both.server.received == b""
    assert both.turning.idle
    both.server.transport.resumeProducing()
    both.turning.turn()
    assert len(both.server.received) == 100_000


@pytest.mark.parametrize("what", ["pauseProducing", "loseConnection", "abortConnection"])
def test_who_has_enough_of_tls_is_given_no_more(both, what) -> None:
    both.turning.turn()
    both.server.on_data = getattr(both.server.transport, what)
    both.client.do("write", b"x" * 100_000)
    both.turning.turn()
    assert len(both.server.received) == RECORD
    assert bool(both.server.ends) == (what != "pauseProducing")


def test_a_client_that_has_said_all_in_tls_still_hears(both) -> None:
    both.turning.turn()
    both.client.do("write", b"QUIT\r\n")
    both.client.transport.getHandle().shutdown()
    both.turning.turn()
    assert both.server.received == b"QUIT\r\n"
    assert both.server.input_ended
    both.server.do("write", b"221 bye\r\n")
    both.server.do("loseConnection")
    both.turning.turn()
    assert both.client.received == b"221 bye\r\n"
    assert both.client.end == both.server.end == "Connection was closed cleanly."


def test_what_was_connected_by_tls_is_freed_at_once(turning, contexts) -> None:
    """Without the collector of garbage: a handshake leaves some 20 KB behind."""
    with counted(Transport, Secured) as left:
        both = Both(turning, contexts)
        turning.until(lambda: both.client.secured)
        both.close()
        del both.server.transport, both.client.transport
    assert left == {}


def test_closing_in_tls_sends_what_was_written_and_says_so(both) -> None:
    both.turning.turn()
    both.server.do("write", MUCH)
    both.server.do("loseConnection")
    both.turning.until(lambda: both.client.ends)
    assert both.client.received == MUCH
    assert both.client.end == "Connection was closed cleanly."


def test_what_the_peer_said_before_it_left_is_heard_in_tls(both) -> None:
    both.turning.turn()
    both.client.do("write", b"552 too big\r\n")
    both.client.do("abortConnection")
    both.server.do("write", MUCH)
    both.turning.until(lambda: both.server.ends)
    assert both.server.received == b"552 too big\r\n"
    assert both.server.end == "Connection reset by peer"


class Dripping:
    """A client that speaks TLS in memory, and whose bytes pass the socket a few at a time."""

    def __init__(self, ends: Ends, context: SSL.Context, seed: int) -> None:
        self._ends = ends
        self._random = Random(seed)
        self.connection = tls.client_connection(context, "mx.example.net")
        self.received = bytearray()
        self.ended = False
        self._waiting = bytearray()

    def step(self) -> None:
        """Some bytes each way."""
        for work in (self.connection.do_handshake, self._read):
            try:
                work()
            except SSL.WantReadError:
                pass
            except SSL.ZeroReturnError:
                self.ended = True
        with contextlib.suppress(SSL.WantReadError):
            self._waiting += self.connection.bio_read(65536)
        size = self._ends.peer.send(self._waiting[: self._random.randint(1, 40)])
        del self._waiting[:size]
        self._ends.turning.turn()
        try:
            data = self._ends.peer.recv(self._random.randint(1, 40))
        except BlockingIOError:
            return
        if data:
            self.connection.bio_write(data)

    def _read(self) -> None:
        self.received += self.connection.recv(65536)


@pytest.mark.parametrize("seed", range(5))
def test_tls_by_drops(client, contexts, seed) -> None:
    client.recorder.do("startTLS", tls.ServerTls(contexts[0]))
    peer = Dripping(client, contexts[1], seed)
    while not client.recorder.secured:
        peer.step()
    client.recorder.do("write", b"220 ready\r\n")
    while peer.received != b"220 ready\r\n":
        peer.step()
    peer.connection.send(b"x" * 3000)
    while len(client.recorder.received) < 3000:
        peer.step()
    client.recorder.do("loseConnection")
    while not peer.ended:
        peer.step()


@implementer(IOpenSSLClientConnectionCreator)
class AtOnce:
    """A server so quick that the first step of the handshake is the last."""

    def connection(self, socket: socket.socket) -> Any:
        made = Mock(spec=SSL.Connection)
        made.do_handshake.return_value = None
        made._ssl = SSL.Connection(SSL.Context(SSL.TLS_METHOD))._ssl
        made.getsockopt = socket.getsockopt
        return made

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        raise AssertionError("this is for Twisted's transports")


def test_a_handshake_that_is_done_at_once_is_told_afterwards(tcp) -> None:
    tcp.recorder.do("startTLS", AtOnce())
    assert not tcp.recorder.secured
    tcp.turning.turn()
    assert tcp.recorder.secured


def test_no_handshake(tcp, contexts) -> None:
    tcp.recorder.do("startTLS", tls.ServerTls(contexts[0]))
    tcp.peer.send(b"EHLO client.example.com\r\n" * 3)
    tcp.turning.turn()
    assert not tcp.recorder.secured
    assert "wrong version number" in tcp.recorder.end
    assert b"250" not in received(tcp.peer), "an alert, perhaps, but no reset"
    assert tcp.recorder.received == b""


def test_a_handshake_that_is_given_up_says_nothing_in_clear(tcp, contexts) -> None:
    tcp.recorder.do("startTLS", tls.ServerTls(contexts[0]))
    tcp.turning.turn()
    tcp.recorder.do("write", b"421 Timeout\r\n")
    tcp.turning.turn()
    assert tcp.turning.idle, "there is nothing to do but wait for the client"
    tcp.recorder.do("loseConnection")
    tcp.turning.turn()
    assert received(tcp.peer) == b""
    assert tcp.recorder.end == "Connection was closed cleanly."


def test_tls_does_not_begin_behind_what_cannot_leave(tcp, contexts) -> None:
    tcp.fill()
    tcp.recorder.do("startTLS", tls.ServerTls(contexts[0]))
    assert not tcp.recorder.ends
    tcp.turning.turn()
    assert tcp.recorder.end.startswith("TLS was to begin")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_end_that_tls_does_not_know_of(both, how) -> None:
    both.turning.turn()
    plain = both.client.transport._socket
    if how == "reset":
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        both.client.transport.abortConnection()
    else:
        both.client.transport._secured = None  # and so nothing to say at the end
        both.client.do("loseConnection")
    both.turning.turn()
    reasons = {"close": "closed without TLS's own end", "reset": "Connection reset by peer"}
    assert both.server.end == reasons[how]


def test_a_reset_in_the_middle_of_a_write_in_tls(both) -> None:
    both.turning.turn()
    both.client.transport.pauseProducing()
    both.server.do("write", MUCH)
    both.turning.turn()
    assert both.server.pauses == [True]
    both.client.do("abortConnection")
    both.turning.turn()
    assert both.server.end == "Connection reset by peer"


def test_keys_are_not_negotiated_twice(turning, contexts) -> None:
    old = SSL.Context(SSL.TLS_CLIENT_METHOD)
    old.set_max_proto_version(SSL.TLS1_2_VERSION)
    both = Both(turning, (contexts[0], old))
    both.turning.turn()
    assert tls.describe(both.client.transport.getHandle()).version == "TLSv1.2"
    both.client.transport.getHandle().renegotiate()
    both.client.do("write", b"NOOP\r\n")
    both.turning.turn()
    assert both.server.received == b""
    both.close()


# Accepting


def listening(address: Any = ("127.0.0.1", 0)) -> socket.socket:
    if isinstance(address, str):
        made = socket.socket(socket.AF_UNIX)
        made.bind(address)
        made.listen(10)
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = socket.create_server(address, family=family)
    made.setblocking(False)
    return made


class Door:
    """An acceptor, and the protocols of those who came in."""

    def __init__(self, turning: Turning, address: Any = ("127.0.0.1", 0)) -> None:
        self.turning = turning
        bound = listening(address)
        self.address = bound.getsockname()
        self.family = bound.family
        self.guests: list[Recorder] = []
        self.acceptor = Acceptor(bound, self.make, turning.poll)
        self.peers: list[socket.socket] = []

    def make(self) -> Recorder:
        self.guests.append(Recorder(b"220\r\n"))
        return self.guests[-1]

    def knock(self) -> socket.socket:
        peer = socket.socket(self.family)
        self.peers.append(peer)
        peer.connect(self.address)
        peer.setblocking(False)
        return peer

    def close(self) -> None:
        self.acceptor.stopListening()
        self.acceptor.stopListening()
        for peer in self.peers:
            peer.close()
        self.turning.until(lambda: all(guest.ends for guest in self.guests))


@pytest.fixture
def door(turning) -> Iterator[Door]:
    made = Door(turning)
    yield made
    made.close()


def test_all_who_wait_are_let_in_and_greeted(door) -> None:
    peers = [door.knock() for _ in range(100)]
    door.turning.turn()
    assert [received(peer) for peer in peers] == [b"220\r\n"] * 100
    guest, peer = door.guests[0], peers[0]
    assert guest.transport.getPeer() == IPv4Address("TCP", *peer.getsockname())
    assert guest.transport.getHost() == door.acceptor.getHost()
    option = guest.transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert option, "the second of two replies would wait for the first to be acknowledged"


def test_one_who_left_before_being_let_in(door) -> None:
    peer = door.knock()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()
    other = door.knock()
    door.turning.turn()
    assert received(other) == b"220\r\n"
    assert door.guests[0].transport.getPeer().host == "127.0.0.1"


def test_one_that_fails_as_it_begins(door) -> None:
    make, door.acceptor._make = door.acceptor._make, lambda: Failing()
    peer = door.knock()
    with capturedLogs() as logged:
        door.turning.turn()
    assert len(logged) == 1
    with pytest.raises(ConnectionResetError):
        peer.recv(10)
    door.acceptor._make = make
    other = door.knock()
    door.turning.turn()
    assert received(other) == b"220\r\n"


class Failing(Recorder):
    def connectionMade(self) -> None:
        raise ZeroDivisionError


@contextlib.contextmanager
def no_descriptors(beyond: int) -> Iterator[None]:
    """No descriptor above `beyond` can be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (beyond + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_left(door) -> None:
    gc.collect()  # what others left open would be free for it later
    for _ in range(2):
        peers = [door.knock() for _ in range(3)]
        with no_descriptors(peers[-1].fileno()), capturedLogs() as logged:
            door.turning.turn()
            assert door.turning.idle, "it must not try again and again"
            door.turning.reactor.advance(REST)
            door.turning.turn()
        assert [received(peer) for peer in peers] == [b""] * 3
        assert [event["reason"] for event in logged] == [os.strerror(errno.EMFILE)], "said once"
        door.turning.reactor.advance(REST)
        door.turning.turn()
        assert [received(peer) for peer in peers] == [b"220\r\n"] * 3


def test_nobody_is_let_in_any_more(door) -> None:
    door.acceptor.stopListening()
    with pytest.raises(ConnectionRefusedError):
        door.knock()
    assert not door.turning.reactor.readers


# Connecting


class Going:
    """A connection that is being made, and what came of it."""

    def __init__(self, turning: Turning, address: str, port: int = 0) -> None:
        self.recorder = Recorder()
        self.deadlines = Deadlines(turning.reactor)
        self.got: list[Any] = []
        work = connect(turning.poll, self.deadlines, address, port, 5.0, lambda: self.recorder)
        self.task = start(work)
        self.task.addCallbacks(self.got.append, lambda failure: self.got.append(failure.value))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "unix"])
def test_connecting(turning, folder: Path, host) -> None:
    path = str(folder / "socket")
    door = Door(turning, path if host == "unix" else (host, 0))
    going = Going(turning, path) if host == "unix" else Going(turning, host, door.address[1])
    turning.until(lambda: going.recorder.received)
    assert going.got == [going.recorder]
    assert going.recorder.received == b"220\r\n"
    assert not len(going.deadlines)
    going.deadlines.stop()
    peer = going.recorder.transport.getPeer()
    if host == "unix":
        assert peer == UNIXAddress(path.encode())
    else:
        kind = IPv6Address if ":" in host else IPv4Address
        assert peer == kind("TCP", *door.address)
        handle = going.recorder.transport.getHandle()
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    going.recorder.do("loseConnection")
    door.close()
    assert not list(folder.iterdir()), "the path would be in the way of the next one"


def test_nobody_listens(turning, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for going in (Going(turning, "127.0.0.1", port), Going(turning, str(folder / "socket"))):
        turning.until(lambda going=going: going.got)
        (error,) = going.got
        assert isinstance(error, OSError)
        assert error.strerror in ("Connection refused", "No such file or directory")
        assert not len(going.deadlines)
        going.deadlines.stop()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of one that answers nobody: its queue is full."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def test_no_answer(turning, silent) -> None:
    going = Going(turning, "127.0.0.1", silent)
    turning.turn()
    assert going.got == []
    for _ in range(11):
        turning.reactor.advance(0.5)
    assert isinstance(going.got[0], TimedOut)
    going.deadlines.stop()


def test_a_unix_socket_whose_queue_is_full_is_waited_for(turning, folder: Path) -> None:
    """As TCP does by itself: a burst of mail is no reason to say that nobody is there."""
    path = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(path)
        full.listen(0)
        first.connect(path)
        comes, leaves, waits = (Going(turning, path) for _ in range(3))
        leaves.task.cancel()
        assert isinstance(leaves.got[0], CancelledError)
        turning.reactor.advance(1.0)
        assert comes.got == []
        full.accept()[0].close()
        turning.reactor.advance(1.0)
        assert comes.got == [comes.recorder]
        for _ in range(11):
            turning.reactor.advance(0.5)
        assert isinstance(waits.got[0], TimedOut)
        comes.recorder.do("loseConnection")
    for going in (comes, leaves, waits):
        assert not len(going.deadlines)
        going.deadlines.stop()


def test_who_connects_is_cancelled(turning, silent) -> None:
    going = Going(turning, "127.0.0.1", silent)
    going.task.cancel()
    assert isinstance(going.got[0], CancelledError)
    assert not len(going.deadlines)
    going.deadlines.stop()


# The stream over it


class StreamOverOurOwn(test_stream.RealStreamTest):
    """What holds over Twisted's transports holds over ours."""

    def listen(self, make):
        bound = listening()
        acceptor = Acceptor(bound, make, Poll(reactor))
        self.addCleanup(acceptor.stopListening)
        return bound.getsockname()[1]
