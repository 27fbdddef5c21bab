"""What the listeners announce, as it is learnt from the upstreams; and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from smtpproxy.config import Config, Listener
from smtpproxy.deadlines import Deadlines
from smtpproxy.listener import Offer
from smtpproxy.routing import Router, Upstream
from smtpproxy.smtp.keywords import LEAST_SIZE, Wishes
from smtpproxy.upstream import Agreement, Learnt
from smtpproxy.upstream.learnt import Known


class Announcing:
    """The offers of all listeners, in their order, and in step with what is known of upstreams."""

    def __init__(
        self,
        config: Config,
        router: Router,
        learnt: Learnt,
        deadlines: Deadlines,
        note: Callable[[bool, str], object],
        before: Announcing | None = None,
    ) -> None:
        """`note` is given a line for each change of what a listener announces.

        And whether all is well: not where an upstream says what cannot be meant.  Listeners begin
        with what those of the same name announced `before`.
        """
        self._learnt = learnt
        self._listeners = [str(each.listen) for each in config.listeners]
        others = dict(before._named()) if before else {}
        self.offers = [
            offer(config, each, others.get(name))
            for each, name in zip(config.listeners, self._listeners, strict=True)
        ]
        self._router = router
        self._deadlines = deadlines
        self._note = note
        self._too_small: Mapping[Upstream, int] = before._too_small if before else {}

    def refresh(self) -> None:
        """Learn from the mappings which upstreams there are now."""
        self._learnt.follow(self._router.listing())

    def report(self, more: Callable[[Upstream], Mapping[str, Any]]) -> dict[str, Any]:
        """All of it, as plain values, with `more` of each upstream.

        Times are in seconds before now.
        """
        now = self._deadlines.seconds()
        return {
            "upstreams": [
                {
                    **_upstream(each, known, now),
                    "too_small": self._too_small.get(each),
                    **more(each),
                }
                for each, known in self._learnt.all()
            ],
            "listeners": [_listener(*each) for each in self._named()],
        }

    def follow(self, agreement: Agreement) -> None:
        """Announce what upstreams agree on from now on."""
        for upstream, size in agreement.too_small.items():
            if self._too_small.get(upstream) != size:
                least = f"RFC 5321 has every server take {LEAST_SIZE}"
                self._note(False, f"{upstream} announces SIZE {size}, listeners do not: {least}")
        self._too_small = agreement.too_small
        for listener, offer in self._named():
            for change in offer.follow(agreement):
                self._note(True, f"{listener} {change}")

    def _named(self) -> Iterator[tuple[str, Offer]]:
        return zip(self._listeners, self.offers, strict=True)


def offer(config: Config, listener: Listener, before: Offer | None = None) -> Offer:
    """What a listener may announce by its settings, and what one did `before`."""
    return Offer(
        max_message_bytes=config.limits.max_message_bytes,
        max_recipients=config.limits.max_recipients,
        starttls=bool(listener.tls_cert),
        lmtp=listener.protocol == "lmtp",
        wishes=Wishes.of(listener.extensions),
        before=before,
    )


def _upstream(upstream: Upstream, known: Known, now: float) -> dict[str, Any]:
    return {
        "servers": list(map(str, upstream.servers)),
        "tls": upstream.tls.value,
        "identity": upstream.identity.value,
        "asking": now - known.asked_at if known.asking and known.asked_at is not None else None,
        "heard": list(_heard(known, now)),
        "failed": [
            {
                "server": str(each.server),
                "address": each.address,
                "reason": each.reason,
                "age": now - each.at,
            }
            for each in known.failures.values()
        ],
    }


def _heard(known: Known, now: float) -> Iterator[dict[str, Any]]:
    for each in sorted(known.heard.values(), key=lambda it: (str(it.server), it.address, it.at)):
        yield {
            "server": str(each.server),
            "address": each.address,
            "by_mail": each.by_mail,
            "age": now - each.at,
            "offers": each.extensions.lines(),
        }


def _listener(name: str, offer: Offer) -> dict[str, Any]:
    return {
        "listener": name,
        "announces": offer(False).lines(),
        "announces_after_starttls": offer(True).lines() if "STARTTLS" in offer(False) else None,
        "size_of": str(offer.size_of) if offer.size_of else None,
        "withholds": offer.withheld(),
    }
