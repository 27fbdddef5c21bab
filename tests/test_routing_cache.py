"""The cache before a table: what is remembered, for how long, and what is shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from smtpproxy.routing import (
    Answer,
    Found,
    Hit,
    KeyedMapping,
    LookupFailed,
    NoRoute,
    Question,
    Row,
    TryAgain,
    Upstream,
    Wrong,
)
from smtpproxy.routing.cache import CachedTable
from smtpproxy.routing.servers import Server
from smtpproxy.smtp.paths import Path
from smtpproxy.tasks import start

ONE, TWO = (Upstream((Server(host),)) for host in ("one.test", "two.test"))
PART = Row(ONE, percent=30)
WRONG = Wrong("a row is wrong")


class Slow:
    """A table that answers when it is told to, with what `rows` then has."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {"a": Row(ONE), "d": Row(TWO)}
        self.wrong: set[str] = set()
        self.asked: list[tuple[str, ...]] = []
        self.cancelled = 0
        self._waiting: list[Deferred[None]] = []

    def __str__(self) -> str:
        return "slow/test"

    async def find(self, keys: Sequence[str]) -> dict[str, Hit | Wrong]:
        self.asked.append(tuple(keys))
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        try:
            await waiting
        except CancelledError:
            self.cancelled += 1
            raise
        hits = {key: Hit(self.rows[key], "there") for key in keys if key in self.rows}
        return {**hits, **{key: WRONG for key in keys if key in self.wrong}}

    lists_all = True

    def listed(self):
        return (Row(ONE), Row(TWO))

    def answer(self, error: Exception | None = None) -> None:
        """End the oldest question."""
        waiting = self._waiting.pop(0)
        if error:
            waiting.errback(error)
        else:
            waiting.callback(None)


DOWN = LookupFailed("down")


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1000)
    return clock


@pytest.fixture
def table():
    return Slow()


@pytest.fixture
def make(table, clock):
    def make(**more) -> CachedTable:
        ways = {"ttl": 60, "negative_ttl": 10, "size": 100, "stale_for": 0, **more}
        return CachedTable(table, clock, **ways)

    return make


@pytest.fixture
def cached(make):
    return make()


def ask(cached: CachedTable, *keys: str) -> list:
    """Filled with the hits, or with the exception, once they are there."""
    seen: list = []
    work = start(cached.find(keys))
    work.addCallbacks(seen.append, lambda failure: seen.append(failure.value))
    return seen


def learn(cached: CachedTable, *keys: str) -> dict[str, Any]:
    """The hits of keys that the table is asked for, which answers at once."""
    seen = ask(cached, *keys)
    assert seen == []
    cached.table.answer()
    return seen[0]


def test_a_row_is_remembered_and_says_its_age(cached, table, clock):
    assert learn(cached, "a") == {"a": Hit(Row(ONE), "there")}
    clock.advance(59)
    table.rows.clear()
    assert ask(cached, "a") == [{"a": Hit(Row(ONE), "there", 59)}]
    assert table.asked == [("a",)]
    clock.advance(1)
    assert learn(cached, "a") == {}


def test_that_there_is_no_row_is_remembered_for_a_time_of_its_own(cached, table, clock):
    assert learn(cached, "x") == {}
    clock.advance(9.9)
    table.rows["x"] = Row(ONE)
    assert ask(cached, "x") == [{}]
    clock.advance(0.1)
    assert learn(cached, "x") == {"x": Hit(Row(ONE), "there")}


def test_an_age_that_is_nothing_is_an_age(cached):
    learn(cached, "a")
    assert ask(cached, "a")[0]["a"].age == 0


def test_only_what_is_not_known_is_asked_for(cached, table):
    learn(cached, "a@d", "d", "*")
    assert set(learn(cached, "b@d", "d", "*")) == {"d"}
    assert table.asked == [("a@d", "d", "*"), ("b@d",)]


