"""Reliability diagrams around the switch: small multiples by estimator, audits of all seeds together."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ductile.audit import entries
from ductile.report.audited import WIDEST, audited_cells, estimators
from ductile.report.canvas import Grid, panels
from ductile.report.difficulty import shown
from ductile.report.records import RunRecord
from ductile.report.text import short

MOST_CELLS = 12
"""Plans and variants whose reliability diagrams one figure has room for."""

_WHEN = {
    "before": ("#0072B2", "o", "before the switch"),
    "at": ("#D55E00", "s", "at the switch"),
    "after": ("#009E73", "^", "after the switch"),
    "start": ("#D55E00", "s", "start of the phase"),
    "end": ("#009E73", "^", "end of the phase"),
}


def reliability(grid: Grid) -> Figure | None:
    """A reliability diagram for each estimator under each plan and variant; None without audits."""
    cells = audited_cells(grid)
    names = estimators(grid)
    if not cells or not names:
        return None
    drawn = cells[:MOST_CELLS]
    columns, lines = min(WIDEST, len(names)), ceil(len(names) / WIDEST)
    figure, axes = panels(len(drawn) * lines, columns, 1.9, 1.95, sharex=True, sharey=True, legend=0.75)
    stages: list[str] = []
    for block, (plan, variant, runs) in enumerate(drawn):
        for position, name in enumerate(names):
            panel = axes[block * lines + position // columns][position % columns]
            panel.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
            for stage, points in _pooled_bins(runs, name).items():
                stages += [stage] if stage not in stages else []
                _reliability_line(panel, points, stage)
            panel.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal", title=short(name, 22))
            panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            panel.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
            if position % columns == 0:
                panel.set_ylabel(f"{short(plan, 22)}\n{short(variant, 22)}\naudited pass rate")
        for empty in range(len(names), lines * columns):
            axes[block * lines + empty // columns][empty % columns].set_axis_off()
    for column in range(columns):
        last = len(drawn) * lines - 1
        while not axes[last][column].axison:
            last -= 1
        axes[last][column].tick_params(labelbottom=True)
        axes[last][column].set_xlabel("estimate")
    if len(drawn) < len(cells):
        figure.supxlabel(f"{len(cells) - len(drawn)} more are not drawn", fontsize=8)
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=1.4, label=label)
        for stage in _WHEN
        if stage in stages
        for colour, marker, label in (_WHEN[stage],)
    ]
    handles.append(Line2D([], [], color="0.6", linestyle=":", linewidth=1, label="right estimates"))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), columns))
    return figure


def _pooled_bins(runs: Sequence[RunRecord], estimator: str) -> dict[str, Any]:
    """Stage -> [column, bin] over runs and switches: problems, completions, and sums of their estimates and rates."""
    sums: dict[str, Any] = {}
    for run in runs:
        found = entries(run.audits)
        for position, entry in enumerate(found):
            for when, stage in shown(position, len(found)).items():
                row = getattr(entry, when)
                said = row["pool"]["estimators"].get(estimator) if row is not None else None
                if said is not None and said["reliability"] is not None:
                    bins = said["reliability"]
                    n = np.asarray(bins["completions"], np.float64)
                    part = np.stack([bins["problems"], n, n * bins["estimate"], n * bins["rate"]])
                    sums[stage] = sums.get(stage, 0) + part
    return {stage: sums[stage] for stage in _WHEN if stage in sums}


def _reliability_line(panel: Axes, sums: Any, stage: str) -> None:
    """Rate against estimate, markers as large as the bin's share of the problems."""
    problems, completions, estimates, rates = sums[:, sums[1] > 0]
    colour, marker, _ = _WHEN[stage]
    x, y = estimates / completions, rates / completions
    panel.plot(x, y, color=colour, linewidth=1.1, alpha=0.8)
    panel.scatter(
        x,
        y,
        s=6 + 70 * problems / problems.sum(),
        color=colour,
        marker=marker,
        linewidth=0.4,
        edgecolor="white",
        zorder=3,
    )
