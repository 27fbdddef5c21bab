"""Tables in a database: threads, deadlines, lost connections, whatever the kind of database."""

from __future__ import annotations

from threading import Event, Semaphore

import pytest

from smtpproxy.deadlines import Deadlines
from smtpproxy.routing import Hit, LookupFailed, Row, Upstream, Wrong, upstreams_in
from smtpproxy.routing.database import DatabaseTable
from smtpproxy.routing.servers import Server
from smtpproxy.tasks import start
from tests.support.turns import Turns

ONE, TWO = (Upstream((Server(host),)) for host in ("one.test", "two.test"))


class Lost(Exception):
    pass


class Memory:
    """A database in memory, whose connections are numbers.

    `rows` are the servers by key.  What is in `troubles` is raised in place of answers, in
    order; `gate` is waited for before each answer.
    """

    query = "the query"
    upstreams_query = "the upstreams"
    timeout = 5.0

    def __init__(self, name="memory/test", **rows) -> None:
        self.name = name
        self.rows = rows
        self.columns = ["server"]
        self.troubles: list[Exception | None] = []
        self.gate = Event()
        self.gate.set()
        self.asked = Semaphore(0)
        self.closed_one = Event()
        self.opened: list[int] = []
        self.open: set[int] = set()
        self.questions: list[tuple[int, str, str | None]] = []

    def __str__(self) -> str:
        return self.name

    def connect(self) -> int:
        number = len(self.opened)
        self.opened.append(number)
        self.open.add(number)
        return number

    def close(self, connection: int) -> None:
        self.open.remove(connection)
        self.closed_one.set()

    def select(self, connection, query, key, most, wanted):
        assert connection in self.open
        self.questions.append((connection, query, key))
        self.asked.release()
        assert self.gate.wait(10)
        if self.troubles and (trouble := self.troubles.pop(0)):
            raise trouble
        if key is None:
            return self.columns, [(server,) for server in self.rows.values()][:most]
        return self.columns, [(self.rows[key],)] if key in self.rows else []

    def lost(self, error: Exception) -> bool:
        return isinstance(error, Lost)

    def words(self, error: Exception) -> str:
        return f"the words of {error!r}"

    @property
    def keys(self) -> list[str | None]:
        return [key for _, _, key in self.questions]


@pytest.fixture
def reactor():
    return Turns()


@pytest.fixture
def memory():
    return Memory(a="one.test", b="two.test", nothing=None)


@pytest.fixture
def made():
    tables: list[DatabaseTable] = []
    yield tables
    for table in tables:
        table.stop()


@pytest.fixture
def make(reactor, made):
    def make(database, **more) -> DatabaseTable:
        made.append(DatabaseTable(database, reactor, Deadlines(reactor), **more))
        return made[-1]

    return make


@pytest.fixture
def table(make, memory):
    return make(memory)


@pytest.fixture
def failure(reactor):
    """The text of the `LookupFailed` that some work ends with."""

    def failure(work) -> str:
        with pytest.raises(LookupFailed) as caught:
            reactor.until(work)
        return str(caught.value)

    return failure


def test_all_keys_are_asked_in_one_go_over_one_connection(reactor, memory, table):
    hits = reactor.until(table.find(["x", "a", "b", "nothing"]))
    assert hits == {"a": Hit(Row(ONE), "memory/test"), "b": Hit(Row(TWO), "memory/test")}
    assert memory.questions == [(0, "the query", key) for key in ("x", "a", "b", "nothing")]
    reactor.until(table.find(["a"]))
    assert memory.opened == [0]


def test_nothing_is_connected_before_it_is_needed(memory, table):
    assert memory.opened == []
    table.stop()
    assert memory.opened == []


def test_a_lost_connection_is_replaced_and_all_is_asked_again(reactor, memory, table):
    memory.troubles = [None, None, Lost()]
    reactor.until(table.find(["a"]))
    assert set(reactor.until(table.find(["x", "b"]))) == {"b"}
    assert memory.keys == ["a", "x", "b", "x", "b"]
    assert memory.open == {1}


def test_a_connection_lost_twice_is_a_failure(reactor, memory, table, failure):
    memory.troubles = [Lost(1), Lost(2)]
    assert failure(table.find(["a"])) == "memory/test: the words of Lost(2)"
    assert memory.open == set()
    assert set(reactor.until(table.find(["a"]))) == {"a"}


def test_other_trouble_is_told_at_once(memory, table, failure):
    memory.troubles = [ValueError("no such table")]
    said = failure(table.find(["a"]))
    assert said == "memory/test: the words of ValueError('no such table')"
    assert memory.keys == ["a"]


def test_words_are_one_line_of_bearable_length(memory, table, failure):
    memory.words = lambda error: "a\nb\r\n\tc" + "x" * 5000
    memory.troubles = [ValueError()]
    said = failure(table.find(["a"]))
    assert said.startswith("memory/test: a b cxxx")
    assert len(said) < 400


