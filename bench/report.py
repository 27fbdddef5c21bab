"""The page of figures: `python -m bench.report build/bench.json docs/performance.md`.

Between the two marks of the page all is written anew; the rest of it is for people to write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.figures import short, table
from bench.goals import NGINX, goals
from bench.results import DIRECT, Outcome, Results, read
from bench.workloads import MB, STAGES, WORKLOADS, Workload

FIRST = "<!-- from here on written by make bench -->\n"
LAST = "<!-- as far as here -->\n"
COLUMNS = (
    "",
    "messages/s",
    "of direct",
    "CPU \u00b5s/message",
    "of nginx",
    "session ms, 50 %",
    "99 %",
    "memory MB",
)


def lines(results: Results) -> Iterator[str]:
    """The part between the marks, in Markdown."""
    yield from _rows(("", ""), results.about.items())
    # Of a part, only those that it is about; of the whole, also what it could not measure.
    whole = all(each.name in results.workloads for each in WORKLOADS)
    shown = [goal for goal in goals(results) if whole or goal.met is not None]
    if shown:
        yield "### Goals\n"
        yield from (f"- {goal}" for goal in shown)
        yield ""
    for workload in WORKLOADS:
        if workload.name in results.workloads:
            yield f"### {workload.title[0].upper()}{workload.title[1:]} (`{workload.name}`)\n"
            yield from outcomes(results, workload)
    if results.memory:
        yield "### Memory of an idle session, in KB\n"
        names = list(dict.fromkeys(name for part in results.memory.values() for name in part))
        yield from _rows(("", *names), _memory(results, names))
    if results.flights:
        yield "### Ways to the upstream and back\n"
        yield from _rows(
            ("", "ways", "what goes together"),
            ((name, str(len(each) + 1), ", ".join(each)) for name, each in results.flights.items()),
        )
    if results.ports:
        yield "### Sessions that leave a port in TIME_WAIT at the proxy\n"
        yield from _rows(
            ("", "of all"), ((name, f"{part:.0%}") for name, part in results.ports.items())
        )
    if results.figures:
        yield "### Mappings\n"
        yield table(results.figures)


def outcomes(results: Results, workload: Workload) -> Iterator[str]:
    """One workload's table, and who is not in it."""
    direct = results.outcome(workload.name, DIRECT)
    nginx = results.outcome(workload.name, NGINX)
    columns = list(COLUMNS)
    if workload.size >= MB:
        columns[1] = "MB/s"
    rows, left_out = [], []
    for each in results.workloads[workload.name]:
        if each.lost:
            left_out.append(f"- **{each.rival}: MAIL LOST OR DAMAGED**: {each.lost}")
        elif not each.counts:
            left_out.append(f"- left out: {each.rival}: {each.trouble}")
        else:
            rows.append(_row(each, workload, direct, nginx))
    yield from _rows(columns, rows)
    yield from left_out
    if left_out:
        yield ""


def _row(
    each: Outcome, workload: Workload, direct: Outcome | None, nginx: Outcome | None
) -> Sequence[str]:
    size = workload.size / 1e6 if workload.size >= MB else 1
    proxied = each.rival != DIRECT
    return (
        each.rival,
        short(each.rate * size),
        f"{each.rate / direct.rate:.2f}" if direct and proxied else "",
        short(each.cpu) if proxied else "",
        f"{each.cpu / nginx.cpu:.2f}" if nginx and proxied else "",
        short(each.session(50) * 1000),
        short(each.session(99) * 1000),
        short(each.peak / 1e6) if proxied else "",
    )


def _memory(results: Results, names: Sequence[str]) -> Iterator[Sequence[str]]:
    for stage in STAGES:
        if sizes := results.memory.get(stage.name):
            cells = (short(sizes[name] / 1000) if name in sizes else "" for name in names)
            yield stage.title, *cells


def _rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def into(page: Path, results: Results) -> None:
    """Write the figures into the page, between its marks."""
    before, _, rest = page.read_text().partition(FIRST)
    _, found, after = rest.partition(LAST)
    if not found:
        raise ValueError(f"{page} has no two marks between which figures could stand")
    page.write_text(before + FIRST + "\n" + "\n".join(lines(results)) + LAST + after)


if __name__ == "__main__":
    from bench.plot import draw

    kept, document = read(Path(sys.argv[1])), Path(sys.argv[2])
    into(document, kept)
    draw(kept, document.with_suffix(""))
