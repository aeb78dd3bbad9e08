"""What the figures share: colours and styles, panels of equal size, mean curves with their intervals.

Colours are those of Okabe and Ito (2008), told apart with any common colour vision, and for more than eight variants
those of Tol's muted scheme after them; every variant keeps its colour, line style and marker in all figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ductile.report.records import RunRecord, Series, of_cell
from ductile.report.statistics import estimate

COLOURS = (
    *("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"),
    *("#882255", "#117733", "#332288", "#DDCC77", "#CC6677", "#44AA99", "#AA4499", "#999933"),
)
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
FEWEST_FOR_A_BAND = 3
"""The interval of two seeds is 12.7 standard errors to each side: it hides the panel and says nothing."""


@dataclass(frozen=True)
class Grid:
    """What every figure is drawn from."""

    records: tuple[RunRecord, ...]
    plans: tuple[str, ...]
    variants: tuple[str, ...]

    def runs(self, plan: str, variant: str) -> list[RunRecord]:
        """The finished runs of a cell, by seed."""
        return of_cell(self.records, plan, variant)

    def style(self, variant: str) -> dict[str, Any]:
        """The variant's colour and line style."""
        position = self.variants.index(variant)
        return {"color": COLOURS[position % len(COLOURS)], "linestyle": LINES[position % len(LINES)]}

    def marker(self, variant: str) -> str:
        """The variant's marker."""
        return MARKERS[self.variants.index(variant) % len(MARKERS)]


def panels(
    rows: int,
    columns: int,
    width: float,
    height: float,
    sharex: Any = False,
    sharey: Any = False,
    left: float = 0.7,
    legend: float = 0.55,
) -> tuple[Figure, Any]:
    """A figure of equal panels, sizes in inches; `legend` is the room above them. axes: [row, column]."""
    figure = Figure(figsize=(left + columns * width, legend + 0.45 + rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)


def mean_line(panel: Axes, runs: Sequence[Series], share: bool, band: bool = True, **style: Any) -> None:
    """The mean over runs at each step that most of them have, with its interval or, of two, the runs themselves."""
    by_step: dict[int, list[float]] = {}
    for series in runs:
        for step, value in series:
            if np.isfinite(value):
                by_step.setdefault(step, []).append(value)
    steps = sorted(step for step, values in by_step.items() if 2 * len(values) > len(runs))
    found = [estimate(by_step[step]) for step in steps]
    means = [e.mean for e in found if e is not None]
    panel.plot(steps, means, **{"linewidth": 1.6, "solid_capstyle": "round", **style})
    if band and len(runs) >= FEWEST_FOR_A_BAND:
        low = np.array([e.mean if e.low is None else e.low for e in found if e is not None])
        high = np.array([e.mean if e.high is None else e.high for e in found if e is not None])
        low, high = np.maximum(low, 0), np.minimum(high, 1) if share else high
        panel.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    elif band and len(runs) > 1:
        for series in runs:
            panel.plot(*zip(*series, strict=True), color=style["color"], linewidth=0.6, alpha=0.6)


def variant_legend(figure: Figure, grid: Grid, more: Sequence[Line2D] = (), markers: bool = False) -> None:
    """A legend of the variants above the panels, with `more` after them."""
    handles = [
        Line2D(
            [],
            [],
            linewidth=1.8,
            label=variant,
            marker=grid.marker(variant) if markers else "",
            markersize=4,
            **grid.style(variant),
        )
        for variant in grid.variants
    ]
    figure.legend(
        handles=[*handles, *more], loc="outside upper center", ncols=min(5, len(handles) + len(more)), handlelength=2.8
    )