def test_look_ups_of_one_key_under_way_are_one_query(cached, table):
    first, second, third = ask(cached, "a", "d"), ask(cached, "d", "a"), ask(cached, "a", "x")
    assert table.asked == [("a", "d"), ("x",)]
    table.answer()
    assert set(first[0]) == set(second[0]) == {"a", "d"}
    assert third == []
    table.answer()
    assert set(third[0]) == {"a"}
    assert first[0]["a"].age is None


def test_a_failure_reaches_all_who_wait_and_is_not_remembered(cached, table):
    both = [ask(cached, "a"), ask(cached, "a", "x")]
    table.answer(DOWN)
    table.answer()
    for (error,) in both:
        assert isinstance(error, LookupFailed) and str(error) == "down"
    assert both[0][0] is not both[1][0]
    assert set(learn(cached, "a")) == {"a"}


def test_one_who_gives_up_takes_nothing_from_the_others(cached, table):
    work = start(cached.find(["a"]))
    work.addErrback(lambda _: None)
    other = ask(cached, "a")
    work.cancel()
    assert other == []
    table.answer()
    assert set(other[0]) == {"a"}
    assert table.asked == [("a",)]


def test_a_key_that_is_asked_for_twice_is_one(cached, table):
    assert set(learn(cached, "a", "a")) == {"a"}
    assert table.asked == [("a",)]


def test_without_time_to_live_queries_are_shared_still(make, table):
    cached = make(ttl=0, negative_ttl=0)
    both = ask(cached, "a"), ask(cached, "a")
    table.answer()
    assert set(both[0][0]) == set(both[1][0]) == {"a"}
    assert set(learn(cached, "a")) == {"a"}
    assert table.asked == [("a",), ("a",)]


def test_the_keys_asked_for_last_are_kept(make, table):
    cached = make(size=3)
    learn(cached, "a", "b", "c")
    ask(cached, "a")
    learn(cached, "d")
    assert len(cached) == 3
    assert ask(cached, "a", "c", "d") != []
    assert ask(cached, "b") == []
    assert table.asked[-1] == ("b",)


def test_more_keys_at_once_than_are_kept(make):
    cached = make(size=1)
    assert set(learn(cached, "a", "d", "x")) == {"a", "d"}
    assert len(cached) == 1


def test_forget_one_key_or_let_all_expire(cached, table):
    learn(cached, "a", "d")
    cached.forget("a")
    cached.forget("never known")
    ask(cached, "a", "d")
    assert table.asked[1:] == [("a",)]
    table.answer()
    cached.expire()
    ask(cached, "a", "d")
    assert table.asked[2:] == [("a", "d")]


@pytest.mark.parametrize("forget", [CachedTable.expire, lambda cached: cached.forget("a")])
def test_what_was_asked_before_it_was_forgotten_is_not_remembered(cached, table, forget):
    before = ask(cached, "a")
    forget(cached)
    after = ask(cached, "a")  # must not share the query of before
    assert table.asked == [("a",), ("a",)]
    table.answer()
    assert set(before[0]) == {"a"}
    assert after == [] and len(cached) == 0
    table.rows["a"] = Row(TWO)
    table.answer()
    assert after[0]["a"].row == Row(TWO)
    assert ask(cached, "a")[0]["a"].row == Row(TWO)


# When a row is wrong


def test_a_wrong_row_is_not_remembered(cached, table):
    table.wrong.add("*")
    assert learn(cached, "a", "*") == {"a": Hit(Row(ONE), "there"), "*": WRONG}
    assert learn(cached, "a", "*")["*"] == WRONG
    table.wrong.clear()
    learn(cached, "a", "*")
    assert table.asked == [("a", "*"), ("*",), ("*",)]
    assert set(ask(cached, "a", "*")[0]) == {"a"}


