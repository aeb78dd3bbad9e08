"""The report of a job, from MLflow alone: tables in the terminal, and files that are kept with the MLflow run too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.mlflow_store import MlflowException, MlflowStore
from actors.tracker import TrackingError, tracking_uri
from actors.tracking import FOLDER, Tracking
from ductile.config import TrackingSettings
from ductile.report import ReportContext, print_tables, summarise, write_report
from ductile.secrets import redacted
from jobs.tracked import await_delivery, await_mlflow

log = logging.getLogger("ductile")

LOOK_S = 5.0
"""How long the report of a job waits for MLflow after the job's tracker did."""


def report_at_end(tracking: TrackingSettings, output: Path, run_id: str, folder: Path) -> None:
    """The report of what a job just did, once its tracker is closed, which waited for MLflow as long as it may.

    An MLflow that went away does not fail the job: that is told instead.
    """
    try:
        report(replace(tracking, patience_s=min(tracking.patience_s, LOOK_S)), output, run_id, folder)
    except TrackingError as error:
        log.error("no report yet: %s; make it later with python -m jobs.report run=%s", error, run_id)


def report(tracking: TrackingSettings, output: Path, run_id: str | None, folder: Path | None = None) -> Path:
    """Print the tables of a comparison (default: the newest) or of one run, and write its report.

    What jobs with this output folder left in their journals is delivered first. folder: where to; default
    `<output>/report-<run id>`. Returns the HTML page; `LookupError` without such a run, `TrackingError` when MLflow
    does not answer for `tracking.patience_s`.
    """
    uri = tracking_uri(tracking, output)
    store = MlflowStore(uri, tracking.experiment)
    deliver_rest(store, uri, tracking, output)
    try:
        return _report(store, uri, output, run_id, folder)
    except MlflowException as error:  # it went away meanwhile
        address, told = redacted(uri), redacted(str(error))
        raise TrackingError(f"tracking.uri: {address}: MLflow could not be read: {told}") from error


def _report(store: MlflowStore, uri: str, output: Path, run_id: str | None, folder: Path | None) -> Path:
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
    console.print(f"\nreport  {page}\nMLflow  {redacted(uri)}", soft_wrap=True, highlight=False)
    return page


def deliver_rest(store: MlflowStore, uri: str, tracking: TrackingSettings, output: Path) -> None:
    """Deliver the journals that nobody has, and wait for those of runs that are over but not yet delivered.

    Raises `TrackingError` when MLflow does not answer; what is still missing after `tracking.patience_s` is told.
    """
    journals = Tracking(store, output / FOLDER, uri, patience_s=tracking.patience_s)
    try:
        await_mlflow(journals.reach, uri, tracking)
        await_delivery(journals.settled, journals.health, output / FOLDER, tracking.patience_s)
    finally:
        journals.close()
