"""What came of it, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from soak.ledger import Fate, Ledger, Violation
from soak.samples import DESCRIPTORS, Sample, Trend

_SHOWN = 10  # violations of a kind, and numbers of the rest
_KINDS = {
    "lost": "messages lost",
    "doubled": "messages doubled",
    "altered": "messages altered",
    "invented": "messages nobody sent",
    "cut, and delivered": "cut short, delivered all the same",
    "refused, and delivered": "refused, delivered all the same",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """`trend`: under load.  `rest`: of a proxy before its first client, and of the last one after
    its last.
    """

    seconds: float
    sessions: Counter[str]
    blows: Counter[str]
    trend: Trend | None
    rest: tuple[Sample, Sample]


def judged(figures: Figures, ledger: Ledger) -> Iterator[Violation]:
    """What grew, or whether the run proves nothing."""
    if not ledger.outcomes[Fate.TAKEN]:
        yield Violation("nothing got through", "no message at all was taken")
    before, after = figures.rest
    if after.descriptors > before.descriptors + DESCRIPTORS:
        text = f"{before.descriptors} open at rest at first, {after.descriptors} at the end"
        yield Violation("descriptors grow", text)
    if figures.trend and (growth := figures.trend.growth):
        yield Violation("memory grows", growth)


def lines(figures: Figures, ledger: Ledger, violations: Sequence[Violation]) -> Iterator[str]:
    """The table."""
    rows: list[tuple[str, object]] = [("seconds", f"{figures.seconds:.0f}")]
    rows.append(("sessions", sum(figures.sessions.values())))
    rows += [(f"  that {end}", count) for end, count in sorted(figures.sessions.items())]
    outcomes = ledger.outcomes
    rows.append(("messages, for one recipient each", sum(outcomes.values())))
    rows += [(f"  {fate.value}", outcomes[fate]) for fate in Fate]
    rows.append(("found in mailboxes", ledger.copies))
    rows.append(("  delivered again by a killed server", ledger.copied_by_upstream))
    rows += sorted(figures.blows.items())
    rows.append(("in doubt, by the proxy's log", len(ledger.doubts)))
    found = Counter(each.kind for each in violations)
    rows += [(title, found.pop(kind, 0)) for kind, title in _KINDS.items()]
    rows += sorted(found.items())
    if trend := figures.trend:
        rows.append(("memory under load, first and last", _both(trend.first, trend.last, "MB")))
        rows.append(("descriptors, first and last", _both(trend.first, trend.last, "")))
    rows.append(("memory at rest, first and last", _both(*figures.rest, "MB")))
    rows.append(("descriptors at rest, first and last", _both(*figures.rest, "")))
    width = max(len(name) for name, _ in rows)
    return (f"{name:{width}}  {value:>14}" for name, value in rows)


def faults(violations: Iterable[Violation], places: Iterable[str]) -> Iterator[str]:
    """Each violation, and where to look."""
    by_kind: dict[str, list[Violation]] = {}
    for each in violations:
        by_kind.setdefault(each.kind, []).append(each)
    for kind, found in by_kind.items():
        for each in found[:_SHOWN]:
            number = "" if each.number is None else f" message {each.number}"
            yield f"FAILED: {kind}:{number} {each.text}"
        if more := [str(each.number) for each in found[_SHOWN:] if each.number is not None]:
            numbers = " ".join(more[: 5 * _SHOWN])
            yield f"FAILED: {kind}: and {len(found) - _SHOWN} more: {numbers}"
    if by_kind:
        yield "Message 17 is looked for in the logs as +17@, in a mailbox as X-Soak: 17."
        yield from (f"  {place}" for place in places)


def _both(first: Sample, last: Sample, unit: str) -> str:
    if unit:
        return f"{first.memory / 1e6:.1f} {last.memory / 1e6:.1f} {unit}"
    return f"{first.descriptors} {last.descriptors}"
