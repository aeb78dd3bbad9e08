"""The gauges on a node's own Prometheus endpoint, set through the tracker actor of a job."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.tracker import RunTracker, TrackerActor

pytestmark = pytest.mark.cluster


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint for Prometheus of a local Ray, which reports every 3 s and drops what was not set for 6 s."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "3000")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    [node] = ray.nodes()
    yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def series(url: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of every line of one metric."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found]


def wait_for(url: str, name: str, count: int, timeout_s: float = 60) -> list[tuple[dict[str, str], float]]:
    deadline = time.monotonic() + timeout_s
    while len(found := series(url, name)) != count:
        assert time.monotonic() < deadline, f"{name}: {found}"
        time.sleep(1)
    return found


def test_what_a_run_logs_is_on_the_nodes_endpoint_until_the_run_ends(node: str, tmp_path: Path):
    actor = TrackerActor.remote(f"sqlite:///{tmp_path}/mlflow.db", "test", str(tmp_path / "journal"), "job", 60.0)
    settings = {"variant": {"name": "proxy"}, "plan": "medium", "seed": 1}
    run = RunTracker(actor, ray.get(actor.begin.remote("run", "proxy medium seed 1", settings, "key")))
    run.metrics({"rollout/pass_rate": 0.375}, 1)
    run.progress(phase="hard", step=1, steps=2)

    [(labels, value)] = wait_for(node, "ray_ductile_rollout_pass_rate", 1)
    assert value == 0.375
    wanted = {"run": "proxy medium seed 1", "variant": "proxy", "plan": "medium", "seed": "1", "phase": "hard"}
    assert wanted.items() <= labels.items()
    assert wait_for(node, "ray_ductile_run_steps", 1)[0][1] == 2
    time.sleep(9)  # longer than Ray keeps a gauge that is set once
    wait_for(node, "ray_ductile_rollout_pass_rate", 1, timeout_s=6)

    ray.get(actor.finish.remote(run.run_id, "FINISHED"))
    wait_for(node, "ray_ductile_rollout_pass_rate", 0)
