"""The hosts of MX records, from a server on loopback."""

from __future__ import annotations

from random import Random

from twisted.internet.defer import CancelledError, gatherResults, inlineCallbacks
from twisted.names import dns
from twisted.trial.unittest import TestCase

from smtpproxy.dns import MailHosts, NotFound, TryLater
from smtpproxy.tasks import start
from tests.support.dns_server import HOSTILE, SILENCE, ClockedReactor, DnsServer


class WithServer(TestCase):
    """A DNS server, and mail hosts that are asked of it."""

    timeout = 30

    def setUp(self):
        self.server = DnsServer()
        self.addCleanup(self.server.stop)
        self.clock = ClockedReactor()
        self.hosts = MailHosts(self.clock, [self.server.address], timeout=5, random=Random(1))
        self.addCleanup(self.hosts.stop)

    def of(self, domain="example.com"):
        return start(self.hosts.of(domain))

    @inlineCallbacks
    def refused(self, error, domain="example.com"):
        """The text of the `error` that is raised."""
        return str((yield self.assertFailure(self.of(domain), error)))


class MailHostsTest(WithServer):
    @inlineCallbacks
    def test_best_first(self):
        self.server.mail_hosts("example.com", (20, "b.test"), (5, "a.test"), (100, "c.test"))
        assert (yield self.of()) == ("a.test", "b.test", "c.test")

    @inlineCallbacks
    def test_equal_ones_in_another_order_each_time(self):
        """RFC 5321 section 5.1: they share the load."""
        self.server.mail_hosts(
            "example.com", (20, "c.test"), (10, "a.test"), (10, "b.test"), (10, "d.test")
        )
        seen = set()
        for _ in range(100):
            *equal, last = yield self.of()
            assert last == "c.test"
            seen.add(tuple(equal))
        assert len(seen) == 6
        assert self.server.asked() == ["example.com"]

    @inlineCallbacks
    def test_domain_in_any_writing(self):
        self.server.mail_hosts("example.com", (10, "mx.test"))
        for domain in ("Example.COM", "example.com."):
            assert (yield self.of(domain)) == ("mx.test",)
        assert self.server.asked() == ["example.com"]

    @inlineCallbacks
    def test_names_are_lower_case_and_each_is_there_once(self):
        self.server.mail_hosts(
            "example.com", (30, "MX1.test"), (20, "mx2.Test"), (10, "mx1.TEST"), (20, "mx2.test")
        )
        assert (yield self.of()) == ("mx1.test", "mx2.test")

    @inlineCallbacks
    def test_the_twenty_best(self):
        """And the answer, too big for UDP, comes over TCP."""
        many = [(n, f"{'n' * 50}{n}.example.com") for n in range(50, 0, -1)]
        self.server.mail_hosts("example.com", *many)
        found = yield self.of()
        assert found == tuple(name for _, name in reversed(many))[:20]
        [connection] = self.hosts._resolver._client.connections
        connection.transport.abortConnection()

    @inlineCallbacks
    def test_without_mx_records_the_domain_is_the_host(self):
        self.server.mail_hosts("example.com")
        assert (yield self.of()) == ("example.com",)

    @inlineCallbacks
    def test_null_mx(self):
        """RFC 7505."""
        self.server.mail_hosts("example.com", (0, ""))
        assert (yield self.refused(NotFound)) == "example.com: it takes no mail (null MX)"

    @inlineCallbacks
    def test_null_mx_beside_others_is_passed_over(self):
        self.server.mail_hosts("example.com", (0, ""), (10, "mx.test"))
        assert (yield self.of()) == ("mx.test",)

    @inlineCallbacks
    def test_what_is_no_host_name_is_passed_over(self):
        for number, bad in enumerate(HOSTILE):
            domain = f"d{number}.test"
            self.server.mail_hosts(domain, (0, bad), (10, "mx.test"))
            assert (yield self.of(domain)) == ("mx.test",), bad

    @inlineCallbacks
    def test_mx_records_without_any_host_name(self):
        self.server.mail_hosts("example.com", (0, "192.0.2.1"), (0, ""))
        assert (yield self.refused(NotFound)) == "example.com: its MX records name no host"

    @inlineCallbacks
    def test_no_such_domain(self):
        assert (yield self.refused(NotFound)) == "example.com: no such name"

    @inlineCallbacks
    def test_what_is_no_domain_is_not_asked_for(self):
        for domain in ("", "a..test", "a" * 64 + ".test", "müller.test", "192.0.2.1", "a\r\nb"):
            text = yield self.refused(NotFound, domain)
            assert text == f"{domain}: not a domain name"
        assert self.server.queries == []