def test_trouble_with_connecting_is_no_less_a_failure(reactor, memory, table, failure):
    def refuse():
        raise OSError("refused")

    memory.connect, connect = refuse, memory.connect
    assert "refused" in failure(table.find(["a"]))
    memory.connect = connect
    assert set(reactor.until(table.find(["a"]))) == {"a"}


def test_a_wrong_row_is_its_keys_alone_and_the_connection_stays(reactor, memory, table):
    memory.rows["bad"] = "one.test:0"
    hits = reactor.until(table.find(["bad", "a"]))
    assert hits["a"] == Hit(Row(ONE), "memory/test")
    assert hits["bad"].reason.startswith("memory/test: a row is wrong: server: '0' is not a port")
    assert memory.opened == [0]


def test_columns_are_wrong_even_without_a_row(reactor, memory, table, failure):
    memory.columns = ["host"]
    hits = reactor.until(table.find(["nobody"]))
    assert isinstance(hits["nobody"], Wrong) and "unknown column 'host'" in hits["nobody"].reason
    assert failure(table.check()).startswith("memory/test: unknown column 'host'")


def test_its_name_is_the_databases(table):
    assert str(table) == "memory/test"


def test_a_deadline_ends_the_wait_while_every_thread_hangs(reactor, memory, make):
    table = make(memory, threads=2)
    memory.gate.clear()
    said: list[str] = []
    for _ in range(6):
        work = start(table.find(["a", "b"]))
        work.addErrback(lambda failure: said.append(str(failure.value)))
    assert all(memory.asked.acquire(timeout=10) for _ in range(2))  # both threads hang
    reactor.advance(4.9)
    assert said == []
    reactor.pump([0.25] * 3)
    assert said == ["memory/test: no answer within 5 s"] * 6
    memory.gate.set()
    assert set(reactor.until(table.find(["a"]))) == {"a"}
    # Those two that had begun were told to give up; the four that waited were never begun.
    assert sorted(memory.keys) == ["a", "a", "a"]


def test_what_nobody_waits_for_is_not_asked_again(reactor, memory, table, failure):
    memory.gate.clear()
    memory.troubles = [Lost()]
    work = start(table.find(["a"]))
    assert memory.asked.acquire(timeout=10)
    reactor.pump([0.25] * 22)
    assert "no answer" in failure(work)
    memory.gate.set()
    reactor.turn()
    assert memory.keys == ["a"]
    assert memory.opened == [0]


def test_a_database_that_hangs_slows_no_other(reactor, memory, make):
    hanging = Memory("hanging")
    hanging.gate.clear()
    stuck = [start(make(hanging).find(["a"])) for _ in range(20)]
    for work in stuck:
        work.addErrback(lambda _: None)
    assert set(reactor.until(make(memory).find(["a"]))) == {"a"}
    hanging.gate.set()


def test_too_many_look_ups_are_refused_and_not_piled_up(memory, make, failure):
    table = make(memory, threads=1, backlog=2)
    memory.gate.clear()
    for _ in range(3):
        start(table.find(["a"])).addErrback(lambda _: None)
    assert failure(table.find(["a"])) == "memory/test: too many look-ups wait for it"
    memory.gate.set()


def test_stop_ends_the_waits_and_closes_the_connections(reactor, memory, table, failure):
    reactor.until(table.find(["a"]))
    memory.gate.clear()
    work = start(table.find(["a"]))
    table.stop()
    assert failure(work) == "memory/test: stopping"
    assert failure(table.find(["a"])) == "memory/test: stopping"
    memory.gate.set()
    assert memory.closed_one.wait(10)
    assert memory.open == set()


def test_upstreams_are_those_of_the_last_refresh(reactor, memory, table, failure):
    assert not table.lists_all
    assert list(table.listed()) == []
    reactor.until(table.refresh())
    assert list(upstreams_in(table.listed())) == [ONE, TWO]
    assert table.lists_all
    memory.rows["bad"] = "one.test:0"
    assert "a row is wrong" in failure(table.refresh())
    assert list(upstreams_in(table.listed())) == [ONE, TWO]
    assert table.lists_all


def test_upstreams_that_are_too_many_are_not_all(reactor, memory, table, monkeypatch):
    monkeypatch.setattr("smtpproxy.routing.database._MOST", 3)
    reactor.until(table.refresh())
    assert not table.lists_all
    monkeypatch.setattr("smtpproxy.routing.database._MOST", 4)
    reactor.until(table.refresh())
    assert table.lists_all


def test_without_a_query_for_upstreams_none_is_asked(reactor, memory, table):
    memory.upstreams_query = ""
    reactor.until(table.check())
    assert memory.keys == ["nobody@check.invalid"]
    assert list(table.listed()) == []
    assert not table.lists_all


def test_check_tries_both_queries(reactor, memory, table, failure):
    reactor.until(table.check())
    assert memory.keys == ["nobody@check.invalid", None]
    memory.troubles = [None, ValueError("the second")]
    assert "the second" in failure(table.check())
