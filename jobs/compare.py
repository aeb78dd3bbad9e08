"""A comparison: every variant through every plan with every seed: `python -m jobs.compare experiment=too_hard`.

The same command goes on with a comparison that was interrupted; more seeds are added to the ones that are there.
By its MLflow id it goes on too: `python -m jobs.compare resume=ID [tracking.uri=...]`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ray

from actors.placement import at_a_time
from ductile.config import RunSettings
from ductile.paths import inside
from ductile.settings import as_plain
from jobs.cell import Cell, identity_of
from jobs.configure import compare_settings, parse
from jobs.display import expect
from jobs.driver import Shared, absolute, main, needs_expert, share, start
from jobs.grid import run_grid
from jobs.resume import CELLS, asked_to_resume, kept_comparison
from jobs.usage import main_arguments

log = logging.getLogger("ductile")


def job() -> int:
    """Run the grid under Ray Tune, then print the table and write the report. Exit code 1 when a run failed."""
    request = parse(main_arguments("compare", __doc__ or ""))
    grid, wanted = kept_comparison(request) if asked_to_resume(request) else compare_settings(request)
    settings = [absolute(each) for each in wanted]
    first = settings[0]
    with start(first) as begun:
        tracker, runs = begun.tracker, at_a_time(first, len(settings))
        shared = share(first, begun, any(needs_expert(each) for each in settings), runs)
        cells = _cells(settings, shared)
        expect(len(cells))
        folder = cells[0].folder.parent
        described = {"compare": as_plain(grid), "base": as_plain(first)}
        parent = ray.get(tracker.begin.remote(kind="compare", name=first.name, settings=described, key=folder.name))
        tracker.artifact.remote(parent, CELLS, json.dumps([as_plain(each) for each in settings]))
        failed = run_grid([replace(cell, parent=parent) for cell in cells], shared, runs, folder, begun.stopping.asked)
        ray.get(tracker.finish.remote(parent, "FAILED" if failed else "FINISHED"))
    from jobs.reporting import report_at_end  # what it imports would delay the runs

    report_at_end(first.tracking, Path(first.output), parent, folder / "report")
    for name, reason in failed.items():
        log.error("failed: %s: %s", name, reason)
    return 1 if failed else 0


def _cells(settings: Sequence[RunSettings], shared: Shared) -> list[Cell]:
    """Each run with its folder. The comparison is named by what it compares, seeds aside: more seeds join it."""
    identities = [identity_of(each, shared) for each in settings]
    seedless = sorted({identity_of(replace(each, seed=0), shared).run for each in settings})
    name = f"{settings[0].name}-{hashlib.blake2b(repr(seedless).encode(), digest_size=4).hexdigest()}"
    folder = inside(Path(settings[0].output), name)
    return [
        Cell(
            each,
            identity,
            inside(folder, f"{each.variant.called}-{each.plan}-seed{each.seed}"),
            f"{name}-{identity.run}",
            None,
        )
        for each, identity in zip(settings, identities, strict=True)
    ]


if __name__ == "__main__":
    main(job)
