"""Make the report of a comparison again, from MLflow alone: `python -m jobs.report`, or with `run=MLFLOW_RUN_ID`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from actors.mlflow_store import NoSuchRun
from ductile.config import TrackingSettings
from ductile.settings import build, setting
from jobs.configure import parse
from jobs.driver import main
from jobs.reporting import report
from jobs.usage import settings_help


@dataclass(frozen=True)
class ReportSettings:
    """What to report, and where to."""

    run: str = setting("", "MLflow id of a comparison or of one run; empty: the newest comparison")
    folder: str = setting("", "folder of the report; empty: beside the runs")
    output: str = setting("runs", "folder of the MLflow database, as the job had it")
    tracking: TrackingSettings = setting(TrackingSettings, "where MLflow keeps the runs")


def job() -> int:
    """Print the tables and write the files."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        usage = ["python -m jobs.report [key=value ...]", "", __doc__ or "", ""]
        print("\n".join([*usage, *settings_help(ReportSettings)]))
        return 0
    settings = build(ReportSettings, parse(arguments, groups=()).nested())
    folder = Path(settings.folder) if settings.folder else None
    try:
        report(settings.tracking, Path(settings.output).absolute(), settings.run or None, folder)
    except NoSuchRun as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main(job)
