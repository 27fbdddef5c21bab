"""The chain of mappings."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import pytest

from smtpproxy.routing import (
    Answer,
    Explanation,
    Found,
    Mapping,
    NoRoute,
    Route,
    Router,
    StaticMapping,
    Step,
    TryAgain,
    Upstream,
)
from smtpproxy.smtp.paths import NULL_PATH, Path

T = TypeVar("T")

ONE, TWO = Upstream("one.test"), Upstream("two.test")
FOO = Path("foo+x", "Example.com")
KEYS = ("foo+x@example.com", "foo@example.com", "example.com")


class Table:
    """A mapping in memory; it remembers what it was asked."""

    def __init__(self, name: str, rows: dict[str, Upstream], trouble: str = "") -> None:
        self.name = name
        self.rows = rows
        self.trouble = trouble
        self.asked: list[tuple[str, ...]] = []

    async def lookup(self, keys: Sequence[str]) -> Answer:
        self.asked.append(tuple(keys))
        if self.trouble:
            return TryAgain(self.trouble)
        for key in keys:
            if key in self.rows:
                return Found(Route(self.rows[key], self.name, key))
        return NoRoute()

    def upstreams(self) -> Iterable[Upstream]:
        return self.rows.values()


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
    assert run(router(first, second, last).route(FOO)) == Found(Route(TWO, "b", "example.com"))
    assert (first.asked, second.asked, last.asked) == ([KEYS], [KEYS], [])


def test_all_keys_of_one_mapping_come_before_the_next():
    domain, address = Table("a", {"example.com": ONE}), Table("b", {"foo+x@example.com": TWO})
    assert run(router(domain, address).route(FOO)) == Found(Route(ONE, "a", "example.com"))


def test_no_mapping_matches():
    assert run(router(Table("a", {}), Table("b", {})).route(FOO)) == NoRoute()
    assert run(router().route(FOO)) == NoRoute()


def test_a_mapping_that_fails_ends_the_look_up():
    broken, last = Table("a", {}, "down"), Table("b", {"example.com": ONE})
    assert run(router(broken, last).route(FOO)) == TryAgain("down")
    assert last.asked == []


def test_a_failing_mapping_does_not_matter_after_a_hit():
    first, broken = Table("a", {"example.com": ONE}), Table("b", {}, "down")
    assert isinstance(run(router(first, broken).route(FOO)), Found)


def test_static_takes_everyone_but_nobody():
    static = StaticMapping(ONE)
    assert run(router(static).route(FOO)) == Found(Route(ONE, "static", KEYS[0], ""))
    postmaster = Found(Route(ONE, "static", "postmaster"))
    assert run(router(static).route(Path("Postmaster"))) == postmaster
    assert run(router(static).route(NULL_PATH)) == NoRoute()


def test_postmaster_goes_by_its_word_then_by_our_domain():
    own = Table("a", {"mx.example.net": ONE})
    assert run(router(own).route(Path("Postmaster"))) == Found(Route(ONE, "a", "mx.example.net"))
    both = Table("a", {"mx.example.net": ONE, "postmaster": TWO})
    assert run(router(both).route(Path("Postmaster"))) == Found(Route(TWO, "a", "postmaster"))


def test_an_explanation_names_the_keys_up_to_the_one_that_matched():
    first, second = Table("a", {}), Table("b", {"foo@example.com": TWO})
    found = Found(Route(TWO, "b", "foo@example.com"))
    assert run(router(first, second, StaticMapping(ONE)).explain(FOO)) == Explanation(
        FOO, (Step("a", KEYS, NoRoute()), Step("b", KEYS[:2], found)), found
    )


def test_an_explanation_of_no_route_and_of_trouble():
    assert run(router(Table("a", {})).explain(FOO)) == Explanation(
        FOO, (Step("a", KEYS, NoRoute()),), NoRoute()
    )
    assert run(router(Table("a", {}, "down"), StaticMapping(ONE)).explain(FOO)) == Explanation(
        FOO, (Step("a", KEYS, TryAgain("down")),), TryAgain("down")
    )


def test_upstreams_of_the_chain_once_in_order():
    mappings = (Table("a", {"x": TWO, "y": ONE, "z": TWO}), StaticMapping(ONE))
    assert router(*mappings).upstreams() == (TWO, ONE)
