"""How an answer of the mappings came about, as plain values: for a command, or as JSON."""

from __future__ import annotations

from typing import Any

from smtpproxy.routing import (
    Answer,
    Explanation,
    Found,
    NoRoute,
    Refused,
    Route,
    Step,
    TryAgain,
    Upstream,
)
from smtpproxy.smtp.paths import Path, parse_path

WORDS: dict[type[Answer], str] = {
    Found: "found",
    NoRoute: "no_route",
    Refused: "refused",
    TryAgain: "try_again",
}


def recipient_of(text: str) -> Path:
    """The recipient to explain; raises `ValueError` with what `text` is instead."""
    try:
        text.encode()  # a lone surrogate, as a byte that is no UTF-8 becomes one
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    recipient = parse_path(text)
    if recipient is None or recipient.null:
        raise ValueError("is no address: give user@example.com, or postmaster")
    return recipient


def explained(explanation: Explanation) -> dict[str, Any]:
    """All of it: the address, its percentile, each mapping asked, and the answer."""
    return {
        "address": str(explanation.question.recipient),
        "percentile": explanation.question.percentile,
        "steps": [_step(step) for step in explanation.steps],
        **_answer(explanation.answer),
    }


def _step(step: Step) -> dict[str, Any]:
    return {"mapping": step.mapping, "keys": list(step.keys), **_answer(step.answer)}


def _answer(answer: Answer) -> dict[str, Any]:
    said: dict[str, Any] = {"answer": WORDS[type(answer)]}
    match answer:
        case Found(route, passed):
            said |= {"route": _route(route), "passed": [_route(each) for each in passed]}
        case NoRoute(passed):
            said["passed"] = [_route(each) for each in passed]
        case Refused(reply, wait):
            said |= {"reply": str(reply), "wait": wait}
        case TryAgain(reason):
            said["reason"] = reason
    return said


def _route(route: Route) -> dict[str, Any]:
    return {
        "mapping": route.mapping,
        "key": route.key,
        "place": route.place,
        **_upstream(route.upstream),
        "percent": route.row.percent,
        "shadow": str(route.row.shadow) if route.row.shadow else None,
        "age": route.age,
        "stale": route.stale,
    }


def _upstream(upstream: Upstream) -> dict[str, Any]:
    return {
        "servers": [str(server) for server in upstream.servers],
        "tls": upstream.tls.value,
        "identity": upstream.identity.value,
    }
