"""Figures of the audits: reliability diagrams around the switch, problems by difficulty, and estimates over steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ductile.audit import Row, entries, phase_drifts
from ductile.report.canvas import COLOURS, LINES, MARKERS, Grid, mean_line, panels
from ductile.report.difficulty import shown
from ductile.report.records import RunRecord, Series
from ductile.report.text import short

Cell = tuple[str, str, list[RunRecord]]
"""Plan, variant, and their audited runs, by seed."""

WIDEST = 5
"""Panels side by side."""
MOST_CELLS = 12
"""Plans and variants whose reliability diagrams one figure has room for."""

_WHEN = {
    "before": ("#0072B2", "o", "before the switch"),
    "at": ("#D55E00", "s", "at the switch"),
    "after": ("#009E73", "^", "after the switch"),
    "start": ("#D55E00", "s", "start of the phase"),
    "end": ("#009E73", "^", "end of the phase"),
}
_SWITCH: dict[str, Any] = {"color": "0.15", "linewidth": 1.1, "linestyle": (0, (4, 2))}
_SIDES = (("#E69F00", "below (hard)"), ("#009E73", "in the band"), ("#56B4E9", "above (easy)"))


def reliability(grid: Grid) -> Figure | None:
    """A reliability diagram for each estimator under each plan and variant; None without audits."""
    cells = _cells(grid)
    names = _estimators(grid)
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


def band_shares(grid: Grid) -> Figure | None:
    """Shares of the audited problems below, in and above the band, by variant and plan; None without audits."""
    cells = _cells(grid)
    if not cells:
        return None
    figure, axes = _by_plan_and_variant(cells, 3.2, 1.7, "share of problems")
    for runs, panel in axes:
        for steps, shares in _mean_shares(runs):
            panel.stackplot(steps, shares, colors=[colour for colour, _ in _SIDES], linewidth=0, alpha=0.9)
        panel.grid(False)
        panel.set_ylim(0, 1)
    _legend(figure, cells, [Patch(color=colour, label=label) for colour, label in _SIDES])
    return figure


def brier_over_steps(grid: Grid) -> Figure | None:
    """Squared error of each estimator over steps, by variant and plan; None without audits."""
    return _over_steps(grid, "brier", "Brier, noise\ntaken out")


def age_over_steps(grid: Grid) -> Figure | None:
    """Mean age of each estimator's estimates over steps, by variant and plan; None without audits."""
    return _over_steps(grid, "age", "age, steps")


def _over_steps(grid: Grid, result: str, label: str) -> Figure | None:
    cells, names = _cells(grid), _estimators(grid)
    if not cells or not names:
        return None
    figure, axes = _by_plan_and_variant(cells, 3.2, 1.8, label)
    for runs, panel in axes:
        for name in names:
            for series in _by_phase(runs, name, result):
                mean_line(panel, series, False, band=len(names) <= WIDEST, **_style(names.index(name)))
    for _, panel in axes:
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
    _legend(figure, cells, [Line2D([], [], label=name, **_style(i)) for i, name in enumerate(names)])
    return figure


def _cells(grid: Grid) -> list[Cell]:
    """Plan, variant and audited runs, where there are any."""
    found = [
        (plan, variant, [run for run in grid.runs(plan, variant) if run.audits])
        for plan in grid.plans
        for variant in grid.variants
    ]
    return [cell for cell in found if cell[2]]


def _estimators(grid: Grid) -> list[str]:
    """The names of all estimators, as the rows have them."""
    return list(dict.fromkeys(name for run in grid.records for row in run.audits for name in row["pool"]["estimators"]))


