"""How far runs are, read from outside: from the newest checkpoint of each."""

from __future__ import annotations

import json
from pathlib import Path


def steps_done(output: Path) -> int:
    """Steps in the newest whole checkpoints of all runs below an output folder, added up."""
    return sum(_steps(folder) for folder in run_folders(output))


def steps_of_runs(output: Path) -> dict[Path, int]:
    """The same of each run that has not ended."""
    return {run: _steps(run) for run in run_folders(output) if not (run / "finished.json").exists()}


def run_folders(output: Path) -> list[Path]:
    """Folders of runs: those with settings, in the folder of a comparison or on their own."""
    return sorted(path.parent for path in {*output.glob("*/settings.json"), *output.glob("*/*/settings.json")})


def finished(output: Path) -> int:
    """How many of the runs have ended."""
    return sum((folder / "finished.json").exists() for folder in run_folders(output))


def latest(folder: Path) -> Path | None:
    """A run's newest checkpoint, or None."""
    return max(folder.glob("checkpoint-*"), default=None)


def _steps(folder: Path) -> int:
    for _ in range(20):
        checkpoint = latest(folder)
        if checkpoint is None:
            return 0
        try:
            return int(json.loads((checkpoint / "state.json").read_text())["state"]["total"])
        except FileNotFoundError:  # a newer one has taken its place
            continue
    return 0
