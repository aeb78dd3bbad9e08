"""A short soak: five faults on two small jobs, through the code of the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.soak import main

pytestmark = pytest.mark.soak


def test_run_under_five_faults_ends_as_the_quiet_one(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    sizes = ["--steps=20", "--faults=5", "--seed=1", "--minutes=4", "--legs", "short"]
    code = main([*sizes, f"--cache={tmp_path / 'cache'}", f"--log={log}"])
    (report,) = json.loads(log.read_text())["legs"]
    assert report["failed"] == [] and report["differences"] == []
    assert code == 0 and len(report["events"]) >= 5 and report["compared"] > 500
    assert all(event["recovery_s"] is not None for event in report["events"])
