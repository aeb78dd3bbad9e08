"""The Grafana dashboard and the alert rules, from the tables below; a metric that no run exports is an error here.

    python infra/monitoring/build.py        writes ductile.json, alerts.yml, and ../kubernetes/monitoring.yaml

Needs `platform` and the repository's root on PYTHONPATH, as a job does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from actors.gauges import exported, prometheus_name

HERE = Path(__file__).resolve().parent
WRITTEN_BY = "# Written by infra/monitoring/build.py; change that, not this.\n"
SELECTED = '{run=~"$run",variant=~"$variant",plan=~"$plan"}'


class Panel(NamedTuple):
    """One graph. metrics: names of `ductile.metrics`, or whole expressions where they hold a `(`."""

    title: str
    unit: str
    metrics: Sequence[str]


class Alert(NamedTuple):
    """One rule. `minutes`: how long the expression must hold."""

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str
    what_to_do: str


def series(metric: str, selector: str = "") -> str:
    """A declared metric as Prometheus has it. Raises KeyError for one that runs do not export."""
    return f"ray_{prometheus_name(exported()[metric].pattern)}{selector}"


WAITING = 'ray_actors{Name="RolloutActor",State=~"DEPENDENCIES_UNREADY|PENDING_CREATION|RESTARTING"}'
ALIVE = 'ray_actors{Name="RolloutActor",State="ALIVE"}'

ROWS: Mapping[str, Sequence[Panel]] = {
    "Learning": (
        Panel("Pass rate of the step's completions", "percentunit", ("rollout/pass_rate",)),
        Panel("Silent groups", "percentunit", ("rollout/silent_share", "rollout/wasted_share")),
        Panel("KL to the anchor", "none", ("learner/kl_anchor",)),
        Panel("Distance from the base (RMS of weights)", "none", ("learner/weight_drift_rms",)),
        Panel("Entropy", "none", ("learner/entropy",)),
        Panel("Gradient norm", "none", ("learner/grad_norm",)),
        Panel("Completion length", "none", ("rollout/length_mean",)),
        Panel("Exact KL to the base at boundaries", "none", ("drift/kl_forward_base/prior",)),
    ),
    "Difficulty": (
        Panel("Calibration: Brier score", "none", ("difficulty/brier",)),
        Panel("Problems whose estimate is in the band", "percentunit", ("difficulty/in_band_share",)),
        Panel("Age of the estimates", "none", ("difficulty/age_mean", "difficulty/age_max")),
        Panel("Unjudged completions", "percentunit", ("rollout/unjudged_share",)),
    ),
    "Speed": (
        Panel("Tokens a second", "none", ("rollout/tokens_per_s",)),
        Panel("Seconds of a step", "s", ("time/step_s", "rollout/seconds", "learner/seconds")),
        Panel("Updates that the sampling policy is behind", "none", ("rollout/staleness",)),
        Panel(
            "Steps done, of the plan's", "percentunit", (f"{series('run/step', SELECTED)} / ({series('run/steps')})",)
        ),
    ),
    "Health": (
        Panel("Rollout actors of the run", "none", ("rollout/actors",)),
        Panel("Rollout actors of the cluster", "none", (f"sum({ALIVE})", f"sum({WAITING})")),
        Panel(
            "Calls made again, calls made twice, in a step", "none", ("rollout/retried_calls", "rollout/hedged_calls")
        ),
        Panel(
            "Waiting for checkpoints; refused by a disk or store",
            "none",
            ("checkpoint/waited_s", "checkpoint/failures"),
        ),
        Panel("MLflow: values that it lacks", "none", ("tracking/pending", "tracking/refused")),
        Panel("MLflow: how far behind", "s", ("tracking/pending_s", "tracking/away_s")),
        Panel("Since the run last logged", "s", (f"time() - ({series('run/updated_s', SELECTED)})",)),
    ),
}

ALERTS: Sequence[Alert] = (
    Alert(
        "DuctileRunStalled",
        f"time() - {series('run/updated_s')} > 1800",
        5,
        "critical",
        "{{ $labels.run }} has logged nothing for half an hour",
        "A learner that hangs, rollouts that nobody makes, or steps that are this long. `ray status` says what actors "
        "wait for; `ray stack` on the learner's node says where it is.",
    ),
    Alert(
        "DuctileRolloutActorsWait",
        f"sum({WAITING}) > 0",
        10,
        "warning",
        "{{ $value }} rollout actors have no node",
        "Nodes with the label of cluster.placement.rollout.nodes are missing or full: look at the autoscaler's log, or "
        "lower rollout.actors.",
    ),
    Alert(
        "DuctileMlflowBehind",
        f"{series('tracking/pending_s')} > 600 or {series('tracking/away_s')} > 600",
        5,
        "warning",
        "MLflow is {{ $value | humanizeDuration }} behind",
        "Nothing is lost: metrics are in the journal on the disk of the job's node, and are delivered when MLflow "
        "answers again. Look at the server, its database and its object storage.",
    ),
    Alert(
        "DuctileMetricsRefused",
        f"{series('tracking/refused')} > 0",
        0,
        "warning",
        "{{ $value }} values of a job are not finite, or have a name that MLflow forbids",
        "A loss or a norm that became NaN; the job's log names the metric, the run and the step.",
    ),
    Alert(
        "DuctileCheckpointsFail",
        f"{series('checkpoint/failures')} > 0",
        0,
        "critical",
        "{{ $labels.run }} could not write a checkpoint",
        "The run goes on and tries again; what it does since the last one is lost if it dies. Make room on the disk of "
        "`output`, or look at checkpoint.store.",
    ),
    Alert(
        "DuctileDifficultyUncalibrated",
        f"{series('difficulty/brier')} > 0.25",
        30,
        "warning",
        "{{ $labels.run }}: estimated pass rates are worse than saying 0.5 of every problem",
        "0.25 is the worst score of the constant 0.5. The estimates lag behind the policy: a faster forgetting, "
        "re-estimation (difficulty.reestimate) or another estimator.",
    ),
)


def dashboard() -> dict[str, Any]:
    """Grafana's model of the dashboard: two panels side by side, under rows."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "collapsed": False})
        top += 1
        for index, panel in enumerate(row):
            place = {"h": 8, "w": 12, "x": 12 * (index % 2), "y": top + 8 * (index // 2)}
            panels.append(_graph(panel, len(panels) + 1, place))
        top += 8 * ((len(row) + 1) // 2)
    return {
        "uid": "ductile",
        "title": "Ductile",
        "tags": ["ductile", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), *(_variable(name) for name in ("variant", "plan", "run"))]},
        "panels": panels,
    }


def rules() -> dict[str, Any]:
    """The groups of alert rules, as Prometheus reads them."""
    return {"groups": [{"name": "ductile", "interval": "30s", "rules": [_rule(alert) for alert in ALERTS]}]}


def kubernetes() -> list[dict[str, Any]]:
    """What the Prometheus operator reads: which pods are scraped, and the same rules."""

    def meta(name: str) -> dict[str, Any]:
        return {"name": name, "namespace": "ductile", "labels": {"app.kubernetes.io/part-of": "ductile"}}

    ports = [
        {"port": port, "path": "/metrics", "interval": "15s"} for port in ("metrics", "as-metrics", "dash-metrics")
    ]
    pods = {
        "selector": {"matchExpressions": [{"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}]},
        "podTargetLabels": ["ray.io/cluster", "ray.io/group"],
        "podMetricsEndpoints": ports,
    }
    kind = {"apiVersion": "monitoring.coreos.com/v1"}
    return [
        {**kind, "kind": "PodMonitor", "metadata": meta("ray"), "spec": pods},
        {**kind, "kind": "PrometheusRule", "metadata": meta("ductile"), "spec": rules()},
    ]


def files() -> dict[Path, str]:
    """Every file that is written from here, with its text."""
    dump = {"sort_keys": False, "width": 1000}
    return {
        HERE / "ductile.json": json.dumps(dashboard(), indent=1) + "\n",
        HERE / "alerts.yml": WRITTEN_BY + yaml.safe_dump(rules(), **dump),
        HERE.parent / "kubernetes" / "monitoring.yaml": WRITTEN_BY + yaml.safe_dump_all(kubernetes(), **dump),
    }


def _graph(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    targets = []
    for letter, metric in zip("ABCD", panel.metrics, strict=False):
        own = "(" not in metric
        of_job = own and metric.startswith("tracking/")
        expression = series(metric, "" if of_job else SELECTED) if own else metric
        names = f" {metric}" if own and len(panel.metrics) > 1 else ""
        legend = {True: f"{{{{SessionName}}}}{names}", False: f"{{{{run}}}}{names}"}[of_job]
        if not own and metric.startswith("sum("):
            legend = "alive" if "ALIVE" in metric else "wait for a node"
        targets.append({"refId": letter, "expr": expression, "legendFormat": legend, "datasource": _source()})
    described = "; ".join(f"{m}: {exported()[m].meaning} ({exported()[m].unit})" for m in panel.metrics if "(" not in m)
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": described,
        "gridPos": dict(place),
        "datasource": _source(),
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]}},
        "targets": targets,
    }


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    query = f"label_values({series('run/updated_s')}, {label})"
    everything = {"includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {"name": label, "type": "query", "datasource": _source(), "query": query, "refresh": 2, **everything}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": f"{alert.minutes}m",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.what_to_do},
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
