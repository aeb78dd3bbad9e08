"""Figures of what the phases left of the prior skills: retention, drift against it, and formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ductile.report.canvas import COLOURS, MARKERS, Grid, panels
from ductile.report.records import RunRecord
from ductile.report.text import short

WIDEST = 5
"""Variants that a legend's line has room for."""

FORMAT_COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#999999")


def retention_map(grid: Grid) -> Figure | None:
    """A heat map of (skill, level) by boundary for each plan and variant; None when retention was not measured."""
    trained = [record for record in grid.records if len(record.boundaries) > 1]
    cells = list(dict.fromkeys(cell for record in trained for cell in _prior_rates(record.boundaries[0])))
    plans = [plan for plan in grid.plans if any(record.plan == plan for record in trained)]
    if not cells or not plans:
        return None
    boundaries = max(len(record.boundaries) for record in trained)
    width = max(1.9, 0.62 * boundaries + 0.5)
    figure, axes = panels(
        len(grid.variants), len(plans), width, max(1.4, 0.27 * len(cells) + 0.35), left=1.9, legend=0.0
    )
    image = None
    for row, variant in enumerate(grid.variants):
        for column, plan in enumerate(plans):
            panel = axes[row][column]
            runs = [record for record in grid.runs(plan, variant) if len(record.boundaries) > 1]
            panel.grid(False)
            panel.spines[:].set_visible(False)
            panel.tick_params(length=0)
            if row == 0:
                panel.set_title(plan, fontweight="bold")
            if column == 0:
                panel.set_ylabel(variant, fontweight="bold")
            if not runs:
                panel.set(xticks=[], yticks=[])
                panel.text(
                    0.5, 0.5, "no finished run", ha="center", va="center", transform=panel.transAxes, color="0.4"
                )
                continue
            matrix = _retention_matrix(runs, cells)
            image = panel.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
            _annotate(panel, matrix)
            phases = ["base", *(phase.name for phase in runs[0].phases)]
            panel.set_xticks(
                range(matrix.shape[1]), [short(f"{i} {name}", 10) for i, name in enumerate(phases[: matrix.shape[1]])]
            )
            names = [f"{skill} L{level}" for skill, level in cells]
            panel.set_yticks(range(len(cells)), names if column == 0 else [""] * len(cells))
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 2.2 / figure.get_figheight() + 0.3), aspect=25, pad=0.02)
        bar.set_label("pass rate")
        bar.outline.set_visible(False)
    return figure


def drift_against_retention(grid: Grid) -> Figure | None:
    """Forward and reverse KL against the prior-skill pass rate, a point for each run; None without both."""
    directions = (
        ("drift/kl_forward_base/prior", "forward: KL(base || policy)"),
        ("drift/kl_reverse_base/prior", "reverse: KL(policy || base)"),
    )
    points = [
        (record, record.after(metric), record.after("retention/prior"), column)
        for record in grid.records
        for column, (metric, _) in enumerate(directions)
    ]
    known = [(record, x, y, column) for record, x, y, column in points if x is not None and y is not None]
    if not known:
        return None
    figure, axes = panels(1, 2, 3.9, 3.4, sharey="row", legend=0.9)
    plans = [plan for plan in grid.plans if any(record.plan == plan for record, *_ in known)]
    kls = [x for _, x, _, _ in known]
    spread = max(kls) / min(kls) if min(kls) > 0 else 0.0
    logarithmic = spread > 20
    for column, (_, label) in enumerate(directions):
        panel = axes[0][column]
        here = [(record, x, y) for record, x, y, position in known if position == column]
        for record, x, y in here:
            colour = COLOURS[grid.variants.index(record.variant) % len(COLOURS)]
            marker = MARKERS[plans.index(record.plan) % len(MARKERS)]
            panel.plot(
                [x],
                [y],
                marker=marker,
                color=colour,
                markersize=6.5,
                alpha=0.8,
                linestyle="none",
                markeredgecolor="white",
                markeredgewidth=0.6,
            )
        if logarithmic:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(
                LogLocator(subs=(1.0, 2.0, 5.0), numticks=30) if spread < 100 else LogLocator()
            )
            panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel(f"{label}\nnats/token, prior-skill prompts")
        panel.set_ylim(-0.03, 1.03)
    axes[0][0].set_ylabel("prior-skill pass rate")
    upper = [Patch(color=COLOURS[i % len(COLOURS)], label=variant) for i, variant in enumerate(grid.variants)]
    lower = [
        Line2D([], [], marker=MARKERS[i % len(MARKERS)], color="0.35", linestyle="none", label=plan)
        for i, plan in enumerate(plans)
    ]
    if len(upper) > WIDEST:  # too many for a line of each
        figure.legend(handles=[*upper, *lower], loc="outside upper center", ncols=WIDEST)
        return figure
    blank = Patch(alpha=0, label="")
    pairs = list(zip_longest(upper, lower, fillvalue=blank))  # legends fill by column: variants above, plans below
    figure.legend(handles=[handle for pair in pairs for handle in pair], loc="outside upper center", ncols=len(pairs))
    return figure


