"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from smtpproxy.events import Event
from smtpproxy.metrics import Counts, Snapshot, exposition
from smtpproxy.metrics.families import FAMILIES
from smtpproxy.metrics.snapshot import Sheet

Told = dict[str, float]


def told(snapshot: Snapshot) -> Told:
    """Each sample's value, by name and labels: `smtpproxy_sessions_total listener=:25`."""
    return parsed(exposition(snapshot).decode())


def parsed(text: str) -> Told:
    """The same of the text; what is not as the table has it is wrong."""
    found: Told = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        known = FAMILIES[name]
        assert (family.type, family.documentation) == (known.kind, known.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(known.labels)
            words = [f"{label}={value}" for label, value in sample.labels.items()]
            key = " ".join([sample.name.removeprefix("smtpproxy_"), *words])
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def counted(events: Iterable[Event], process: str = "1", listeners: Iterable[str] = ()) -> Snapshot:
    """What is counted of these events."""
    counts = Counts()
    for event in events:
        counts(event)
    sheet = Sheet()
    counts.tell(sheet, listeners)
    return sheet.snapshot(process)
