"""`smtpproxy status`: how the running program does, on a terminal."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smtpproxy.amounts import octets, short, span
from smtpproxy.cli.asking import ask
from smtpproxy.cli.wording import counted, harmless, printable

WELL, NOT_WELL, ERROR = 0, 1, 2

PATIENCE = 10.0  # seconds
MOST = 20  # sessions and refusals that are printed

Said = Mapping[str, Any]

_LEVELS = "▁▂▃▄▅▆▇█"
_RATES = (
    ("sessions", "sessions", short),
    ("messages", "messages", short),
    ("bytes", "octets", octets),
    ("refused_4xx", "refused 4xx", short),
    ("refused_5xx", "refused 5xx", short),
)


def run(options: Namespace) -> int:
    """0 where clients are let in and no upstream is down, else 1; 2 where nobody was asked."""
    said = ask(options, "status", PATIENCE)
    upstreams = ask(options, "upstreams", PATIENCE) if said is not None else None
    if said is None or upstreams is None:
        return ERROR
    if options.json:
        print(json.dumps({**said, **upstreams}))
    else:
        for line in _lines(said, upstreams["upstreams"]):
            print(printable(line))
    down = any(each["down"] for it in upstreams["upstreams"] for each in it["troubles"])
    return WELL if said["ready"] and not down else NOT_WELL


def _lines(said: Said, upstreams: Sequence[Said]) -> Iterator[str]:
    state = "stopping" if said["stopping"] else "ready" if said["ready"] else "NOT LISTENING"
    workers = len(said["processes"])
    several = f", {workers} workers" if workers > 1 else ""
    program = f"smtpproxy {said['version']}"
    yield f"{said['domain']} {state}: {program}, up {span(said['uptime'])}{several}"
    yield f"  listening on {', '.join(said['listening']) or 'nothing'}"
    configuration = said["configuration"]
    yield f"  configuration {configuration['generation']}, for {span(configuration['age'])}"
    for warning in said["warnings"]:
        yield f"  warning: {harmless(warning)}"
    reload = configuration["reload"]
    if reload is not None and not reload["taken"]:
        yield "  what was read last was NOT TAKEN:"
        yield from (f"    {harmless(line)}" for line in reload["lines"])
    yield "the last hour"
    for name, words, written in _RATES:
        counts = said["rates"][name]
        yield f"  {words:12} {written(sum(counts)):>8}  {_bars(counts)}"
    yield "upstreams"
    yield from (f"  {harmless(line)}" for each in upstreams for line in _upstream(each, said))
    yield "mappings"
    yield from (f"  {harmless(_mapping(each))}" for each in said["mappings"])
    yield from _sessions(said["sessions"])
    yield "last refusals" if said["refusals"] else "no refusals"
    yield from (f"  {harmless(_refusal(each, said['time']))}" for each in said["refusals"][:MOST])


def _upstream(upstream: Said, said: Said) -> Iterator[str]:
    words = [f"{','.join(upstream['servers'])}: {counted(upstream['connections'], 'connection')}"]
    names = {*upstream["servers"], *(each["server"] for each in upstream["heard"])}
    served = [said["servers"][name] for name in sorted(names) if name in said["servers"]]
    if served:
        latest = min(served, key=lambda each: float(each["age"]))
        words.append(f"{counted(sum(each['messages'] for each in served), 'message')}")
        words.append(f"answers in {span(latest['final'])}")
        words.append(f"TLS {latest['tls']}")
    words += [f"{standing.upper()}: {name}" for name, standing in upstream["standings"].items()]
    yield ", ".join(words)
    for each in upstream["troubles"]:
        state = "DOWN" if each["down"] else "failing"
        place = f"{each['server']} {each['address']}".rstrip()
        yield f"  {state} for {span(each['seconds'])}: {place}: {each['reason']}"
    told = {(each["server"], each["address"]) for each in upstream["troubles"]}
    for each in upstream["failed"]:
        if (each["server"], each["address"]) not in told:
            place = f"{each['server']} {each['address']}".rstrip()
            yield f"  not heard {span(each['age'])} ago: {place}: {each['reason']}"


def _mapping(said: Said) -> str:
    words = [said["mapping"]]
    if said["rows"] is not None:
        words.append(counted(said["rows"], "row"))
        words.append(f"generation {said['generation']}, for {span(said['age'])}")
    if said["failing"]:
        words.append("FAILS")
    if said["trouble"]:
        words.append(f"what it says now is NOT TAKEN: {said['trouble']}")
    return ", ".join(words)


def _sessions(said: Said) -> Iterator[str]:
    earlier = f", {said['earlier']} of earlier configurations" if said["earlier"] else ""
    yield f"sessions: {said['count']} of {said['most']}{earlier}"
    every = sorted(said["list"], key=lambda each: -float(each["age"]))
    for each in every[:MOST]:
        upstreams = f", {', '.join(each['upstreams'])}" if each["upstreams"] else ""
        age, stage = span(each["age"]), each["stage"]
        yield harmless(f"  {each['session']}  {age:>7}  {each['client']}, {stage}{upstreams}")
    if said["count"] > len(every[:MOST]):
        yield f"  and {said['count'] - len(every[:MOST])} more"


def _refusal(said: Said, now: float) -> str:
    whom = "".join(f" to=<{each}>" for each in said["to"][:3])
    sender = f" from=<{said['from']}>" if "from" in said else ""
    who = "".join(f" {name}={said[name]}" for name in ("by", "upstream") if said.get(name))
    error = f" ({said['error']})" if said.get("error") else ""
    ago = f"{span(now - said['time'])} ago"
    what = f"{said['client']} {said['stage']}{sender}{whom}: {said['reply']}"
    return f"{ago:>11}  {what},{who}{error}"


def _bars(counts: Sequence[int]) -> str:
    """A character for each minute; nothing is a dot."""
    most = max(counts, default=0)
    last = len(_LEVELS) - 1
    return "".join(_LEVELS[round(last * count / most)] if count else "." for count in counts)
