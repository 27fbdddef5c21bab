"""Which name servers are asked, and what they say when they have no answer."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from twisted.internet.defer import inlineCallbacks
from twisted.names import dns
from twisted.trial.unittest import TestCase

from smtpproxy.dns import NotFound, TryLater
from smtpproxy.dns.resolver import Resolver
from smtpproxy.tasks import start
from tests.support.dns_server import SILENCE, ClockedReactor, DnsServer


class RecordsTest(TestCase):
    timeout = 30

    def setUp(self):
        self.server = DnsServer()
        self.addCleanup(self.server.stop)
        self.clock = ClockedReactor()
        self.resolver = Resolver(self.clock, [self.server.address])

    def records(self, name="example.com", kind=dns.MX):
        return start(self.resolver.records(name, kind))

    @inlineCallbacks
    def test_of_the_type_asked_for_alone(self):
        self.server.mail_hosts("example.com", (10, "mx.example.com"))
        answer = self.server.answers["example.com", dns.MX]
        assert isinstance(answer, list)
        answer.insert(0, dns.Record_A("192.0.2.1", 300))
        [record] = yield self.records()
        assert (record.payload.preference, record.payload.name.name) == (10, b"mx.example.com")

    @inlineCallbacks
    def test_none(self):
        self.server.mail_hosts("example.com")
        assert (yield self.records()) == []

    @inlineCallbacks
    def test_no_such_name(self):
        error = yield self.assertFailure(self.records(), NotFound)
        assert str(error) == "no such name"

    @inlineCallbacks
    def test_failures_are_named(self):
        for code, name in (
            (dns.EFORMAT, "FORMERR"),
            (dns.ESERVER, "SERVFAIL"),
            (dns.ENOTIMP, "NOTIMP"),
            (dns.EREFUSED, "REFUSED"),
            (9, "9"),
        ):
            self.server.fails("example.com", dns.MX, code)
            error = yield self.assertFailure(self.records(), TryLater)
            assert str(error) == f"the name server says {name}"

    @inlineCallbacks
    def test_silence(self):
        self.server.fails("example.com", dns.MX, SILENCE)
        waiting = self.records()
        yield self.server.next_query()
        self.clock.advance(1)
        yield self.server.next_query()
        self.clock.advance(2)
        assert str(self.failureResultOf(waiting, TryLater).value) == "no name server answers"

    @inlineCallbacks
    def test_no_socket_to_be_had(self):
        def refuse(port, protocol, **more):
            raise dns.CannotListenError("", port, OSError(24, "too many open files"))

        self.clock.listenUDP = refuse
        error = yield self.assertFailure(self.records(), TryLater)
        assert "too many open files" in str(error)


class SystemServersTest(TestCase):
    @inlineCallbacks
    def test_read_again_when_the_file_changes(self):
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        conf = Path(folder.name) / "resolv.conf"
        resolver = Resolver(ClockedReactor(), [], conf)
        asked = []

        def query(queries):
            asked.append(list(resolver._client.servers))
            raise OSError

        resolver._client.queryUDP = query

        def ask():
            records = start(resolver.records("example.com", dns.MX))
            return self.assertFailure(records, TryLater)

        yield ask()
        conf.write_text("search example.com\n#nameserver 192.0.2.9\nnameserver\nnameserver ::1 x\n")
        yield ask()
        conf.unlink()
        yield ask()
        conf.write_text("nameserver 192.0.2.53\nnameserver 2001:DB8::0:53\n")
        yield ask()
        assert asked == [
            [("127.0.0.1", 53)],
            [("::1", 53)],
            [("::1", 53)],
            [("192.0.2.53", 53), ("2001:db8::53", 53)],
        ]


def test_servers_as_they_may_be_written():
    written = ["192.0.2.53", "192.0.2.53:5353", "2001:DB8::53", "[2001:db8::53]", "[::1]:54"]
    assert Resolver(ClockedReactor(), written)._client.servers == [
        ("192.0.2.53", 53),
        ("192.0.2.53", 5353),
        ("2001:db8::53", 53),
        ("2001:db8::53", 53),
        ("::1", 54),
    ]


@pytest.mark.parametrize("text", ["", "dns.example.com", "192.0.2.53:", "192.0.2.53:dns", ":53"])
def test_what_is_no_server(text):
    with pytest.raises(ValueError):
        Resolver(ClockedReactor(), [text])
