"""What the mappings say of an address, as a part of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twisted.web.template import Tag, tags

from smtpproxy.amounts import span
from smtpproxy.web.live import clipped

Said = Mapping[str, Any]

_WORDS = {
    "found": ("has a route", "good"),
    "no_route": ("no route: refused with 550 5.7.1", "bad"),
    "refused": ("refused by a mapping", "bad"),
    "try_again": ("cannot be looked up now: told to try again, 451 4.3.0", "warn"),
}


def result(said: Said) -> Tag:
    """The answer to a look-up, and how it came about."""
    words, kind = _WORDS.get(said["answer"], (said["answer"], "warn"))
    badge = tags.span(words, class_=f"badge {kind}")
    head = tags.p(badge, " ", tags.code(clipped(said["address"])))
    facts = tags.dl()
    if said["answer"] == "found":
        route = said["route"]
        for name, text in (
            ("goes to", ", ".join(route["servers"])),
            ("TLS", route["tls"]),
            ("identity", route["identity"]),
            ("percent", f"{route['percent']}: this address is number {said['percentile']}"),
            ("shadow", route["shadow"] or "none"),
        ):
            facts(tags.dt(name), tags.dd(text))
    elif "reply" in said or "reason" in said:
        facts(tags.dt("because"), tags.dd(clipped(str(said.get("reply") or said.get("reason")))))
    rows = [row for step in said["steps"] for row in _rows(step)]
    head_row = tags.tr(tags.th("mapping"), tags.th("key"), tags.th("what it says"))
    return tags.div(head, facts, tags.table(tags.thead(head_row), tags.tbody(*rows)))


def _rows(step: Said) -> Iterator[Tag]:
    """A row for each key that was tried."""
    for key in step["keys"]:
        said = [_passed(each) for each in step.get("passed", ()) if each["key"] == key]
        if "route" in step and step["route"]["key"] == key:
            said.append(_place(step["route"]))
        if not said:
            nothing = {"refused": "refused", "try_again": "no answer"}
            said = [nothing.get(step["answer"], "no row")]
        for text in said:
            yield tags.tr(
                tags.td(clipped(step["mapping"]), class_="faint"),
                tags.td(tags.code(clipped(key))),
                tags.td(clipped(text)),
            )


def _place(route: Said) -> str:
    place = str(route["place"] or "matches")
    if route["age"] is None:
        return place
    stale = ", STALE: the database fails" if route["stale"] else ""
    return f"{place}, from the cache, {span(route['age'])} old{stale}"


def _passed(route: Said) -> str:
    return f"{_place(route)}, passed over: for {route['percent']} % of the addresses"
