"""Figures over steps: learning curves with phase bands, the continual curve, and the branch probe's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ductile.report.canvas import COLOURS, LINES, MARKERS, Grid, mean_line, panels, variant_legend
from ductile.report.continual import continual_curves
from ductile.report.records import PhaseBand, Series
from ductile.report.text import short


def learning_curves(grid: Grid) -> Figure | None:
    """A row for each metric and a column for each plan with phases; None when no run took a step."""
    rows = (
        ("rollout/pass_rate", "pass rate\n(rollouts)", True),
        ("rollout/length_mean", "length, tokens\n(rollouts)", False),
        ("shortcut/prior", "shortcut share\n(prior skills)", True),
        ("retention/prior", "pass rate\n(prior skills)", True),
    )
    trained = [record for record in grid.records if record.phases]
    plans = [plan for plan in grid.plans if any(record.plan == plan for record in trained)]
    shown = [row for row in rows if any(record.series(row[0]) for record in trained)]
    if not plans or not shown:
        return None
    figure, axes = panels(len(shown), len(plans), 3.1, 1.75, sharex="col", sharey="row")
    for column, plan in enumerate(plans):
        axes[0][column].set_title(plan, pad=18, fontweight="bold")
        for (metric, label, share), panel in zip(shown, axes[:, column], strict=True):
            _bands(panel, next(r.phases for r in trained if r.plan == plan), names=panel is axes[0][column])
            for variant in grid.variants:
                runs = [record.series(metric) for record in grid.runs(plan, variant) if record.phases]
                mean_line(panel, runs, share, **grid.style(variant))
            if share:
                panel.set_ylim(-0.03, 1.03)
            else:
                panel.set_ylim(bottom=0)
            if column == 0:
                panel.set_ylabel(label)
        axes[-1][column].set_xlabel("RL step")
    figure.align_ylabels()
    variant_legend(figure, grid)
    return figure


def continual(grid: Grid) -> Figure | None:
    """Continual curve of each phase's task, by variant and plan of two phases or more; None without any."""
    phases = {plan: next((r.phases for r in grid.records if r.plan == plan), ()) for plan in grid.plans}
    curves = {plan: continual_curves(grid.records, plan, grid.variants) for plan in grid.plans if len(phases[plan]) > 1}
    plans = [plan for plan, found in curves.items() if any(found.values())]
    variants = [variant for variant in grid.variants if any(curves[plan].get(variant) for plan in plans)]
    if not plans:
        return None
    figure, axes = panels(len(variants), len(plans), 3.3, 1.9, sharex="col", sharey=True)
    for column, plan in enumerate(plans):
        axes[0][column].set_title(plan, pad=18, fontweight="bold")
        for row, variant in enumerate(variants):
            panel = axes[row][column]
            _bands(panel, phases[plan], names=row == 0)
            for level in (0, 100):
                panel.axhline(level, color="0.55", linewidth=0.8, linestyle=":")
            for position, curve in curves[plan].get(variant, []):
                panel.plot(*zip(*curve, strict=True), clip_on=True, **_task_style(position))
            panel.set_ylim(-35, 125)
            if column == 0:
                panel.set_ylabel(f"{short(variant, 20)}\n% of best in stage")
        axes[-1][column].set_xlabel("RL step")
    shown = sorted({position for plan in plans for found in curves[plan].values() for position, _ in found})
    figure.legend(
        handles=[Line2D([], [], label=f"phase {position + 1}'s task", **_task_style(position)) for position in shown],
        loc="outside upper center",
        ncols=min(5, 2 * len(plans), len(shown)),  # a panel is as wide as two of them
        handlelength=2.8,
    )
    return figure


def branch_curves(grid: Grid) -> Figure | None:
    """The branch's pass rate by step, from the fresh base and from the last boundary; None when it did not run."""
    measured = [record for record in grid.records if len(record.boundaries) > 1 and _branch(record.boundaries[-1])]
    plans = [plan for plan in grid.plans if any(record.plan == plan for record in measured)]
    if not plans:
        return None
    figure, axes = panels(1, len(plans), 2.9, 2.6, sharey="row")
    for column, plan in enumerate(plans):
        panel = axes[0][column]
        for variant in grid.variants:
            runs = [record for record in measured if record.plan == plan and record.variant == variant]
            colour = grid.style(variant)["color"]
            mean_line(
                panel,
                [_branch(r.boundaries[0]) for r in runs],
                True,
                band=False,
                color=colour,
                linestyle=":",
                alpha=0.55,
                linewidth=1.2,
            )
            mean_line(
                panel,
                [_branch(r.boundaries[-1]) for r in runs],
                True,
                marker=grid.marker(variant),
                markersize=4,
                **grid.style(variant),
            )
        panel.set_title(plan, fontweight="bold")
        panel.set_xlabel("branch RL step")
        panel.set_ylim(-0.03, 1.03)
    axes[0][0].set_ylabel("pass rate, branch domain")
    variant_legend(
        figure,
        grid,
        [Line2D([], [], color="0.5", linestyle=":", linewidth=1.2, label="from the fresh base")],
        markers=True,
    )
    return figure


def _task_style(position: int) -> dict[str, Any]:
    """Colours from the end of the first eight: those at the beginning stand for variants."""
    return {
        "color": COLOURS[(5 - position) % 8],
        "linestyle": LINES[position % len(LINES)],
        "marker": MARKERS[position % len(MARKERS)],
        "markersize": 3.5,
        "linewidth": 1.6,
    }


def _bands(panel: Axes, phases: Sequence[PhaseBand], names: bool) -> None:
    for position, phase in enumerate(phases):
        panel.axvspan(phase.start, phase.end, color="0.94" if position % 2 == 0 else "0.98", linewidth=0, zorder=0)
        if names:
            middle = (phase.start + phase.end) / 2
            panel.text(
                middle,
                1.03,
                short(phase.name, max(6, 26 // len(phases))),
                transform=panel.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=8,
                color="0.35",
            )
    if phases:
        panel.set_xlim(phases[0].start, phases[-1].end)


def _branch(boundary: Mapping[str, Any]) -> Series:
    """The RL arm with a fresh optimizer, mean over its repetitions."""
    rates: dict[int, list[float]] = {}
    for row in boundary["tables"].get("branch", []):
        if row["arm"] == "rl_reset":
            rates.setdefault(row["step"], []).append(row["pass_rate"])
    return [(step, sum(each) / len(each)) for step, each in rates.items()]
