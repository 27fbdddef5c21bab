"""`smtpproxy upstreams`: what upstreams offer, and what listeners announce for them."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from smtpproxy.cli.asking import ask
from smtpproxy.cli.wording import (
    IDENTITY,
    counted,
    extensions,
    harmless,
    printable,
    tls_words,
    too_small,
)

ALL_HEARD, NOT_ALL_HEARD, ERROR = 0, 1, 2

PATIENCE = 10.0  # seconds

OUR_LIMIT = "limits.max_message_bytes"

Said = Mapping[str, Any]

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def run(options: Namespace) -> int:
    """0 where every upstream was heard and none is down, else 1; 2 where nobody could be asked."""
    answer = ask(options, "upstreams", PATIENCE)
    if answer is None:
        return ERROR
    if options.json:
        print(json.dumps(answer))
    else:
        for upstream in answer["upstreams"]:
            print("\n".join(map(printable, _upstream(upstream))))
        if not answer["upstreams"]:
            print("no upstream is known")
        for name, standing in answer.get("standings", {}).items():
            said = f"{standing.upper()}: {name}, which no upstream has"
            print(harmless(f"{said}; smtpproxy upstream enable {name} takes it back"))
        for listener in answer["listeners"]:
            print("\n".join(map(printable, _listener(listener))))
    return ALL_HEARD if all(map(_is_well, answer["upstreams"])) else NOT_ALL_HEARD


def _is_well(said: Said) -> bool:
    """All its addresses were heard, and none is down."""
    down = any(each["down"] for each in said["troubles"])
    return bool(said["heard"]) and not said["failed"] and not down


def _upstream(said: Said) -> Iterator[str]:
    upstream, identity = ",".join(said["servers"]), said["identity"]
    ways = tls_words(said["tls"], said["servers"])
    yield f"{harmless(upstream)} ({ways}; identity: {IDENTITY.get(identity, identity)})"
    yield from _condition(upstream, said)
    for _, group in groupby(said["heard"], key=lambda each: (each["server"], each["address"])):
        yield from _address(upstream, list(group))
    if said["too_small"] is not None:
        yield f"  SIZE {too_small(said['too_small'])}"
    for each in said["failed"]:
        reason = f"not heard {_ago(each['age'])}: {each['reason']}"
        yield f"  {_place(upstream, each)}, {harmless(reason)}"
    if (asking := said["asking"]) is not None:
        yield f"  being asked for {_time(asking)}"
    elif not (said["heard"] or said["failed"]):
        yield "  not heard of yet"


def _condition(upstream: str, said: Said) -> Iterator[str]:
    """Its connections, what an administrator said of it, and the addresses that fail."""
    if said["connections"]:
        kept = f", {said['kept']} of them kept" if said["kept"] else ""
        waiting = f", {counted(said['waiting'], 'client')} waiting" if said["waiting"] else ""
        yield f"  {counted(said['connections'], 'connection')}{kept}{waiting}"
    for name, standing in said["standings"].items():
        yield f"  {standing.upper()}: {harmless(name)}"
    for each in said["troubles"]:
        what = "DOWN" if each["down"] else "failing"
        often = f", failed {counted(each['failures'], 'time')}" if each["failures"] else ""
        since = f"for {_time(each['seconds'])}{often}"
        reason = f"{since}: {each['reason']}; asked again in {_time(each['asked_in'])}"
        yield f"  {_place(upstream, each)} {what} {harmless(reason)}"


def _address(upstream: str, heard: list[Said]) -> Iterator[str]:
    """What one address offers: in a line for both times, where it said the same."""
    latest = heard[-1]
    place = _place(upstream, latest)
    if all(each["offers"] == latest["offers"] for each in heard):
        yield f"  {place}, heard {_ago(latest['age'])}: {extensions(latest['offers'])}"
        return
    for each in heard:
        how = "by mail" if each["by_mail"] else "asked"
        yield f"  {place}, {how} {_ago(each['age'])}: {extensions(each['offers'])}"


def _place(upstream: str, said: Said) -> str:
    """The address, with its server where the upstream has more than that."""
    server, address = said["server"], said["address"]
    if not address:
        return str(server)
    return f"{server} at {address}" if server != upstream else str(address)


def _listener(said: Said) -> Iterator[str]:
    yield f"listener {said['listener']}"
    yield f"  announces {extensions(said['announces'])}"
    yield from _size(said)
    after = said["announces_after_starttls"] or ()
    if further := [each for each in after if each not in said["announces"]]:
        yield f"  after STARTTLS also {extensions(further)}"
    for keyword, why in said["withholds"].items():
        yield f"  not {keyword}: {harmless(why)}"


def _size(said: Said) -> Iterator[str]:
    """Whose limit is announced."""
    for line in said["announces"]:
        if line.startswith("SIZE "):
            upstream = said["size_of"]
            yield f"  {line}: {upstream} takes no more" if upstream else f"  {line}: {OUR_LIMIT}"


def _ago(seconds: float) -> str:
    return f"{_time(seconds)} ago"


def _time(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return counted(int(seconds // size), unit)
    return counted(max(0, round(seconds)), "second")
