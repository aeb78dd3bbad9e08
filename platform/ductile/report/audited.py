"""Figures of the audits over steps: the estimates' error and age, and the problems by difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ductile.audit import Row, entries, phase_drifts
from ductile.report.canvas import COLOURS, LINES, MARKERS, Grid, mean_line, panels
from ductile.report.records import RunRecord, Series
from ductile.report.text import short

Cell = tuple[str, str, list[RunRecord]]
"""Plan, variant, and their audited runs, by seed."""

WIDEST = 5
"""Panels side by side."""
TITLE = 28
"""Characters of a plan's name that fit over its panel."""
_THIN: dict[str, Any] = {"linewidth": 1.3}
_SWITCH: dict[str, Any] = {"color": "0.15", "linewidth": 1.1, "linestyle": (0, (4, 2))}
_SIDES = (("#E69F00", "below (hard)"), ("#009E73", "in the band"), ("#56B4E9", "above (easy)"))


def band_shares(grid: Grid) -> Figure | None:
    """Shares of the audited problems below, in and above the band, by variant and plan; None without audits."""
    cells = audited_cells(grid)
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
    """Mean age of the estimates over steps, a panel for each plan and a line for each variant; None without audits.

    All estimators of a run see the same visits, so that one stands for all: the one that selection reads.
    """
    cells = audited_cells(grid)
    if not cells:
        return None
    plans = list(dict.fromkeys(plan for plan, _, _ in cells))
    variants = [variant for variant in grid.variants if any(variant == other for _, other, _ in cells)]
    figure, axes = panels(1, len(plans), 3.6, 2.2, sharey=True, legend=0.8)
    for plan, panel in zip(plans, axes[0], strict=True):
        own = [(variant, runs) for other, variant, runs in cells if other == plan]
        panel.set_title(short(plan, TITLE), fontweight="bold", pad=18)
        panel.set_xlabel("RL step")
        _switches(panel, own[0][1], names=True)
        for variant, runs in own:
            first = next(iter(runs[0].audits[0]["pool"]["estimators"]), "")
            for series in _by_phase(runs, first, "age"):
                mean_line(
                    panel, series, False, marker=grid.marker(variant), markersize=3.5, **grid.style(variant), **_THIN
                )
        panel.set_ylim(bottom=0)
    axes[0][0].set_ylabel("age, steps")
    styles = [{**grid.style(variant), "marker": grid.marker(variant), "markersize": 3.5} for variant in variants]
    handles = [Line2D([], [], label=name, **style) for name, style in zip(variants, styles, strict=True)]
    _legend(figure, cells, handles)
    return figure


def audited_cells(grid: Grid) -> list[Cell]:
    """Plan, variant and audited runs, where there are any."""
    found = [
        (plan, variant, [run for run in grid.runs(plan, variant) if run.audits])
        for plan in grid.plans
        for variant in grid.variants
    ]
    return [cell for cell in found if cell[2]]


def estimators(grid: Grid) -> list[str]:
    """The names of all estimators, as the rows have them."""
    return list(dict.fromkeys(name for run in grid.records for row in run.audits for name in row["pool"]["estimators"]))


def _over_steps(grid: Grid, result: str, label: str) -> Figure | None:
    cells, names = audited_cells(grid), estimators(grid)
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
                panel.set_title(short(plan, TITLE), fontweight="bold", pad=18)
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
        **_THIN,
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
