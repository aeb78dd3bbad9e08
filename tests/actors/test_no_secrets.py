"""A run with planted secrets: not a byte of them in its folders, its MLflow, its report, or what it says."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.delivery import Point
from actors.mlflow_store import MlflowStore
from actors.tracking import Tracking
from ductile.checkpoint import write_text
from ductile.config import ArchitectureSettings, RunSettings, TrackingSettings
from ductile.identity import identify
from ductile.learner import make_learner
from ductile.local import local_ports
from ductile.loop import run
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.settings import as_plain, build
from ductile.variants import make_variant
from jobs.reporting import report

SECRETS = {
    "MLFLOW_TRACKING_USERNAME": "planted-user-0001",
    "MLFLOW_TRACKING_PASSWORD": "planted-pass-0002",
    "MLFLOW_TRACKING_TOKEN": "planted-token-0003",
    "AWS_ACCESS_KEY_ID": "planted-aws-id-0004",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-key-0005",
    "OPENAI_API_KEY": "planted-openai-0006",
    "RAY_AUTH_TOKEN": "planted-ray-0007",
    "MLFLOW_TRACKING_URI": "http://me:planted-uri-0008@127.0.0.1:9/mlflow",
}
TINY = {
    "variant": {"name": "parameter_only"},
    "phase": {"easy": {"domain": {"name": "chain_sum"}, "levels": [2], "steps": 1, "pool": 16}},
    "learner": {"engine": "torch"},
    "objective": {"entropy": 0.1},
    "rollout": {"groups": 2, "group_size": 2, "max_tokens": 4},
    "probe": {
        "probes": ["retention"],
        "problems": 2,
        "prior": {"reverse": {"domain": {"name": "strings", "operation": "reverse"}, "levels": [3]}},
    },
}


class Quoting(MlflowStore):
    """MLflow, whose first write of metrics fails with an error that quotes the server's address, as its own do."""

    failed = False

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        if not self.failed:
            self.failed = True
            raise OSError(f"API request to {SECRETS['MLFLOW_TRACKING_URI']}/api/2.0 failed: 401 for planted-pass-0002")
        super().log(run_id, points)


class Told:
    """The tracker of one run in this process."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._tracking, self._run_id = tracking, run_id

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._tracking, name)
        return lambda *given, **named: call(self._run_id, *given, **named)


def test_nothing_that_a_run_writes_or_says_holds_a_secret(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    caplog.set_level(logging.INFO)
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    settings = build(RunSettings, {**TINY, "output": str(tmp_path), "tracking": {"uri": address}})
    model, tokenizer = tmp_path / "model", character_tokenizer()
    build_llama(ArchitectureSettings(1, 16, 2, 32, 96), tokenizer, 0).save_pretrained(model)
    tokenizer.save_pretrained(model)
    identity, variant = identify(settings, [model]), make_variant(settings.variant)
    tracking = Tracking(Quoting(address, "planted"), tmp_path / "journal", pauses_s=(0.01, 0.01))
    run_id = tracking.begin("run", "planted", as_plain(settings), "key")
    learner = make_learner(settings, variant, model, model, tmp_path / "run" / "models")
    tracker = Told(tracking, run_id)
    ports = local_ports(settings, variant, learner, tracker, tmp_path / "run", tmp_path / "memory")
    run(settings, variant, ports, identity)
    write_text(tmp_path / "run" / "settings.json", json.dumps(as_plain(settings)))
    tracking.finish(run_id, "FINISHED")
    assert tracking.drain(30)
    tracking.close()
    report(TrackingSettings(uri=address, experiment="planted"), tmp_path, run_id)

    said = capfd.readouterr()
    assert "401 for ***" in caplog.text  # the error was told, and what it quoted was not
    texts = {"stdout": said.out.encode(), "stderr": said.err.encode(), "log": caplog.text.encode()}
    files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("checkpoint-" in name for name in files) and any(name.endswith("settings.yaml") for name in files)
    assert any(name.endswith("report.html") for name in files)
    planted = [*(value for name, value in SECRETS.items() if not name.endswith("URI")), "planted-uri-0008"]
    for place, content in {**texts, **files}.items():
        for secret in planted:
            assert secret.encode() not in content, f"{secret} in {place}"
