"""What runs log as gauges: names, labels, and that what ended is gone. Without Ray."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from actors.gauges import LABELS, Gauges, exported, labels_of, prometheus_name, run_samples
from ductile.metrics import METRICS

SETTINGS = {"variant": {"name": "proxy", "label": "proxy x2"}, "plan": "medium", "seed": 3}


class Job:
    """Stands for a `Tracking`: what it says of its runs and of itself."""

    def __init__(self, *rows: dict[str, Any], **health: Any) -> None:
        self.rows, self.said = list(rows), health

    def live(self) -> list[dict[str, Any]]:
        return self.rows

    def health(self) -> dict[str, Any]:
        return self.said


class Set:
    """Stands for Ray's gauge: keeps what it was made with and every value that was set."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys, self.values = name, tag_keys, []

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.values.append(value)


def row(**more: Any) -> dict[str, Any]:
    return {"run_id": "a", "name": "proxy medium seed 3", "kind": "run", "status": "RUNNING", **more}


def idle(job: Job) -> Gauges:
    """Gauges whose thread sets nothing that a test looks at."""
    return Gauges(job.live, job.health, every_s=3600, gauge=lambda *a, **k: type("No", (), {"set": lambda *a: None})())


def test_names_are_ones_that_prometheus_takes_and_no_two_metrics_share_one():
    names = [prometheus_name(name) for name in exported()]
    assert all(re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name) for name in names)
    assert len(set(names)) == len(names)
    assert prometheus_name("drift/kl_forward_base/prior") == "ductile_drift_kl_forward_base_prior"


def test_no_metric_with_a_placeholder_is_a_gauge():
    assert not [name for name in exported() if "<" in name]
    assert "rollout/pass_rate" in exported()
    assert any("<" in metric.pattern and metric.pattern.startswith("rollout/") for metric in METRICS)


def test_a_run_is_known_by_its_name_variant_plan_seed_and_phase():
    gauges = idle(Job(row(phase="hard", step=4, steps=40)))
    gauges.begin("a", SETTINGS)
    gauges.logged("a", {"rollout/pass_rate": 0.25, "rollout/successes/k_3": 0.5, "learner/loss": None, "no": 1.0})
    samples = {sample.name: sample for sample in gauges.samples()}
    labels = {"run": "proxy medium seed 3", "variant": "proxy x2", "plan": "medium", "seed": "3", "phase": "hard"}
    assert samples["rollout/pass_rate"].value == 0.25
    assert samples["rollout/pass_rate"].labels == labels
    assert set(labels) == set(LABELS)
    assert set(samples) == {"rollout/pass_rate", "run/updated_s", "run/step", "run/steps"}
    assert (samples["run/step"].value, samples["run/steps"].value) == (4, 40)
    assert abs(samples["run/updated_s"].value - time.time()) < 60


def test_a_value_stays_until_the_next_one():
    gauges = idle(Job(row()))
    gauges.logged("a", {"rollout/pass_rate": 0.25, "learner/loss": 1.0})
    gauges.logged("a", {"rollout/pass_rate": 0.5})
    samples = {sample.name: sample.value for sample in gauges.samples()}
    assert (samples["rollout/pass_rate"], samples["learner/loss"]) == (0.5, 1.0)


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_that_ended_is_in_no_gauge(status: str):
    job = Job(row())
    gauges = idle(job)
    gauges.logged("a", {"rollout/pass_rate": 0.25})
    assert gauges.samples()
    job.rows = [row(status=status)]
    assert gauges.samples() == []


def test_probes_and_pretraining_make_no_new_phases():
    job = Job(row(phase="hard"))
    gauges = idle(job)
    gauges.logged("a", {"rollout/pass_rate": 0.25})
    gauges.samples()
    job.rows = [row(phase="probe retention")]
    assert {sample.labels["phase"] for sample in gauges.samples()} == {"hard"}
    job.rows = [{"run_id": "b", "name": "base", "kind": "pretrain", "status": "RUNNING", "phase": "step 3, loss 2.31"}]
    gauges.logged("b", {"pretrain/loss": 2.31})
    assert {sample.labels["phase"] for sample in gauges.samples()} == {""}


def test_what_the_tracker_is_behind_has_no_labels_of_runs():
    gauges = idle(Job(pending=7, pending_s=1.5, last_error="refused", unheard_of=1))
    assert [(name, value, labels) for name, value, labels in gauges.samples()] == [
        ("tracking/pending", 7.0, {}),
        ("tracking/pending_s", 1.5, {}),
    ]


def test_settings_of_what_is_no_run_give_empty_labels():
    assert labels_of({}) == dict.fromkeys(LABELS, "")
    assert labels_of({"variant": "proxy", "seed": 0})["seed"] == "0"


def test_before_the_first_step_a_run_has_no_position():
    assert run_samples(row(phase="hard", step=None), {}, labels_of({})) == []


def test_gauges_are_set_again_while_nothing_is_logged():
    made: dict[str, Set] = {}

    def make(name: str, **more: Any) -> Set:
        return made.setdefault(name, Set(name, **more))

    job = Job(row(), pending=1)
    gauges = Gauges(job.live, job.health, every_s=0.01, gauge=make)
    gauges.logged("a", {"rollout/pass_rate": 0.25})
    deadline = time.monotonic() + 10
    while len(made.get("ductile_rollout_pass_rate", Set("", "", ())).values) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(made["ductile_rollout_pass_rate"].values) == {0.25}
    assert made["ductile_tracking_pending"].tag_keys == ()


def test_a_tracker_that_fails_to_answer_once_does_not_end_the_gauges(caplog: pytest.LogCaptureFixture):
    answers = iter([RuntimeError("closed")])
    asked: list[int] = []

    def live() -> list[dict[str, Any]]:
        asked.append(1)
        error = next(answers, None)
        if error:
            raise error
        return []

    Gauges(live, dict, every_s=0.01, gauge=Set)
    deadline = time.monotonic() + 10
    while len(asked) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "gauges were not set" in caplog.text


def test_tracker_that_was_started_again_learns_the_labels_with_the_progress():
    gauges = idle(Job(row(phase="hard", step=4, variant="proxy x2", plan="medium", seed="3")))
    gauges.logged("a", {"rollout/pass_rate": 0.25})
    labels = next(sample.labels for sample in gauges.samples() if sample.name == "rollout/pass_rate")
    assert (labels["variant"], labels["plan"], labels["seed"]) == ("proxy x2", "medium", "3")