def test_a_wrong_row_is_told_to_all_who_share_its_query(cached, table):
    table.wrong.add("*")
    one, other = ask(cached, "a", "*"), ask(cached, "*")
    table.answer()
    assert one[0]["*"] == other[0]["*"] == WRONG
    assert one[0]["a"].row == Row(ONE)


def test_a_wrong_row_does_not_make_a_table_fail(make, clock, table):
    cached = make(stale_for=1000)
    learn(cached, "a", "d")
    clock.advance(60)
    table.wrong.add("a")
    with capturedLogs() as events:
        assert learn(cached, "a") == {"a": WRONG}  # and not the row of before
        table.rows["d"] = Row(ONE)
        assert learn(cached, "d") == {"d": Hit(Row(ONE), "there")}  # it is not let rest
    assert events == []


def test_what_a_wrong_row_said_before_is_gone(make, clock, table):
    cached = make(stale_for=1000)
    learn(cached, "a", "d")
    clock.advance(60)
    table.wrong.add("a")
    learn(cached, "a")
    assert fail(cached, "a", "d") == {}


# When the table fails


def fail(cached: CachedTable, *keys: str) -> dict[str, Hit]:
    """What is known still, where the table is asked and fails."""
    seen = ask(cached, *keys)
    assert seen == [], "the table was not asked"
    cached.table.answer(LookupFailed("down"))
    return known(seen)


def known(seen: list) -> dict[str, Hit]:
    (error,) = seen
    assert isinstance(error, LookupFailed) and str(error) == "down"
    return dict(error.known)


def test_off_means_failure_once_it_is_too_old(cached, clock):
    learn(cached, "a")
    clock.advance(60)
    assert fail(cached, "a") == {}


def test_a_known_row_is_served_for_a_time_and_marked(make, clock):
    cached = make(stale_for=100)
    learn(cached, "a")
    clock.advance(60)
    assert fail(cached, "a") == {"a": Hit(Row(ONE), "there", 60, stale=True)}
    clock.advance(99.9)
    assert fail(cached, "a")["a"].stale
    clock.advance(0.1)
    assert fail(cached, "a") == {}


def test_keys_that_had_no_row_count_as_long(make, clock):
    cached = make(stale_for=100)
    learn(cached, "u@d", "d", "*")
    clock.advance(60)
    hits = fail(cached, "u@d", "d", "*")
    assert hits == {"d": Hit(Row(TWO), "there", 60, stale=True)}
    clock.advance(50)  # 10 and 100 s: now it could have got a row
    assert fail(cached, "u@d", "d", "*") == {}


def test_a_key_that_was_never_known_could_have_a_row(make, clock):
    cached = make(stale_for=100)
    learn(cached, "d")
    assert fail(cached, "new@d", "d") == {}


def test_keys_behind_the_row_that_counts_need_not_be_known(make, clock):
    cached = make()
    learn(cached, "a")
    clock.advance(5)
    assert fail(cached, "a", "d") == {"a": Hit(Row(ONE), "there", 5)}


def test_a_row_for_a_part_of_the_recipients_settles_nothing(make, clock, table):
    cached = make(stale_for=100)
    table.rows["a"] = PART
    learn(cached, "a", "d")
    clock.advance(60)
    hits = fail(cached, "a", "d")
    assert {key: hit.stale for key, hit in hits.items()} == {"a": True, "d": True}
    clock.advance(5)
    assert set(fail(cached, "a", "new", "d")) == {"a"}


def look_up(cached: CachedTable, user: str) -> Answer:
    """What a mapping says of `user@d`; the table fails where it is asked."""
    seen: list[Answer] = []
    work = KeyedMapping("m", cached).lookup(Question(Path(user, "d")))
    start(work).addCallback(seen.append)
    if not seen:
        cached.table.answer(DOWN)
    return seen[0]


def user(inside: bool) -> str:
    """Somebody that `PART` is for, or is not."""
    names = (f"u{number}" for number in range(1000))
    return next(name for name in names if PART.is_for(Question(Path(name, "d"))) is inside)


