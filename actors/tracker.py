"""The tracker: one actor writes the metrics and artifacts of all runs of a job to MLflow, off the runs' path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.gauges import Gauges
from actors.tracking import Tracking, TrackingError, tracking_uri

__all__ = ["RunTracker", "TrackerActor", "TrackingError", "tracking_uri"]


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"display": 1})
class TrackerActor:
    """A `Tracking` on MLflow behind Ray. Never restarted empty: what its queue held would be gone without a word.

    The display reads on a thread of its own, so that it does not freeze while a run waits for `position`.
    """

    def __init__(self, uri: str, experiment: str, spill: str) -> None:
        from actors.mlflow_store import MlflowStore  # here alone: MLflow takes seconds to import

        self._tracking = Tracking(MlflowStore(uri, experiment), Path(spill))
        self._gauges = Gauges(self._tracking.live, self._tracking.health)

    def ready(self) -> bool:
        return True

    def begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        run_id = self._tracking.begin(kind, name, settings, key, parent, tags)
        self._gauges.begin(run_id, settings)
        return run_id

    def metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        self._tracking.metrics(run_id, values, step)
        self._gauges.logged(run_id, values)

    def progress(self, run_id: str, **state: Any) -> None:
        self._tracking.progress(run_id, **state)

    def artifact(self, run_id: str, name: str, content: str) -> None:
        self._tracking.artifact(run_id, name, content)

    def artifact_file(self, run_id: str, path: str) -> None:
        self._tracking.artifact_file(run_id, path)

    def position(self, run_id: str) -> dict[str, Any]:
        return self._tracking.position(run_id)

    def finish(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        self._tracking.finish(run_id, status, tags)

    @ray.method(concurrency_group="display")
    def live(self) -> list[dict[str, Any]]:
        return self._tracking.live()

    @ray.method(concurrency_group="display")
    def health(self) -> dict[str, Any]:
        return self._tracking.health()

    def close(self) -> dict[str, Any]:
        return self._tracking.close()


@dataclass(frozen=True)
class RunTracker:
    """The tracker port of one run whose job has a tracker actor. Small enough to be sent to the run's workers."""

    actor: ActorHandle
    run_id: str

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.actor.metrics.remote(self.run_id, dict(values), step)

    def progress(self, **state: Any) -> None:
        self.actor.progress.remote(self.run_id, **state)

    def artifact(self, name: str, content: str) -> None:
        self.actor.artifact.remote(self.run_id, name, content)

    def position(self) -> Mapping[str, Any]:
        """Wait until everything before it was written; `TrackingError` when the tracker died or lost something."""
        try:
            return ray.get(self.actor.position.remote(self.run_id))
        except RayActorError as error:
            raise TrackingError(
                f"the tracker actor died, and metrics of run {self.run_id} since its last checkpoint with it; "
                f"start the same command again: the run goes on from there ({error})"
            ) from error