def _by_plan_and_variant(
    cells: Sequence[Cell], width: float, height: float, label: str
) -> tuple[Figure, list[tuple[list[RunRecord], Axes]]]:
    """A row for each variant and a column for each plan, named, with switches; and each cell's runs and its panel."""
    plans = list(dict.fromkeys(plan for plan, _, _ in cells))
    variants = list(dict.fromkeys(variant for _, variant, _ in cells))
    known = {(plan, variant): runs for plan, variant, runs in cells}
    figure, axes = panels(len(variants), len(plans), width, height, sharex="col", sharey=True, legend=0.8)
    found = []
    for row, variant in enumerate(variants):
        for column, plan in enumerate(plans):
            panel, runs = axes[row][column], known.get((plan, variant))
            if row == 0:
                panel.set_title(plan, fontweight="bold", pad=18)
            if row == len(variants) - 1:
                panel.set_xlabel("RL step")
            if column == 0:
                panel.set_ylabel(f"{short(variant, 22)}\n{label}")
            if runs is None:
                panel.text(0.5, 0.5, "no audit", ha="center", va="center", transform=panel.transAxes, color="0.4")
            else:
                _switches(panel, runs, names=row == 0)
                found.append((runs, panel))
    return figure, found


def _legend(figure: Figure, cells: Sequence[Cell], handles: Sequence[Any]) -> None:
    """Above the panels, no wider than they are."""
    columns = len({plan for plan, _, _ in cells})
    handles = [*handles, Line2D([], [], label="switch", **_SWITCH)]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 2 if columns == 1 else 5),
        handlelength=2.6,
    )


def _switches(panel: Axes, runs: Sequence[RunRecord], names: bool) -> None:
    """A line at each switch, and the phases' names above."""
    found = entries(runs[0].audits)
    ends = [*(entry.at["total_step"] for entry in found), runs[0].audits[-1]["total_step"]]
    for entry in found[1:]:
        panel.axvline(entry.at["total_step"], **_SWITCH)
    for entry, (start, end) in zip(found, pairwise(ends), strict=True):
        if names:
            panel.text(
                (start + end) / 2,
                1.03,
                short(entry.name, max(6, 26 // len(found))),
                transform=panel.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=8,
                color="0.35",
            )
    if ends[0] < ends[-1]:
        panel.set_xlim(ends[0], ends[-1])


def _style(position: int) -> dict[str, Any]:
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": LINES[position % len(LINES)],
        "marker": MARKERS[position % len(MARKERS)],
        "markersize": 3.5,
        "linewidth": 1.3,
    }


def _by_phase(runs: Sequence[RunRecord], estimator: str, result: str) -> list[list[Series]]:
    """For each phase, the result's series of each run: the two audits at a switch share a step, and are no line."""
    phases = list(dict.fromkeys(row["phase"] for run in runs for row in run.audits))
    found: list[list[Series]] = []
    for phase in phases:
        each = [
            [(row["total_step"], value) for row in run.audits if (value := _result(row, phase, estimator, result))]
            for run in runs
        ]
        found.append([[(step, value[0]) for step, value in series] for series in each if series])
    return [series for series in found if series]


def _result(row: Row, phase: int, estimator: str, result: str) -> tuple[float] | None:
    said = row["pool"]["estimators"].get(estimator)
    if row["phase"] != phase or said is None or said["results"].get(result) is None:
        return None
    return (said["results"][result],)


def _mean_shares(runs: Sequence[RunRecord]) -> list[tuple[Any, Any]]:
    """For each phase, (steps of the run, shares [side, step]), means over the runs that have each of its audits."""
    starts = {entry.phase: entry.at["total_step"] - entry.at["step"] for entry in entries(runs[0].audits)}
    found: dict[int, dict[int, list[tuple[float, float, float]]]] = {}
    for run in runs:
        for drift in phase_drifts(run.audits, *run.audits[0]["band"]):
            for step, shares in zip(drift.steps, drift.shares, strict=True):
                found.setdefault(drift.phase, {}).setdefault(step, []).append(shares)
    return [
        (
            np.array([starts[phase] + step for step in sorted(by_step)]),
            np.array([np.mean(by_step[step], axis=0) for step in sorted(by_step)]).T,
        )
        for phase, by_step in found.items()
        if phase in starts
    ]


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
                    known = sums.get(stage)
                    sums[stage] = part if known is None or known.shape != part.shape else known + part
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
