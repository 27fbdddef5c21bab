"""What all upstreams can keep together: a proxy announces it before it knows which one is meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from smtpproxy.routing import Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.keywords import ASSUMED, CARRIED, Words, joined, offered


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is known of the upstreams that mail may go to.

    `words` are for each keyword what those that offer it can all keep.  `without` are for each
    keyword the upstreams known not to offer it.  `unknown` are those not heard of yet,
    `unlisted` the mappings that may name others.  `size` is the smallest limit in octets, and
    whose it is.  `several`: mail may go to more than one.
    """

    words: Mapping[str, Words] = field(default_factory=dict)
    without: Mapping[str, tuple[Upstream, ...]] = field(default_factory=dict)
    unknown: tuple[Upstream, ...] = ()
    unlisted: tuple[str, ...] = ()
    size: tuple[int, Upstream] | None = None
    several: bool = True


def agree(
    heard: Iterable[tuple[Upstream, Sequence[Extensions]]], unlisted: tuple[str, ...]
) -> Agreement:
    """What upstreams agree on: `heard` is what each has said, at its addresses and times."""
    keywords = (*ASSUMED, *CARRIED)
    said: dict[str, list[Words]] = {keyword: [] for keyword in keywords}
    without: dict[str, list[Upstream]] = {keyword: [] for keyword in keywords}
    unknown: list[Upstream] = []
    size: tuple[int, Upstream] | None = None
    upstreams: set[Upstream] = set()
    for upstream, all_extensions in heard:
        upstreams.add(upstream)
        if not all_extensions:
            unknown.append(upstream)
        for keyword in keywords:
            words = [offered(keyword, extensions) for extensions in all_extensions]
            said[keyword] += (each for each in words if each is not None)
            if None in words:
                without[keyword].append(upstream)
        for extensions in all_extensions:
            limit = extensions.size_limit
            if limit is not None and (size is None or limit < size[0]):
                size = limit, upstream
    return Agreement(
        words={keyword: joined(keyword, each) for keyword, each in said.items() if each},
        without={keyword: tuple(each) for keyword, each in without.items() if each},
        unknown=tuple(unknown),
        unlisted=unlisted,
        size=size,
        several=len(upstreams) > 1 or bool(unlisted),
    )
