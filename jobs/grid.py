"""Many runs under Ray Tune. A module of its own, so that Tune's processes can import it by name."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from actors.placement import Placement
from actors.tries import RESTARTS
from ductile.ports import Stopped
from jobs.cell import Cell, execute
from jobs.driver import Shared

log = logging.getLogger("ductile")
# Tune's own handler would end the grid quietly on Ctrl-C and call the runs that go on failed.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Slots:
    """Numbers the processes that runs go on in, so that each has rollout actors of its own.

    One that was started again gives the same numbers again: two runs then prefer the same actors, which is no error.
    """

    def __init__(self) -> None:
        self._given = 0

    def take(self) -> int:
        """The next number."""
        self._given += 1
        return self._given - 1


def run_grid(
    cells: Sequence[Cell], shared: Shared, runs: int, folder: Path, stopping: Callable[[], bool]
) -> dict[str, str]:
    """Run the cells that are not finished; name -> reason of those that failed.

    stopping: whether the job was asked to stop. Raises `Stopped` when it was, and its runs have.
    """
    waiting = [cell for cell in cells if not cell.finished]
    if not waiting:
        return {}
    slots = Slots.remote()

    def trial(config: dict[str, Any]) -> None:
        # An error would come again and is a result; what Tune tries again is a process that died.
        try:
            outcome = {"run_id": execute(waiting[config["cell"]], shared, slot_of(slots) % runs), "error": ""}
        except Stopped:
            outcome = {"run_id": "", "error": "stopped"}
        except Exception as error:
            log.exception("%s failed", waiting[config["cell"]].name)
            outcome = {"run_id": "", "error": f"{type(error).__name__}: {error}"}
        tune.report(outcome)

    tuner = tune.Tuner(
        tune.with_resources(trial, resources(waiting[0].settings.learner.workers, shared.placement)),
        param_space={"cell": tune.grid_search(list(range(len(waiting))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=runs, reuse_actors=True),
        run_config=tune.RunConfig(
            name="ray-tune",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),  # each run counts its own: actors/tries.py
            verbose=0,
        ),
    )
    results = [(result.config, result.error, result.metrics) for result in tuner.fit()]
    if stopping():  # the runs' flag may have been started again, and be down
        raise Stopped(0, early=False)
    return failures(waiting, results)


def resources(workers: int, placement: Placement) -> dict[str, float] | tune.PlacementGroupFactory:
    """What a trial takes. With workers it only waits: the CPUs are theirs. Tune refuses to ask for nothing."""
    if workers:
        return {"memory": 1}
    options = placement.learner
    bundle = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
    bundle = {name: amount for name, amount in bundle.items() if amount} or {"memory": 1}
    if "label_selector" not in options:
        return bundle
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[dict(options["label_selector"])])


def failures(cells: Sequence[Cell], results: Sequence[tuple[Any, Any, Any]]) -> dict[str, str]:
    """Name -> reason of the cells that did not run to their end. results: config, error and metrics of Tune's trials.

    A trial whose process died before it reported has no config: its cell is known by not being finished.
    """
    reasons, unnamed = {}, "its process died before it reported anything"
    for config, error, metrics in results:
        reason = str(error or (metrics or {}).get("error", unnamed)).strip().splitlines()
        if reason and config:
            reasons[cells[config["cell"]].name] = reason[-1]
        elif reason:
            unnamed = reason[-1]
    return reasons | {cell.name: unnamed for cell in cells if cell.name not in reasons and not cell.finished}


@functools.cache
def slot_of(slots: Any) -> int:
    """This process's number: processes are used for one run after another."""
    number: int = ray.get(slots.take.remote())
    return number
