"""Two runs share a checkpoint only when everything that their results depend on is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ductile.config import CheckpointSettings, ClusterSettings, PhaseSettings, ProbeSettings, RunSettings, SkillSettings
from ductile.identity import identify
from ductile.probes import PROBES


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


SETTINGS = RunSettings(phase={"hard": PhaseSettings(domain={"name": "chain_sum"}, steps=5)}, plan="guessable")


def test_same_settings_and_model_are_the_same_run(model: Path) -> None:
    assert identify(SETTINGS, [model]) == identify(SETTINGS, [model])


def test_where_results_go_and_who_works_make_no_other_run(model: Path) -> None:
    moved = replace(
        SETTINGS, output="elsewhere", cluster=ClusterSettings(address="auto"), checkpoint=CheckpointSettings(every=3)
    )
    moved = replace(moved, rollout=replace(moved.rollout, actors=5), learner=replace(moved.learner, workers=2))
    beside = replace(moved.probe, branch=replace(moved.probe.branch, beside=True))
    assert identify(replace(moved, probe=beside), [model]) == identify(SETTINGS, [model])
    called = replace(SETTINGS, variant=replace(SETTINGS.variant, label="grpo"))
    assert identify(called, [model]) == identify(SETTINGS, [model])


@pytest.mark.parametrize(
    "changed",
    [
        replace(SETTINGS, seed=1),
        replace(SETTINGS, plan="medium"),
        replace(SETTINGS, phase={"hard": replace(SETTINGS.phase["hard"], steps=6)}),
        replace(SETTINGS, learner=replace(SETTINGS.learner, lr=1e-4)),
        replace(SETTINGS, rollout=replace(SETTINGS.rollout, group_size=4)),
        replace(SETTINGS, model=replace(SETTINGS.model, dtype="bfloat16")),
    ],
)
def test_anything_that_matters_makes_another_run(model: Path, changed: RunSettings) -> None:
    assert identify(changed, [model]).run != identify(SETTINGS, [model]).run


def test_probe_whose_numbers_mean_something_else_makes_another_run(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identify(SETTINGS, [model])
    monkeypatch.setattr(PROBES["branch"], "version", 99)
    after = identify(SETTINGS, [model])
    assert (after.run != before.run, after.start != before.start) == (True, True)


def test_plans_share_the_untouched_beginning(model: Path) -> None:
    other = replace(SETTINGS, plan="none", phase={})
    assert identify(other, [model]).start == identify(SETTINGS, [model]).start
    assert identify(replace(SETTINGS, seed=1), [model]).start != identify(SETTINGS, [model]).start


def test_another_model_in_the_same_folder_is_another_run(model: Path) -> None:
    before = identify(SETTINGS, [model])
    (model / "model.safetensors").write_bytes(b"other weights")
    assert identify(SETTINGS, [model]) != before


@pytest.mark.parametrize("place", ["phase", "probe"])
def test_rows_that_changed_in_the_same_file_are_another_run(model: Path, tmp_path: Path, place: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("a")
    domain = {"name": "jsonl", "path": str(rows)}
    settings = (
        replace(SETTINGS, phase={"hard": PhaseSettings(domain=domain)})
        if place == "phase"
        else replace(SETTINGS, probe=ProbeSettings(prior={"maths": SkillSettings(domain)}))
    )
    before = identify(settings, [model])
    assert identify(settings, [model]) == before
    rows.write_text("other rows")
    after = identify(settings, [model])
    assert after.run != before.run
    assert (after.start == before.start) == (place == "phase")  # the untouched beginning does not know the plan
