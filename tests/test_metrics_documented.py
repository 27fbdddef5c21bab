"""docs/metrics.md, the alerts and the dashboard know the metrics that there are, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from smtpproxy.metrics.counts import MOST_NAMES, PHASES
from smtpproxy.metrics.families import FAMILIES
from tests.support.layers import ROOT

DOCUMENT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(smtpproxy_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", re.MULTILINE)
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "contrib/prometheus/smtpproxy.rules.yml").read_text())[
        "groups"
    ]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "contrib/grafana/smtpproxy.json").read_text())
PANELS = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
TARGETS = [(panel["title"], each) for panel in PANELS for each in panel["targets"]]

# What Prometheus itself has: labels of whoever is asked, a metric, and its language.
GIVEN = {"instance", "job"}
UP = {"up": GIVEN}
WORDS = {"by", "without", "on", "or", "and", "sum", "min", "max", "count", "rate", "increase"}
WORDS |= {"histogram_quantile", "time", "m", "h"}


def test_the_page_has_every_metric_with_its_type_and_labels():
    rows = ROW.findall(DOCUMENT)
    assert len(rows) == DOCUMENT.count("| `smtpproxy_")
    written = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows
    }
    assert list(written) == list(FAMILIES)
    assert written == {name: (each.kind, each.labels) for name, each in FAMILIES.items()}


def test_the_page_tells_how_many_upstreams_have_a_name_and_all_phases():
    assert f"The first {MOST_NAMES} have their own name" in DOCUMENT
    (phases,) = re.findall(r"^\| `phase` \| (.*) \|$", DOCUMENT, re.MULTILINE)
    assert [each for each in re.findall(r"`(\w+)`", phases) if each.islower()] == list(PHASES)


@pytest.mark.parametrize("place", re.findall(r"\]\(([^)#]+)[^)]*\)", DOCUMENT))
def test_what_the_page_points_at_is_there(place):
    assert (ROOT / "docs" / place).exists()


# PromQL


def labels_of(expression: str) -> dict[str, set[str]]:
    """The metrics that an expression uses, each with the labels that it has."""
    found: dict[str, set[str]] = {}
    for name in re.findall(r"\bsmtpproxy_\w+", expression):
        family = FAMILIES.get(name)
        if family is None:
            family = FAMILIES[re.sub(r"_(bucket|sum|count)$", "", name)]
            assert family.kind == "histogram", name
            found[name] = {*family.labels, *GIVEN, *["le"] * name.endswith("_bucket")}
        else:
            assert family.kind != "histogram", name
            found[name] = {*family.labels, *GIVEN}
    return found or UP


def check(expression: str) -> set[str]:
    """All labels that its metrics have; raises where it uses what there is not."""
    known = labels_of(expression)
    for name, matchers in re.findall(r"\b(\w+)\s*\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known[name], expression
    everything = set().union(*known.values())
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", expression)
    for labels in re.findall(r"\b(?:by|without|on)\s*\(([^)]*)\)", bare):
        assert set(re.findall(r"\w+", labels)) <= everything, expression
    words = set(re.findall(r"\b[a-z_]+\b", bare))
    assert words <= everything | set(known) | WORDS, expression
    counters = [name for name in known if name.endswith(("_total", "_bucket", "_sum", "_count"))]
    for name in counters:  # they mean nothing by themselves
        assert re.search(rf"(rate|increase)\s*\(\s*{name}\b", expression), expression
    return everything


def shown_labels(text: str) -> set[str]:
    return set(re.findall(r"\$labels\.(\w+)", text)) | set(re.findall(r"\{\{(\w+)\}\}", text))


def kept(expression: str) -> set[str] | None:
    """The labels that are left behind the outermost aggregation; None where it has none."""
    match = re.match(r"\s*(?:histogram_quantile\([\d.]+,\s*)?(?:sum|max|min|count)\s*", expression)
    if not match:
        return None
    by = re.match(r"by\s*\(([^)]*)\)", expression[match.end() :])
    if by:
        return set(re.findall(r"\w+", by[1])) - {"le"}
    without = re.match(r"without", expression[match.end() :])
    return None if without else set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_use_what_there_is(rule):
    labels = check(rule["expr"])
    summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
    dropped = re.findall(r"without\s*\(([^)]*)\)", rule["expr"])
    gone = {label for each in dropped for label in re.findall(r"\w+", each)}
    assert shown_labels(summary + description) <= labels - gone
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert "\n" not in summary.strip()
    assert len(description) > 60


WANTED = {
    "an upstream is down": "smtpproxy_upstream_down",
    "the 5xx guard has tripped": "smtpproxy_guard_tripped",
    "messages are in doubt": "smtpproxy_in_doubt_total",
    "a reload was not taken": "smtpproxy_reload_last_taken",
    "a certificate expires": "smtpproxy_certificate_expiry_time_seconds",
    "look-ups fail": "smtpproxy_lookups_total",
    "no descriptors are left": "smtpproxy_open_descriptors",
    "log lines are lost": "smtpproxy_log_lines_lost_total",
    "all sessions are taken": "smtpproxy_sessions_live",
    "a worker is missing": "smtpproxy_workers",
}


@pytest.mark.parametrize("metric", WANTED.values(), ids=WANTED)
def test_there_is_an_alert(metric):
    assert any(metric in labels_of(rule["expr"]) for rule in RULES)


def test_alerts_have_names_of_their_own():
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=lambda it: it if type(it) is str else "")
def test_panels_use_what_there_is(title, target):
    expression = target["expr"]
    labels = check(expression)
    assert expression.count("smtpproxy_") == expression.count('instance=~"$instance"')
    left = kept(expression)
    assert shown_labels(target["legendFormat"]) <= (labels if left is None else left)


def test_the_dashboard_holds_together():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == variables
    (query,) = [
        each["query"]["query"]
        for each in DASHBOARD["templating"]["list"]
        if each["type"] == "query"
    ]
    assert labels_of(query) == {"smtpproxy_build_info": {"version", *GIVEN}}


def test_panels_lie_beside_each_other():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = set(cells_of(at["x"], at["y"], at["w"], at["h"]))
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def cells_of(x: int, y: int, wide: int, high: int) -> Iterator[tuple[int, int]]:
    return ((x + i, y + j) for i in range(wide) for j in range(high))


QUERIES = re.findall(r"^```\n((?:sum|histogram_quantile)[^`]*)^```", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("query", QUERIES)
def test_the_questions_of_the_page_use_what_there_is(query):
    check(query)


def test_there_are_questions_on_the_page():
    assert len(QUERIES) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        "smtpproxy_sesions_live",
        "smtpproxy_sessions_live{upstream='x'}",
        "sum by (upstream) (smtpproxy_sessions_live)",
        "sum(smtpproxy_transactions_total)",
        "rate(smtpproxy_phase_seconds[5m])",
        "smtpproxy_sessions_live_bucket",
    ],
)
def test_what_there_is_not_is_seen(wrong):
    with pytest.raises((AssertionError, KeyError)):
        check(wrong)
