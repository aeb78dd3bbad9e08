"""What every job does around its runs: start Ray, make the base models, start the actors that runs share, watch."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayActorError

from actors.placement import Placement, PlacementError, on_this_node, place
from actors.pretrain import build_model
from actors.rollout import ActorPool
from actors.roster import release_nodes
from actors.stop import STOPPED_S, StopFlag
from actors.tracker import TrackingError, tracking_uri
from actors.tries import NoProgress
from ductile.checkpoint import CheckpointFailed
from ductile.config import RunSettings
from ductile.manifest import WrongCheckpoint
from ductile.models.cached import model_folder
from ductile.models.trust import VARIABLE
from ductile.ports import Stopped
from ductile.secrets import RedactingFormatter, redacted
from ductile.settings import SettingsError, as_plain, build
from ductile.variants import make_variant
from jobs.display import watch
from jobs.stopping import Stopping, Terminated, stoppable
from jobs.tracked import await_tracker, close_tracker, start_tracker

log = logging.getLogger("ductile")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Shared:
    """What the runs of a job share. The driver owns the actors: when it goes, they go. job: this start of it."""

    tracker: Any
    base: Path
    expert: Path
    pool: ActorPool
    placement: Placement
    stop: StopFlag
    job: str


@dataclass(frozen=True)
class Job:
    """What is there before the models are: the tracker, and the request to stop."""

    tracker: Any
    stopping: Stopping


class JobStopped(Exception):
    """The job was asked to stop, has, and has said what goes on with it. number: the signal that asked."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(job: Callable[[], int]) -> None:
    """Run a job and exit: 0, 1 failed, 2 wrong settings, 130 stopped (143 by SIGTERM).

    What a user can mend has no traceback.
    """
    logging.basicConfig(level=logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    sys.excepthook = _tell
    for chatty in ("alembic", "ray", "mlflow", "filelock", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _terminated)  # until a job takes it for a request to stop
    try:
        code = job()
    except (SettingsError, PlacementError, WrongCheckpoint, TrackingError, NoProgress, CheckpointFailed) as error:
        print(redacted(str(error)), file=sys.stderr)
        code = 2 if isinstance(error, (SettingsError, PlacementError)) else 1
    except RayActorError as error:
        line = f"an actor that the job cannot do without died; the same command goes on: {error}"
        print(redacted(line), file=sys.stderr)
        code = 1
    except JobStopped as stopped:
        code = 128 + stopped.number
    except KeyboardInterrupt as stopped:
        print("stopped; the same command goes on from the latest checkpoints", file=sys.stderr)
        code = 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)
    raise SystemExit(code)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nothing caught: libraries quote the addresses that they were given."""
    print(redacted("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def _terminated(_number: int, _frame: Any) -> None:
    raise Terminated


@contextmanager
def start(settings: RunSettings) -> Iterator[Job]:
    """Connect to Ray (the job's own, the cluster named, or a local one for as long as this lasts).

    On the way out, runs that still go on are marked KILLED, and what MLflow does not have is told. A job whose runs
    stopped because it was asked to says how to go on, and raises `JobStopped`.
    """
    connect(settings)
    uri = tracking_uri(settings.tracking, Path(settings.output))
    try:
        # On this node: its database and the folder of its journals are paths here.
        tracker = start_tracker(settings, on_this_node())
        patience_s = settings.tracking.patience_s
        try:
            with stoppable() as stopping, watch(tracker):
                try:
                    yield Job(tracker, stopping)
                except Stopped as error:
                    # Before MLflow is waited for: whoever asked may kill the job when that takes too long.
                    patience_s = min(patience_s, STOPPED_S)
                    rows = ray.get(tracker.live.remote())
                    print(redacted(how_to_go_on(settings, rows, uri)), file=sys.stderr, flush=True)
                    raise JobStopped(stopping.number or signal.SIGINT) from error
        except TrackingError:
            patience_s = 0.0  # MLflow was waited for
            raise
        finally:
            close_tracker(tracker, Path(settings.output), patience_s)
            if settings.rollout.actors_max:
                release_nodes()
    finally:
        ray.shutdown()


def how_to_go_on(settings: RunSettings, rows: Sequence[Mapping[str, Any]], uri: str) -> str:
    """The commands that go on with what was stopped. rows: the job's runs, as the tracker has them.

    A search goes on by its own command alone, which knows the trials that it ended. An address from the environment,
    which may hold a password, is there for these commands too.
    """
    if any(row["kind"] == "sweep" for row in rows):
        return "stopped; the same command goes on"
    given = settings.tracking.uri or not os.environ.get("MLFLOW_TRACKING_URI")
    where = [f"tracking.uri={uri}"] if given else []
    if settings.tracking.experiment != type(settings.tracking)().experiment:
        where.append(f"tracking.experiment={settings.tracking.experiment}")
    going = [row for row in rows if row["kind"] in ("run", "compare")]
    whole = [row for row in going if row["kind"] == "compare"] or [row for row in going if row["status"] == "KILLED"]
    commands = [shlex.join(["python", "-m", f"jobs.{row['kind']}", f"resume={row['run_id']}", *where]) for row in whole]
    return "\n".join(["stopped; the same command goes on" + (", or" if commands else ""), *commands])


def share(settings: RunSettings, job: Job, needs_expert: bool, runs: int) -> Shared:
    """Find a place for every role, start the rollout actors, wait for MLflow, and build base models that are missing.

    Nothing is done before MLflow answers, but processes start meanwhile. runs: how many go on at a time. Raises
    `PlacementError`, `TrackingError`, and `Stopped` when asked to while models are built: they go on from checkpoints
    of their own.
    """
    placement = place(settings, runs, job.stopping.asked) if runs else Placement()
    gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 2 * runs * settings.rollout.actors else 0.0
    pool = ActorPool.start(runs, settings.model.dtype, settings.rollout, gpus, placement.rollout)
    await_tracker(job.tracker, settings, job.stopping.asked)
    folders = _models(settings, job, ["base", "expert"] if needs_expert else ["base"])
    return Shared(job.tracker, folders[0], folders[-1], pool, placement, job.stopping.flag, uuid.uuid4().hex)


def _models(settings: RunSettings, job: Job, names: Sequence[str]) -> list[Path]:
    """The folders of the base models; a process is started for each that is not there."""
    folders = [model_folder(settings.model, name, Path(settings.cache)) for name in names]
    building = [
        build_model.remote(settings.model, name, settings.cache, job.tracker)
        for name, folder in zip(names, folders, strict=True)
        if not folder.exists()
    ]
    while len(ray.wait(building, num_returns=len(building), timeout=0.2)[0]) < len(building):
        if job.stopping.asked():
            raise Stopped(0, early=False)
    ray.get(building)
    return folders


def needs_expert(settings: RunSettings) -> bool:
    """Whether the variant composes the base with a smaller model."""
    return make_variant(settings.variant).needs_expert


def absolute(settings: RunSettings) -> RunSettings:
    """The same settings with paths that mean the same from every working directory: workers have others."""
    plain = _absolute_files(as_plain(settings))
    if settings.difficulty.scores:
        plain["difficulty"]["scores"] = str(Path(settings.difficulty.scores).absolute())
    store = settings.checkpoint.store
    if store and "://" not in store:
        plain["checkpoint"]["store"] = str(Path(store).expanduser().absolute())
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


def connect(settings: RunSettings) -> None:
    """Connect this process to the Ray that the settings name, or start one here."""
    # Workers import `ductile` from platform/ also where the project is not installed, as under `ray job submit`.
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        "PYTHONPATH": paths,
        "RAY_TRAIN_V2_ENABLED": "1",
        VARIABLE: str(int(settings.model.trust_remote_code)),
        "OMP_NUM_THREADS": str(settings.learner.threads),
        "DS_ACCELERATOR": "cpu" if not _gpus() else "cuda",
    }
    address = settings.cluster.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address:
        variables = {"runtime_env": {"env_vars": environment}}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **variables)
        return
    # Processes of a Ray of this job's own inherit them: as a runtime_env, each would start a second time to have them.
    os.environ |= environment
    # Node and drivers of a Ray of this job's own are this machine: with this, its servers listen on 127.0.0.1 alone.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    # "local": with no address at all, Ray would join another cluster that runs on this machine.
    ray.init(
        address="local",
        num_cpus=settings.cluster.cpus or os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _gpus() -> bool:
    return bool(list(Path("/dev").glob("nvidia[0-9]*")))