@pytest.mark.parametrize("more", [[], ["*"]])
def test_a_row_for_a_part_of_the_recipients_outlives_the_table(make, clock, table, more):
    cached = make(stale_for=100)
    table.rows["d"] = PART
    inside, outside = user(True), user(False)
    learn(cached, f"{inside}@d", f"{outside}@d", "d", *more)
    clock.advance(60)
    for _ in range(2):  # asked, and then let rest
        found = look_up(cached, inside)
        assert isinstance(found, Found) and found.route.row == PART and found.route.stale
        assert look_up(cached, outside) == TryAgain("down")
    assert len(table.asked) == 2


def test_a_table_that_fails_never_looks_like_no_route(make, clock, table):
    cached = make(stale_for=100)
    table.rows.clear()
    learn(cached, "u@d", "d", "*")
    assert isinstance(look_up(cached, "u"), NoRoute)  # it did not fail
    clock.advance(60)
    assert look_up(cached, "u") == TryAgain("down")
    assert look_up(cached, "u") == TryAgain("down")
    assert look_up(cached, "new") == TryAgain("down")


def test_what_expired_is_asked_for_at_once_and_counts_when_the_table_fails(make, clock, table):
    cached = make(stale_for=100)
    learn(cached, "u@d", "d", "*")
    clock.advance(5)
    cached.expire()
    assert fail(cached, "u@d", "d") == {"d": Hit(Row(TWO), "there", 5, stale=True)}
    assert known(ask(cached, "u@d", "d"))["d"].stale  # it is let rest
    cached.expire()
    table.rows["d"] = Row(ONE)
    assert learn(cached, "u@d", "d") == {"d": Hit(Row(ONE), "there")}
    assert ask(cached, "u@d", "d") == [{"d": Hit(Row(ONE), "there", 0)}]


def test_what_expired_does_not_count_where_nothing_old_does(cached):
    learn(cached, "a")
    cached.expire()
    assert fail(cached, "a") == {}


def test_a_table_that_failed_is_let_rest(make, clock, table):
    cached = make(stale_for=100)
    learn(cached, "a")
    clock.advance(60)
    fail(cached, "a")
    clock.advance(4.9)
    assert known(ask(cached, "a"))["a"].stale  # at once
    assert ask(cached, "d") == []  # of which nothing is known: it may be up again
    table.answer()
    assert ask(cached, "a") == []  # it is
    table.answer()
    clock.advance(60)
    fail(cached, "a")
    clock.advance(5)
    assert ask(cached, "a") == []


def test_failing_and_working_again_is_logged_once(make):
    cached = make(stale_for=100)
    with capturedLogs() as events:
        learn(cached, "a")
        fail(cached, "x")
        fail(cached, "y")
        learn(cached, "z")
        learn(cached, "zz")
    assert [(event["log_level"].name, formatEvent(event)) for event in events] == [
        ("warn", "down: what is known already counts on, for now"),
        ("info", "slow/test can be asked again"),
    ]


def test_a_fault_of_the_table_is_a_failure_for_now(cached, table):
    seen = ask(cached, "a")
    table.answer(ZeroDivisionError("oops"))
    assert isinstance(seen[0], LookupFailed) and "ZeroDivisionError: oops" in str(seen[0])
    assert set(learn(cached, "a")) == {"a"}


def test_stop_gives_up_what_is_under_way(cached, table):
    seen, other = ask(cached, "a", "d"), ask(cached, "x")
    cached.stop()
    assert table.cancelled == 2
    assert [str(each[0]) for each in (seen, other)] == ["stopping"] * 2


def test_upstreams_are_the_tables(cached, table):
    assert cached.listed() == (Row(ONE), Row(TWO))
    assert cached.lists_all
    table.lists_all = False
    assert not cached.lists_all
