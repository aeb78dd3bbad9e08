"""The one door to MLflow: runs that can be reopened, metrics that are logged once, and runs read back for the report.

A run is known by the tag `ductile.key`, so that a job started again goes on in the run that it left. Its settings are
parameters with dotted names and, whole, the artifact `settings.yaml`; its tags make MLflow's compare view readable.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# MLflow's own defaults (7 retries of 120 s, and as long as a server's Retry-After says) hang for minutes on a server
# that is gone; the tracker does the waiting.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
os.environ.setdefault("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "60")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import requests
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)

from actors.delivery import Point, Refused
from ductile.metrics import segment
from ductile.secrets import redacted, without_login
from ductile.settings import one_of
from ductile.versions import versions

if TYPE_CHECKING:  # a tracker makes no report, and figures take long to import
    from ductile.report.records import RunRecord

__all__ = ["MlflowException", "MlflowStore", "NoSuchRun", "flatten", "read_sqlite_history"]

KINDS = ("pretrain", "run", "compare", "sweep")
CALLED = {"compare": "comparison", "sweep": "search", "pretrain": "pretraining"}
"""What a kind is called, where it is not by its own name."""
ELSEWHERE = "name where it is with tracking.uri=, tracking.experiment= or output="
STATUSES = ("FINISHED", "FAILED", "KILLED")
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}
"""MLflow's codes of errors that would come again. What a proxy or a broken database answers is not among them, nor are
missing credentials: those are mended while the tracker waits. `BAD_REQUEST` is what MLflow says of every error of its
database but one that is locked or gone: a pool that ran out, a failover, a migration."""
OF_THE_RUN = ("RESOURCE_DOES_NOT_EXIST", "must be in the 'active' state")
"""In errors about the run itself: it is not there, or it was deleted."""
REFUSED_STATUSES = {400, 404, 405, 411, 413, 414, 415, 422}
"""HTTP statuses of the same kind, where artifacts go through MLflow's server or to a store of their own."""
TOO_LONG = "see settings.yaml"
"""Stands for a parameter longer than MLflow takes."""


class NoSuchRun(LookupError):
    """MLflow has no such experiment, comparison or run."""


