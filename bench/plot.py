"""The picture beside the tables: processor time of a message, and messages a second."""

from __future__ import annotations

from pathlib import Path

from bench.results import DIRECT, OURS, Results
from bench.workloads import WORKLOADS

COLOURS = {
    DIRECT: "#bbbbbb",
    "HAProxy tcp": "#9467bd",
    "nginx": "#2ca02c",
    "Haraka smtp_proxy": "#8c564b",
    "aiosmtpd relay": "#e0a030",
    OURS: "#1f5fb4",
}


def draw(results: Results, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg; nothing, where there is no matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "smtpproxy"  # the same figures, the same file
    from matplotlib import pyplot

    shown = [each for each in WORKLOADS if each.name in results.workloads and not each.variants]
    figure, panels = pyplot.subplots(1, 2, figsize=(12, 1 + 0.75 * len(shown)), sharey=True)
    panels[0].set_xlabel("processor time of a message, \u00b5s (less is better)")
    panels[1].set_xlabel("messages a second (more is better)")
    height = 0.8 / len(COLOURS)
    for place, (rival, colour) in enumerate(COLOURS.items()):
        for panel, measure in zip(panels, ("cpu", "rate"), strict=True):
            points = [
                (line + (place - len(COLOURS) / 2) * height, getattr(outcome, measure))
                for line, workload in enumerate(shown)
                if (outcome := results.outcome(workload.name, rival))
                and (rival != DIRECT or measure == "rate")
            ]
            if points:
                lines, values = zip(*points, strict=True)
                panel.barh(lines, values, height, color=colour, label=rival, align="edge")
    for panel in panels:
        panel.set_xscale("log")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(shown)), [each.name for each in shown])
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="upper center", ncols=len(COLOURS))
    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for file in files:
        date = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, dpi=110, metadata=date)
    pyplot.close(figure)
    return files
