"""One run: one variant through one plan: `python -m jobs.run variant=low_drift plan=guessable`.

A real model on real data: `python -m jobs.run model=FOLDER plan=gsm8k`.
"""

from __future__ import annotations

from pathlib import Path

from ductile.paths import inside
from jobs.cell import Cell, execute, identity_of
from jobs.configure import parse, run_settings
from jobs.driver import absolute, main, needs_expert, share, start
from jobs.reporting import report_at_end
from jobs.usage import main_arguments


def job() -> int:
    """Run it, or go on with it where it was; then print its table and write its report."""
    settings = absolute(run_settings(parse(main_arguments("run", __doc__ or ""))))
    with start(settings) as tracker:
        shared = share(settings, tracker, needs_expert(settings), runs=1)
        identity = identity_of(settings, shared)
        folder = inside(Path(settings.output), f"{settings.name}-{identity.run}")
        run_id = execute(Cell(settings, identity, folder, identity.run, None), shared, slot=0)
    report_at_end(settings.tracking, Path(settings.output), run_id, folder / "report")
    return 0


if __name__ == "__main__":
    main(job)
