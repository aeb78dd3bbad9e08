"""What runs log and how far they are, as Ray's own gauges: every node of the cluster exports them to Prometheus.

A metric `rollout/pass_rate` is there as `ray_ductile_rollout_pass_rate`: what is no letter and no digit becomes `_`,
before it stands `ductile_`, and Ray adds `ray_`. Exported are the declared metrics of `SECTIONS` whose names have no
placeholders, with the labels of `LABELS`, so that the number of series is bounded: no problem, level or completion is
ever in a label.

Ray keeps a gauge for two of its reports (20 s) and then drops it. So the latest values are set again and again while a
run goes on, however long its steps are, and those of a run that has ended disappear.
"""

from __future__ import annotations

import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from ray.util.metrics import Gauge

from ductile.metrics import METRICS, Metric

log = logging.getLogger(__name__)

SECTIONS = (
    "rollout",
    "learner",
    "difficulty",
    "reestimate",
    "retention",
    "drift",
    "phase",
    "time",
    "budget",
    "checkpoint",
    "pretrain",
)
"""First parts of the names of the metrics that are exported; what other probes measure is in MLflow alone."""

LABELS = ("run", "variant", "plan", "seed", "phase")
"""Labels of a run's gauges; `phase` is empty before the first step, and in pretraining."""

SETTLED = ("variant", "plan", "seed")
"""Those of them that a run's settings say."""

POSITION = (
    Metric("run/step", "steps", "RL steps that the run has done"),
    Metric("run/steps", "steps", "RL steps that its plan has"),
    Metric("run/updated_s", "s", "when it last logged anything, in seconds since 1970"),
)
"""Of each run, beside what it logs."""

TRACKING = (
    Metric("tracking/written", "count", "metric values in MLflow"),
    Metric("tracking/pending", "count", "metric values that are not there yet"),
    Metric("tracking/pending_s", "s", "age of the oldest of them"),
    Metric("tracking/away_s", "s", "time since MLflow last answered; 0 while it does"),
    Metric("tracking/refused", "count", "values that are not finite or that MLflow forbids the name of"),
)
"""Of each job's tracker, without labels of runs: those of these that `Tracking.health` has."""

EVERY_S = 5.0
"""Between two settings of all gauges; below the time for which Ray keeps one."""


class Sample(NamedTuple):
    """One value of one gauge, under the metric's own name."""

    name: str
    value: float
    labels: Mapping[str, str]


def prometheus_name(metric: str) -> str:
    """The gauge's name, before Ray puts `ray_` in front of it.

    >>> prometheus_name("rollout/tokens_per_s")
    'ductile_rollout_tokens_per_s'
    """
    return "ductile_" + re.sub(r"[^A-Za-z0-9]+", "_", metric)


def exported() -> dict[str, Metric]:
    """Every metric that may be a gauge, by its own name."""
    of_runs = [m for m in METRICS if m.pattern.split("/")[0] in SECTIONS and "<" not in m.pattern]
    return {metric.pattern: metric for metric in (*of_runs, *POSITION, *TRACKING)}


class Gauges:
    """The latest values of a job's runs, set as gauges by a thread of its own until the process ends.

    live, health: of the job's `Tracking`. `Gauge` can be replaced where there is no Ray.
    """

    def __init__(
        self,
        live: Callable[[], Sequence[Mapping[str, Any]]],
        health: Callable[[], Mapping[str, Any]],
        every_s: float = EVERY_S,
        gauge: Callable[..., Any] = Gauge,
    ) -> None:
        self._live, self._health, self._every_s = live, health, every_s
        self._gauge = functools.cache(functools.partial(_make, gauge))
        self._latest: dict[str, dict[str, float]] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, name="gauges", daemon=True).start()

    def begin(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """A run begins, or goes on, with these settings."""
        with self._lock:
            self._labels[run_id] = labels_of(settings)

    def logged(self, run_id: str, values: Mapping[str, float]) -> None:
        """A run logged these values; those that are not exported, or no numbers, are passed over."""
        known = {n: float(value) for n, value in values.items() if n in _EXPORTED and isinstance(value, Real)}
        with self._lock:
            self._latest.setdefault(run_id, {}).update(known, **{"run/updated_s": time.time()})

    def samples(self) -> list[Sample]:
        """What every gauge says now. Runs that have ended are in none, and are forgotten."""
        rows, health = self._live(), self._health()
        with self._lock:
            samples: list[Sample] = []
            for row in rows:
                run_id = row["run_id"]
                if row["status"] != "RUNNING":
                    self._latest.pop(run_id, None)
                    continue
                labels = self._labels.setdefault(run_id, labels_of({}))
                labels |= {name: str(row[name]) for name in SETTLED if name in row}  # after a restart the run says them
                labels["phase"] = _phase(row) or labels["phase"]
                samples += run_samples(row, self._latest.get(run_id, {}), labels)
        names = [metric.pattern for metric in TRACKING]
        told = ((name, health.get(name.removeprefix("tracking/"))) for name in names)
        return samples + [Sample(name, float(value), {}) for name, value in told if value is not None]

    def _beat(self) -> None:
        while True:
            try:
                for sample in self.samples():
                    self._gauge(sample.name).set(sample.value, dict(sample.labels))
            except Exception:  # the tracker's own work must go on, and so must the next beat
                log.exception("gauges were not set")
            time.sleep(self._every_s)


def run_samples(row: Mapping[str, Any], latest: Mapping[str, float], labels: Mapping[str, str]) -> list[Sample]:
    """The gauges of one run. row: its line of `Tracking.live`; latest: the last value of each metric."""
    all_labels = {**labels, "run": str(row["name"])}
    position = {f"run/{name}": float(row[name]) for name in ("step", "steps") if row.get(name) is not None}
    return [Sample(name, value, all_labels) for name, value in (latest | position).items()]


def labels_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The labels that settings give a run; those of a job that is no run are empty."""
    variant = settings.get("variant")
    named = (variant.get("label") or variant.get("name")) if isinstance(variant, Mapping) else variant
    values = {"variant": named, "plan": settings.get("plan"), "seed": settings.get("seed")}
    known = {name: "" if value is None else str(value) for name, value in values.items()}
    return dict.fromkeys(LABELS, "") | known


def _phase(row: Mapping[str, Any]) -> str:
    """The phase of the plan that a run is in; what it says while it is measured or pretrained is none."""
    said = str(row.get("phase") or "")
    return "" if row.get("kind", "run") != "run" or said.startswith("probe ") else said


def _make(gauge: Callable[..., Any], name: str) -> Any:
    metric = _EXPORTED[name]
    keys = () if name.startswith("tracking/") else LABELS
    return gauge(prometheus_name(name), description=f"{metric.meaning} ({metric.unit})", tag_keys=keys)


_EXPORTED = exported()
