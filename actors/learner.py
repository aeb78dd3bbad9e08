"""The run inside Ray Train: the same loop on every rank, with rank 0 talking to the other actors."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from actors.branch import RayBrancher
from actors.difficulty import DifficultyActor, DifficultyClient
from actors.rollout import ActorPool, LostCall
from actors.tracker import RunTracker
from ductile.checkpoint import FolderStore
from ductile.config import RunSettings
from ductile.identity import Identity
from ductile.ports import Stopped

log = logging.getLogger("ductile")


@dataclass(frozen=True)
class RunSpec:
    """Everything that a run's workers need. Folders must be reachable from every worker's node."""

    settings: RunSettings
    identity: Identity
    base: Path
    expert: Path
    folder: Path
    pool: ActorPool
    tracker: RunTracker


def run_spec(spec: RunSpec) -> None:
    """Run it to its end, or go on with it: with `learner.workers` 0 in this process, else under Ray Train.

    A run that loses an actor for good goes back to its checkpoint, at most `learner.max_failures` times. Raises
    `Stopped` when its tracker said so.
    """
    if spec.settings.learner.workers:
        _run_with_train(spec)
        return
    failures = 0
    while True:
        try:
            _work(spec, rank=0, world=1)
            return
        except (RayActorError, LostCall) as error:
            failures += 1
            if failures > spec.settings.learner.max_failures:
                raise
            log.warning("%s lost an actor (%s); going back to its checkpoint", spec.folder.name, type(error).__name__)


def _run_with_train(spec: RunSpec) -> None:
    """Ray Train starts the workers, and starts them again from the run's checkpoint when one dies."""
    learner = spec.settings.learner
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"spec": spec},
        scaling_config=ScalingConfig(num_workers=learner.workers, use_gpu=_enough_gpus(learner.workers)),
        run_config=RunConfig(
            name=spec.folder.name,
            storage_path=str(spec.folder.parent / "ray-train"),
            failure_config=FailureConfig(max_failures=learner.max_failures),
        ),
    )
    result = trainer.fit()
    if result.return_value is not None:
        raise Stopped(**result.return_value)


def _train_worker(config: dict[str, Any]) -> dict[str, Any] | None:
    """None, or how the run was stopped: an error would make Ray Train start the workers again."""
    context = ray.train.get_context()
    try:
        _work(config["spec"], context.get_world_rank(), context.get_world_size())
    except Stopped as stop:
        return {"step": stop.step, "early": stop.early}
    return None


def _work(spec: RunSpec, rank: int, world: int) -> None:
    # Imported here: the driver and Ray Train's controller need neither torch nor DeepSpeed.
    import torch

    from ductile.ahead import make_ahead
    from ductile.branch import LocalBrancher
    from ductile.contexts import make_contexts
    from ductile.course import Course
    from ductile.judge import LocalJudge
    from ductile.learner import branch_learner, make_learner
    from ductile.loop import Ports, run
    from ductile.reestimation import Reestimation
    from ductile.rollouts import Rollouts
    from ductile.variants import make_variant

    settings = spec.settings
    torch.set_num_threads(settings.learner.threads)
    variant = make_variant(settings.variant)
    judge = LocalJudge()
    actor = DifficultyActor.remote(settings.difficulty) if rank == 0 else None
    share = _broadcast if world > 1 else _itself

    def port(target: Any) -> Any:
        return target if world == 1 else OnRankZero(target, rank, share)

    learner = make_learner(settings, variant, spec.base, spec.expert, spec.folder / "models")
    brancher: Any
    if settings.probe.branch.beside:
        brancher = port(RayBrancher(settings, learner.origin, spec.pool, spec.folder / "models"))
    else:  # on every rank, as the learner is
        make = functools.partial(branch_learner, settings, variant, learner.origin, models=learner.models)
        brancher = LocalBrancher(settings, variant, make, port(spec.pool), port(judge), judge.domain)
    difficulty = port(DifficultyClient(actor) if actor is not None else None)
    pool, verdicts = port(spec.pool), port(judge)
    contexts = port(make_contexts(settings, spec.pool, judge))
    store = FolderStore(spec.folder, Path(settings.cache) / "measured", rank, share)
    rollouts = Rollouts(settings, pool, verdicts, contexts, learner)
    ports = Ports(
        pool=pool,
        learner=learner,
        difficulty=difficulty,
        judge=verdicts,
        course=Course(settings, difficulty, judge.domain),
        contexts=contexts,
        reestimation=Reestimation(settings, difficulty, rollouts, pool, store),
        ahead=make_ahead(pool, settings.rollout.staleness),
        tracker=port(spec.tracker),
        store=store,
        resolve=judge.domain,
        brancher=brancher,
    )
    try:
        run(settings, variant, ports, spec.identity)
    finally:
        if actor is not None:
            ray.kill(actor)


class OnRankZero:
    """A port whose methods run on rank 0 alone; every rank gets what they returned, or the error that they raised."""

    def __init__(self, target: Any, rank: int, share: Callable[[Any], Any]) -> None:
        self._target, self._rank, self._share = target, rank, share

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            outcome: tuple[Any, Exception | None] = (None, None)
            if self._rank == 0:
                try:
                    outcome = (getattr(self._target, name)(*arguments, **keywords), None)
                except Exception as error:  # shared, so that the other ranks do not wait for ever
                    outcome = (None, error)
            value, error = self._share(outcome)
            if error is not None:
                raise error
            return value

        return call


def _broadcast(value: Any) -> Any:
    """Rank 0's value on every rank; no rank returns before all have called."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    dist.barrier()
    return box[0]


def _itself(value: Any) -> Any:
    return value


def _enough_gpus(workers: int) -> bool:
    return 0 < workers <= ray.cluster_resources().get("GPU", 0)
