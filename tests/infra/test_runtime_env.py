"""What `ray job submit --runtime-env` installs and sends."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["runtime_env.yaml", "runtime_env_image.yaml"])
def test_runtime_env_is_valid_and_gives_runs_time_to_stop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plain = yaml.safe_load((ROOT / "infra" / name).read_text())
    made = RuntimeEnv(**plain)
    assert int(made["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60  # Ray's default of 3 s kills a run in its step
    assert {"/runs/", "/cache/", "/.venv/"} <= set(made["excludes"])
    modules = {Path(path).name: ROOT / path for path in plain["py_modules"]}
    for package in ("jobs", "actors", "ductile"):  # all that a node is to import of it, where nothing is installed
        assert modules.get(package, ROOT / package).is_dir()


def test_bare_cluster_installs_exactly_the_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = RuntimeEnv(**yaml.safe_load((ROOT / "infra" / "runtime_env.yaml").read_text()))
    wanted = {line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {line for line in made["pip"]["packages"] if not line.startswith("#")} == wanted
    assert "ray==2.60.0" in wanted
