"""The report of a job, from MLflow alone: tables in the terminal, and files that are kept with the MLflow run too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.mlflow_store import MlflowStore
from actors.tracker import tracking_uri
from ductile.config import TrackingSettings
from ductile.report import ReportContext, print_tables, summarise, write_report
from ductile.secrets import redacted


def report(tracking: TrackingSettings, output: Path, run_id: str | None, folder: Path | None = None) -> Path:
    """Print the tables of a comparison (default: the newest) or of one run, and write its report.

    folder: where to; default `<output>/report-<run id>`. Returns the HTML page; `LookupError` without such a run.
    """
    store = MlflowStore(tracking_uri(tracking, output), tracking.experiment)
    run_id = run_id or store.newest_comparison()
    records = store.read_comparison(run_id)
    settings = store.read_settings(run_id)
    grid: Mapping[str, Any] = settings.get("compare", {})
    context = ReportContext(
        title=settings.get("base", settings).get("name", "run"),
        settings=settings,
        versions=store.read_versions(run_id),
        plans=grid.get("plans", ()),
        variants=grid.get("variants", ()),
        source=f"MLflow run {run_id}",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    folder = folder or output / f"report-{run_id[:8]}"
    files = write_report(records, folder, context)
    for file in files:
        store.artifact_file(run_id, str(file))
    console = Console(width=None if Console().is_terminal else 120)
    print_tables(summarise(records, context), console)
    page = next(file for file in files if file.suffix == ".html")
    console.print(f"\nreport  {page}\nMLflow  {redacted(store.uri)}", soft_wrap=True, highlight=False)
    return page
