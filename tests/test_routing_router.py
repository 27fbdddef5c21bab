"""The chain of mappings, and mappings whose rows have keys."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from collections.abc import Mapping as Keyed
from typing import Any, TypeVar

import pytest

from smtpproxy.mail import Client, Peer
from smtpproxy.routing import (
    Answer,
    Explanation,
    Found,
    Hit,
    KeyedMapping,
    Listing,
    LookupFailed,
    Mapping,
    NoRoute,
    Question,
    Refused,
    Route,
    Router,
    Row,
    Server,
    StaticMapping,
    Step,
    TryAgain,
    Upstream,
    Wrong,
)
from smtpproxy.smtp.paths import NULL_PATH, Path
from smtpproxy.smtp.replies import Reply

T = TypeVar("T")

ONE, TWO = Upstream((Server("one.test"),)), Upstream((Server("two.test"),))
FOO = Path("foo+x", "Example.com")
BOB = Path("bob", "example.net")
CLIENT = Client(Peer("192.0.2.1", 40000, "192.0.2.25", 25))
KEYS = ("foo+x@example.com", "foo@example.com", "example.com")
QUESTION = Question(FOO, "+", "mx.example.net")


class Table:
    """A mapping in memory; it remembers what it was asked."""

    def __init__(
        self, name: str, rows: dict[str, Upstream], instead: TryAgain | Refused | None = None
    ) -> None:
        self.name = name
        self.rows = rows
        self.instead = instead
        self.asked: list[Question] = []

    def keys(self, question: Question) -> tuple[str, ...]:
        return question.keys

    async def lookup(self, question: Question) -> Answer:
        self.asked.append(question)
        if self.instead:
            return self.instead
        for key in self.keys(question):
            if key in self.rows:
                return Found(Route(Row(self.rows[key]), self.name, key))
        return NoRoute()

    def listed(self) -> Iterable[Row]:
        return map(Row, self.rows.values())

    @property
    def lists_all(self) -> bool:
        return self.instead is None


class Hits:
    """A table whose rows are hits; it remembers what it was asked."""

    def __init__(
        self,
        hits: Keyed[str, Hit | Wrong],
        trouble: str = "",
        known: dict[str, Hit] | None = None,
    ) -> None:
        self.hits = hits
        self.trouble = trouble
        self.known = known
        self.asked: list[tuple[str, ...]] = []

    async def find(self, keys: Sequence[str]) -> Keyed[str, Hit | Wrong]:
        self.asked.append(tuple(keys))
        if self.trouble:
            raise LookupFailed(self.trouble, self.known)
        return self.hits  # more than was asked for does no harm

    def listed(self) -> Iterable[Row]:
        return (hit.row for hit in self.hits.values() if isinstance(hit, Hit))

    @property
    def lists_all(self) -> bool:
        return not self.trouble


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    result: T = caught.value.value
    return result


def router(*mappings: Mapping) -> Router:
    return Router(mappings, "+", "mx.example.net")


def test_the_first_mapping_that_knows_a_key_wins():
    first, second = Table("a", {"example.net": ONE}), Table("b", {"example.com": TWO})
    last = Table("c", {"example.com": ONE})
    assert run(router(first, second, last).route(FOO)) == Found(Route(Row(TWO), "b", "example.com"))
    assert (first.asked, second.asked, last.asked) == ([QUESTION], [QUESTION], [])


def test_all_keys_of_one_mapping_come_before_the_next():
    domain, address = Table("a", {"example.com": ONE}), Table("b", {"foo+x@example.com": TWO})
    assert run(router(domain, address).route(FOO)) == Found(Route(Row(ONE), "a", "example.com"))


def test_no_mapping_matches():
    assert run(router(Table("a", {}), Table("b", {})).route(FOO)) == NoRoute()
    assert run(router().route(FOO)) == NoRoute()


def test_a_mapping_that_fails_ends_the_look_up():
    broken, last = Table("a", {}, TryAgain("down")), Table("b", {"example.com": ONE})
    assert run(router(broken, last).route(FOO)) == TryAgain("down")
    assert last.asked == []


def test_a_failing_mapping_does_not_matter_after_a_hit():
    first, broken = Table("a", {"example.com": ONE}), Table("b", {}, TryAgain("down"))
    assert isinstance(run(router(first, broken).route(FOO)), Found)


def test_static_takes_everyone_but_nobody():
    static = StaticMapping(Row(ONE))
    assert run(router(static).route(FOO)) == Found(Route(Row(ONE), "static", KEYS[0], ""))
    postmaster = Found(Route(Row(ONE), "static", "postmaster"))
    assert run(router(static).route(Path("Postmaster"))) == postmaster
    assert run(router(static).route(NULL_PATH)) == NoRoute()


def test_postmaster_goes_by_its_word_then_by_our_domain():
    own = Table("a", {"mx.example.net": ONE})
    assert run(router(own).route(Path("Postmaster"))) == Found(
        Route(Row(ONE), "a", "mx.example.net")
    )
    both = Table("a", {"mx.example.net": ONE, "postmaster": TWO})
    assert run(router(both).route(Path("Postmaster"))) == Found(Route(Row(TWO), "a", "postmaster"))


def test_a_mapping_that_refuses_ends_the_look_up():
    refused = Refused(Reply(550, (b"5.1.1 no such user",)), 3.0)
    first, last = Table("a", {}, refused), Table("b", {"example.com": ONE})
    assert run(router(first, last).route(FOO)) == refused
    assert last.asked == []


def test_mappings_are_told_of_sender_and_client():
    table = Table("a", {})
    run(router(table).route(FOO, BOB, CLIENT))
    run(router(table).explain(FOO, BOB, CLIENT))
    assert table.asked == [Question(FOO, "+", "mx.example.net", BOB, CLIENT)] * 2


def test_static_with_percent_is_not_for_all():
    percentile = QUESTION.percentile
    shut, open_ = Row(ONE, percentile), Row(ONE, percentile + 1, TWO)
    assert run(router(StaticMapping(shut), StaticMapping(Row(TWO))).route(FOO)) == Found(
        Route(Row(TWO), "static", KEYS[0])
    )
    assert run(router(StaticMapping(shut)).route(FOO)) == NoRoute((Route(shut, "static", KEYS[0]),))
    assert run(router(StaticMapping(open_)).route(FOO)) == Found(Route(open_, "static", KEYS[0]))
    assert list(StaticMapping(open_).listed()) == [open_]


def test_a_table_is_asked_for_all_keys_at_once_and_the_first_counts():
    hits = {
        "*": Hit(Row(ONE), "t:1"),
        "example.com": Hit(Row(TWO), "t:2", 7.5, True),
        "elsewhere.test": Hit(Row(ONE), "t:3"),
    }
    table = Hits(hits)
    expected = Found(Route(Row(TWO), "a", "example.com", "t:2", 7.5, True))
    assert run(router(KeyedMapping("a", table)).route(FOO)) == expected
    assert run(router(KeyedMapping("a", table, parent_domains=True)).route(FOO)) == expected
    assert table.asked == [(*KEYS, "*"), (*KEYS, ".com", "*")]
    assert list(KeyedMapping("a", table).listed()) == [Row(ONE), Row(TWO), Row(ONE)]


def test_a_row_that_is_not_for_this_recipient_is_passed():
    percentile = QUESTION.percentile
    one, two, three = Row(ONE, percentile), Row(TWO, 0), Row(ONE, percentile + 1)
    passed = (Route(one, "a", KEYS[0], "t:1"), Route(two, "a", KEYS[1], "t:2"))
    hits = {KEYS[0]: Hit(one, "t:1"), KEYS[1]: Hit(two, "t:2")}
    assert run(router(KeyedMapping("a", Hits(hits))).route(FOO)) == NoRoute(passed)
    more = {**hits, "*": Hit(three, "t:3")}
    assert run(router(KeyedMapping("a", Hits(more))).route(FOO)) == Found(
        Route(three, "a", "*", "t:3"), passed
    )


def test_who_was_passed_is_told_even_where_a_later_mapping_knows():
    shut = KeyedMapping("a", Hits({"*": Hit(Row(ONE, 0), "t:1")}))
    explanation = run(router(shut, StaticMapping(Row(TWO))).explain(FOO))
    assert explanation.steps[0].answer == NoRoute((Route(Row(ONE, 0), "a", "*", "t:1"),))
    assert explanation.steps[0].keys == (*KEYS, "*")
    assert explanation.answer == Found(Route(Row(TWO), "static", KEYS[0]))


def test_a_table_that_cannot_say():
    assert run(router(KeyedMapping("a", Hits({}, "down"))).route(FOO)) == TryAgain("down")


def test_a_wrong_row_matters_where_no_row_before_it_counts():
    wrong, shut = Wrong("bad"), Hit(Row(ONE, 0))
    behind = KeyedMapping("a", Hits({KEYS[2]: Hit(Row(ONE)), "*": wrong}))
    assert isinstance(run(router(behind).route(FOO)), Found)
    tables: list[dict[str, Hit | Wrong]] = [
        {"*": wrong},
        {KEYS[0]: wrong, "*": Hit(Row(ONE))},
        {KEYS[0]: shut, "*": wrong},
    ]
    for hits in tables:
        mappings = KeyedMapping("a", Hits(hits)), StaticMapping(Row(TWO))
        assert run(router(*mappings).route(FOO)) == TryAgain("bad")


def test_of_a_table_that_fails_a_row_may_count_and_its_absence_says_nothing():
    row, shut = Row(ONE), Row(ONE, 0)
    found = Found(Route(row, "a", KEYS[2], stale=True), (Route(shut, "a", KEYS[0], stale=True),))
    known = {KEYS[0]: Hit(shut, stale=True), KEYS[2]: Hit(row, stale=True)}
    assert run(router(KeyedMapping("a", Hits({}, "down", known))).route(FOO)) == found
    del known[KEYS[2]]
    assert run(router(KeyedMapping("a", Hits({}, "down", known))).route(FOO)) == TryAgain("down")


def test_everyone_counts_at_100_percent_and_nobody_at_0():
    for number in range(300):
        question = Question(Path(f"user{number}", "example.com"))
        assert Row(ONE, 100).is_for(question)
        assert Row(ONE).is_for(question)
        assert not Row(ONE, 0).is_for(question)


def test_an_explanation_names_the_keys_up_to_the_one_that_matched():
    first, second = Table("a", {}), Table("b", {"foo@example.com": TWO})
    found = Found(Route(Row(TWO), "b", "foo@example.com"))
    assert run(router(first, second, StaticMapping(Row(ONE))).explain(FOO)) == Explanation(
        QUESTION, (Step("a", KEYS, NoRoute()), Step("b", KEYS[:2], found)), found
    )


def test_an_explanation_of_no_route_and_of_trouble():
    assert run(router(Table("a", {})).explain(FOO)) == Explanation(
        QUESTION, (Step("a", KEYS, NoRoute()),), NoRoute()
    )
    assert run(
        router(Table("a", {}, TryAgain("down")), StaticMapping(Row(ONE))).explain(FOO)
    ) == Explanation(QUESTION, (Step("a", KEYS, TryAgain("down")),), TryAgain("down"))


def test_upstreams_of_the_chain_once_in_order():
    mappings = (Table("a", {"x": TWO, "y": ONE, "z": TWO}), StaticMapping(Row(ONE)))
    assert router(*mappings).upstreams() == (TWO, ONE)


def test_a_listing_has_who_gets_mail_and_which_mappings_may_name_others():
    shadowed = StaticMapping(Row(TWO, 50, shadow=ONE))
    assert router(shadowed).upstreams() == (TWO, ONE)
    assert router(shadowed).listing() == Listing((TWO,))
    failing = Table("a", {"x": ONE}, TryAgain("down"))
    silent = KeyedMapping("b", Hits({}, "down"))
    assert router(failing, silent, shadowed).listing() == Listing((ONE, TWO), ("a", "b"))
