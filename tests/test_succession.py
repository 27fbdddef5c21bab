"""One generation after the other: what is made, what is taken over, and what goes with the last."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

from smtpproxy.chain import Loop
from smtpproxy.config import Config, load
from smtpproxy.deadlines import Deadlines
from smtpproxy.doors import Doors, places
from smtpproxy.events import Connected
from smtpproxy.fittings import Fittings
from smtpproxy.generation import Generation
from smtpproxy.lasting import Lasting
from smtpproxy.mail import Client, Peer
from smtpproxy.parts import open_parts
from smtpproxy.reload import Outcome
from smtpproxy.sockets import bind
from smtpproxy.succession import Succession, differences
from smtpproxy.threads import Threads

COUNTED = ("Generation", "Config", "Chain", "CsvTable", "Pool", "Connector", "Survey", "Offer")
ROWS = "pattern;server\nexample.com;mx1.test\n"


class Generations(TestCase):
    """With the reactor that is there, a listener on a free port, and no mail."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "mapping.csv").write_text(ROWS)
        self.configure()
        config = self.read()
        self.deadlines = Deadlines(reactor)
        self.loop = Loop(reactor, self.deadlines)
        fittings = Fittings(config, reactor, lambda _: [], lambda: self.fail("nobody asks"))
        self.lasting = Lasting(reactor, self.deadlines, fittings.log)
        self.doors = Doors(
            bind, self.lasting.poll, self.deadlines, self.lasting.listening, lambda _: None
        )
        threaded: Any = reactor
        threads = Threads(threaded, "reload", most=1)
        first = Generation(config, open_parts(config, lambda: self.loop), self.lasting)
        self.succession = Succession(first, self.lasting, self.doors, fittings, self.read, threads)
        self.doors.follow(first.receivers(), self.doors.bind(places(config)))
        first.begin()

        def stop() -> None:
            self.doors.close()
            self.succession.stop()
            threads.stop()
            self.lasting.stop()
            self.lasting.log.stop()

        self.addCleanup(stop)

    def configure(self, errors: int = 20, **more: str) -> None:
        settings = {
            "domain": '"mx.example.net"',
            "listeners": '[{listen = "127.0.0.1:0"}]',
            "mappings": '[{type = "csv", file = "mapping.csv"}]',
            "limits": f"{{max_errors = {errors}}}",
            "log": '{file = "log"}',
            "upstreams": '{ask_every = "0s"}',
            **more,
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.folder / "smtpproxy.toml").write_text(text)

    def read(self) -> Config:
        return load(self.folder / "smtpproxy.toml", {})

    def renew(self) -> Deferred[Outcome]:
        return Deferred.fromCoroutine(self.succession.renew(force=False))

    @inlineCallbacks
    def test_a_generation_goes_at_once_with_its_last_session(self) -> Any:
        """Without the collector of garbage, which comes by late."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

        def counts() -> dict[str, int]:
            found = Counter(type(each).__name__ for each in gc.get_objects())
            return {name: found[name] for name in COUNTED}

        before = counts()
        for number in range(1, 4):
            csv = f'[{{type = "csv", file = "mapping.csv", max_shrink = "{number}%"}}]'
            self.configure(number, mappings=csv)
            outcome = yield self.renew()
            self.assertTrue(outcome.ok, outcome)
            self.configure(number, mappings=csv, log='{file = "no/such/log"}')
            outcome = yield self.renew()
            self.assertFalse(outcome.ok)
        yield self.succession._threads.run(lambda _: None)  # behind all that is discarded
        self.assertEqual(counts(), before)

    @inlineCallbacks
    def test_what_is_the_same_is_taken_over(self) -> Any:
        old = self.succession.now
        stopped: list[str] = []
        old.dns.stop = lambda: stopped.append("dns")  # type: ignore[method-assign]
        self.configure(7)
        yield self.renew()
        new = self.succession.now
        self.assertIsNot(new, old)
        self.assertIs(new.dns, old.dns)
        self.assertEqual(stopped, [])
        self.assertIs(new.parts.chain.opened[0].mapping, old.parts.chain.opened[0].mapping)
        self.configure(7, dns='{timeout = "1s"}', recipient_delimiter='"+"')
        yield self.renew()
        self.assertIsNot(self.succession.now.dns, new.dns)
        self.assertEqual(stopped, ["dns"])

    @inlineCallbacks
    def test_what_is_not_taken_changes_nothing_that_lasts(self) -> Any:
        for log, time in (("log", "1m"), ("no/such/log", "2m")):
            upstreams = f'{{ask_every = "0s", guard_time = "{time}"}}'
            self.configure(upstreams=upstreams, log=f'{{file = "{log}"}}')
            yield self.renew()
            self.assertEqual(self.lasting.guard.recipients.seconds, 60.0)

    @inlineCallbacks
    def test_two_mappings_alike_are_two_after_a_reload(self) -> Any:
        twice = '[{type = "csv", file = "mapping.csv"}, {type = "csv", file = "mapping.csv"}]'
        self.configure(mappings=twice)
        for _ in range(2):
            outcome = yield self.renew()
            self.assertTrue(outcome.ok, outcome)
            first, second = (each.mapping for each in self.succession.now.parts.chain.opened)
            self.assertIsNot(first, second)

    def test_who_counts_costs_nobody_anything(self) -> None:
        """A session that fails behind its upstream's 250 has its message come again."""
        counted = self.lasting.counts._counting
        counted[Connected] = lambda _: self.fail("a fault of ours")
        event = Connected("1", Client(Peer("192.0.2.1", 25, "192.0.2.2", 25)))
        self.lasting.observe(event)
        self.assertEqual(len(self.flushLoggedErrors(self.failureException)), 1)
        self.assertEqual(self.lasting.recent.rates()["sessions"][-1], 1)

    def test_differences_are_told_by_name(self) -> None:
        old = self.read()
        self.configure(7, recipient_delimiter='"+"', listeners='[{listen = ":2525"}]')
        told = ["recipient_delimiter", "listeners", "limits.max_errors"]
        self.assertEqual(list(differences(old, self.read())), told)
        self.assertEqual(list(differences(old, old)), [])
