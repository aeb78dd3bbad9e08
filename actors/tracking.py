"""Tracking without Ray: what runs log goes to a journal on disk, and one thread takes it from there to MLflow.

Nothing waits for MLflow but `begin`, which needs its id of the run. While MLflow does not answer the journal grows, the
thread tries again with growing pauses for as long as the job lives, and a later job goes on with what is left.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.delivery import Aside, Refused, RunStore, deliver
from actors.journal import Journal, JournalBusy, Record, Told, glance, journals, now, untouched_s, weight
from ductile.config import TrackingSettings
from ductile.metrics import legal
from ductile.secrets import redacted

log = logging.getLogger(__name__)

PAUSES_S = (0.5, 30.0)
"""The pause after a first failed write, doubled after each one that follows, and the longest pause."""

LEFT_S = 60.0
"""A journal that nobody holds and nobody wrote to for so long is left over: a tracker that died is back sooner."""

FOLDER = "journal"
"""Of the journals, in the output folder."""


class TrackingError(RuntimeError):
    """What was logged is safe neither in MLflow nor in the journal, or MLflow is needed and does not answer."""


def tracking_uri(settings: TrackingSettings, output: Path) -> str:
    """`tracking.uri`, else MLFLOW_TRACKING_URI, else the SQLite file `mlflow.db` in the output folder."""
    return settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.absolute() / 'mlflow.db'}"


@dataclass(frozen=True)
class Health:
    """What became of everything that was handed over since the tracker began. Metrics are counted by value.

    written: in MLflow.  artifacts: written, and other records.  pending: in the journal alone, the oldest for
    `pending_s` seconds.  away_s: seconds since MLflow last answered, 0 when it does.
    refused: values that are not finite or whose name MLflow forbids.  aside: what MLflow refused; both are kept in the
    folder `aside` of the journals.
    """

    written: int = 0
    artifacts: int = 0
    pending: int = 0
    pending_s: float = 0.0
    away_s: float = 0.0
    refused: int = 0
    aside: int = 0
    last_error: str | None = None


@dataclass
class _Run:
    """What the tracker knows of a run. journal: None once MLflow has all of it and the run is over."""

    name: str
    kind: str = "run"
    status: str = "RUNNING"
    ours: bool = True  # begun by this job; others are delivered, and shown to nobody
    journal: Journal | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    pause_s: float = 0.0
    next_try: float = 0.0
    told: bool = False  # that MLflow refused some of it


class Tracking:
    """The journals of a job's runs and the thread that delivers them. Ray-free: the actor holds one."""

    def __init__(
        self,
        store: RunStore,
        folder: Path,
        where: str = "",
        job: str = "",
        patience_s: float = 600.0,
        pauses_s: tuple[float, float] = PAUSES_S,
        linger_s: float = 0.25,
    ) -> None:
        """Take over the journals in `folder` that nobody has and that are for the MLflow at `where`.

        job: the same for every tracker of one job, so that one that is started again knows the job's runs.
        patience_s: how long `begin` waits for MLflow, and everything for a disk that is full.
        """
        self._store, self._folder, self._job = store, folder, job
        self._where = redacted(where)
        self._patience_s, self._pauses_s, self._linger_s = patience_s, pauses_s, linger_s
        self._aside = Aside(folder / "aside")
        self._runs: dict[str, _Run] = {}
        self._written = self._artifacts = 0
        self._last_error: str | None = None
        self._away_since: float | None = None
        self._lock = threading.RLock()  # of the runs and their journals
        self._store_lock = threading.Lock()  # `begin` runs in the caller's thread, everything else in the writer's
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._take_over(0.0)
        self._writer = threading.Thread(target=self._deliver_for_ever, name="tracker", daemon=True)
        self._writer.start()

    def reach(self) -> str | None:
        """None when MLflow answers, else what it said. Raises `TrackingError` for what waiting does not mend."""
        try:
            with self._store_lock:
                self._store.connect()
        except Refused as refusal:
            raise TrackingError(str(refusal)) from refusal
        except Exception as error:
            return _described(error)
        return None

    def begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        """Create the run that `key` names, or reopen it; returns its id. May be called again with the same answer.

        Waits for MLflow, and for another job that is still logging the run; `TrackingError` when patience is over,
        and at once for what MLflow would refuse again.
        """
        deadline, pause_s = time.monotonic() + self._patience_s, self._pauses_s[0]
        while True:
            try:
                with self._store_lock:
                    run_id = self._store.begin(kind, name, settings, key, parent, tags or {})
                with self._lock:
                    run, journal = self._open(run_id)
                    journal.append({"do": "begin", "name": name, "kind": kind, "job": self._job, "time": now()})
                    journal.sync()
                    run.name, run.kind, run.status, run.ours = name, kind, "RUNNING", True
                self._wake.set()
                return run_id
            except Exception as error:
                final = isinstance(error, Refused) or type(error) is ValueError  # broken JSON is one of another type
                if final or time.monotonic() + pause_s > deadline:
                    raise TrackingError(
                        f"tracking: {name} could not be begun in MLflow: {_described(error)}"
                    ) from error
                log.warning("%s waits for MLflow: %s", name, _described(error))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pauses_s[1])

    def take(
        self, run_id: str, records: Sequence[Record], sender: str = "", first: int = 0, confirmed: int = 0
    ) -> None:
        """Write records to the journal; returns at once.

        sender, first: who hands them over, and the number of the first of them.  confirmed: the number up to which
        `position` told the sender that its records are here. What was taken from this sender before is passed over,
        and so is what follows a gap: the sender hands it over again. Raises `OSError`.
        """
        with self._lock:
            _, journal = self._open(run_id)
            taken = journal.told.taken
            for number, record in enumerate(records, first):
                if sender and number != max(taken.get(sender, 0), confirmed) + 1:
                    continue
                self._append(journal, {**record, "sender": sender, "number": number} if sender else record)
        self._wake.set()

    def metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Log values at a step, without a sender's number."""
        self.take(run_id, [{"do": "metrics", "values": dict(values), "step": step, "time": now()}])

    def artifact(self, run_id: str, name: str, content: str) -> None:
        """Keep a text with the run; one of the same name is replaced."""
        self.take(run_id, [{"do": "text", "name": name, "content": content, "time": now()}])

    def artifact_file(self, run_id: str, path: str) -> None:
        """Keep a copy of a file with the run; it may go when this returns."""
        with self._lock:
            _, journal = self._open(run_id)
            journal.append({"do": "file", "path": journal.keep_file(Path(path)), "time": now()})
        self._wake.set()

    def progress(self, run_id: str, **state: Any) -> None:
        """Where the run stands, for the live display; kept in memory, the latest alone."""
        if run_id in self._runs:
            self._runs[run_id].progress = state

    def position(self, run_id: str, sender: str = "") -> dict[str, Any]:
        """Wait until what was taken is on the disk.

        Returns the run's id, the last step that was logged (-1 before the first), and the number of the last record
        that was taken from the sender. Raises `TrackingError` for a run that was not begun here, and `OSError`.
        """
        with self._lock:
            if run_id not in self._runs and run_id not in journals(self._folder):
                raise TrackingError(f"tracker: run {run_id} was not begun with this tracker")
            _, journal = self._open(run_id)
            journal.sync()
            return {"run_id": run_id, "step": journal.told.step, "taken": journal.told.taken.get(sender, 0)}

    def finish(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        """The run ends as FINISHED, FAILED or KILLED, when MLflow has everything before.

        tags: full names; more of them say what MLflow did not take. Waits for a disk that is full; then `OSError`.
        """
        record = {"do": "finish", "status": status, "tags": dict(tags or {}), "time": now()}
        deadline, pause_s = time.monotonic() + self._patience_s, self._pauses_s[0]
        while True:
            try:
                with self._lock:
                    run, journal = self._open(run_id)
                    journal.append(record)
                    journal.sync()
                    run.status = status
                break
            except OSError as error:
                if time.monotonic() + pause_s > deadline:
                    raise
                log.error("%s cannot be ended: the journal %s: %s", run_id, self._folder, error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pauses_s[1])
        self._wake.set()

    def live(self) -> list[dict[str, Any]]:
        """A row for each run of this job, in the order they began: run_id, name, kind, status, latest progress."""
        return [
            {"run_id": run_id, "name": run.name, "kind": run.kind, "status": run.status, **run.progress}
            for run_id, run in list(self._runs.items())
            if run.ours
        ]

    def health(self) -> dict[str, Any]:
        """The counts of `Health` over all runs, as plain values."""
        runs = dict(self._runs)
        waiting = [run.journal for run in runs.values() if run.journal is not None and run.journal.values]
        oldest = min((journal.oldest or now() for journal in waiting), default=now())
        lacking = self._aside.total()
        return asdict(
            Health(
                written=self._written,
                artifacts=self._artifacts,
                pending=sum(journal.values for journal in waiting),
                pending_s=max(0.0, (now() - oldest) / 1000),
                away_s=0.0 if self._away_since is None else time.monotonic() - self._away_since,
                refused=lacking["refused"],
                aside=lacking["aside"],
                last_error=self._last_error,
            )
        )

    def drain(self, timeout_s: float) -> bool:
        """Wait until MLflow has everything; whether it does."""
        deadline = time.monotonic() + timeout_s
        while self.health()["pending"]:
            if time.monotonic() >= deadline or not self._writer.is_alive():
                return False
            time.sleep(0.02)
        return True

    def settled(self) -> bool:
        """Whether MLflow has everything that was logged here, but for runs that other jobs still go on with."""
        with self._lock:
            self._take_over(LEFT_S)
            elsewhere = [glance(self._folder, run_id) for run_id in journals(self._folder) if run_id not in self._runs]
            ending = [told for told in elsewhere if told.status != "RUNNING" and self._is_here(told)]
            return not ending and not self.health()["pending"]

    def close(self) -> dict[str, Any]:
        """Stop delivering, and leave what is pending in the journal; returns the health."""
        self._stop.set()
        self._wake.set()
        self._writer.join()
        with self._lock:
            health = self.health()
            for run in self._runs.values():
                if run.journal is not None:
                    (run.journal.close if run.journal.values else run.journal.remove)()
                    run.journal = None
        return health

    def _take_over(self, left_s: float) -> None:
        """Open the journals that an earlier job left that long ago, or this job's tracker before it died."""
        for run_id in journals(self._folder):
            if run_id in self._runs or untouched_s(self._folder, run_id) < left_s:
                continue
            if not self._is_here(glance(self._folder, run_id)):
                continue
            try:
                journal = Journal(self._folder, run_id, self._where)
            except JournalBusy:
                continue
            except OSError as error:
                log.error("the journal of run %s cannot be opened: %s", run_id, error)
                continue
            told = journal.told
            if not self._is_here(told):
                journal.close()
                continue
            ours = bool(self._job) and told.job == self._job
            self._runs[run_id] = _Run(told.name or run_id, told.kind, told.status, ours, journal)
        self._wake.set()

    def _is_here(self, told: Told) -> bool:
        return told.where in ("", self._where)

    def _open(self, run_id: str) -> tuple[_Run, Journal]:
        run = self._runs.setdefault(run_id, _Run(run_id))
        if run.journal is None:
            run.journal = Journal(self._folder, run_id, self._where)
        return run, run.journal

    def _append(self, journal: Journal, record: Record) -> None:
        if record["do"] != "metrics":
            journal.append(record)
            return
        mistakes = {name: _mistake(name, value) for name, value in record["values"].items()}
        taken = {name: float(value) for name, value in record["values"].items() if not mistakes[name]}
        journal.append({**record, "values": taken})
        for name, mistake in mistakes.items():
            if mistake:
                value, step = record["values"][name], record["step"]
                log.error("metric refused: run %s, step %d, %s: %s", journal.run_id, step, name, mistake)
                refused = {"do": "metrics", "values": {str(name): repr(value)}, "step": step}
                self._aside.add(journal.run_id, "refused", mistake, refused)

    def _deliver_for_ever(self) -> None:
        looked = time.monotonic()
        while not self._stop.is_set():
            if time.monotonic() - looked > LEFT_S:  # a job that was killed may have held its journals when ours began
                looked = time.monotonic()
                with self._lock:
                    self._take_over(LEFT_S)
            if self._wake.wait(self._idle_s()):
                self._wake.clear()
                self._stop.wait(self._linger_s)  # more may be about to come
            for run_id, run in list(self._runs.items()):
                if run.journal is not None and time.monotonic() >= run.next_try and not self._stop.is_set():
                    self._deliver(run_id, run, run.journal)

    def _idle_s(self) -> float:
        """Seconds until something that is pending may be tried, and at most those between two looks for journals."""
        due = [run.next_try for run in self._runs.copy().values() if run.journal is not None and run.journal.values]
        return min([LEFT_S, *(max(0.0, at - time.monotonic()) for at in due)])

    def _deliver(self, run_id: str, run: _Run, journal: Journal) -> None:
        aside = self._aside.counts(run_id)
        known = aside["aside"]
        try:
            with self._store_lock:
                before = aside["aside"]
                for records in deliver(journal, self._store, self._aside):
                    count = sum(weight(record) for record in records) - (aside["aside"] - before)
                    before = aside["aside"]
                    if records[0]["do"] == "metrics":
                        self._written += count
                    else:
                        self._artifacts += count
                    self._answered(run)
            with self._lock:
                self._remove_if_over(run_id, run)
        except Exception as error:
            # Any error counts, the journal's too: what it was is kept and told, and the next try may succeed.
            self._failed(run, error)
        if aside["aside"] > known and not run.told:  # once: a name that is refused is refused at every step
            log.error("MLflow refused some of what %s logged; it is in %s", run.name, self._aside.folder)
            run.told = True

    def _remove_if_over(self, run_id: str, run: _Run) -> None:
        over = run.status != "RUNNING" or not run.ours
        if over and run.journal is not None and not run.journal.values:
            run.journal.remove()
            run.journal = None
            if not run.ours:
                self._runs.pop(run_id)

    def _answered(self, run: _Run) -> None:
        run.pause_s = run.next_try = 0.0
        if self._away_since is not None:
            log.warning("MLflow answers again, after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None

    def _failed(self, run: _Run, error: Exception) -> None:
        self._last_error = _described(error)
        log.warning("writing to MLflow failed for %s: %s", run.name, self._last_error)
        self._away_since = time.monotonic() if self._away_since is None else self._away_since
        first_s, longest_s = self._pauses_s
        run.pause_s = min(2 * run.pause_s or first_s, longest_s)
        run.next_try = time.monotonic() + run.pause_s


def _described(error: Exception) -> str:
    return redacted(f"{type(error).__name__}: {error}")


def _mistake(name: Any, value: Any) -> str | None:
    if not isinstance(name, str) or not legal(name):
        return "MLflow forbids this name; see ductile.metrics.legal"
    try:
        return None if math.isfinite(value) else f"{value} is not finite"
    except TypeError:
        return f"{value!r} is not a number"
