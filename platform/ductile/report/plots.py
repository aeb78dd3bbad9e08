"""The report's figures, as PNG files. Means and intervals over the seeds of finished runs, as in the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ductile.report.audited import age_over_steps, band_shares, brier_over_steps
from ductile.report.canvas import STYLE, Grid
from ductile.report.curves import branch_curves, continual, learning_curves
from ductile.report.records import ReportContext, RunRecord, ordered
from ductile.report.reliability import reliability
from ductile.report.retained import drift_against_retention, format_shares, retention_map

DPI = 150

DRAWINGS: tuple[tuple[str, str, str, Callable[[Grid], Figure | None]], ...] = (
    (
        "learning_curves",
        "Learning curves",
        "Mean over seeds with its 95% interval (of two seeds, both). Grey bands are phases. The first two rows are "
        "the rollouts of each RL step, on the phase's own problems; the others are probes of the prior skills.",
        learning_curves,
    ),
    (
        "retention",
        "Retention",
        "Pass rate of each prior skill and level at each phase boundary, mean over seeds. Column 0 lies before the "
        "first phase.",
        retention_map,
    ),
    (
        "continual",
        "Continual curve",
        "Pass rate on each phase's own problems over the whole plan, mean over seeds: 0 is before the first phase, 100 "
        "the best that any variant reached during that phase. Lines leave the panel below -35 and above 125; a task "
        "that no variant improved by 0.02 has none.",
        continual,
    ),
    (
        "drift",
        "Drift against retention",
        "Each point is one run after its last phase: exact KL to the base on prior-skill prompts, against the "
        "prior-skill pass rate then.",
        drift_against_retention,
    ),
    (
        "formats",
        "Formats",
        "How prior-skill problems are answered: format shares, mean over skills and seeds, before the first phase and "
        "after the last.",
        format_shares,
    ),
    (
        "branch",
        "Plasticity",
        "RL for a fixed budget on a domain that the plan does not hold: from the fresh base (faint, dotted) and from "
        "where each run ended.",
        branch_curves,
    ),
    (
        "reliability",
        "Reliability of the difficulty estimates",
        "Audited pass rate against the estimate, in bins of equal width, over all seeds and switches: in the last "
        "audit before a switch, the first of the new phase before any step, and the one after it. A marker is as large "
        "as its bin's share of the problems.",
        reliability,
    ),
    (
        "brier",
        "Error of the difficulty estimates",
        "Mean squared error of the estimates to the true pass rates over the audited problems, the audit's noise taken "
        "out; mean over seeds. Each phase has problems of its own.",
        brier_over_steps,
    ),
    (
        "age",
        "Age of the difficulty estimates",
        "Steps since the audited problems' last visit, which all estimators of a run share, mean over problems and "
        "seeds. Each phase has problems of its own.",
        age_over_steps,
    ),
    (
        "band",
        "Problems by difficulty",
        "Share of the audited problems whose audited pass rate lies below, in and above the band of medium difficulty, "
        "mean over seeds. Each phase has problems of its own.",
        band_shares,
    ),
)
"""File name, title, caption and drawing of every figure, in the order of the page."""


@dataclass(frozen=True)
class Plot:
    """A written figure: its file, and what it shows, for the caption and for those who cannot see it."""

    path: Path
    title: str
    caption: str


def write_plots(records: Iterable[RunRecord], folder: Path, context: ReportContext) -> list[Plot]:
    """Draw every figure that the finished runs have data for; its file is named as in `DRAWINGS`."""
    finished = tuple(record for record in records if record.finished)
    grid = Grid(
        finished,
        tuple(ordered(context.plans, (record.plan for record in finished))),
        tuple(ordered(context.variants, (record.variant for record in finished))),
    )
    plots = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, title, caption, draw in DRAWINGS:
        with matplotlib.rc_context(STYLE):
            figure = draw(grid)
            if figure is not None:
                path = folder / f"{name}.png"
                figure.savefig(path, dpi=DPI)
                plots.append(Plot(path, title, caption))
    return plots
