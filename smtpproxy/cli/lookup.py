"""`smtpproxy lookup`: which upstream a recipient's mail goes to, and why.

It starts fast, since scripts ask it often: no reactor and no TLS is loaded.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from smtpproxy.cli.wording import complain, server
from smtpproxy.config import config_file, load
from smtpproxy.parts import open_router
from smtpproxy.routing import Answer, Explanation, Found, NoRoute, Step, TryAgain
from smtpproxy.smtp.paths import Path, parse_path

T = TypeVar("T")

FOUND, NO_ROUTE, ERROR = 0, 1, 2


def run(options: Namespace) -> int:
    """0 for a route, 1 for none, 2 where the mappings cannot say."""
    recipient = recipient_in(options.address)
    if recipient is None:
        complain(f"{options.address!r} is no address: give user@example.com, or postmaster")
        return ERROR
    router = open_router(load(config_file(options.config, os.environ), os.environ))
    explanation = at_once(router.explain(recipient))
    if options.json:
        print(json.dumps(_as_json(explanation), indent=2))
    else:
        print("\n".join(_lines(explanation)))
    if isinstance(explanation.answer, TryAgain):
        complain(outcome(recipient, explanation.answer))
    elif not options.json:
        print(outcome(recipient, explanation.answer))
    return status(explanation.answer)


def recipient_in(text: str) -> Path | None:
    """The recipient that an administrator means; angle brackets, as in a log, may be around it."""
    text = text.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    return parse_path(text) if text else None


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, without a reactor: the mappings are in memory and wait for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise AssertionError("a look-up waits, and nothing would wake it")


def status(answer: Answer) -> int:
    """The exit status that says the same."""
    match answer:
        case Found():
            return FOUND
        case NoRoute():
            return NO_ROUTE
        case TryAgain():
            return ERROR


def outcome(recipient: Path, answer: Answer) -> str:
    """The answer in a sentence."""
    match answer:
        case Found(route):
            return f"{recipient} goes to {server(route.upstream)}"
        case NoRoute():
            return f"{recipient} has no route: refused with 550 5.7.1"
        case TryAgain(reason):
            return f"{recipient} cannot be looked up now: {reason}; told to try again, 451 4.3.0"


def _lines(explanation: Explanation) -> Iterator[str]:
    for step in explanation.steps:
        yield step.mapping
        width = max(map(len, step.keys))
        for key in step.keys:
            yield f"  {key:{width}}  {_found(step, key)}"


def _found(step: Step, key: str) -> str:
    match step.answer:
        case Found(route) if route.key == key:
            return route.place or "matches every recipient"
        case TryAgain(reason):
            return f"no answer: {reason}"
        case _:
            return "no row"


def _as_json(explanation: Explanation) -> dict[str, Any]:
    said: dict[str, Any] = {
        "address": str(explanation.recipient),
        "answer": _WORDS[type(explanation.answer)],
        "steps": [
            {"mapping": step.mapping, "keys": list(step.keys), "answer": _WORDS[type(step.answer)]}
            for step in explanation.steps
        ],
    }
    match explanation.answer:
        case Found(route):
            said["route"] = {
                "host": route.upstream.host,
                "port": route.upstream.port,
                "tls_verify": route.upstream.tls_verify,
                "mapping": route.mapping,
                "key": route.key,
                "place": route.place,
            }
        case TryAgain(reason):
            said["reason"] = reason
    return said


_WORDS: dict[type[Answer], str] = {Found: "found", NoRoute: "no_route", TryAgain: "try_again"}
