"""The names of clients, from a server on loopback."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.defer import (
    CancelledError,
    DeferredSemaphore,
    gatherResults,
    inlineCallbacks,
)
from twisted.names import dns
from twisted.trial.unittest import TestCase

from smtpproxy.dns import NoReverseNames, ReverseNames
from smtpproxy.mail import TEMPUNAVAIL, UNAVAILABLE
from smtpproxy.tasks import start
from tests.support.dns_server import HOSTILE, SILENCE, ClockedReactor, DnsServer

CLIENT = "192.0.2.1"
CLIENT6 = "2001:db8::1"


class WithServer(TestCase):
    """A DNS server, and names that are asked of it."""

    timeout = 30

    def setUp(self):
        self.server = DnsServer()
        self.addCleanup(self.server.stop)
        self.clock = ClockedReactor()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.hosts = self.folder / "hosts"
        self.names = self.names_with([self.server.address])

    def names_with(self, servers, **more):
        names = ReverseNames(self.clock, servers, timeout=5, hosts=self.hosts, **more)
        self.addCleanup(names.stop)
        return names

    def name(self, address=CLIENT):
        return start(self.names.name(address))

    def known(self, name="mx.example.com", address=CLIENT):
        self.server.pointers(address, name)
        self.server.addresses(name, address)


class ReverseNamesTest(WithServer):
    @inlineCallbacks
    def test_confirmed(self):
        self.known()
        assert (yield self.name()) == "mx.example.com"
        assert self.server.asked() == ["1.2.0.192.in-addr.arpa", "mx.example.com"]

    @inlineCallbacks
    def test_lower_case_without_trailing_dot(self):
        self.server.pointers(CLIENT, "MX_1.Example.COM")
        self.server.addresses("mx_1.example.com", CLIENT)
        assert (yield self.name()) == "mx_1.example.com"

    @inlineCallbacks
    def test_ipv6(self):
        self.known(address=CLIENT6)
        assert (yield self.name(CLIENT6)) == "mx.example.com"
        assert (yield self.name("2001:DB8:0::1")) == "mx.example.com"
        assert len(self.server.asked(dns.AAAA)) == 1 and not self.server.asked(dns.A)

    @inlineCallbacks
    def test_ipv4_in_an_ipv6_address(self):
        self.known()
        assert (yield self.name("::ffff:192.0.2.1")) == "mx.example.com"

    @inlineCallbacks
    def test_one_of_several_addresses_is_enough(self):
        self.server.pointers(CLIENT, "mx.example.com")
        self.server.addresses("mx.example.com", "192.0.2.7", CLIENT, CLIENT6)
        assert (yield self.name()) == "mx.example.com"

    @inlineCallbacks
    def test_not_confirmed(self):
        self.server.pointers(CLIENT, "mx.example.com")
        self.server.addresses("mx.example.com", "192.0.2.2")
        assert (yield self.name()) == UNAVAILABLE

    @inlineCallbacks
    def test_name_that_does_not_exist(self):
        self.server.pointers(CLIENT, "mx.example.com")
        assert (yield self.name()) == UNAVAILABLE

    @inlineCallbacks
    def test_no_pointer(self):
        assert (yield self.name()) == UNAVAILABLE
        self.server.pointers("192.0.2.2")
        assert (yield self.name("192.0.2.2")) == UNAVAILABLE

    @inlineCallbacks
    def test_the_first_name_that_is_confirmed(self):
        self.server.pointers(CLIENT, "a.test", "b.test", "c.test")
        self.server.addresses("b.test", CLIENT)
        self.server.addresses("c.test", CLIENT)
        assert (yield self.name()) == "b.test"

    @inlineCallbacks
    def test_a_failing_name_does_not_hide_a_good_one(self):
        self.server.pointers(CLIENT, "a.test", "b.test")
        self.server.fails("a.test", dns.A)
        self.server.addresses("b.test", CLIENT)
        assert (yield self.name()) == "b.test"

    @inlineCallbacks
    def test_delegated_as_small_networks_are(self):
        """RFC 2317: the answer holds an alias, and then the pointer."""
        self.known()
        answer = self.server.answers["1.2.0.192.in-addr.arpa", dns.PTR]
        assert isinstance(answer, list)
        answer.insert(0, dns.Record_CNAME("1.0-63.2.0.192.in-addr.arpa", 300))
        assert (yield self.name()) == "mx.example.com"
        assert self.server.asked(dns.A) == ["mx.example.com"]

    @inlineCallbacks
    def test_of_many_names_ten_are_considered(self):
        """And the answer, too big for UDP, comes over TCP."""
        self.server.pointers(CLIENT, *(f"{'n' * 50}{n}.example.com" for n in range(50)))
        assert (yield self.name()) == UNAVAILABLE
        assert len(self.server.asked(dns.A)) == 10
        assert [way for _, kind, way in self.server.queries if kind == dns.PTR] == ["udp", "tcp"]
        [connection] = self.names._resolver._client.connections
        connection.transport.abortConnection()

    @inlineCallbacks
    def test_what_is_no_address_has_no_name(self):
        for address in ("", "unix", "mx.example.com", "192.0.2.1\r\n"):
            assert (yield self.name(address)) == UNAVAILABLE
        assert self.server.queries == []

    @inlineCallbacks
    def test_without_look_ups(self):
        assert (yield start(NoReverseNames().name(CLIENT))) == UNAVAILABLE


class HostileNamesTest(WithServer):
    @inlineCallbacks
    def test_refused_without_asking_further(self):
        for number, name in enumerate(HOSTILE, 2):
            self.server.pointers(f"192.0.2.{number}", name)
            self.server.addresses(name.decode("latin-1").lower(), f"192.0.2.{number}")
            assert (yield self.name(f"192.0.2.{number}")) == UNAVAILABLE, name
        assert self.server.asked(dns.A) == []

    @inlineCallbacks
    def test_a_good_name_beside_a_hostile_one(self):
        self.server.pointers(CLIENT, HOSTILE[0], "mx.example.com")
        self.server.addresses("mx.example.com", CLIENT)
        assert (yield self.name()) == "mx.example.com"

    @inlineCallbacks
    def test_the_longest_name_is_taken(self):
        longest = ".".join(["a" * 63] * 3 + ["b" * 61])
        assert len(longest) == 253
        self.known(longest)
        assert (yield self.name()) == longest


class FailingDnsTest(WithServer):
    @inlineCallbacks
    def test_reverse_look_up_fails(self):
        for code in (dns.ESERVER, dns.EREFUSED, dns.EFORMAT, dns.ENOTIMP):
            self.server.fails("1.2.0.192.in-addr.arpa", dns.PTR, code)
            assert (yield self.name()) == TEMPUNAVAIL
            self.clock.advance(10)

    @inlineCallbacks
    def test_forward_look_up_fails(self):
        self.server.pointers(CLIENT, "mx.example.com", "mx.example.net")
        self.server.fails("mx.example.com", dns.A)
        assert (yield self.name()) == TEMPUNAVAIL

    @inlineCallbacks
    def test_silence_ends_at_the_timeout(self):
        self.server.pointers(CLIENT, "a.test", "b.test", "c.test")
        for name in ("a.test", "b.test", "c.test"):
            self.server.fails(name, dns.A, SILENCE)
        came = self.server.next_query()
        waiting = self.name()
        yield came  # PTR, answered at once
        yield self.server.next_query()  # A of a.test
        self.clock.advance(4.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        assert self.successResultOf(waiting) == TEMPUNAVAIL

    @inlineCallbacks
    def test_asked_again_after_a_second(self):
        self.known()
        self.server.hold()
        came = self.server.next_query()
        waiting = self.name()
        yield came
        again = self.server.next_query()
        self.clock.advance(1)
        yield again
        self.server.release()
        assert (yield waiting) == "mx.example.com"

    @inlineCallbacks
    def test_second_server_when_the_first_is_silent(self):
        silent = DnsServer()
        self.addCleanup(silent.stop)
        silent.hold()
        self.known()
        self.names = self.names_with([silent.address, self.server.address])
        came = silent.next_query()
        waiting = self.name()
        yield came
        again = silent.next_query()
        self.clock.advance(1)  # to the second server, for the pointer
        yield again  # the first again, for the address
        self.clock.advance(1)
        assert (yield waiting) == "mx.example.com"

    @inlineCallbacks
    def test_failure_is_remembered_briefly(self):
        self.server.fails("1.2.0.192.in-addr.arpa", dns.PTR)
        assert (yield self.name()) == TEMPUNAVAIL
        self.known()
        assert (yield self.name()) == TEMPUNAVAIL
        self.clock.advance(6)
        assert (yield self.name()) == "mx.example.com"

    @inlineCallbacks
    def test_who_waits_for_a_turn_has_the_same_timeout(self):
        self.names._resolver._turns = DeferredSemaphore(1)
        self.known(address="192.0.2.2")
        self.server.hold()
        came = self.server.next_query()
        first = self.name("192.0.2.1")
        yield came
        second = self.name("192.0.2.2")
        self.clock.advance(5)
        assert self.successResultOf(first) == TEMPUNAVAIL
        assert self.successResultOf(second) == TEMPUNAVAIL
        self.server.release()
        self.clock.advance(10)
        assert (yield self.name("192.0.2.2")) == "mx.example.com"

    @inlineCallbacks
    def test_no_socket_to_be_had(self):
        def refuse(port, protocol, **more):
            raise dns.CannotListenError("", port, OSError(24, "too many open files"))

        self.clock.listenUDP = refuse
        assert (yield self.name()) == TEMPUNAVAIL
        del self.clock.listenUDP
        self.clock.advance(10)
        self.known()
        assert (yield self.name()) == "mx.example.com"

    @inlineCallbacks
    def test_stop_gives_up(self):
        self.server.hold()
        came = self.server.next_query()
        waiting = self.name()
        yield came
        self.names.stop()
        assert self.successResultOf(waiting) == TEMPUNAVAIL


class RememberedNamesTest(WithServer):
    @inlineCallbacks
    def test_for_the_shortest_ttl(self):
        self.server.pointers(CLIENT, "mx.example.com", ttl=300)
        self.server.addresses("mx.example.com", CLIENT, ttl=30)
        yield self.name()
        self.clock.advance(29)
        yield self.name()
        assert len(self.server.queries) == 2
        self.clock.advance(2)
        yield self.name()
        assert len(self.server.queries) == 4

    @inlineCallbacks
    def test_for_an_hour_at_most(self):
        self.server.pointers(CLIENT, "mx.example.com", ttl=1000000)
        self.server.addresses("mx.example.com", CLIENT, ttl=1000000)
        yield self.name()
        self.clock.advance(3601)
        yield self.name()
        assert len(self.server.queries) == 4

    @inlineCallbacks
    def test_that_there_is_none(self):
        yield self.name()
        yield self.name()
        assert len(self.server.queries) == 1
        self.clock.advance(61)
        yield self.name()
        assert len(self.server.queries) == 2

    @inlineCallbacks
    def test_not_more_than_it_may(self):
        self.names._memory._size = 2
        for number in (1, 2, 3):
            self.known(f"mx{number}.test", f"192.0.2.{number}")
            yield self.name(f"192.0.2.{number}")
        assert len(self.names._memory._answers) == 2
        yield self.name("192.0.2.3")
        assert len(self.server.queries) == 6
        yield self.name("192.0.2.1")
        assert len(self.server.queries) == 8

    @inlineCallbacks
    def test_equal_look_ups_share_one(self):
        self.known()
        self.server.hold()
        came = self.server.next_query()
        waiting = [self.name() for _ in range(5)]
        yield came
        waiting.append(self.name())
        self.server.release()
        assert (yield gatherResults(waiting)) == ["mx.example.com"] * 6
        assert len(self.server.queries) == 2

    @inlineCallbacks
    def test_one_who_leaves_takes_nothing_from_the_others(self):
        self.known()
        self.server.hold()
        came = self.server.next_query()
        first, second = self.name(), self.name()
        yield came
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.server.release()
        assert (yield second) == "mx.example.com"
        assert len(self.server.queries) == 2


class LoopbackTest(WithServer):
    @inlineCallbacks
    def test_from_hosts_only(self):
        self.hosts.write_text(
            "# 127.0.0.1 comment\n\n127.0.0.1\tLocalhost  other # more\n"
            "0:0:0:0:0:0:0:1 ip6-localhost\n127.0.0.3 evil\x01name\n127.0.0.4\n"
        )
        assert (yield self.name("127.0.0.1")) == "localhost"
        assert (yield self.name("::ffff:127.0.0.1")) == "localhost"
        assert (yield self.name("::1")) == "ip6-localhost"
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            assert (yield self.name(address)) == UNAVAILABLE
        assert self.server.queries == []

    @inlineCallbacks
    def test_without_a_hosts_file(self):
        assert (yield self.name("127.0.0.1")) == UNAVAILABLE
        assert self.server.queries == []
