"""Which runs of a comparison failed, whatever Tune says of their trials."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from jobs.grid import failures


def cells(*finished: bool) -> Any:
    return [SimpleNamespace(name=f"run {i}", finished=done) for i, done in enumerate(finished)]


def test_run_that_reported_no_error_is_no_failure() -> None:
    assert failures(cells(True), [({"cell": 0}, None, {"error": "", "run_id": "1"})]) == {}


def test_reported_error_is_the_reason() -> None:
    results = [({"cell": 1}, None, {"error": "Diverged: update 3", "run_id": ""}), ({"cell": 0}, None, {"error": ""})]
    assert failures(cells(True, False), results) == {"run 1": "Diverged: update 3"}


def test_trial_that_died_before_it_reported_is_a_failure() -> None:
    results = [
        (None, RuntimeError("Traceback\n  ...\nImportError: no engine"), None),
        ({"cell": 1}, None, {"error": ""}),
    ]
    assert failures(cells(False, True), results) == {"run 0": "ImportError: no engine"}


def test_run_that_tune_never_tells_of_is_a_failure() -> None:
    assert failures(cells(True, False), [({"cell": 0}, None, {"error": ""})]) == {
        "run 1": "its process died before it reported anything"
    }
