"""What an administrator has said of servers: that they drain, or are in maintenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum

from smtpproxy.routing import Server, Upstream, parse_servers


class Standing(Enum):
    """What a server gets; the later ones get less."""

    ENABLED = "enabled"
    DRAIN = "drain"  # no new connection; sessions that have one go on with it
    MAINTENANCE = "maintenance"  # no new transaction either, and nobody asks how it is


_ORDER = {standing: number for number, standing in enumerate(Standing)}


class Standings:
    """What was said, by the name of a server or an upstream as rows have it, without weights.

    False where nothing was said: then all are enabled.  Nothing of it outlives the program.
    """

    def __init__(self) -> None:
        self._said: dict[str, Standing] = {}
        self._watching: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self._said)

    @property
    def said(self) -> Mapping[str, Standing]:
        return self._said

    def set(self, name: str, standing: Standing) -> None:
        """Say it of `name`, which is as `named` gives it."""
        if standing is Standing.ENABLED:
            self._said.pop(name, None)
        else:
            self._said[name] = standing
        for callback in tuple(self._watching):
            callback()

    def watch(self, callback: Callable[[], object]) -> None:
        """Have `callback` called after each change."""
        self._watching.append(callback)

    def unwatch(self, callback: Callable[[], object]) -> None:
        if callback in self._watching:
            self._watching.remove(callback)

    def of(self, upstream: Upstream, server: Server) -> Standing:
        """That of a server of `upstream`, or of a host of its MX records."""
        names = {name_of([server]), name_of(upstream.servers)}
        written = [replace(each, weight=0) for each in upstream.servers]
        if replace(server, weight=0) not in written:
            names |= {name_of([each]) for each in written if each.mx}
        said = (self._said.get(name, Standing.ENABLED) for name in names)
        return max(said, key=_ORDER.__getitem__)


def named(text: str) -> str:
    """The name of a server or an upstream that an administrator wrote; raises `ValueError`."""
    return name_of(parse_servers(text))


def name_of(servers: Sequence[Server]) -> str:
    """As rows have it, without weights."""
    return ",".join(str(replace(each, weight=0)) for each in servers)


def concerns(name: str, upstream: Upstream) -> bool:
    """Is `name` that of the upstream, or of one of its servers?"""
    return name in (name_of(upstream.servers), *(name_of([each]) for each in upstream.servers))
