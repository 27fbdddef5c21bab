"""What an administrator may ask of the running program, through the control socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from smtpproxy.control import Command, ControlError
from smtpproxy.explain import explained, recipient_of
from smtpproxy.feed import Feed
from smtpproxy.metrics import Snapshot
from smtpproxy.networks import Networks
from smtpproxy.reload import Reloader
from smtpproxy.routing import Router
from smtpproxy.shadow_counts import ShadowCounts
from smtpproxy.tails import Tails, TooMany, Wish
from smtpproxy.upstream import Standing
from smtpproxy.upstream.standing import named


class Administration:
    """The commands, each with its answer as plain values."""

    def __init__(
        self,
        router: Callable[[], Router],
        reloader: Reloader,
        shadows: ShadowCounts,
        upstreams: Callable[[], Mapping[str, Any]],
        set_standing: Callable[[str, Standing], Mapping[str, Any]],
        metrics: Callable[[], Snapshot],
        status: Callable[[], Mapping[str, Any]],
        tails: Tails,
    ) -> None:
        """`upstreams` reports what is known of them; `set_standing` says it of one, as `Upkeep`."""
        self._router = router
        self._reloader = reloader
        self._shadows = shadows
        self._upstreams = upstreams
        self._set_standing = set_standing
        self._metrics = metrics
        self._status = status
        self._tails = tails

    def commands(self) -> dict[str, Command]:
        """By name."""
        return {
            "lookup": self.lookup,
            "metrics": self.metrics,
            "reload": self._reloader.command,
            "shadows": self.shadows,
            "status": self.status,
            "tail": self.tail,
            "upstream": self.upstream,
            "upstreams": self.upstreams,
        }

    async def lookup(self, address: str) -> Mapping[str, Any]:
        """How the running program would route, its caches included."""
        if not isinstance(address, str):
            raise ControlError("address must be a string")
        try:
            recipient = recipient_of(address)
        except ValueError as error:
            raise ControlError(f"{address!r} {error}") from None
        return explained(await self._router().explain(recipient))

    async def metrics(self) -> Mapping[str, Any]:
        """All that is counted and measured (see `smtpproxy.metrics`)."""
        return self._metrics()

    async def shadows(self) -> Mapping[str, Any]:
        """What shadows have said since the start."""
        return {"shadows": self._shadows.counts()}

    async def status(self) -> Mapping[str, Any]:
        """How the program does (see `Status`)."""
        return self._status()

    async def tail(
        self, client: str = "", recipient: str = "", upstream: str = "", redact: bool = False
    ) -> Feed:
        """The dialogues of sessions as they go on: all, or those that are wanted."""
        if not all(isinstance(each, str) for each in (client, recipient, upstream)):
            raise ControlError("client, recipient and upstream must be strings")
        try:
            networks = Networks(filter(None, client.split(",")))
            wanted = named(upstream) if upstream else ""
            return self._tails.begin(Wish(networks, recipient.lower(), wanted, bool(redact)))
        except ValueError as error:
            raise ControlError(str(error)) from None
        except TooMany:
            raise ControlError("as many look on already as may") from None

    async def upstream(self, standing: str, name: str) -> Mapping[str, Any]:
        """Enable a server or an upstream, drain it, or have it in maintenance."""
        if not isinstance(name, str):
            raise ControlError("name must be a string")
        try:
            return self._set_standing(name, Standing(standing))
        except ValueError as error:
            raise ControlError(str(error)) from None

    async def upstreams(self) -> Mapping[str, Any]:
        """What upstreams offer, and what listeners announce by it."""
        return self._upstreams()