def format_shares(grid: Grid) -> Figure | None:
    """Stacked bars: the base, then each variant, a panel for each plan; None when formats were not measured."""
    trained = [record for record in grid.records if len(record.boundaries) > 1]
    found = [_formats(boundary) for record in trained for boundary in record.boundaries]
    names = [
        name
        for name in dict.fromkeys(name for shares in found for name in shares)
        if any(shares.get(name) for shares in found)
    ]
    plans = [plan for plan in grid.plans if any(record.plan == plan for record in trained)]
    if not names or not plans:
        return None
    figure, axes = panels(1, len(plans), max(2.2, 0.55 * (len(grid.variants) + 1) + 0.6), 2.9, sharey="row", left=0.8)
    for column, plan in enumerate(plans):
        panel = axes[0][column]
        of_plan = [record for record in trained if record.plan == plan]
        bars = [("before", [record.boundaries[0] for record in of_plan])]
        bars += [(variant, [r.boundaries[-1] for r in of_plan if r.variant == variant]) for variant in grid.variants]
        shown = [(label, [_formats(boundary) for boundary in boundaries]) for label, boundaries in bars if boundaries]
        bottom = np.zeros(len(shown))
        for position, name in enumerate(names):
            shares = np.array([np.mean([share.get(name, 0.0) for share in measured]) for _, measured in shown])
            panel.bar(
                range(len(shown)),
                shares,
                0.75,
                bottom=bottom,
                color=FORMAT_COLOURS[position % len(FORMAT_COLOURS)],
                edgecolor="white",
                linewidth=0.5,
            )
            bottom += shares
        panel.axvline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        panel.set_xticks(
            range(len(shown)), [label for label, _ in shown], rotation=35, ha="right", rotation_mode="anchor"
        )
        panel.set_title(plan, fontweight="bold")
        panel.grid(False, axis="x")
        panel.set_ylim(0, 1)
    axes[0][0].set_ylabel("share of completions,\nprior skills")
    handles = [Patch(color=FORMAT_COLOURS[i % len(FORMAT_COLOURS)], label=name) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(6, len(handles)))
    return figure


def _retention_matrix(runs: Sequence[RunRecord], cells: Sequence[tuple[str, int]]) -> np.ndarray:
    """Mean pass rates: [cell, boundary], NaN where nothing was measured."""
    boundaries = min(len(record.boundaries) for record in runs)
    rates = np.full((len(runs), len(cells), boundaries), np.nan)
    for i, record in enumerate(runs):
        for boundary in range(boundaries):
            found = _prior_rates(record.boundaries[boundary])
            rates[i, :, boundary] = [found.get(cell, np.nan) for cell in cells]
    known = np.isfinite(rates)
    return np.where(known.any(0), np.where(known, rates, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def _annotate(panel: Axes, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            panel.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="black" if value > 0.55 else "white",
            )


def _prior_rates(boundary: Mapping[str, Any]) -> dict[tuple[str, int], float]:
    rows = boundary["tables"].get("retention", [])
    return {
        (row["skill"], row["level"]): row["pass_rate"]
        for row in rows
        if row["kind"] == "prior" and row["pass_rate"] is not None
    }


def _formats(boundary: Mapping[str, Any]) -> dict[str, float]:
    """Share of each format, mean over prior skills; a format that a skill does not have counts there as 0."""
    rows = [row for row in boundary["tables"].get("formats", []) if row["kind"] == "prior"]
    skills = len({row["skill"] for row in rows})
    shares: dict[str, float] = {}
    for row in rows:
        shares[row["format"]] = shares.get(row["format"], 0.0) + row["share"] / skills
    return shares
