"""How an answer came about, in words: of the plain values that `explain` gives.

They may come from the running program, of this version or of another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smtpproxy.cli.wording import IDENTITY, counted, harmless, tls_words

Said = Mapping[str, Any]

_NO_ROW = {"refused": "refused", "try_again": "no answer"}


def steps(said: Said) -> Iterator[str]:
    """Each mapping that was asked, and what came of each key."""
    for step in said["steps"]:
        yield step["mapping"]
        rows = list(_rows(step))
        width = max((len(key) for key, _ in rows), default=0)
        for key, text in rows:
            yield f"  {key:{width}}  {text}"
        if "reason" in step:
            yield f"  {harmless(step['reason'])}"


def outcome(said: Said) -> str:
    """The answer in a sentence."""
    address = said["address"]
    match said["answer"]:
        case "found":
            return f"{address} goes to {_servers(said['route'])}"
        case "no_route":
            return f"{address} has no route: refused with 550 5.7.1"
        case "refused":
            after = f", after {said['wait']:g} s" if said["wait"] else ""
            return f"{address} is refused by the mapping{after}: {harmless(said['reply'])}"
        case _:
            why = harmless(said["reason"])
            return f"{address} cannot be looked up now: {why}; told to try again, 451 4.3.0"


def details(said: Said) -> Iterator[str]:
    """Of an address that has a route: how its mail gets there."""
    route = said["route"]
    yield f"  tls       {tls_words(route['tls'], route['servers'])}"
    yield f"  identity  {IDENTITY.get(route['identity'], route['identity'])}"
    if route["percent"] < 100 or any(step.get("passed") for step in said["steps"]):
        text = f"this address is number {said['percentile']} of 0 to 99"
        yield f"  percent   {route['percent']}: {text}"
    if route["shadow"]:
        yield f"  shadow    {route['shadow']}: is asked as well, and gets no mail"


def _rows(step: Said) -> Iterator[tuple[str, str]]:
    """Each key, and what there is for it; a key may have several rows."""
    nothing = _NO_ROW.get(step["answer"], "no row")
    for key in step["keys"]:
        said = [_passed(route) for route in step.get("passed", ()) if route["key"] == key]
        if "route" in step and step["route"]["key"] == key:
            said.append(_matched(step["route"]))
        for text in said or [nothing]:
            yield key, text


def _matched(route: Said) -> str:
    return f"{route['place'] or 'matches'}{_remembered(route)}"


def _passed(route: Said) -> str:
    who = f"for {route['percent']} % of the addresses, and not for this one"
    return f"{route['place'] or 'matches'}{_remembered(route)}, passed over: {who}"


def _remembered(route: Said) -> str:
    if route["age"] is None:
        return ""
    stale = ", STALE: the database fails" if route["stale"] else ""
    return f", from the cache, {counted(round(route['age']), 'second')} old{stale}"


def _servers(route: Said) -> str:
    return ",".join(route["servers"])
