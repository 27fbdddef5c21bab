"""What several workers say to one command, made one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from smtpproxy.status import merged as status

Answer = Mapping[str, Any]
Merge = Callable[[Sequence[Answer]], Answer]


def first(answers: Sequence[Answer]) -> Answer:
    """All of them say the same, or the like of it."""
    return answers[0]


def shadows(answers: Sequence[Answer]) -> Answer:
    """Each worker has asked shadows of its own sessions' recipients."""
    found: dict[str, dict[str, Any]] = {}
    for each in _all(answers, "shadows"):
        known = found.setdefault(
            each["shadow"], {**each, "asked": 0, "differed": 0, "not_asked": 0}
        )
        for count in ("asked", "differed", "not_asked"):
            known[count] += each[count]
    return {"shadows": [known for _, known in sorted(found.items())]}


def upstreams(answers: Sequence[Answer]) -> Answer:
    """Each worker has learnt for itself: of one thing, what was heard last counts."""
    found: dict[str, dict[str, Any]] = {}
    for each in _all(answers, "upstreams"):
        name = repr((each["servers"], each["tls"], each["identity"]))
        found[name] = _upstream(found[name], each) if name in found else dict(each)
    listeners: dict[str, dict[str, Any]] = {}
    for each in _all(answers, "listeners"):  # one that has just begun has not heard all as yet
        known = listeners.setdefault(each["listener"], each)
        if len(each["announces"]) > len(known["announces"]):
            listeners[each["listener"]] = each
    standings = {  # of an upstream that one worker alone knows, they are not nobody's
        name: standing
        for name, standing in answers[0].get("standings", {}).items()
        if all(name in each.get("standings", {}) for each in answers)
    }
    return {
        "upstreams": list(found.values()),
        "listeners": list(listeners.values()),
        "standings": standings,
    }


def _upstream(one: Answer, other: Answer) -> dict[str, Any]:
    merged = {**other, **one}
    for count in ("connections", "waiting", "kept"):
        merged[count] = one.get(count, 0) + other.get(count, 0)
    merged["heard"] = _latest([*one["heard"], *other["heard"]], "age")
    merged["failed"] = _latest([*one["failed"], *other["failed"]], "age")
    merged["troubles"] = _latest([*one["troubles"], *other["troubles"]], "seconds")
    merged["asking"] = one["asking"] if one["asking"] is not None else other["asking"]
    return merged


def _latest(found: Iterable[Answer], age: str) -> list[Answer]:
    """Of each address, what is the least old."""
    latest: dict[tuple[Any, ...], Answer] = {}
    for each in found:
        place = each["server"], each["address"], each.get("by_mail")
        if place not in latest or each[age] < latest[place][age]:
            latest[place] = each
    return [latest[place] for place in sorted(latest, key=repr)]


def _all(answers: Iterable[Answer], key: str) -> Iterable[dict[str, Any]]:
    return (each for answer in answers for each in answer[key])


MERGED: Mapping[str, Merge] = {
    "lookup": first,
    "shadows": shadows,
    "status": status,
    "upstream": first,
    "upstreams": upstreams,
}