class FailingDnsTest(WithServer):
    @inlineCallbacks
    def test_try_later(self):
        self.server.fails("example.com", dns.MX)
        text = yield self.refused(TryLater)
        assert text == "example.com: the name server says SERVFAIL"
        self.server.mail_hosts("example.com", (10, "mx.test"))
        self.clock.advance(4)
        yield self.refused(TryLater)
        assert len(self.server.queries) == 1
        self.clock.advance(2)
        assert (yield self.of()) == ("mx.test",)

    @inlineCallbacks
    def test_silence_ends_at_the_timeout(self):
        self.hosts = MailHosts(self.clock, [self.server.address], timeout=0.5)
        self.server.fails("example.com", dns.MX, SILENCE)
        came = self.server.next_query()
        waiting = self.of()
        yield came
        self.clock.advance(0.4)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        error = self.failureResultOf(waiting, TryLater).value
        assert str(error) == "example.com: no answer within 0.5 s"

    @inlineCallbacks
    def test_the_last_answer_serves_for_a_day(self):
        self.server.mail_hosts("example.com", (10, "mx.test"))
        yield self.of()
        self.server.fails("example.com", dns.MX)
        self.clock.advance(3600)
        assert (yield self.of()) == ("mx.test",)
        assert (yield self.of()) == ("mx.test",)
        assert len(self.server.queries) == 2, "and DNS is not asked each time"
        self.clock.advance(86400)
        yield self.refused(TryLater)

    @inlineCallbacks
    def test_what_is_gone_does_not_come_back_when_dns_fails(self):
        self.server.mail_hosts("example.com", (10, "mx.test"))
        yield self.of()
        self.server.mail_hosts("example.com", (0, ""))
        self.clock.advance(3600)
        yield self.refused(NotFound)
        self.server.fails("example.com", dns.MX)
        self.clock.advance(3600)
        yield self.refused(TryLater)

    @inlineCallbacks
    def test_anything_else_that_goes_wrong_is_logged_and_tried_later(self):
        async def fail(name, kind):
            raise ZeroDivisionError("odd")

        self.patch(self.hosts._resolver, "records", fail)
        assert (yield self.refused(TryLater)) == "example.com: odd"
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    @inlineCallbacks
    def test_stop_gives_up(self):
        self.server.hold()
        came = self.server.next_query()
        waiting = self.of()
        yield came
        self.hosts.stop()
        error = self.failureResultOf(waiting, TryLater).value
        assert str(error) == "example.com: stopping"


class RememberedMailHostsTest(WithServer):
    @inlineCallbacks
    def asked_after(self, seconds, count):
        """Whether it takes another question after `seconds`, and none before."""
        yield self.of()
        self.clock.advance(seconds - 1)
        yield self.of()
        assert len(self.server.queries) == count - 1
        self.clock.advance(2)
        yield self.of()
        assert len(self.server.queries) == count

    @inlineCallbacks
    def test_for_the_shortest_ttl(self):
        self.server.mail_hosts("example.com", (10, "a.test"), (10, "b.test"), ttl=300)
        answer = self.server.answers["example.com", dns.MX]
        assert isinstance(answer, list)
        answer[1].ttl = 30
        yield self.asked_after(30, 2)

    @inlineCallbacks
    def test_for_an_hour_at_most(self):
        self.server.mail_hosts("example.com", (10, "a.test"), ttl=1000000)
        yield self.asked_after(3600, 2)

    @inlineCallbacks
    def test_that_there_are_none(self):
        self.server.mail_hosts("example.com")
        yield self.asked_after(60, 2)

    @inlineCallbacks
    def test_equal_look_ups_share_one(self):
        self.server.mail_hosts("example.com", (10, "mx.test"))
        self.server.hold()
        came = self.server.next_query()
        waiting = [self.of() for _ in range(5)]
        yield came
        waiting[0].cancel()
        self.failureResultOf(waiting.pop(0), CancelledError)
        waiting.append(self.of())
        self.server.release()
        assert (yield gatherResults(waiting)) == [("mx.test",)] * 5
        assert len(self.server.queries) == 1
