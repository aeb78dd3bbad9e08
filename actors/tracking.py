"""Tracking without Ray: a queue and one writer thread, which batches what runs log and writes it to a store.

When the store does not answer the writer tries again, and what it cannot write goes to JSON lines in the folder
`lost-metrics`, counted and logged. `position`, which a run waits for before it writes a checkpoint, fails when anything
of that run is neither in the store nor in that folder.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ductile.config import TrackingSettings
from ductile.metrics import legal
from ductile.secrets import redacted

log = logging.getLogger(__name__)

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses between the attempts of one write; a run whose last write failed gets one attempt until one succeeds."""

BATCH = 1000
"""Most metrics in one write; MLflow's own limit."""


class TrackingError(RuntimeError):
    """Metrics or artifacts are in neither MLflow nor the folder of spilled ones, or the tracker itself is gone."""


class Point(NamedTuple):
    """One metric value. `timestamp` in milliseconds, taken when it was queued: a write made twice is the same write."""

    name: str
    value: float
    step: int
    timestamp: int


class RunStore(Protocol):
    """Where the tracker writes; `mlflow_store.MlflowStore` is the one."""

    def begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None,
        tags: Mapping[str, Any],
    ) -> str: ...

    def log(self, run_id: str, points: Sequence[Point]) -> None: ...

    def artifact_text(self, run_id: str, name: str, content: str) -> None: ...

    def artifact_file(self, run_id: str, path: str) -> None: ...

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None: ...

    def finish(self, run_id: str, status: str) -> None: ...


def tracking_uri(settings: TrackingSettings, output: Path) -> str:
    """`tracking.uri`, else MLFLOW_TRACKING_URI, else the SQLite file `mlflow.db` in the output folder."""
    return settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.absolute() / 'mlflow.db'}"


@dataclass(frozen=True)
class Health:
    """What became of everything that was handed over. Metrics are counted by value.

    written: in MLflow.  spilled: in the folder instead.  lost: in neither.
    refused: values that are not finite or whose name MLflow forbids; each is in the folder too.
    artifacts: written;  artifacts that were spilled or lost count with the metrics.
    """

    written: int = 0
    artifacts: int = 0
    spilled: int = 0
    lost: int = 0
    refused: int = 0
    last_error: str | None = None


@dataclass
class _Run:
    """What the tracker knows of a run. The caller's thread counts `refused`, the writer's the others."""

    name: str
    kind: str = "run"
    status: str = "RUNNING"
    step: int = -1
    written: int = 0
    artifacts: int = 0
    spilled: int = 0
    lost: int = 0
    refused: int = 0
    failing: bool = False
    progress: dict[str, Any] = field(default_factory=dict)


class _Artifact(NamedTuple):
    """A text to keep under `name`, or with `content` None the file at `name`."""

    name: str
    content: str | None


