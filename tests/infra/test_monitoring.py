"""The dashboard and the rules ask for metrics that there are, and are what build.py writes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import ray

from actors.gauges import LABELS, exported, prometheus_name
from tests.infra.files import INFRA, ROOT, documents, manifests

MONITORING = INFRA / "monitoring"
DASHBOARD = json.loads((MONITORING / "ductile.json").read_text())
[RULES] = documents(MONITORING / "alerts.yml")
GRAPHS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "timeseries"]
EXPRESSIONS = [
    *(target["expr"] for panel in GRAPHS for target in panel["targets"]),
    *(rule["expr"] for group in RULES["groups"] for rule in group["rules"]),
]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", MONITORING / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_what_the_tables_say(build: ModuleType):
    """If they are not: PYTHONPATH=platform:. python infra/monitoring/build.py."""
    for path, text in build.files().items():
        assert path.read_text() == text, path.name


def test_a_metric_that_no_run_exports_is_an_error(build: ModuleType):
    with pytest.raises(KeyError):
        build.series("rollout/pas_rate")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_of_an_expression_is_exported_by_a_run_or_by_ray(expression: str):
    ours = {f"ray_{prometheus_name(name)}" for name in exported()}
    names = set(re.findall(r"\bray_\w+", expression))
    assert names
    panels = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards/default_dashboard_panels.py"
    rays = set(re.findall(r"\bray_\w+", panels.read_text()))
    assert names - ours <= rays
    labels = set(re.findall(r'(\w+)=~?"', expression))
    assert labels <= {*LABELS, "Name", "State"}


def test_actors_that_expressions_count_are_classes_of_ours():
    counted = {name for expression in EXPRESSIONS for name in re.findall(r'Name="(\w+)"', expression)}
    code = "".join(path.read_text() for path in (ROOT / "actors").glob("*.py"))
    assert counted == {"RolloutActor"}
    assert all(re.search(rf"^class {name}\b", code, re.MULTILINE) for name in counted)


def test_panels_do_not_overlap_and_variables_are_used():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__all"}
    assert used == names
    assert all(panel["targets"] and panel["datasource"]["uid"] == "${datasource}" for panel in GRAPHS)


def test_the_dashboard_shows_what_was_promised():
    shown = " ".join(target["expr"] for panel in GRAPHS for target in panel["targets"])
    for metric in (
        "rollout/pass_rate",
        "drift/kl_forward_base/prior",
        "rollout/tokens_per_s",
        "time/step_s",
        "rollout/staleness",
        "rollout/actors",
        "rollout/retried_calls",
        "rollout/hedged_calls",
        "difficulty/brier",
        "checkpoint/waited_s",
        "checkpoint/failures",
        "tracking/pending",
    ):
        assert f"ray_{prometheus_name(metric)}" in shown


def test_every_alert_says_what_to_do():
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert len(rule["annotations"]["description"]) > 40
    [operator] = manifests("PrometheusRule")
    assert operator["spec"] == RULES


def test_prometheus_reads_the_rules_and_the_nodes_that_ray_writes_down():
    [config] = documents(MONITORING / "prometheus.yml")
    assert all((MONITORING / name).is_file() for name in config["rule_files"])
    [found] = config["scrape_configs"][0]["file_sd_configs"]
    theirs = Path(ray.__file__).parent / "dashboard/modules/metrics/export/prometheus/prometheus.yml"
    assert found["files"][0] in theirs.read_text()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_takes_the_rules_and_the_configuration():
    for command in (["rules", "alerts.yml"], ["config", "prometheus.yml"]):
        subprocess.run(["promtool", "check", *command], cwd=MONITORING, check=True, capture_output=True)
