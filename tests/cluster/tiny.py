"""Settings small enough for seconds, and what a job left behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "experiment=too_hard",
    "model.pretrain.steps=60",
    "model.pretrain.batch=16",
    *(
        f"model.{which}.{size}"
        for which in ("base", "expert")
        for size in ("layers=1", "width=32", "heads=2", "mlp=64")
    ),
    "rollout.groups=4",
    "rollout.group_size=4",
    "rollout.max_tokens=24",
    "phase.hard.steps=4",
    "phase.hard.levels=[3]",
    "probe.problems=8",
    "probe.drift_problems=4",
    "probe.branch.steps=2",
    "probe.branch.evals=2",
    "probe.branch.problems=8",
    "probe.every=0",
    "learner.engine=torch",
    "objective.entropy=0.1",  # so that every step has a gradient, whatever so small a model solves
    "checkpoint.every=1",
)


def finish(arguments: Sequence[str], code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in the project's folder; fails with its output when the exit code is another."""
    # Importing Ray writes its mode of authentication into this process's environment; a user's shell has none.
    shell = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    done = subprocess.run(
        arguments, cwd=ROOT, env=shell | environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done


def measured(run: Path) -> list[dict[str, Any]]:
    """What a run's latest checkpoint holds of its boundaries, without the times that it took."""
    latest = sorted(run.glob("checkpoint-*"))[-1]
    boundaries: list[dict[str, Any]] = json.loads((latest / "state.json").read_text())["state"]["boundaries"]
    for row in boundaries:
        row["metrics"] = {
            name: value for name, value in row["metrics"].items() if not name.startswith(("time/", "cost/"))
        }
    return boundaries


def runs_in(output: Path) -> dict[str, Path]:
    """Name -> folder of the runs of the one comparison in an output folder."""
    return {path.parent.name: path.parent for path in output.glob("*/*/settings.json")}
