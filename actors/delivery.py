"""From a run's journal to MLflow: everything in the order in which it was logged, once.

A record leaves the journal when MLflow has it. What was written just before a crash, or without an answer, is written
again: a metric that MLflow holds is left out by the store, and everything else replaces itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from actors.journal import Journal, Line, Record, weight

BATCH = 1000
"""Most metrics in one write, MLflow's own limit, and most records that are read at a time."""


class Refused(RuntimeError):
    """MLflow answered, and would answer the same again. whole: it is the run that it does not take, not the value."""

    def __init__(self, reason: str, whole: bool = False) -> None:
        super().__init__(reason)
        self.whole = whole


class Point(NamedTuple):
    """One metric value. `timestamp` in milliseconds, taken when it was logged: a write made twice is the same write."""

    name: str
    value: float
    step: int
    timestamp: int


class RunStore(Protocol):
    """Where runs are kept; `mlflow_store.MlflowStore` is the one.

    Raises `Refused` for what would be refused again; any other error means that it is worth trying again.
    """

    def connect(self) -> None: ...

    def begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None,
        tags: Mapping[str, Any],
    ) -> str: ...

    def reopen(self, run_id: str) -> None: ...

    def log(self, run_id: str, points: Sequence[Point]) -> None: ...

    def artifact_text(self, run_id: str, name: str, content: str) -> None: ...

    def artifact_file(self, run_id: str, path: str) -> None: ...

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None: ...

    def finish(self, run_id: str, status: str) -> None: ...


class Aside:
    """What MLflow does not take, kept for its user as `<run id>.jsonl`, each with the reason, and counted by run.

    refused: metrics that are not finite or have a name that MLflow forbids.  aside: what MLflow itself refused.
    Whoever logs adds the former, and whoever delivers the latter, at the same time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[str, dict[str, int]] = {}
        self._lock = threading.RLock()

    def add(self, run_id: str, what: str, reason: str, record: Record) -> None:
        """Keep it. what: refused or aside. Raises `OSError`."""
        with self._lock:
            counts = self.counts(run_id)
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path(run_id).open("ab+") as file:
                file.seek(-1 if file.tell() else 0, os.SEEK_END)
                if file.read(1) not in (b"", b"\n"):  # a line that a crash cut
                    file.write(b"\n")
                file.write((json.dumps({"what": what, "reason": reason, **record}) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
            counts[what] += weight(record)

    def keep_file(self, run_id: str, path: Path) -> None:
        """Keep a file that MLflow refused."""
        target = self.folder / run_id / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())

    def counts(self, run_id: str) -> dict[str, int]:
        """How much of a run is here, from jobs before this one too."""
        with self._lock:
            if run_id not in self._counts:
                counts, path = {"refused": 0, "aside": 0}, self._path(run_id)
                for line in path.read_text().splitlines() if path.exists() else []:
                    with contextlib.suppress(ValueError):  # a line that a crash cut
                        row = json.loads(line)
                        counts[row["what"]] += weight(row)
                self._counts[run_id] = counts
            return self._counts[run_id]

    def total(self) -> dict[str, int]:
        """The counts of all runs that were asked for."""
        counts = list(self._counts.values())
        return {name: sum(count[name] for count in counts) for name in ("refused", "aside")}

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.jsonl"


def deliver(journal: Journal, store: RunStore, aside: Aside) -> Iterator[list[Record]]:
    """Write the oldest records of a journal to the store; yields those that left the journal, part by part.

    Raises what the store raises, but not `Refused`: what it refuses is put aside.
    """
    lines = journal.read(BATCH)
    for together in _batches(lines):
        if together[0].record["do"] == "metrics":
            _log(journal.run_id, [line.record for line in together], store, aside)
        else:
            _write(journal, together[0].record, store, aside)
        journal.acknowledge(together)
        yield [line.record for line in together]


def _batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Metrics that follow each other in one, as many as one write takes; anything else alone."""
    for metrics, same in groupby(lines, lambda line: line.record["do"] == "metrics"):
        batch: list[Line] = []
        for line in same:
            if batch and (not metrics or sum(weight(one.record) for one in (*batch, line)) > BATCH):
                yield batch
                batch = []
            batch.append(line)
        yield batch


def _log(run_id: str, records: Sequence[Record], store: RunStore, aside: Aside) -> None:
    points = [
        Point(name, value, record["step"], record["time"])
        for record in records
        for name, value in record["values"].items()
    ]
    _log_points(run_id, points, store, aside)


def _log_points(run_id: str, points: Sequence[Point], store: RunStore, aside: Aside) -> None:
    """Log them; of those that the store refuses together, find the ones that it refuses alone."""
    if not points:
        return
    try:
        store.log(run_id, points)
    except Refused as refusal:
        if len(points) > 1 and not refusal.whole:
            half = len(points) // 2
            _log_points(run_id, points[:half], store, aside)
            _log_points(run_id, points[half:], store, aside)
            return
        for name, value, step, time in points:
            record = {"do": "metrics", "values": {name: value}, "step": step, "time": time}
            aside.add(run_id, "aside", str(refusal), record)


def _refused(write: Callable[[], None]) -> Refused | None:
    """Why MLflow refused it, where it did."""
    try:
        write()
    except Refused as refusal:
        return refusal
    return None


def _write(journal: Journal, record: Record, store: RunStore, aside: Aside) -> None:
    run_id, what = journal.run_id, record["do"]
    try:
        if what == "begin":
            store.reopen(run_id)
        elif what == "text":
            store.artifact_text(run_id, record["name"], record["content"])
        elif what == "file":
            path = journal.folder / record["path"]
            if path.exists():  # else it was delivered: a file goes only when MLflow has it
                store.artifact_file(run_id, str(path))
        elif what == "tag":
            store.tag(run_id, record["tags"])
        elif what == "finish":
            lacking = {f"ductile.metrics_{name}": str(n) for name, n in aside.counts(run_id).items() if n}
            tags = {**record["tags"], **lacking}
            refused = _refused(lambda: store.tag(run_id, tags)) if tags else None  # which keeps no run from its end
            store.finish(run_id, record["status"])
            if refused:  # not before: what fails for a while is written again from its start
                aside.add(run_id, "aside", str(refused), {"do": "tag", "tags": tags})
    except Refused as refusal:
        if what == "file":
            aside.keep_file(run_id, journal.folder / record["path"])
        aside.add(run_id, "aside", str(refusal), record)
