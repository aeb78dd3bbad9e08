"""The report of a comparison, made from its records alone: tables, figures, an HTML page and `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ductile.report.glance import glance, markdown
from ductile.report.page import html_page
from ductile.report.plots import write_plots
from ductile.report.records import PhaseBand, ReportContext, RunRecord, phase_bands
from ductile.report.summary import summarise
from ductile.report.tables import print_tables

__all__ = ["PhaseBand", "ReportContext", "RunRecord", "phase_bands", "print_tables", "summarise", "write_report"]


def write_report(records: Sequence[RunRecord], folder: Path, context: ReportContext) -> list[Path]:
    """Write `summary.json`, `report.html`, `glance.md` and the figures into `folder`; returns them in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(records, context)
    plots = write_plots(records, folder, context)
    numbers, page, table = folder / "summary.json", folder / "report.html", folder / "glance.md"
    numbers.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    page.write_text(html_page(summary, plots))
    table.write_text(markdown(glance(summary)))
    return [numbers, page, table, *(plot.path for plot in plots)]
