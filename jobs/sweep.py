"""A search over difficulty thresholds: `python -m jobs.sweep experiment=thresholds variant=low_drift plan=graded`.

Each trial is a run with a band (low and high of difficulty.band), a group size, an estimator and a phase length of its
own, from the ranges and choices under sweep. The same command goes on with a search that was interrupted: trials that
are over are not repeated, the others go on from their checkpoints. More trials join it: sweep.trials=24.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from actors.placement import at_a_time
from ductile.config import RunSettings, SweepSettings
from ductile.paths import inside
from ductile.report.tables import print_table
from ductile.report.thresholds import failure_table, summarise_sweep, sweep_table, write_sweep
from ductile.settings import as_plain
from ductile.sweep import searched_objectives, thresholds_at, total_steps, with_thresholds
from ductile.versions import versions
from jobs.cell import identity_of
from jobs.configure import parse, sweep_settings
from jobs.display import expect
from jobs.driver import Job, absolute, main, needs_expert, share, start
from jobs.search import trial_folder
from jobs.trials import Search, outcome_of, run_trials
from jobs.usage import main_arguments


def job() -> int:
    """Run the trials, then print the table and write map and summary. Exit code 1 when a trial failed."""
    sweep, settings = sweep_settings(parse(main_arguments("sweep", __doc__ or "")))
    settings = absolute(settings)
    with start(settings) as begun:
        failed = search_on(sweep, settings, begun)
    return 1 if failed else 0


def search_on(sweep: SweepSettings, settings: RunSettings, begun: Job) -> dict[int, str]:
    """The whole search on a Ray that runs, with its report; number -> reason of the trials that failed."""
    tracker, runs = begun.tracker, at_a_time(settings, sweep.trials)
    shared = share(settings, begun, needs_expert(settings), runs)
    name = f"{settings.name}-{_hash(sweep, identity_of(settings, shared).run)}"
    folder = inside(Path(settings.output), name)
    over = sum(outcome_of(trial_folder(folder, number)) is not None for number in range(sweep.trials))
    expect((sweep.trials - over) * sweep.seeds)
    described = {"sweep": as_plain(sweep), "base": as_plain(settings)}
    parent = ray.get(tracker.begin.remote(kind="sweep", name=settings.name, settings=described, key=name))
    search = Search(sweep, settings, shared, folder, name, parent, runs)
    failed = run_trials(search, begun.stopping.asked)
    ray.get([tracker.artifact_file.remote(parent, str(file)) for file in _report(search, failed)])
    ray.get(tracker.finish.remote(parent, "FAILED" if failed else "FINISHED"))
    return failed


def _report(search: Search, failed: dict[int, str]) -> list[Path]:
    """Print the table and write the files; returns them."""
    about = {
        "title": search.settings.name,
        "source": f"MLflow run {search.parent}",
        "settings": {"sweep": as_plain(search.sweep), "base": as_plain(search.settings)},
        "versions": versions(),
    }
    rows = [_row(search, number, failed.get(number, "")) for number in range(search.sweep.trials)]
    objectives = list(searched_objectives(search.sweep, search.settings))
    summary = summarise_sweep([row for row in rows if row], objectives, search.sweep.width, about)
    files = write_sweep(summary, search.folder / "report")
    console = Console(width=None if Console().is_terminal else 120)
    for table in (sweep_table(summary), failure_table(summary)):
        if table.rows:
            print_table(table, console)
    console.print("\n" + "\n".join(str(file) for file in files), soft_wrap=True, highlight=False)
    return files


def _row(search: Search, number: int, reason: str) -> dict[str, Any]:
    """The trial as `report.thresholds` takes it; empty when it never began."""
    folder = trial_folder(search.folder, number)
    if not (folder / "trial.json").exists():
        return {}
    at = thresholds_at(search.sweep, json.loads((folder / "trial.json").read_text())["drawn"], search.settings)
    outcome = outcome_of(folder) or {"status": "failed", "steps": 0, "seeds": []}
    of = total_steps(with_thresholds(search.settings, at, search.sweep.phases))
    return {"trial": number, "thresholds": asdict(at), "of": of, "reason": reason, **outcome}


def _hash(sweep: SweepSettings, run: str) -> str:
    """What makes it this search: the run that it varies and what it searches, not how many trials it has had."""
    what = {**as_plain(replace(sweep, trials=1)), "run": run}
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=4).hexdigest()


if __name__ == "__main__":
    main(job)
