"""The tracker: one actor keeps the journals of all runs of a job and delivers them to MLflow, off the runs' path.

It may die at any moment. A fresh one reads the journals and goes on; what was on its way to the old one is handed over
again by the run, which numbers what it logs.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from actors.gauges import Gauges
from actors.journal import Record, now
from actors.tracking import Tracking, TrackingError, tracking_uri

__all__ = ["RunTracker", "TrackerActor", "TrackingError", "tracking_uri"]

log = logging.getLogger("ductile")

UNCONFIRMED = 256
"""Most records that a run keeps before it asks what the tracker has of them."""

PATIENCE_S = 300.0
"""How long a run waits for a tracker that is being started again, or for a disk that is full."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, concurrency_groups={"display": 1, "begin": 4})
class TrackerActor:
    """A `Tracking` on MLflow behind Ray. Every call may be made twice, so that Ray repeats those a death cut short.

    The display reads on a thread of its own, and so do runs begin, which waits for MLflow.
    """

    def __init__(self, uri: str, experiment: str, folder: str, job: str, patience_s: float) -> None:
        from actors.mlflow_store import MlflowStore  # here alone: MLflow takes seconds to import

        self._tracking = Tracking(MlflowStore(uri, experiment), Path(folder), uri, job, patience_s)
        self._gauges = Gauges(self._tracking.live, self._tracking.health)

    @ray.method(concurrency_group="begin")
    def reach(self) -> str | None:
        return self._tracking.reach()

    @ray.method(concurrency_group="begin")
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

    def take(self, run_id: str, records: list[Record], sender: str, first: int, confirmed: int) -> None:
        self._tracking.take(run_id, records, sender, first, confirmed)
        for record in records:
            if record["do"] == "metrics":
                self._gauges.logged(run_id, record["values"])

    def metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        self._tracking.metrics(run_id, values, step)
        self._gauges.logged(run_id, values)

    def progress(self, run_id: str, **state: Any) -> None:
        self._tracking.progress(run_id, **state)

    def artifact(self, run_id: str, name: str, content: str) -> None:
        self._tracking.artifact(run_id, name, content)

    def artifact_file(self, run_id: str, path: str) -> None:
        self._tracking.artifact_file(run_id, path)

    def position(self, run_id: str, sender: str = "") -> dict[str, Any]:
        return self._tracking.position(run_id, sender)

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


class Sent:
    """What one process sent to the tracker of a run and has no word of: (number, record), in order."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.sender = uuid.uuid4().hex
        self.last = self.confirmed = 0
        self.unconfirmed: list[tuple[int, Record]] = []

    def __reduce__(self) -> tuple[type[Sent], tuple[()]]:
        return Sent, ()  # in another process it is another sender, from 1

    def add(self, record: Record) -> int:
        """Number a record and keep it."""
        self.last += 1
        self.unconfirmed.append((self.last, record))
        return self.last

    def confirm(self, taken: int) -> list[Record]:
        """The tracker has everything up to this number: forget it. Returns what it lacks."""
        self.confirmed = max(self.confirmed, taken)
        self.unconfirmed = [(number, record) for number, record in self.unconfirmed if number > self.confirmed]
        return [record for _, record in self.unconfirmed]


@dataclass(frozen=True)
class RunTracker:
    """The tracker port of one run whose job has a tracker actor. Small enough to be sent to the run's workers.

    labels: what the run's gauges are labelled with; a tracker that was started again learns them with the progress.
    """

    actor: ActorHandle
    run_id: str
    labels: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    _sent: Sent = field(init=False, repr=False, compare=False, default_factory=Sent)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._send({"do": "metrics", "values": dict(values), "step": step, "time": now()})

    def progress(self, **state: Any) -> None:
        self.actor.progress.remote(self.run_id, **self.labels, **state)

    def artifact(self, name: str, content: str) -> None:
        self._send({"do": "text", "name": name, "content": content, "time": now()})

    def position(self) -> Mapping[str, Any]:
        """Wait until everything before it is in the journal on disk.

        What died on its way with a tracker is handed over again, in order; MLflow is not waited for. `TrackingError`
        when the tracker is gone for good, or cannot write its journal for longer than `PATIENCE_S`.
        """
        deadline, pause_s = time.monotonic() + PATIENCE_S, 0.5
        with self._sent.lock:
            while True:
                try:
                    position = ray.get(self.actor.position.remote(self.run_id, self._sent.sender))
                    lacking = self._sent.confirm(position["taken"])
                    if not lacking:
                        return {"run_id": self.run_id, "step": position["step"]}
                    ray.get(self._hand_over(lacking, self._sent.unconfirmed[0][0]))
                    continue
                except ActorUnavailableError as error:
                    reason: Exception = error
                except RayTaskError as error:
                    if not isinstance(error.cause, OSError):
                        raise error.cause from error
                    reason = error.cause
                except RayActorError as error:
                    raise TrackingError(
                        f"the tracker actor is gone for good, and metrics of run {self.run_id} since its last "
                        f"checkpoint with it; start the same command again: the run goes on from there ({error})"
                    ) from error
                if time.monotonic() + pause_s > deadline:
                    raise TrackingError(
                        f"tracker: run {self.run_id}: the journal cannot be written ({reason}); make "
                        f"room on its disk and start the same command again: the run goes on from its checkpoint"
                    ) from reason
                log.warning("run %s waits for its journal: %s", self.run_id, reason)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 30.0)

    def _send(self, record: Record) -> None:
        with self._sent.lock:
            self._hand_over([record], self._sent.add(record))
            if len(self._sent.unconfirmed) >= UNCONFIRMED:
                self.position()

    def _hand_over(self, records: list[Record], first: int) -> Any:
        return self.actor.take.remote(self.run_id, records, self._sent.sender, first, self._sent.confirmed)
