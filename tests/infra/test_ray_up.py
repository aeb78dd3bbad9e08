"""The files of `ray up`, by Ray's own schema and its own preparation; and the labels that placement asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.infra.files import INFRA, ROOT, documents

FILES = sorted((INFRA / "ray_up").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    [config] = documents(path)
    return config


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of it before it asks the provider for anything. Raises what Ray raises."""
    config = prepare_config(config)
    validate_config(config)
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_ray_takes_the_file(path: Path):
    assert prepared(read(path))["available_node_types"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_ray_refuses_it_with_a_field_that_there_is_not(path: Path):
    with pytest.raises(jsonschema.ValidationError):
        prepared({**read(path), "max_worker": 3})


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_ray_starts_with_a_token_with_the_code_on_its_path_and_its_dashboard_on_loopback(path: Path):
    config = read(path)
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    code = next(target for target, source in config["file_mounts"].items() if source == ".")
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in command
        assert f"PYTHONPATH={code}/platform:{code}" in command
        assert "--metrics-export-port=8080" in command
        assert "0.0.0.0" not in command
    assert "--dashboard-host=127.0.0.1" in head and "--num-cpus=0" in head
    assert int(re.search(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", head)[1]) > 60  # type: ignore[index]
    assert "~/.ray/auth_token" in config["file_mounts"].values()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_results_environments_and_passwords_are_not_copied_to_the_nodes(path: Path):
    excluded = {name.strip("/") for name in read(path)["rsync_exclude"]}
    assert {".git", ".venv", "runs", "cache", "infra/mlflow/.env"} <= excluded


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_scripts_that_nodes_run_are_in_the_repository(path: Path):
    config = read(path)
    code = next(target for target, source in config["file_mounts"].items() if source == ".")
    commands = [c for key in config if key.endswith("commands") for c in config[key]]
    named = {name for c in commands for name in re.findall(rf"{re.escape(code)}/([\w./-]+\.(?:sh|txt))", c)}
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_nodes_have_the_labels_that_the_docs_name():
    aws = read(INFRA / "ray_up" / "aws.yaml")
    labels = {name: kind["labels"]["role"] for name, kind in aws["available_node_types"].items()}
    assert labels == {"head": "head", "learner": "learner", "rollout": "rollout"}
    assert aws["available_node_types"]["rollout"]["min_workers"] == 0
    assert set(
        re.findall(r"role=(\w+) ;;", read(INFRA / "ray_up" / "on_premise.yaml")["worker_start_ray_commands"][-1])
    ) == {
        "rollout",
        "learner",
    }
    readme = (INFRA / "README.md").read_text()
    assert "cluster.placement.rollout.nodes=role:rollout" in readme
    assert "cluster.placement.learner.nodes=role:learner" in readme
