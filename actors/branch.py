"""Branches beside the run, each in a Ray task of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.rollout import ActorPool
from ductile.config import RunSettings
from ductile.ports import BranchRequest, Composition, Stopped

PATIENCE_S = 30.0
"""How long a run waits for a branch before it asks whether there is a CPU for it at all."""

STOP_S = 1.0
"""How often a run that waits for a branch asks whether it should stop."""


@ray.remote(num_cpus=1)
def run_branch(
    settings: RunSettings, composition: Composition, pool: ActorPool, models: Path, request: BranchRequest
) -> dict[str, Any]:
    """`branch_probe` on a learner of one process. Ray tries a task whose process died again."""
    import torch

    from ductile.branch import branch_probe
    from ductile.judge import LocalJudge
    from ductile.learner import branch_learner
    from ductile.variants import make_variant

    torch.set_num_threads(settings.learner.threads)
    variant, judge = make_variant(settings.variant), LocalJudge()
    learner = branch_learner(settings, variant, composition, request, models)
    return branch_probe(request, settings, variant, learner, pool, judge, judge.domain)


class RayBrancher:
    """Implements `ports.Brancher`. Snapshot folders, and `models`, the run's own, must be reachable from every node."""

    def __init__(
        self,
        settings: RunSettings,
        composition: Composition,
        pool: ActorPool,
        models: Path,
        stop: Callable[[], bool] = bool,  # never
    ) -> None:
        self._arguments, self._stop = (settings, composition, pool, models), stop
        self._tasks: list[
            tuple[Any, BranchRequest]
        ] = []  # a handle is a place in it: object references are not sent between ranks

    def submit(self, request: BranchRequest) -> int:
        self._tasks.append((self._start(request, cpus=1), request))
        return len(self._tasks) - 1

    def collect(self, handle: int) -> Mapping[str, Any]:
        """A run that waits here leaves its own CPU idle: when none is free, the branch may take that one's place.

        Raises `Stopped` when the run is asked to stop meanwhile; its branches end.
        """
        task, request = self._tasks[handle]
        tasks = [task]
        ready = self._wait(tasks, PATIENCE_S)
        if not ready:
            if ray.available_resources().get("CPU", 0) < 1:
                tasks.append(self._start(request, cpus=0))
            ready = self._wait(tasks, None)
            for other in tasks:
                if other != ready[0]:
                    ray.cancel(other)
            task = ready[0]
        result: dict[str, Any] = ray.get(task)
        return result

    def _wait(self, tasks: Sequence[Any], timeout_s: float | None) -> list[Any]:
        """The task that is done first; none when none is in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            ready, _ = ray.wait(list(tasks), timeout=STOP_S)
            if ready or (deadline is not None and time.monotonic() >= deadline):
                return list(ready)
            if self._stop():
                for task in [*tasks, *(task for task, _ in self._tasks)]:
                    ray.cancel(task)
                raise Stopped(0, early=False)

    def _start(self, request: BranchRequest, cpus: int) -> Any:
        # Outside the placement group of a Tune trial, whose one CPU the run itself holds.
        options = run_branch.options(num_cpus=cpus, scheduling_strategy="DEFAULT")
        return options.remote(*self._arguments, request)