class MlflowStore:
    """Runs of one experiment. Used by one thread at a time."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Touches nothing yet: a run's metrics can be written when nobody can create an experiment."""
        for noisy in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.uri, user, password = without_login(uri)
        if user is not None:  # MLflow reads them from there, and its errors quote the address
            os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = user, password or ""
        self._database = _sqlite_file(uri)
        self._name = experiment
        self._made_client: MlflowClient | None = None
        self._found_experiment: str | None = None
        self._held: dict[str, dict[int, frozenset[str]]] = {}  # run -> step -> metrics that MLflow has of it
        self._interned: dict[frozenset[str], frozenset[str]] = {}  # steps share few sets of names; each is kept once

    def connect(self) -> None:
        """Create the database (for SQLite) and the experiment where they do not exist yet.

        Raises `Refused` for an experiment that is deleted, and MLflow's errors when it does not answer.
        """
        with _refusals():
            self._found_experiment = self._experiment_id(self._name)

    def begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        """Reopen the run tagged `key`, an unfinished one first, or create it; returns its id.

        settings: plain nested values.  tags: short names (variant, plan, seed) get the prefix `ductile.`; a kind
        "run" takes these three from its settings when they are not given. A run that goes on with other settings
        keeps its first parameters, and the tag `ductile.changed_settings` says what changed.
        """
        if kind not in KINDS:
            raise ValueError(one_of("kind", kind, KINDS, "kind"))
        with _refusals():
            return self._begin(kind, name, settings, key, parent, tags or {})

    def _begin(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        key: str,
        parent: str | None,
        tags: Mapping[str, Any],
    ) -> str:
        wanted = {**_own_tags(kind, settings), **_prefixed(tags)}
        wanted |= {"ductile.kind": kind, "ductile.key": key, "mlflow.runName": name}
        if parent:
            wanted["mlflow.parentRunId"] = parent
        run = self._find(key)
        if run is None:
            run = self._client.create_run(self._experiment, tags=wanted, run_name=name)
            self._held[run.info.run_id] = {}
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
            self.tag(run.info.run_id, wanted)
            self._held[run.info.run_id] = self._read_held(run.info.run_id)
        run_id: str = run.info.run_id
        self._log_settings(run, settings)
        self.artifact_text(run_id, "versions.json", json.dumps(versions(), indent=1))
        return run_id

    def reopen(self, run_id: str) -> None:
        """The run goes on, whatever was said of its end before."""
        with _refusals():
            self._client.update_run(run_id, status="RUNNING")

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        """Log the values that MLflow does not hold yet for their name and step; a repeated step has the same ones."""
        with _refusals():
            # Until it answered, MLflow may or may not have taken the points, and has to be asked.
            held = self._held.pop(run_id, None)
            if held is None:
                held = self._read_held(run_id)
            self._log(run_id, points, held)
            self._held[run_id] = held

    def _log(self, run_id: str, points: Sequence[Point], held: dict[int, frozenset[str]]) -> None:
        fresh: dict[tuple[str, int], Point] = {}
        for point in points:
            if point.name not in held.get(point.step, ()):
                fresh.setdefault((point.name, point.step), point)
        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in fresh.values()]
        for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])
        for name, step in fresh:
            self._hold(held, step, name)

    def artifact_text(self, run_id: str, name: str, content: str) -> None:
        """Keep a text as the artifact `name`, in place of an earlier one."""
        with _refusals():
            self._client.log_text(run_id, content, name)

    def artifact_file(self, run_id: str, path: str) -> None:
        """Keep a copy of a file, under its own name."""
        with _refusals():
            self._client.log_artifact(run_id, path)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        with _refusals():
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def finish(self, run_id: str, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        if status not in STATUSES:
            raise ValueError(one_of("status", status, STATUSES, "status"))
        with _refusals():
            self._client.set_terminated(run_id, status)
        self._held.pop(run_id, None)

    def try_out(self) -> None:
        """Begin a run, log a value and delete it again; raises what keeps MLflow from it."""
        run_id = self._client.create_run(self._experiment, run_name="doctor").info.run_id
        try:
            self._client.log_metric(run_id, "doctor", 1.0)
            self._client.log_text(run_id, "here", "doctor.txt")
        finally:
            self._client.delete_run(run_id)

    def find(self, named: str, kind: str) -> tuple[str, dict[str, str]]:
        """Id and tags of the run of this kind with this id, this beginning of an id, or this name.

        Raises `NoSuchRun` when there is none, when there are several, or when it is of another kind. Makes nothing.
        """
        there = self._client.get_experiment_by_name(self._name) if self._exists() else None
        if there is None:
            raise NoSuchRun(f"no experiment {self._name!r} in {redacted(self.uri)}; {ELSEWHERE}")
        self._found_experiment = str(there.experiment_id)
        runs = list(self._search("tags.`ductile.kind` != ''", newest_first=True))
        found = [run for run in runs if run.info.run_id.startswith(named)] if named else []
        found = found or [run for run in runs if run.data.tags.get("mlflow.runName") == named]
        right = [run for run in found if run.data.tags["ductile.kind"] == kind]
        if len(right) == 1:
            return str(right[0].info.run_id), dict(right[0].data.tags)
        if right:
            ids = ", ".join(run.info.run_id[:12] for run in right[:8])
            raise NoSuchRun(f"{named!r} names {len(right)} runs; name one by its id: {ids}")
        for run in found:
            other = run.data.tags["ductile.kind"]
            how = f"go on with it by jobs.{other}" if other in ("run", "compare") else "give the same command again"
            raise NoSuchRun(f"{named!r} is a {CALLED.get(other, other)}; {how}")
        raise NoSuchRun(f"no {CALLED.get(kind, kind)} {named!r} in {redacted(self.uri)}; {ELSEWHERE}")

    def _exists(self) -> bool:
        return self._database is None or self._database.exists()

    def newest_comparison(self) -> str:
        """The id of the comparison that began last. Raises `NoSuchRun`."""
        runs = self._search("tags.`ductile.kind` = 'compare'", newest_first=True)
        for run in runs:
            return str(run.info.run_id)
        raise NoSuchRun(
            f"tracking: {redacted(self.uri)} has no comparison in this experiment; run one "
            f"with `python -m jobs.compare`"
        )

    def read_comparison(self, parent: str | None = None) -> list[RunRecord]:
        """The runs of a comparison (default: the newest), by when they began; of a single run's id, that run."""
        parent = parent or self.newest_comparison()
        run = self._get(parent)
        if run.data.tags.get("ductile.kind") == "run":
            return [self._record(run)]
        if run.data.tags.get("ductile.kind") == "sweep":
            raise NoSuchRun(
                f"run: {parent} is a search over thresholds; its tables and its map are made by the same jobs.sweep "
                f"command again, and kept as its artifacts; jobs.report takes a comparison or one run"
            )
        children = self._search(f"tags.`mlflow.parentRunId` = '{parent}' and tags.`ductile.kind` = 'run'")
        return [self._record(child) for child in children]

    def read_text(self, run_id: str, name: str) -> str | None:
        """A text artifact, or None when the run has none of that name."""
        if name not in {item.path for item in self._client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(run_id, name, folder)).read_text()

    def read_settings(self, run_id: str) -> dict[str, Any]:
        """The run's full settings, from `settings.yaml`; empty when it has none."""
        return yaml.safe_load(self.read_text(run_id, "settings.yaml") or "{}")  # type: ignore[no-any-return]

    def read_versions(self, run_id: str) -> dict[str, str]:
        """The versions that the run was made with; empty when it has none."""
        return json.loads(self.read_text(run_id, "versions.json") or "{}")  # type: ignore[no-any-return]

    @property
    def _client(self) -> MlflowClient:
        if self._made_client is None:
            if self._database:
                self._database.parent.mkdir(parents=True, exist_ok=True)
            self._made_client = MlflowClient(tracking_uri=self.uri)
        return self._made_client

    @property
    def _experiment(self) -> str:
        if self._found_experiment is None:
            self.connect()
        assert self._found_experiment is not None
        return self._found_experiment

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            # MLflow's default for SQLite is a folder in the working directory of whoever asks.
            location = (self._database.parent / "mlflow-artifacts").as_uri() if self._database else None
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException:  # another job may have made it since
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise Refused(f"tracking.experiment: {name!r} is deleted in MLflow; restore it there or name another one")
        return str(found.experiment_id)

    def _find(self, key: str) -> Run | None:
        if "'" in key:
            raise ValueError(f"key: {key!r} must not hold a quote")
        runs = list(self._search(f"tags.`ductile.key` = '{key}'", newest_first=True))
        unfinished = [run for run in runs if run.info.status != "FINISHED"]
        return next(iter(unfinished or runs), None)

    def _get(self, run_id: str) -> Run:
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            raise NoSuchRun(f"tracking: no run {run_id} in {redacted(self.uri)}") from error

    def _search(self, condition: str, newest_first: bool = False) -> Iterator[Run]:
        order, token = ["attributes.start_time DESC" if newest_first else "attributes.start_time ASC"], None
        while True:
            page = self._client.search_runs([self._experiment], condition, order_by=order, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _log_settings(self, run: Run, settings: Mapping[str, Any]) -> None:
        run_id, known = run.info.run_id, run.data.params
        parameters = dict(flatten(settings))
        new = [Param(name, value) for name, value in parameters.items() if name not in known]
        for start in range(0, len(new), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, params=new[start : start + MAX_PARAMS_TAGS_PER_BATCH])
        changed = [
            f"{name}: {known[name]} -> {value}" for name, value in parameters.items() if known.get(name, value) != value
        ]
        if changed:
            self.tag(run_id, {"ductile.changed_settings": "\n".join(changed)[:5000]})
        if settings:
            self.artifact_text(run_id, "settings.yaml", yaml.safe_dump(dict(settings), sort_keys=False))

    def _read_held(self, run_id: str) -> dict[int, frozenset[str]]:
        held: dict[int, frozenset[str]] = {}
        for name, history in self._history(run_id).items():
            for step, _ in history:
                self._hold(held, step, name)
        return held

    def _hold(self, held: dict[int, frozenset[str]], step: int, name: str) -> None:
        names = held.get(step, frozenset()) | {name}
        held[step] = self._interned.setdefault(names, names)

    def _record(self, run: Run) -> RunRecord:
        from ductile.report.records import RunRecord, phase_bands

        tags, run_id = run.data.tags, run.info.run_id
        seed = tags.get("ductile.seed", "")
        return RunRecord(
            run_id=run_id,
            variant=tags.get("ductile.variant", ""),
            plan=tags.get("ductile.plan", ""),
            seed=int(seed) if seed.isdigit() else 0,
            status=run.info.status,
            metrics=self._history(run_id),
            boundaries=tuple(json.loads(self.read_text(run_id, "boundaries.json") or "[]")),
            phases=phase_bands(json.loads(self.read_text(run_id, "plan.json") or "[]")),
            audits=tuple(json.loads(self.read_text(run_id, "audits.json") or "[]")),
        )

    def _history(self, run_id: str) -> dict[str, tuple[tuple[int, float], ...]]:
        """Every metric's (step, value) pairs by step."""
        if self._database:
            return read_sqlite_history(self._database, run_id)
        return self.read_client_history(run_id)

    def read_client_history(self, run_id: str) -> dict[str, tuple[tuple[int, float], ...]]:
        """Every metric's (step, value) pairs by step, through MLflow's API: one call or more for each metric."""
        return {
            name: tuple(sorted((m.step, m.value) for m in self._client.get_metric_history(run_id, name)))
            for name in sorted(self._client.get_run(run_id).data.metrics)
        }


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell what would be refused again from what is worth trying again."""
    try:
        yield
    except MlflowException as error:
        if error.error_code in REFUSALS:
            reason = f"{error.error_code}: {error}"
            raise Refused(reason, whole=any(words in reason for words in OF_THE_RUN)) from error
        raise
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code in REFUSED_STATUSES:
            raise Refused(str(error)) from error
        raise


def read_sqlite_history(database: Path, run_id: str) -> dict[str, tuple[tuple[int, float], ...]]:
    """Every metric's (step, value) pairs by step, in one query on MLflow's table `metrics`; NaN where it has NaN."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        rows = connection.execute(
            "SELECT key, step, CASE WHEN is_nan THEN NULL ELSE value END FROM metrics WHERE run_uuid = ? "
            "ORDER BY key, step, value",
            (run_id,),
        )
        history: dict[str, list[tuple[int, float]]] = {}
        for name, step, value in rows:
            history.setdefault(name, []).append((step, float("nan") if value is None else value))
    return {name: tuple(points) for name, points in history.items()}


def flatten(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every setting; lists, empty groups and None as JSON; `TOO_LONG` for too long a text."""
    for key, value in settings.items():
        name = f"{path}.{segment(str(key))}" if path else segment(str(key))
        if isinstance(value, Mapping) and value:
            yield from flatten(value, name)
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        yield name[:MAX_ENTITY_KEY_LENGTH], text if len(text) <= MAX_PARAM_VAL_LENGTH else TOO_LONG


def _own_tags(kind: str, settings: Mapping[str, Any]) -> dict[str, str]:
    if kind != "run" or not settings:
        return {}
    variant = settings.get("variant")
    values = {
        "variant": (variant.get("label") or variant.get("name")) if isinstance(variant, Mapping) else variant,
        "plan": settings.get("plan"),
        "seed": settings.get("seed"),
    }
    return _prefixed({name: value for name, value in values.items() if value is not None})


def _prefixed(tags: Mapping[str, Any]) -> dict[str, str]:
    own = ("ductile.", "mlflow.")
    return {name if name.startswith(own) else f"ductile.{name}": str(value) for name, value in tags.items()}


def _sqlite_file(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None
