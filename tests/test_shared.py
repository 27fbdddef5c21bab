"""Limits that several processes keep together, with a store in memory and a clock in hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from smtpproxy.config import Config
from smtpproxy.events import Connected, Refused
from smtpproxy.faults import Faults
from smtpproxy.listener import ConnectionLimits, shared
from smtpproxy.listener.shared import Shared
from smtpproxy.listener.visitors import Visitors
from smtpproxy.networks import Networks
from smtpproxy.sharing import place_of
from smtpproxy.store import LASTING, Known, News, Place, StoreFailed, parse_place
from smtpproxy.tasks import start
from tests.support.dialogue import CLIENT, GREETING, ONE, Settings, World

FROM_YOU = "421 4.7.0 Too many connections from your address"
TOO_OFTEN = "421 4.7.0 Too many new connections from your address"
TOO_MUCH_MAIL = "421 4.7.0 Too many messages from your address"


class MemoryStore:
    """Answers at once: `known` by client, else nothing known; or not before `answer` is called."""

    def __init__(self) -> None:
        self.told: list[News] = []
        self.known: dict[str, Known] = {}
        self.fault = ""
        self.hanging = False
        self.opened = self.exchanges = 0
        self._answer: Deferred[None] | None = None

    def __str__(self) -> str:
        return "memory"

    async def open(self) -> None:
        self.opened += 1
        if self.fault:
            raise StoreFailed(self.fault)

    async def exchange(self, news: Sequence[News]) -> list[Known]:
        self.exchanges += 1
        self.told += news
        if self.fault:
            raise StoreFailed(self.fault)
        if self.hanging:
            self._answer = Deferred()
            await self._answer
        return [self.known.get(each.client, Known(0, (0, 0, 0), 0.0)) for each in news]

    def answer(self) -> None:
        assert self._answer is not None
        self._answer.callback(None)

    def close(self) -> None:
        pass


class Together:
    """A world whose limits are shared through `store`; `log` has what is said of that."""

    def __init__(self, **limits) -> None:
        made = ConnectionLimits(**{"total": 100, "per_address": 100, **limits})
        self.world = World({"example.com": ONE}, settings=Settings(limits=made))
        self.world.client.lose()
        self.clock = self.world.clock
        self.clock.advance(0)
        self.store = MemoryStore()
        self.log: list[tuple[bool, str]] = []
        self.shared = Shared(
            self.store,
            self.world.sessions.visitors,
            self.clock,
            lambda well, text: self.log.append((well, text)),
        )
        self.world.sessions.share(self.shared)

    def begin(self) -> Together:
        self.shared.start()
        assert self.shared.well
        return self

    def elsewhere(self, sessions: int = 0, *counts: int, seconds: float = 30.0) -> None:
        """The client is known to others."""
        connections, messages, recipients = (*counts, 0, 0, 0)[:3]
        self.store.known["203.0.113.1/32"] = Known(
            sessions, (connections, messages, recipients), seconds
        )

    def connect(self, address: str = "203.0.113.1"):
        return self.world.connect(replace(CLIENT, address=address))

    def told(self) -> str:
        return bytes(self.connect().said).decode().strip()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)


def test_sessions_elsewhere_count() -> None:
    it = Together(per_address=3).begin()
    it.elsewhere(2)
    assert it.told().startswith("220 ")
    assert it.told() == FROM_YOU
    assert len(it.world.sessions) == 1
    assert [str(each.reply) for each in it.world.said(Refused)] == [FROM_YOU]
    assert len(it.world.said(Connected)) == 2  # the first one is the world's
    it.elsewhere(0)
    assert it.told().startswith("220 ")


@pytest.mark.parametrize("gone", [False, True])
def test_the_name_of_who_gets_no_session_is_not_looked_for(gone: bool) -> None:
    it = Together(per_address=1).begin()
    it.elsewhere(1)
    it.store.hanging = gone
    given_up: list[Deferred[str]] = []
    it.world.name = Deferred(given_up.append)
    client = it.connect()
    assert bytes(client.said).decode().strip() == ("" if gone else FROM_YOU)
    if gone:
        client.lose()
        it.clock.advance(0)
    assert given_up


def test_what_was_heard_before_does_not_count() -> None:
    """The sessions elsewhere may be gone: it is asked each time."""
    it = Together(per_address=1).begin()
    it.elsewhere(1)
    assert it.told() == FROM_YOU
    it.elsewhere(0)
    assert it.told().startswith("220 ")


def test_connections_elsewhere_count_within_the_minute() -> None:
    it = Together(connections_per_minute=10).begin()
    it.elsewhere(0, 10)
    assert it.told().startswith("220 ")
    it.elsewhere(0, 11)
    assert it.told() == TOO_OFTEN
    asked = it.store.exchanges
    assert it.told() == TOO_OFTEN
    assert it.store.exchanges == asked  # known here by now
    it.store.known.clear()
    it.pass_time(30)
    assert it.told().startswith("220 ")


def test_what_is_told() -> None:
    it = Together(connections_per_minute=9, messages_per_minute=9, recipients_per_minute=9).begin()
    it.world.client = it.connect()
    assert it.store.told[-1] == News("203.0.113.1/32", 1, (1, 0, 0))
    it.world.play(GREETING + "C: MAIL FROM:<>\nS: 250 2.1.0 Ok\n")
    it.world.client.deliver(b"RCPT TO:<a@nowhere.test>\r\nRCPT TO:<b@nowhere.test>\r\n")
    told = len(it.store.told)
    it.pass_time(0.05)
    assert len(it.store.told) == told
    it.pass_time(0.1)
    assert it.store.told[told:] == [News("203.0.113.1/32", 1, (0, 1, 2))]
    it.world.client.lose()
    it.pass_time(0.15)
    assert it.store.told[-1] == News("203.0.113.1/32", 0, (0, 0, 0))


def test_messages_elsewhere_count_with_those_not_told_yet() -> None:
    it = Together(messages_per_minute=10).begin()
    it.elsewhere(0, 1, 8)
    it.world.client = client = it.connect()
    it.world.play(GREETING)
    client.said.clear()
    client.deliver(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nRSET\r\n")
    it.elsewhere(0, 1, 10)  # both were told
    it.pass_time(0.15)
    client.deliver(b"MAIL FROM:<>\r\n")
    it.clock.advance(0)
    assert bytes(client.said).decode().splitlines()[-1] == TOO_MUCH_MAIL


def test_what_is_counted_while_it_is_told() -> None:
    it = Together(messages_per_minute=10).begin()
    it.elsewhere(0, 1, 8)
    it.world.client = client = it.connect()
    it.world.play(GREETING)
    client.said.clear()
    it.store.hanging = True
    it.connect()  # it asks for all that is known
    client.deliver(b"MAIL FROM:<>\r\nRSET\r\n" * 2)
    it.clock.advance(0)
    it.store.hanging = False
    it.store.answer()
    client.deliver(b"MAIL FROM:<>\r\n")
    it.clock.advance(0)
    assert bytes(client.said).decode().splitlines()[-1] == TOO_MUCH_MAIL


def test_a_client_that_xclient_names_is_asked_for() -> None:
    it = Together(per_address=2).begin()
    it.world.profile = replace(it.world.profile, xclient_from=Networks(["192.0.2.5"]))
    it.elsewhere(2)
    for address, code in (("203.0.113.1", "421"), ("203.0.113.2", "220")):
        client = it.connect("192.0.2.5")
        client.deliver(b"EHLO front.example.com\r\n")
        client.said.clear()
        client.deliver(f"XCLIENT ADDR={address}\r\n".encode())
        it.clock.advance(0)
        assert bytes(client.said[:3]).decode() == code
    assert {each.client for each in it.store.told} == {"203.0.113.1/32", "203.0.113.2/32"}


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_who_has_no_limits_is_nobodys_business(address: str) -> None:
    it = Together(per_address=1, exempt=Networks(["127.0.0.0/8"])).begin()
    asked = it.store.exchanges
    assert bytes(it.connect(address).said).startswith(b"220 ")
    assert it.store.exchanges == asked


def test_sessions_that_stay_are_told_again() -> None:
    """So a process that died is forgotten, and a store that began anew knows soon."""
    it = Together().begin()
    it.connect("2001:db8::1")
    it.store.told.clear()
    it.pass_time(LASTING)
    assert len(it.store.told) >= 2
    assert set(it.store.told) == {News("2001:db8::/64", 1, (0, 0, 0))}


def test_many_clients_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "AT_ONCE", 10)
    it = Together(per_address=1).begin()
    it.store.hanging = True
    clients = [it.connect(f"203.0.113.{number}") for number in range(1, 36)]
    it.store.hanging = False
    it.store.answer()
    assert all(each.said.startswith(b"220 ") for each in clients)
    assert sorted({len(each.client) for each in it.store.told}) == [14, 15]
    assert len(it.store.told) == 35
    assert it.store.exchanges == 2 + 4  # the first with one client alone


# A store that fails


def test_it_is_waited_for_no_longer_than_a_moment() -> None:
    it = Together(per_address=1).begin()
    it.store.hanging = True
    one, two = it.connect(), it.connect("203.0.113.2")
    it.clock.advance(0.09)
    assert not one.said and not two.said
    it.clock.advance(0.02)
    it.clock.advance(0)
    assert one.said.startswith(b"220 ") and two.said.startswith(b"220 ")
    three = it.connect()
    assert bytes(three.said).decode().strip() == FROM_YOU  # what it counts itself is kept
    assert it.connect("203.0.113.3").said.startswith(b"220 ")  # and nobody waits any more
    assert it.log == [
        (True, "limits are shared through memory"),
        (False, "limits are not shared, memory: no answer within 0.1 s"),
    ]


def test_an_answer_that_lies_there_is_read_first() -> None:
    """Where this process was busy for longer than that, the store is not to blame."""
    it = Together().begin()
    it.store.hanging = True
    client = it.connect()
    it.clock.callLater(0.5, it.store.answer)  # as the reactor finds it, after its timers
    it.clock.pump([0.5])
    assert it.shared.well and client.said.startswith(b"220 ")


def test_it_is_tried_again_and_what_is_there_is_told() -> None:
    it = Together(messages_per_minute=9).begin()
    it.world.client = it.connect()
    it.store.fault = "Lost connection"
    it.connect("203.0.113.2")
    assert not it.shared.well
    it.world.play(GREETING + "C: MAIL FROM:<>\nS: 250 2.1.0 Ok\n")
    it.pass_time(4.9)
    assert it.store.opened == 1
    it.pass_time(20)  # it still fails, and that was said
    assert it.store.opened == 1 + 4
    it.store.fault = ""
    it.store.told.clear()
    it.pass_time(5)
    assert it.shared.well
    assert {each.client for each in it.store.told} == {"203.0.113.1/32", "203.0.113.2/32"}
    assert {each.added for each in it.store.told} == {(0, 0, 0)}
    assert [well for well, _ in it.log] == [True, False, True]


def test_what_was_known_is_no_reason_once_it_fails() -> None:
    it = Together(per_address=3, messages_per_minute=9).begin()
    it.elsewhere(3)
    assert it.told() == FROM_YOU
    it.store.hanging = True
    one = it.connect()
    two = it.connect("203.0.113.2")
    it.pass_time(0.15)
    assert one.said.startswith(b"220 ") and two.said.startswith(b"220 ")


def test_what_was_counted_when_it_failed_is_not_told_later() -> None:
    """The minute that it belongs to may be over by then."""
    it = Together(messages_per_minute=9).begin()
    it.world.client = it.connect()
    it.world.play(GREETING)
    it.store.hanging = True
    it.connect()
    it.world.play("C: MAIL FROM:<>\nS: 250 2.1.0 Ok\n")
    it.pass_time(0.15)
    it.store.hanging = False
    it.store.told.clear()
    it.pass_time(6)
    assert it.shared.well
    assert {each.added for each in it.store.told} == {(0, 0, 0)}


def test_it_may_be_down_from_the_beginning() -> None:
    it = Together(per_address=1)
    it.store.fault = "could not connect: refused"
    it.shared.start()
    assert it.told().startswith("220 ")
    assert it.told() == FROM_YOU
    assert it.log == [(False, "limits are not shared, memory: could not connect: refused")]


def test_a_fault_of_ours_is_no_reason_to_wait(caplog: pytest.LogCaptureFixture) -> None:
    it = Together().begin()
    it.store.known["203.0.113.1/32"] = None  # type: ignore[assignment]
    assert it.told().startswith("220 ")
    assert not it.shared.well
    it.store.known.clear()
    it.pass_time(5.1)
    assert it.shared.well


@pytest.mark.parametrize("leave", ["lost", "stop", "cut", "stopped"])
def test_who_goes_meanwhile(leave: str) -> None:
    it = Together().begin()
    it.store.hanging = True
    client = it.connect()
    act: dict[str, Callable[[], object]] = {
        "lost": client.lose,
        "stop": lambda: start(it.world.sessions.stop(5)),
        "cut": it.world.sessions.cut,
        "stopped": it.shared.stop,
    }
    act[leave]()
    it.clock.advance(0)
    if leave != "stopped":
        it.pass_time(1)
        assert not len(it.world.sessions)
        assert client.closed or leave == "lost"
    else:
        assert client.said.startswith(b"220 ")


def test_once_stopped_nothing_is_left() -> None:
    it = Together().begin()
    it.connect().lose()
    it.shared.stop()
    assert not it.shared.well
    assert not [call for call in it.clock.getDelayedCalls() if "shared" in repr(call)]
    assert it.told().startswith("220 ")


# The place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("redis://192.0.2.9", Place(host="192.0.2.9", port=6379)),
        ("valkey://store.example.net:7000/3", Place("store.example.net", 7000, database=3)),
        (
            "rediss://a%40b:p%2Fw@[2001:db8::9]/",
            Place("2001:db8::9", 6379, tls=True, user="a@b", password="p/w"),
        ),
        ("redis://:secret@h", Place("h", 6379, password="secret")),
        ("unix:/run/redis.sock", Place(path="/run/redis.sock")),
        ("unix:///run/redis.sock?db=4", Place(path="/run/redis.sock", database=4)),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse_place(text) == place
    assert "secret" not in f"{place}{place!r}" and "p/w" not in f"{place}{place!r}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "redis", "http://h", "redis://", "redis://h/x", "redis://h:99999", "redis://h?a=1"),
        *("unix:x", "unix:/a?db=b", "redis://[::1", "redis://:secret@h/x"),
    ],
)
def test_no_places(text: str) -> None:
    with pytest.raises(ValueError, match="write") as raised:
        parse_place(text)
    assert "secret" not in str(raised.value)


def config(**limits) -> Config:
    return Config.model_validate(
        {
            "domain": "mx.example.net",
            "listeners": [{"listen": ":25"}],
            "mappings": [{"type": "static", "server": "192.0.2.1"}],
            "limits": limits,
        }
    )


def test_a_place_with_the_password_of_a_file(tmp_path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    made = config(shared="redis://h", shared_password_file=str(file))
    assert place_of(made) == Place("h", 6379, password="secret")
    assert place_of(config()) is None
    assert "secret" not in repr(config(shared="redis://:secret@h"))


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"shared_password_file": "x"}, "stands alone"),
        ({"shared": "redis://:a@h", "shared_password_file": "x"}, "stands beside a password"),
        ({"shared": "redis://h", "shared_tls_ca": "x"}, "for TLS alone"),
        ({"shared": "h:6379"}, "not the URL"),
    ],
)
def test_settings_that_do_not_fit(limits, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        config(**limits)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpproxy.sharing.find_spec", lambda name: None)
    with pytest.raises(Faults, match=r"limits.shared: needs the Python package txredisapi"):
        place_of(config(shared="redis://h"))
    assert place_of(config()) is None


def test_the_network_of_a_client() -> None:
    visitors = Visitors(ConnectionLimits(1, 1, ipv4_prefix=24, ipv6_prefix=48), Clock().seconds)
    assert visitors.of("203.0.113.77").network == "203.0.113.0/24"
    assert visitors.of("2001:db8:1:2::3").network == "2001:db8:1::/48"
