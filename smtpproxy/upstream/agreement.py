"""What all upstreams can keep together: a proxy announces it before it knows which one is meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field

from smtpproxy.routing import Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.keywords import ASSUMED, CARRIED, Words, joined, offered, too_small
from smtpproxy.values import value


@value
class Said:
    """What one upstream has said, at its addresses and times.

    `unsteady` are the keywords that it offered, and lately did not.  Of one that has said nothing:
    whether it is `new`, so that its first answer is waited for, and the `reason`, if there is one.
    """

    upstream: Upstream
    extensions: Sequence[Extensions] = ()
    unsteady: Collection[str] = ()
    new: bool = False
    reason: str = ""


@value
class Agreement:
    """What is known of the upstreams that mail may go to.

    `words` are for each keyword what those that offer it can all keep.  `without` are for each
    keyword the upstreams known not to offer it, `unsteady` those that did not lately.  `unknown`
    are those not heard of yet, with the reason or "", but for the `new` ones.  `unlisted` are the
    mappings that may name others.  `size` is the smallest limit in octets, and whose it is; those
    that are `too_small` do not count.  `several`: mail may go to more than one.
    """

    words: Mapping[str, Words] = field(default_factory=dict)
    without: Mapping[str, tuple[Upstream, ...]] = field(default_factory=dict)
    unsteady: Mapping[str, tuple[Upstream, ...]] = field(default_factory=dict)
    unknown: Mapping[Upstream, str] = field(default_factory=dict)
    new: tuple[Upstream, ...] = ()
    unlisted: tuple[str, ...] = ()
    size: tuple[int, Upstream] | None = None
    too_small: Mapping[Upstream, int] = field(default_factory=dict)
    several: bool = True


def agree(heard: Iterable[Said], unlisted: tuple[str, ...]) -> Agreement:
    """What upstreams agree on."""
    all_said = list(heard)
    silent = [each for each in all_said if not each.extensions]
    words: dict[str, Words] = {}
    without: dict[str, tuple[Upstream, ...]] = {}
    unsteady: dict[str, tuple[Upstream, ...]] = {}
    for keyword in (*ASSUMED, *CARRIED):
        said: list[Words] = []
        lacking: list[Upstream] = []
        for each in all_said:
            read = [offered(keyword, extensions) for extensions in each.extensions]
            said += (it for it in read if it is not None)
            if None in read:
                lacking.append(each.upstream)
        if said:
            words[keyword] = joined(keyword, said)
        if lacking:
            without[keyword] = tuple(lacking)
        if wavering := tuple(each.upstream for each in all_said if keyword in each.unsteady):
            unsteady[keyword] = wavering
    size, small = _sizes(all_said)
    return Agreement(
        words=words,
        without=without,
        unsteady=unsteady,
        unknown={each.upstream: each.reason for each in silent if not each.new},
        new=tuple(each.upstream for each in silent if each.new),
        unlisted=unlisted,
        size=size,
        too_small=small,
        several=len({each.upstream for each in all_said}) > 1 or bool(unlisted),
    )


def _sizes(heard: Iterable[Said]) -> tuple[tuple[int, Upstream] | None, dict[Upstream, int]]:
    """The smallest limit in octets and whose it is, and those that cannot be meant."""
    least: tuple[int, Upstream] | None = None
    small: dict[Upstream, int] = {}
    for each in heard:
        for limit in (extensions.size_limit for extensions in each.extensions):
            if limit is None:
                continue
            if too_small(limit):
                small[each.upstream] = min(limit, small.get(each.upstream, limit))
            elif least is None or limit < least[0]:
                least = limit, each.upstream
    return least, small
