"""Seconds from `python -m jobs.compare` to its first step, and between two runs of a grid, on tiny models.

The models are in the cache, as they are after the first job of a machine; the output folder, and with it MLflow's
database, is new each time. Beside it: what a bare Ray and two of its processes that import transformers take, which no
job can be faster than. When a step began and ended is what the run logged. In the grid one run goes on at a time and
measures nothing, so that a pause is all there is between the last step of a run and the first of the next.

    python -m benchmarks.startup [rounds=2]
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "experiment=too_hard",
    "variant=[parameter_only]",
    "plan=[medium]",
    *(
        f"model.{which}.{size}"
        for which in ("base", "expert")
        for size in ("layers=1", "width=32", "heads=2", "mlp=64")
    ),
    "model.pretrain.steps=60",
    "model.pretrain.batch=16",
    "rollout.groups=4",
    "rollout.group_size=4",
    "rollout.max_tokens=24",
    "objective.entropy=0.1",  # so that every step has a gradient
)
FIRST = (*TINY, "seeds=2", "phase.medium.steps=1", "probe.probes=[retention]", "probe.problems=8")
GRID = (*TINY, "seeds=4", "phase.medium.steps=2", "probe.probes=[]", "cluster.cpus=1")
FLOOR = """
import os, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
@ray.remote(num_cpus=1)
def load():
    from transformers import AutoModelForCausalLM
ray.get([load.remote() for _ in range(2)])
"""


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    first: list[float] = []
    floor: list[float] = []
    pauses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        compare(Path(folder) / "models", cache, FIRST)  # builds the models
        for number in range(int(options.get("rounds", "2"))):
            began = time.time()
            runs = compare(Path(folder) / f"first-{number}", cache, FIRST)
            first.append(min(steps[0][0] for steps in runs) - began)
            began = time.time()
            subprocess.run([sys.executable, "-c", FLOOR], check=True, capture_output=True)
            floor.append(time.time() - began)
            runs = sorted(compare(Path(folder) / f"grid-{number}", cache, GRID))
            pauses += [later[0][0] - earlier[-1][1] for earlier, later in itertools.pairwise(runs)]
    tell("from the command to the first step", first)
    tell("bare Ray and two processes with transformers", floor)
    tell("between two runs of a grid", pauses)


def compare(output: Path, cache: Path, settings: Sequence[str]) -> list[list[tuple[float, float]]]:
    """Run the comparison; for each of its runs, when each of its steps began and ended."""
    job = [sys.executable, "-m", "jobs.compare", *settings, f"output={output}", f"cache={cache}"]
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    subprocess.run(job, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, check=True, capture_output=True)
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ductile")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`ductile.kind` = 'run'")
    times = [client.get_metric_history(run.info.run_id, "time/step_s") for run in found]
    return [[(m.timestamp / 1000 - m.value, m.timestamp / 1000) for m in history] for history in times]


def tell(what: str, seconds: Sequence[float]) -> None:
    print(
        f"{what:45} {np.median(seconds):6.2f} s   (from {min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} times)"
    )


if __name__ == "__main__":
    main()