class Tracking:
    """The queue and its writer thread. Ray-free: the actor holds one, and so can a job without Ray."""

    def __init__(
        self, store: RunStore, spill: Path, waits_s: Sequence[float] = WAITS_S, linger_s: float = 0.25
    ) -> None:
        self._store = store
        self._spill = spill
        self._waits_s = tuple(waits_s)
        self._linger_s = linger_s
        self._runs: dict[str, _Run] = {}
        self._last_error: str | None = None
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._store_lock = threading.Lock()  # `begin` runs in the caller's thread, everything else in the writer's
        self._writer = threading.Thread(target=self._write_for_ever, name="tracker", daemon=True)
        self._writer.start()

    def begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        """Create the run that `key` names, or reopen it; returns its id. Raises what the store raises."""
        with self._store_lock:
            run_id = self._store.begin(kind, name, settings, key, parent, tags or {})
        run = self._run(run_id)
        run.name, run.kind, run.status = name, kind, "RUNNING"
        return run_id

    def metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Queue the values; returns at once."""
        now, points = time.time_ns() // 1_000_000, []
        for name, value in values.items():
            mistake = _mistake(name, value)
            if mistake:
                self._refuse(run_id, name, value, step, mistake)
            else:
                points.append(Point(name, float(value), step, now))
        self._put(run_id, points)

    def progress(self, run_id: str, **state: Any) -> None:
        """Where the run stands, for the live display; kept in memory, the latest alone."""
        self._run(run_id).progress = state

    def artifact(self, run_id: str, name: str, content: str) -> None:
        """Queue a text to keep with the run; one of the same name is replaced."""
        self._put(run_id, _Artifact(name, content))

    def artifact_file(self, run_id: str, path: str) -> None:
        """Queue a file, read when it is written: it must stay until `position`, `finish` or `close` returned."""
        self._put(run_id, _Artifact(path, None))

    def position(self, run_id: str) -> dict[str, Any]:
        """Write what is queued; the run's id and the last step that was logged (-1 before the first).

        Raises `TrackingError` when something of this run is neither in MLflow nor spilled, or when the run was not
        begun here.
        """
        if run_id not in self._runs:
            raise TrackingError(f"tracker: run {run_id} was not begun with this tracker")
        self._flush()
        run = self._runs[run_id]
        if run.lost:
            raise TrackingError(
                f"tracker: {run.lost} metrics or artifacts of {run.name} were lost: MLflow did not take them and "
                f"{self._spill} could not be written; last error: {self._last_error}"
            )
        return {"run_id": run_id, "step": run.step}

    def finish(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        """Write what is queued, then end the run as FINISHED, FAILED or KILLED.

        tags: full names; more of them say what MLflow did not take.
        """
        self._flush()
        run = self._run(run_id)
        missing = {f"ductile.metrics_{name}": getattr(run, name) for name in ("spilled", "lost", "refused")}
        lacking = {name: str(count) for name, count in missing.items() if count}
        if lacking:
            log.error("run %s ends %s without all of its metrics: %s; see %s", run.name, status, lacking, self._spill)
        set_tags = {**(tags or {}), **lacking}

        def write() -> None:
            if set_tags:
                self._store.tag(run_id, set_tags)
            self._store.finish(run_id, status)

        if not self._attempt(run, write):
            raise TrackingError(f"tracker: {run.name} could not be marked {status}: {self._last_error}")
        run.status = status

    def live(self) -> list[dict[str, Any]]:
        """A row for each run, in the order they began: run_id, name, kind, status, and its latest progress."""
        return [
            {"run_id": run_id, "name": run.name, "kind": run.kind, "status": run.status, **run.progress}
            for run_id, run in list(self._runs.items())
        ]

    def health(self) -> dict[str, Any]:
        """The counts of `Health` over all runs, as plain values."""
        runs = list(self._runs.values())
        counts = {
            name: sum(getattr(run, name) for run in runs)
            for name in ("written", "artifacts", "spilled", "lost", "refused")
        }
        return asdict(Health(**counts, last_error=self._last_error))

    def close(self) -> dict[str, Any]:
        """Write everything that is queued, stop the writer, and return the health."""
        if self._writer.is_alive():
            self._flush()
            self._queue.put(("", None))
            self._writer.join()
        return self.health()

    def _run(self, run_id: str) -> _Run:
        return self._runs.setdefault(run_id, _Run(run_id))

    def _put(self, run_id: str, item: list[Point] | _Artifact) -> None:
        self._run(run_id)
        if self._writer.is_alive():
            self._queue.put((run_id, item))
        else:  # closed, or a bug ended the writer: the caller does not wait for an answer, so it is kept here
            self._give_up(run_id, item, "the tracker is closed")

    def _flush(self) -> None:
        written = threading.Event()
        self._queue.put(("", written))
        while not written.wait(0.5):
            if not self._writer.is_alive():
                raise TrackingError(f"tracker: its writer has stopped; last error: {self._last_error}")

    def _write_for_ever(self) -> None:
        while True:
            taken = self._take()
            grouped: dict[str, list[Point]] = {}
            for run_id, item in taken:
                if isinstance(item, list):
                    grouped.setdefault(run_id, []).extend(item)
            for run_id, points in grouped.items():
                for start in range(0, len(points), BATCH):
                    self._write_points(run_id, points[start : start + BATCH])
            for run_id, item in taken:
                if isinstance(item, _Artifact):
                    self._write_artifact(run_id, item)
                elif isinstance(item, threading.Event):
                    item.set()
                elif item is None:
                    return

    def _take(self) -> list[tuple[str, Any]]:
        """What is queued now or within `linger_s`; at once when someone waits for it."""
        taken, deadline = [self._queue.get()], time.monotonic() + self._linger_s
        while len(taken) < BATCH and isinstance(taken[-1][1], (list, _Artifact)):
            try:
                taken.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                break
        return taken

    def _write_points(self, run_id: str, points: list[Point]) -> None:
        run = self._run(run_id)
        if self._attempt(run, lambda: self._store.log(run_id, points)):
            run.written += len(points)
        else:
            self._give_up(run_id, points, str(self._last_error))
        run.step = max(run.step, *(point.step for point in points), -1)

    def _write_artifact(self, run_id: str, artifact: _Artifact) -> None:
        def write() -> None:
            if artifact.content is None:
                self._store.artifact_file(run_id, artifact.name)
            else:
                self._store.artifact_text(run_id, artifact.name, artifact.content)

        run = self._run(run_id)
        if self._attempt(run, write):
            run.artifacts += 1
        else:
            self._give_up(run_id, artifact, str(self._last_error))

    def _attempt(self, run: _Run, write: Callable[[], None]) -> bool:
        """Whether the write succeeded, at once or after pauses. Any error counts: what it was is kept and logged."""
        for wait_s in [None] if run.failing else [*self._waits_s, None]:
            try:
                with self._store_lock:
                    write()
            except Exception as error:
                self._last_error = redacted(f"{type(error).__name__}: {error}")
                log.warning("writing to MLflow failed for %s: %s", run.name, self._last_error)
                if wait_s is not None:
                    time.sleep(wait_s)
            else:
                run.failing = False
                return True
        run.failing = True
        return False

    def _refuse(self, run_id: str, name: str, value: Any, step: int, mistake: str) -> None:
        run = self._run(run_id)
        run.refused += 1
        log.error("metric refused: run %s, step %d, %s: %s", run.name, step, name, mistake)
        try:
            self._append(run_id, [{"name": str(name), "value": repr(value), "step": step, "reason": mistake}])
        except OSError as error:
            run.lost += 1
            self._last_error = f"{type(error).__name__}: {error}"

    def _give_up(self, run_id: str, item: list[Point] | _Artifact, reason: str) -> None:
        """Spill to the folder; what cannot be spilled is lost."""
        run, count = self._run(run_id), len(item) if isinstance(item, list) else 1
        try:
            if isinstance(item, list):
                self._append(run_id, [{**point._asdict(), "reason": reason} for point in item])
            elif item.content is None:
                self._append(run_id, [{"artifact_file": item.name, "reason": reason}])
            else:
                path = self._spill / run_id / Path(item.name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(item.content)
        except OSError as error:
            run.lost += count
            self._last_error = f"{type(error).__name__}: {error}"
            log.error("LOST %d metrics or artifacts of %s: %s", count, run.name, self._last_error)
        else:
            run.spilled += count
            log.error("spilled %d metrics or artifacts of %s to %s: %s", count, run.name, self._spill, reason)

    def _append(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._spill.mkdir(parents=True, exist_ok=True)
        with (self._spill / f"{run_id}.jsonl").open("a") as file:
            file.writelines(json.dumps({"run_id": run_id, **row}) + "\n" for row in rows)


def _mistake(name: Any, value: Any) -> str | None:
    if not isinstance(name, str) or not legal(name):
        return "MLflow forbids this name; see ductile.metrics.legal"
    try:
        return None if math.isfinite(value) else f"{value} is not finite"
    except TypeError:
        return f"{value!r} is not a number"
