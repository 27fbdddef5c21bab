"""docs/several-machines.md as it stands there, with machines that are killed under load."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import pytest

from soak import journal
from soak.contents import KINDS
from soak.conversation import Conversation, Ended
from soak.ledger import Fate, Ledger, Sent
from soak.mailboxes import Mailboxes, of_server
from soak.plans import Mail, Visit
from soak.wire import HungUp, Left, NoAnswer, Wire, context
from tests.support.haproxy import program
from tests.support.mariadb import PASSWORD, MariaDb
from tests.support.needs import need
from tests.support.netns import Machine, Network
from tests.support.postfix import Postfix
from tests.support.postfix import Settings as PostfixSettings
from tests.support.processes import Process, greeting, short_folder, wait_until
from tests.support.proxy import Proxy
from tests.support.redis_server import Redis

PAGE = (Path(__file__).parent.parent / "docs/several-machines.md").read_text()
OUTSIDE = ("198.51.100.25", "2001:db8::25")
CLIENTS = ("198.51.100.101", "198.51.100.102", "198.51.100.103", "2001:db8::101", "2001:db8::102")
MAILS = {"mail1": "192.0.2.21", "mail2": "192.0.2.22"}
DOMAINS = {"example.com": "mail1", "example.org": "mail2"}
HOMES = {f"box{n}@{domain}": [mail] for n in range(3) for domain, mail in DOMAINS.items()}
PROXIES = {"mx1": "192.0.2.11", "mx2": "192.0.2.12"}
REDIS_PASSWORD = "a secret"
GIVE_UP = 30.0  # seconds after the load, when a message still finds no way


def block(words: str) -> str:
    """The block of the page that holds these words."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    [found] = [each for each in blocks if words in each]
    return found


@dataclass
class Site:
    """The machines, with what runs there."""

    client: Machine
    mails: dict[str, Postfix]
    machines: dict[str, Machine]
    proxies: dict[str, Proxy]
    redis: Redis
    haproxy: Process
    folder: Path
    wrong: Path = field(init=False)

    def __post_init__(self) -> None:
        self.wrong = self.folder / "wrong"

    def restart(self, mail: str) -> None:
        with self.machines[mail].entered():
            self.mails[mail].start()

    def collect(self, ledger: Ledger) -> None:
        for name in self.mails:
            boxes = self.folder / name / "mail"
            read = of_server(named=True)
            Mailboxes(name, boxes, "*/new/*", read, self.wrong).collect(ledger)


@pytest.fixture
def site() -> Iterator[Site]:
    need("postfix", "mariadbd", root=True)
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        network = stack.enter_context(Network(wires=2))
        client = network.machine(
            "client", [f"{each}/{64 if ':' in each else 24}" for each in CLIENTS]
        )
        balancer = network.machine(
            "haproxy", ["198.51.100.25/24", "2001:db8::25/64"], ["192.0.2.5/24"]
        )
        addresses = {**MAILS, **PROXIES, "db": "192.0.2.30"}
        machines = {
            name: network.machine(name, [], [f"{address}/24"])
            for name, address in addresses.items()
        }
        with machines["db"].entered():
            redis = stack.enter_context(_redis(folder))
            database = stack.enter_context(_database(folder))
        mails = {name: stack.enter_context(_mail(folder, name, machines[name])) for name in MAILS}
        database.many(
            "INSERT INTO routes (pattern, server) VALUES (%s, %s)",
            [(domain, MAILS[mail]) for domain, mail in DOMAINS.items()],
        )
        proxies = {}
        for name in PROXIES:
            with machines[name].entered():
                proxies[name] = stack.enter_context(_proxy(folder, name))
        with balancer.entered():
            haproxy = stack.enter_context(_haproxy(folder))
        yield Site(client, mails, machines, proxies, redis, haproxy, folder)


def _redis(folder: Path) -> Redis:
    (folder / "redis").mkdir()
    return Redis(folder / "redis", REDIS_PASSWORD, host="192.0.2.30", port=6379)


def _database(folder: Path) -> MariaDb:
    (folder / "db").mkdir()
    return MariaDb(folder / "db", "--bind-address=192.0.2.30", "--port=3306")


@contextmanager
def _mail(folder: Path, name: str, machine: Machine) -> Iterator[Postfix]:
    (folder / name).mkdir()
    settings = PostfixSettings(
        mailboxes=tuple(box for box, homes in HOMES.items() if homes == [name]),
        hostname=f"{name}.test",
        address=MAILS[name],
        port=25,
        # The page has these addresses, too.
        main={"smtpd_authorized_xclient_hosts": "192.0.2.11, 192.0.2.12", "inet_protocols": "all"},
    )
    assert settings.main["smtpd_authorized_xclient_hosts"] in PAGE
    with machine.entered():
        postfix = Postfix(folder / name, settings)
    try:
        yield postfix
    finally:
        with machine.entered():  # where it has its address: elsewhere nothing is done
            postfix.stop()


def _proxy(folder: Path, name: str) -> Proxy:
    home = folder / name
    home.mkdir()
    (home / "mysql-password").write_text(PASSWORD)
    (home / "redis-password").write_text(REDIS_PASSWORD)
    written = tomllib.loads(block("proxy_from"))
    [listener] = written.pop("listeners")
    return Proxy(home, [], port=25, listener=listener, log={"format": "json"}, **written)


def _haproxy(folder: Path) -> Process:
    home = folder / "haproxy"
    home.mkdir()
    file = home / "haproxy.cfg"
    file.write_text("global\n    nbthread 1\n    maxconn 1000\n" + block("listen smtp"))
    haproxy = Process([program(), "-db", "-f", file], home / "log")
    try:
        for host in OUTSIDE:
            haproxy.wait_for(partial(_greets, host), f"a greeting of {host}")
    except BaseException:
        haproxy.stop()
        raise
    return haproxy


