"""What every job does around its runs: start Ray, make the base models, start the actors that runs share, watch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.pretrain import build_model
from actors.rollout import ActorPool
from actors.roster import release_nodes
from actors.tracker import TrackerActor, TrackingError, tracking_uri
from ductile.config import RunSettings
from ductile.loop import WrongCheckpoint
from ductile.settings import SettingsError, as_plain, build
from ductile.variants import make_variant
from jobs.display import watch

log = logging.getLogger("ductile")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Shared:
    """What the runs of a job share. The driver owns the actors: when it goes, they go."""

    tracker: Any
    base: Path
    expert: Path
    pool: ActorPool


def main(job: Callable[[], int]) -> None:
    """Run a job and exit: 0, 1 failed, 2 wrong settings, 130 stopped. What a user can mend has no traceback."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("alembic", "ray", "mlflow", "filelock", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        code = job()
    except (SettingsError, WrongCheckpoint, TrackingError) as error:
        print(error, file=sys.stderr)
        code = 2 if isinstance(error, SettingsError) else 1
    except RayActorError as error:
        print(f"an actor that the job cannot do without died; the same command goes on: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the latest checkpoints", file=sys.stderr)
        code = 130
    raise SystemExit(code)


@contextmanager
def start(settings: RunSettings) -> Iterator[Any]:
    """Connect to Ray (the job's own, the cluster named, or a local one for as long as this lasts); yields the tracker.

    On the way out, runs that still go on are marked KILLED, and what MLflow did not take is told.
    """
    _start_ray(settings)
    uri = tracking_uri(settings.tracking, Path(settings.output))
    try:
        # On this node: its database and the folder for lost metrics are paths here.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        spill = str(Path(settings.output) / "lost-metrics")
        tracker = TrackerActor.options(scheduling_strategy=here).remote(uri, settings.tracking.experiment, spill)
        ray.get(tracker.ready.remote())
        try:
            with watch(tracker):
                yield tracker
        finally:
            _close(tracker, spill)
            if settings.rollout.actors_max:
                release_nodes()
    finally:
        ray.shutdown()


def _close(tracker: Any, spill: str) -> None:
    try:
        for row in ray.get(tracker.live.remote()):
            if row["status"] == "RUNNING":
                ray.get(tracker.finish.remote(row["run_id"], "KILLED"))
        health = ray.get(tracker.close.remote())
    except RayActorError:
        log.error("the tracker died: MLflow lacks what its queue held, and runs that went on still say RUNNING")
        return
    if health["lost"] or health["spilled"] or health["refused"]:
        log.error("MLflow did not take everything: %s; see %s", health, spill)


def share(settings: RunSettings, tracker: Any, needs_expert: bool, runs: int) -> Shared:
    """Build the base models that are missing, then start the rollout actors for so many runs at a time."""
    names = ["base", "expert"] if needs_expert else ["base"]
    built = ray.get([build_model.remote(settings.model, name, settings.cache, tracker) for name in names])
    gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 2 * runs * settings.rollout.actors else 0.0
    pool = ActorPool.start(runs, settings.model.dtype, settings.rollout, gpus)
    return Shared(tracker, Path(built[0]), Path(built[-1]), pool)


def needs_expert(settings: RunSettings) -> bool:
    """Whether the variant composes the base with a smaller model."""
    return make_variant(settings.variant).needs_expert


def absolute(settings: RunSettings) -> RunSettings:
    """The same settings with paths that mean the same from every working directory: workers have others."""
    plain = _absolute_files(as_plain(settings))
    if settings.difficulty.scores:
        plain["difficulty"]["scores"] = str(Path(settings.difficulty.scores).absolute())
    folders = {name: str(Path(plain[name]).absolute()) for name in ("output", "cache")}
    return build(RunSettings, plain | folders)


def _absolute_files(value: Any) -> Any:
    """Plain settings in which the path of every domain that reads a file is absolute."""
    if isinstance(value, dict):
        inner = {key: _absolute_files(item) for key, item in value.items()}
        if "name" in inner and inner.get("path"):
            inner["path"] = str(Path(inner["path"]).absolute())
        return inner
    return value


def _start_ray(settings: RunSettings) -> None:
    # Workers import `ductile` from platform/ also where the project is not installed, as under `ray job submit`.
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    environment = {
        "PYTHONPATH": paths,
        "RAY_TRAIN_V2_ENABLED": "1",
        "OMP_NUM_THREADS": str(settings.learner.threads),
        "DS_ACCELERATOR": "cpu" if not _gpus() else "cuda",
    }
    address = settings.cluster.address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"runtime_env": {"env_vars": environment}, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address:
        ray.init(address=address, log_to_driver=False, **common)
        return
    ray.init(num_cpus=settings.cluster.cpus or os.cpu_count(), include_dashboard=False, log_to_driver=False, **common)


def _gpus() -> bool:
    return bool(list(Path("/dev").glob("nvidia[0-9]*")))
