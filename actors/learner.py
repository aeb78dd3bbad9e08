"""The run inside Ray Train: the same loop on every rank, with rank 0 talking to the other actors."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.branch import RayBrancher
from actors.difficulty import DifficultyClient, leave_actor, take_actor
from actors.placement import Placement
from actors.rollout import ActorPool, LostCall
from actors.stop import STOPPED_S, NeverAsked, StopFlag
from actors.tracker import RunTracker
from actors.tries import RESTARTS, NoProgress, begin_try, end_tries, first_divergence, note_error
from ductile.checkpoint import CheckpointFailed, FolderStore
from ductile.config import RunSettings
from ductile.identity import Identity
from ductile.manifest import WrongCheckpoint
from ductile.ports import Stopped

log = logging.getLogger("ductile")


@dataclass(frozen=True)
class RunSpec:
    """Everything that a run's workers need. Folders must be reachable from every worker's node.

    job: names the job that runs it, the same in every process of it.
    """

    settings: RunSettings
    identity: Identity
    base: Path
    expert: Path
    folder: Path
    pool: ActorPool
    tracker: RunTracker
    placement: Placement = field(default_factory=Placement)
    stop: StopFlag | NeverAsked = field(default_factory=NeverAsked)
    job: str = ""

    @property
    def max_failures(self) -> int:
        """How often it may fail without coming further."""
        return self.settings.learner.max_failures


def run_spec(spec: RunSpec) -> None:
    """Run it to its end, or go on with it: with `learner.workers` 0 in this process, else under Ray Train.

    A run that loses an actor for good goes back to its checkpoint, at most `learner.max_failures` times without having
    come further; so does one whose loss is not finite, once for the same update, since a bit may have flipped. Raises
    `Stopped` when it was asked to stop, by its tracker or by `spec.stop`.
    """
    try:
        if spec.settings.learner.workers:
            _run_with_train(spec)
        else:
            _run_here(spec)
    finally:  # a process that is killed does not come by here: its try counts
        end_tries(spec.folder)


def _run_here(spec: RunSpec) -> None:
    while True:
        begin_try(spec.folder, spec.job, spec.max_failures)
        try:
            _work(spec, rank=0, world=1)
            return
        except Exception as error:
            if not _worth_another_try(spec, error):
                raise
            log.warning("%s goes back to its checkpoint: %s: %s", spec.folder.name, type(error).__name__, error)


def _worth_another_try(spec: RunSpec, error: Exception) -> bool:
    """Whether the error may not come again. Raises nothing; what it was is kept for the last try's message."""
    note_error(spec.folder, spec.job, error)
    if _diverged(error):
        update = str(error).partition(":")[0]
        return spec.max_failures > 0 and first_divergence(spec.folder, spec.job, update)
    return isinstance(error, (RayActorError, LostCall))


def _run_with_train(spec: RunSpec) -> None:
    """Ray Train starts the workers, and starts them again from the run's checkpoint when one dies.

    It would count every failure of a run's life; how many there were without progress is counted in the run's folder.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # as in `_work`: most runs need none of it
    from ray.train.torch import TorchTrainer

    learner, options = spec.settings.learner, spec.placement.learner
    gpus = options.get("num_gpus", 1 if _enough_gpus(learner.workers) else 0)
    resources = {"CPU": options["num_cpus"]} if "num_cpus" in options else {}
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"spec": spec},
        scaling_config=ScalingConfig(
            num_workers=learner.workers,
            use_gpu=gpus > 0,
            resources_per_worker=({**resources, "GPU": gpus} if gpus else resources) or None,
            label_selector=options.get("label_selector"),
        ),
        run_config=RunConfig(
            name=spec.folder.name,
            storage_path=str(spec.folder.parent / "ray-train"),
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    outcome = _beside(trainer.fit).return_value
    if isinstance(outcome, Exception):
        raise outcome
    if outcome is not None:
        raise Stopped(**outcome)


def _beside(fit: Callable[[], Any]) -> Any:
    """What it returns, on a thread of its own: on the main thread Ray Train takes Ctrl-C for itself."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(fit())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, name="ray-train", daemon=True).start()
    return future.result()


def _train_worker(config: dict[str, Any]) -> dict[str, Any] | Exception | None:
    """None, how the run was stopped, or an error that would come again: one that is raised starts the workers again."""
    import ray.train

    context, spec = ray.train.get_context(), config["spec"]
    rank, world = context.get_world_rank(), context.get_world_size()
    tries = OnRankZero(_Tries(spec), rank, _broadcast if world > 1 else _itself)
    try:
        tries.begin()
        _work(spec, rank, world)
    except Stopped as stop:
        return {"step": stop.step, "early": stop.early}
    except (NoProgress, WrongCheckpoint, CheckpointFailed) as error:
        return error
    except Exception as error:
        if _diverged(error) and not tries.again(error):  # on every rank alike: the norm is
            return error
        if rank == 0:
            note_error(spec.folder, spec.job, error)
        raise
    return None


def _diverged(error: Exception) -> bool:
    from ductile.learner import Diverged  # of torch, which whoever learns has imported

    return isinstance(error, Diverged)


class _Tries:
    """The count of a run's tries, for rank 0."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec

    def begin(self) -> None:
        begin_try(self._spec.folder, self._spec.job, self._spec.max_failures)

    def again(self, error: Exception) -> bool:
        return _worth_another_try(self._spec, error)


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
    from ductile.trace import tracing
    from ductile.variants import make_variant

    settings = spec.settings
    torch.set_num_threads(settings.learner.threads)
    variant = make_variant(settings.variant)
    judge = LocalJudge()
    actor = take_actor(settings.difficulty, spec.placement.difficulty) if rank == 0 else None
    share = _broadcast if world > 1 else _itself

    def port(target: Any) -> Any:
        return target if world == 1 else OnRankZero(target, rank, share)

    learner = make_learner(settings, variant, spec.base, spec.expert, spec.folder / "models")
    brancher: Any
    if settings.probe.branch.beside:
        brancher = port(RayBrancher(settings, learner.origin, spec.pool, spec.folder / "models", spec.stop.asked))
    else:  # on every rank, as the learner is
        make = functools.partial(branch_learner, settings, variant, learner.origin, models=learner.models)
        brancher = LocalBrancher(settings, variant, make, port(spec.pool), port(judge), judge.domain)
    difficulty = port(DifficultyClient(actor) if actor is not None else None)
    pool, verdicts = port(spec.pool), port(judge)
    contexts = port(make_contexts(settings, spec.pool, judge))
    memory = Path(settings.cache) / "measured"
    store = FolderStore(spec.folder, memory, rank, share, world, settings.checkpoint, spec.identity.run)
    asked = port(spec.stop).asked

    def stop() -> bool:
        if not asked():
            return False
        store.hurry(STOPPED_S)
        return True

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
        stop=stop,
    )
    try:
        with tracing(spec.folder / "trace.json") if rank == 0 and settings.trace.steps else nullcontext():
            run(settings, variant, ports, spec.identity)
    except BaseException:
        if actor is not None:
            ray.kill(actor)
        raise
    if actor is not None:
        leave_actor(actor)


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
