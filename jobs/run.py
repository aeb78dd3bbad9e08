"""One run: one variant through one plan: `python -m jobs.run variant=low_drift plan=guessable`.

A real model on real data: `python -m jobs.run model=FOLDER plan=gsm8k`. A run that was stopped, by its MLflow id:
`python -m jobs.run resume=ID [tracking.uri=...]`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import RayTaskError

from actors.tries import RESTARTS
from ductile.paths import inside
from jobs.cell import Cell, execute, identity_of
from jobs.configure import parse, run_settings
from jobs.driver import Shared, absolute, main, needs_expert, share, start
from jobs.resume import asked_to_resume, kept_run
from jobs.usage import main_arguments


def job() -> int:
    """Run it, or go on with it where it was; then print its table and write its report."""
    request = parse(main_arguments("run", __doc__ or ""))
    kept = kept_run(request) if asked_to_resume(request) else None
    settings = absolute(kept.settings if kept else run_settings(request))
    with start(settings) as begun:
        shared = share(settings, begun, needs_expert(settings), runs=1)
        identity = identity_of(settings, shared)
        folder = inside(Path(settings.output), f"{settings.name}-{identity.run}")
        cell = Cell(settings, identity, folder, identity.run, None)
        if kept:
            cell = replace(cell, folder=kept.folder, key=kept.key, parent=kept.parent, label=kept.name)
        run_id = run_cell(cell, shared)
    from jobs.reporting import report_at_end  # what it imports would delay the run

    report_at_end(settings.tracking, Path(settings.output), run_id, cell.folder / "report")
    return 0


def run_cell(cell: Cell, shared: Shared) -> str:
    """Run it in this process, or where its placement wants the learner; with workers, they are placed."""
    options = shared.placement.learner
    if not options or cell.settings.learner.workers:
        return execute(cell, shared, slot=0)
    task = ray.remote(execute).options(**{"num_cpus": 1, **options, "max_retries": RESTARTS})
    try:
        run_id: str = ray.get(task.remote(cell, shared, 0))
    except RayTaskError as error:
        raise error.cause from error
    return run_id


if __name__ == "__main__":
    main(job)
