"""A job's tracker: started when MLflow answers, and at the end waited for until MLflow has everything."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.tracker import TrackerActor, TrackingError, tracking_uri
from actors.tracking import FOLDER
from ductile.config import RunSettings, TrackingSettings
from ductile.ports import Stopped
from ductile.secrets import redacted
from jobs.display import duration

log = logging.getLogger("ductile")

LISTEN_S = 0.5
"""How often a job that waits for MLflow asks whether it should stop."""

SQLITE_PATIENCE_S = 30.0
"""A database file that cannot be opened is no server that may come back; another job may have locked it."""


def start_tracker(settings: RunSettings, here: Any) -> Any:
    """The tracker actor, which begins to reach MLflow. here: Ray's strategy of this node, where the journal is."""
    output = Path(settings.output)
    uri = tracking_uri(settings.tracking, output)
    arguments = (
        uri,
        settings.tracking.experiment,
        str(output / FOLDER),
        uuid.uuid4().hex,
        settings.tracking.patience_s,
    )
    return TrackerActor.options(scheduling_strategy=here).remote(*arguments)


def await_tracker(tracker: Any, settings: RunSettings, stopping: Callable[[], bool]) -> None:
    """Wait until MLflow answers the tracker; see `await_mlflow`."""

    def reach() -> str | None:
        asked = tracker.reach.remote()
        while not ray.wait([asked], timeout=LISTEN_S)[0]:
            _leave(stopping)
        try:
            error: str | None = ray.get(asked)
        except RayTaskError as error:  # without Ray's traceback
            raise error.cause from None
        return error

    await_mlflow(reach, tracking_uri(settings.tracking, Path(settings.output)), settings.tracking, stopping)


def await_mlflow(
    reach: Callable[[], str | None], uri: str, tracking: TrackingSettings, stopping: Callable[[], bool] = bool
) -> None:
    """Wait until MLflow answers, and say so. reach: None when it does, else the error.

    stopping: whether the job was asked to stop, by default never. Raises `Stopped` when it was, and `TrackingError`
    when MLflow does not answer within `tracking.patience_s`.
    """
    patience_s = min(tracking.patience_s, SQLITE_PATIENCE_S) if uri.startswith("sqlite:") else tracking.patience_s
    address, began, pause_s = redacted(uri), time.monotonic(), 1.0
    told = False
    while (error := reach()) is not None:
        waited_s = time.monotonic() - began
        if waited_s + pause_s > patience_s:
            raise TrackingError(
                f"tracking.uri: {address}: MLflow did not answer for {duration(waited_s)}: {error}; start it, name "
                f"another address (tracking.uri or MLFLOW_TRACKING_URI), or wait longer (tracking.patience_s)"
            )
        if not told:
            log.warning(
                "MLflow at %s does not answer (%s); trying again for up to %s", address, error, duration(patience_s)
            )
            told = True
        again = time.monotonic() + pause_s
        while (left_s := again - time.monotonic()) > 0:
            _leave(stopping)
            time.sleep(min(left_s, LISTEN_S))
        pause_s = min(2 * pause_s, 10.0)
    if told:
        log.warning("MLflow at %s answers, after %s", address, duration(time.monotonic() - began))


def _leave(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise Stopped(0, early=False)


def close_tracker(tracker: Any, output: Path, patience_s: float) -> None:
    """Runs that still go on end as KILLED; then MLflow is waited for, and what it lacks is told."""
    folder = output / FOLDER
    try:
        for row in ray.get(tracker.live.remote()):
            if row["status"] == "RUNNING":
                ray.get(tracker.finish.remote(row["run_id"], "KILLED"))
        await_delivery(
            lambda: ray.get(tracker.health.remote())["pending"] == 0,
            lambda: ray.get(tracker.health.remote()),
            folder,
            patience_s,
        )
        health = ray.get(tracker.close.remote())
    except (RayActorError, OSError) as error:
        log.error("the tracker ended early (%s); what MLflow lacks is in %s", type(error).__name__, folder)
        return
    if health["refused"] or health["aside"]:
        log.error(
            "MLflow did not take everything: %d metrics refused, %d refused by MLflow itself; they are in %s",
            health["refused"],
            health["aside"],
            folder / "aside",
        )


def await_delivery(
    settled: Callable[[], bool], health: Callable[[], dict[str, Any]], folder: Path, patience_s: float
) -> bool:
    """Wait until MLflow has what is in the journals, and say so; whether it has."""
    began, told = time.monotonic(), False
    while not settled():
        waited_s = time.monotonic() - began
        if waited_s >= patience_s:
            lacking = health()
            log.error(
                "MLflow lacks %s values (%s): they are in %s, and the next job with this output folder delivers them, "
                "or python -m jobs.report",
                f"{lacking['pending']:,}",
                lacking["last_error"] or "it is being written to by another job",
                folder,
            )
            return False
        if not told and waited_s > 5.0:
            lacking = health()
            told = True
            log.warning(
                "waiting up to %s for MLflow to take %s values (%s)",
                duration(patience_s),
                f"{lacking['pending']:,}",
                lacking["last_error"] or "it is slow",
            )
        time.sleep(min(0.1 + waited_s / 10, 1.0))
    return True
