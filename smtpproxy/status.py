"""How the running program does, as plain values: for a command, a page, and probes.

What is known of upstreams is told by the command `upstreams`; here is all the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from smtpproxy import __version__
from smtpproxy.generation import Generation
from smtpproxy.lasting import Lasting
from smtpproxy.listener.view import View
from smtpproxy.logs.words import tls
from smtpproxy.opening import Opened
from smtpproxy.recent import COUNTED, MOST_REFUSALS
from smtpproxy.reload import Outcome

MOST_SESSIONS = 200  # that are told of each by itself
MOST_LINES = 20  # of what became of a reload

Answer = Mapping[str, Any]


class Status:
    """Gathers it, when it is asked for."""

    def __init__(self, lasting: Lasting, generation: Callable[[], Generation]) -> None:
        """`generation` gives the one that serves."""
        self.serving = False  # clients are let in
        self.stopping = False
        self._lasting = lasting
        self._generation = generation
        self._began = lasting.deadlines.seconds()
        self._reload: dict[str, Any] | None = None

    def reloaded(self, outcome: Outcome) -> None:
        """Something was read anew, or could not be."""
        self._reload = last_reload(outcome)

    def report(self) -> dict[str, Any]:
        """All of it.  `time` is in seconds since 1970, everything else in seconds."""
        generation, lasting = self._generation(), self._lasting
        listening = [_endpoint(*each) for each in lasting.listening]
        return {
            "version": __version__,
            "domain": generation.config.domain,
            "time": time.time(),
            "uptime": lasting.deadlines.seconds() - self._began,
            "processes": [os.getpid()],
            "ready": self.serving and bool(listening) and not self.stopping,
            "stopping": self.stopping,
            "listening": listening,
            "sessions": self._sessions(generation),
            "rates": lasting.recent.rates(),
            "refusals": lasting.recent.refusals(),
            "servers": lasting.recent.servers(),
            "configuration": {
                "generation": generation.number,
                "age": lasting.deadlines.seconds() - generation.since,
                "reload": self._reload,
            },
            "mappings": [
                _mapping(each, generation.parts.chain.failing)
                for each in generation.parts.chain.opened
            ],
            "warnings": list(map(str, generation.parts.warnings)),
        }

    def _sessions(self, generation: Generation) -> dict[str, Any]:
        sessions = self._lasting.sessions
        return {
            "count": len(sessions),
            "most": sessions.visitors.limits.total,
            "earlier": max(0, len(sessions) - generation.running),
            "list": [_session(each) for each in sessions.views(MOST_SESSIONS)],
        }


def last_reload(outcome: Outcome) -> dict[str, Any]:
    """What became of a reload just now."""
    told = outcome.told()
    return {**told, "lines": told["lines"][:MOST_LINES], "time": time.time()}


def _session(view: View) -> dict[str, Any]:
    return {
        "session": view.session,
        "client": str(view.client),
        "helo": view.client.helo,
        "tls": tls(view.tls),
        "stage": view.stage,
        "age": view.age,
        "transactions": view.transactions,
        "upstreams": list(view.servers),
    }


def _mapping(opened: Opened, failing: Iterable[str]) -> dict[str, Any]:
    file = opened.file
    return {
        "mapping": opened.mapping.name,
        "place": opened.place,
        "rows": len(opened.mapping.table) if file is not None else None,
        "generation": file.generation if file is not None else None,
        "age": time.time() - file.since if file is not None else None,
        "trouble": file.trouble if file is not None else "",
        "failing": opened.place in failing,
    }


def _endpoint(host: str, port: int) -> str:
    if host.startswith("/"):
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def merged(answers: Sequence[Answer]) -> dict[str, Any]:
    """What several processes of one program report, as one report."""
    latest = max(answers, key=lambda each: float(each["configuration"]["generation"]))
    return {
        **latest,
        "uptime": max(each["uptime"] for each in answers),
        "processes": [pid for each in answers for pid in each["processes"]],
        "ready": all(each["ready"] for each in answers),
        "stopping": any(each["stopping"] for each in answers),
        "sessions": _all_sessions([each["sessions"] for each in answers]),
        "rates": {name: _added([each["rates"][name] for each in answers]) for name in COUNTED},
        "refusals": sorted(
            (each for answer in answers for each in answer["refusals"]),
            key=lambda each: -float(each["time"]),
        )[:MOST_REFUSALS],
        "servers": _all_servers([each["servers"] for each in answers]),
        "mappings": _all_mappings([each["mappings"] for each in answers]),
        "warnings": list(dict.fromkeys(text for each in answers for text in each["warnings"])),
    }


def _added(counts: Sequence[Sequence[int]]) -> list[int]:
    return [sum(minute) for minute in zip(*counts, strict=True)]


def _all_sessions(sessions: Sequence[Answer]) -> dict[str, Any]:
    every = [each for some in sessions for each in some["list"]]
    every.sort(key=lambda each: -float(each["age"]))
    half = MOST_SESSIONS // 2
    return {
        "count": sum(each["count"] for each in sessions),
        "most": sum(each["most"] for each in sessions),
        "earlier": sum(each["earlier"] for each in sessions),
        "list": every if len(every) <= MOST_SESSIONS else [*every[:half], *every[-half:]],
    }


def _all_servers(answers: Sequence[Answer]) -> dict[str, Any]:
    """Means are weighted by the messages that they are made of."""
    found: dict[str, dict[str, Any]] = {}
    for server, said in ((name, it) for answer in answers for name, it in answer.items()):
        if (known := found.get(server)) is None:
            found[server] = dict(said)
            continue
        messages = known["messages"] + said["messages"]
        for mean in ("final", "connect"):
            known[mean] += (said[mean] - known[mean]) * said["messages"] / messages
        if said["age"] < known["age"]:
            known.update(age=said["age"], tls=said["tls"])
        known["messages"] = messages
    return found


def _all_mappings(answers: Sequence[Sequence[Answer]]) -> list[Answer]:
    """Of each, what one process says: that with the worst trouble, else the last to read it."""
    found: dict[tuple[str, str], Answer] = {}
    for each in (mapping for answer in answers for mapping in answer):
        key = each["mapping"], each["place"]
        known = found.get(key)
        if known is None or _trouble(each) > _trouble(known):
            found[key] = each
    return list(found.values())


def _trouble(mapping: Answer) -> tuple[bool, bool, float]:
    return bool(mapping["failing"]), bool(mapping["trouble"]), -float(mapping["age"] or 0.0)