def _greets(host: str) -> bool:
    return greeting(25, host).startswith(b"220")


class Desk:
    """The ledger as one sender has it, who knows its last entry."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.last: Sent | None = None

    def number(self) -> int:
        return self._ledger.number()

    def begin(self, sent: Sent) -> None:
        self.last = sent
        self._ledger.begin(sent)

    def violation(self, kind: str, text: str, number: int | None = None) -> None:
        self._ledger.violation(kind, text, number)


class Sender(threading.Thread):
    """A mail server: what got no 250 is sent again, over a new connection, until it gets one.

    Each try has a number of its own in the ledger.  `delivered` are the times of those with a 250,
    by mailbox; `ends` counts how sessions ended.
    """

    def __init__(self, number: int, site: Site, ledger: Ledger, stopping: threading.Event) -> None:
        super().__init__(daemon=True)
        self._rng = Random(number)
        self._source = CLIENTS[number % len(CLIENTS)]
        self._host = OUTSIDE[":" in self._source]
        self._site = site
        self._ledger = ledger
        self._stopping = stopping
        self.delivered: list[tuple[float, str]] = []
        self.ends: Counter[str] = Counter()
        self.given_up: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._site.client.entered():
                while not self._stopping.is_set():
                    self._deliver()
        except BaseException as error:
            self.error = error

    def _deliver(self) -> None:
        rng = self._rng
        box = rng.choice(list(HOMES))
        size = int(150_000 * rng.random() ** 3) + 1
        mail = Mail(rng.choice(KINDS), size, (box,), False, 0, False, None)
        pipelining = rng.choice(["no", "envelope"])
        client = self._source, "m.client.example.net"
        visit = Visit(*client, False, False, pipelining, None, "close", 0.0, (mail,))
        until = None
        while not self._attempt(visit, box):
            if self._stopping.is_set():
                until = until or time.monotonic() + GIVE_UP
                if time.monotonic() > until:
                    self.given_up.append(box)
                    return
            time.sleep(0.1)
        self.delivered.append((time.monotonic(), box))

    def _attempt(self, visit: Visit, box: str) -> bool:
        desk = Desk(self._ledger)
        end = "to their end"
        try:
            wire = Wire(25, visit.source, None, "close", 0.0, self._host)
            try:
                Conversation(visit, wire, desk, context(), 7).hold()
            finally:
                wire.close()
        except (HungUp, NoAnswer, Left, Ended) as error:
            end = type(error).__name__
        self.ends[end] += 1
        return desk.last is not None and desk.last.fates[box] is Fate.TAKEN


def test_a_proxy_and_an_upstream_are_killed_under_load_and_nothing_is_lost(site: Site) -> None:
    ledger, stopping = Ledger(HOMES), threading.Event()
    senders = [Sender(number, site, ledger, stopping) for number in range(10)]
    for each in senders:
        each.start()

    def delivered(count: int) -> None:
        """Wait until so many more messages have got a 250, for each of the upstreams."""
        begun = time.monotonic()

        def enough() -> bool:
            boxes = [box for each in senders for at, box in list(each.delivered) if at > begun]
            counts = Counter(HOMES[box][0] for box in boxes)
            return all(counts[mail] >= count for mail in MAILS)

        wait_until(enough, 30, f"{count} messages for each of {sorted(MAILS)}")

    try:
        delivered(50)
        keys = site.redis.say("KEYS", "smtpproxy:198.51.100.10?/32").split()
        assert len(keys) == 3
        assert "2001:db8::/64" in site.redis.say("KEYS", "*")
        os.kill(site.proxies["mx1"].pid, signal.SIGKILL)
        delivered(50)
        site.redis.kill()
        site.mails["mail1"].kill()
        noticed = '"event":"upstream_failed"'
        wait_until(lambda: noticed in site.proxies["mx2"].output, 30, "mail1 missed")
        site.restart("mail1")
        delivered(50)
    finally:
        stopping.set()
        for each in senders:
            each.join(GIVE_UP + 30)
    assert not [each for each in senders if each.is_alive()]
    assert [each.error for each in senders] == [None] * len(senders)
    assert [box for each in senders for box in each.given_up] == []

    def settled() -> bool:
        site.collect(ledger)
        return not ledger.missing()

    wait_until(settled, 30, "all that got a 250 in its mailbox")
    site.collect(ledger)
    logs = {name: site.folder / name / "proxy.log" for name in PROXIES}
    for log in logs.values():
        journal.read(log, [], ledger)
    outcomes, ends = ledger.outcomes, sum((each.ends for each in senders), Counter[str]())
    messages = sum(len(each.delivered) for each in senders)
    print(f"{messages} messages; sessions: {dict(ends)}; tries: {outcomes}; {ledger.copies} copies")
    open_ones = len(ledger.doubts), outcomes[Fate.UNTOLD]
    twice = ledger.copies - messages
    print("in doubt by the log: {}; without an answer: {};".format(*open_ones), f"twice: {twice}")

    assert [str(each) for each in ledger.violations()] == []
    assert messages == outcomes[Fate.TAKEN]
    assert 0 <= twice <= sum(open_ones)
    assert outcomes[Fate.REFUSED] == 0
    assert ends["HungUp"] + ends["Ended"] and outcomes[Fate.LATER]  # both were noticed
    assert site.proxies["mx2"].output.count("limits are not shared") == 1
    assert not site.proxies["mx1"].running and site.proxies["mx2"].running
