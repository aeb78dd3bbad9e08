"""The figure of pruning: pass rate and loss against data size, one line a rule, and where easy and hard cross."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.lines import Line2D

from ductile.report.canvas import COLOURS, LINES, STYLE, mean_line, panels

ORDER = ("easy", "middle", "hard", "offset", "random", "all")
METRICS = {"passed": "pass rate on held-out problems", "loss": "held-out loss, nats a token"}
DPI = 130


def draw_pruning(document: Mapping[str, Any], path: Path) -> Path:
    """Write the figure of what `jobs.prune` found; returns its path. Bands: 95% t intervals over seeds."""
    rows = document["rows"]
    fractions = sorted({row["fraction"] for row in rows if row["rule"] != "all"}, reverse=True)
    rules = [rule for rule in ORDER if any(row["rule"] == rule for row in rows)]
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(METRICS), len(fractions), 3.6, 2.6, sharex=True, sharey="row")
        for across, fraction in enumerate(fractions):
            for down, (metric, label) in enumerate(METRICS.items()):
                panel = axes[down, across]
                for rule in rules:
                    share = 1.0 if rule == "all" else fraction
                    runs = {
                        seed: sorted(
                            (row["size"], row[metric])
                            for row in rows
                            if (row["rule"], row["fraction"], row["seed"]) == (rule, share, seed)
                        )
                        for seed in sorted({row["seed"] for row in rows})
                    }
                    mean_line(panel, [tuple(run) for run in runs.values() if run], metric == "passed", **_style(rule))
                _mark_crossing(panel, document, fraction, metric)
                panel.set_xscale("log", base=2)
                panel.set_xticks(sorted({row["size"] for row in rows}), minor=False)
                panel.xaxis.set_major_formatter("{x:.0f}")
                if metric == "loss":
                    panel.set_yscale("log")
                    panel.set_xlabel("data size before pruning")
                else:
                    panel.set_title(f"{fraction:.0%} kept")
                if not across:
                    panel.set_ylabel(label)
        handles = [Line2D([], [], linewidth=1.8, label=rule, **_style(rule)) for rule in rules]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=2.8)
        figure.savefig(path, dpi=DPI)
    return path


def _style(rule: str) -> dict[str, Any]:
    """A rule keeps its style, whichever others are drawn."""
    number = ORDER.index(rule)
    return {"color": COLOURS[number], "linestyle": LINES[number % len(LINES)]}


def _mark_crossing(panel: Any, document: Mapping[str, Any], fraction: float, metric: str) -> None:
    """A dotted line at the crossing, a grey band over its t interval."""
    for found in document["crossings"]:
        if (found["fraction"], found["metric"]) == (fraction, metric) and found["size"] is not None:
            panel.axvline(found["size"], color="#555555", linestyle=":", linewidth=1.0)
            if found["low"] is not None:
                panel.axvspan(found["low"], found["high"], color="#555555", alpha=0.12, linewidth=0)
