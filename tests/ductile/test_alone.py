"""A checkpoint that is probed alone says what its run said; what was measured once is not measured again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ductile.alone import measure_alone
from ductile.checkpoint import FolderStore
from ductile.config import RunSettings
from ductile.identity import identify
from ductile.learner import restored_learner
from ductile.local import local_ports
from ductile.models.load import load_model
from ductile.variants import make_variant
from tests.ductile.test_resume import Interrupted, MemoryTracker, settings, start, without_times


@pytest.fixture(scope="module")
def model(tiny_folder: str) -> Path:
    return Path(tiny_folder)


def probed(
    wanted: RunSettings, model: Path, folder: Path, after: str = "", checkpoint: Path | None = None, other: str = ""
) -> list[dict[str, Any]]:
    variant = make_variant(wanted.variant)
    composition = variant.composition(model, model)
    snapshot = checkpoint / "learner" if checkpoint else None
    learner = restored_learner(wanted, variant, composition, snapshot, load_model(other, "float32") if other else None)
    ports = local_ports(wanted, variant, learner, MemoryTracker(), folder / "alone", folder / "measured")
    return measure_alone(wanted, variant, ports, identify(wanted, [model]), after, checkpoint)


def test_final_checkpoint_alone_is_the_last_boundary_of_its_run(model: Path, tmp_path: Path) -> None:
    boundaries, ports = start(settings(), model, tmp_path, MemoryTracker())
    rows = probed(settings(), model, tmp_path, "final", ports.store.latest())
    assert without_times(rows) == without_times([boundaries[0], boundaries[2]])


def test_checkpoint_inside_a_phase_is_measured_against_the_boundaries_before_it(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        start(settings(), model, tmp_path, MemoryTracker(stop_at=6))  # in the second phase, before its second step
    latest = FolderStore(tmp_path / "run", tmp_path).latest()
    rows = probed(settings(), model, tmp_path, "inside", latest)
    assert [(row["phase"], row["step"]) for row in rows] == [("base", 0), ("hard", 4)]
    assert "retention/backward_transfer" in rows[1]["metrics"]  # needs the boundary after the first phase


def test_every_boundary_has_the_probes_that_are_asked_for(model: Path, tmp_path: Path) -> None:
    wanted = settings()
    phases = {name: replace(phase, probes=("drift",)) for name, phase in wanted.phase.items()}
    _, ports = start(replace(wanted, phase=phases), model, tmp_path, MemoryTracker())
    asked = replace(wanted, phase=phases, probe=replace(wanted.probe, probes=("formats",), start=()))
    rows = probed(asked, model, tmp_path, "final", ports.store.latest())
    assert [[probe["name"] for probe in row["tables"]["probes"]] for row in rows] == [["formats"], ["formats"]]


def test_another_folder_is_measured_beside_the_base_without_any_phase(
    model: Path, tiny_llama: Any, tmp_path: Path
) -> None:
    wanted = settings(phase={})
    rows = probed(wanted, model, tmp_path, "other", other=tiny_llama(5))
    assert [row["phase"] for row in rows] == ["base", "after"]
    assert rows[0]["metrics"]["drift/kl_forward_base/prior"] == 0.0
    assert rows[1]["metrics"]["drift/kl_forward_base/prior"] > 0.1


def test_weights_of_another_architecture_do_not_fit(model: Path, tmp_path: Path) -> None:
    from tests.ductile.probes.tiny import llama

    llama().save_pretrained(tmp_path / "other")
    with pytest.raises(RuntimeError, match="size mismatch"):
        probed(settings(phase={}), model, tmp_path, "other", other=str(tmp_path / "other"))


def test_what_was_measured_is_not_measured_again(model: Path, tmp_path: Path) -> None:
    first = probed(settings(), model, tmp_path)
    again = probed(settings(), model, tmp_path)
    assert again == first  # the seconds too: these are the numbers of the first time


def test_folder_that_no_loop_saved_is_at_the_end_of_no_phase(model: Path, tiny_llama: Any, tmp_path: Path) -> None:
    rows = probed(settings(), model, tmp_path, "other", other=tiny_llama(5))
    assert [row["phase"] for row in rows] == ["base", "after"]
    assert "retention_new/easy/L2" in rows[1]["metrics"]  # the plan's problems are asked all the same
    assert not any("_start" in name.split("/")[1] for name in rows[1]["metrics"] if name.startswith("drift/"))


def test_checkpoint_from_before_the_first_step_is_the_base(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        start(settings(), model, tmp_path, MemoryTracker(stop_at=1))
    latest = FolderStore(tmp_path / "run", tmp_path).latest()
    assert [row["phase"] for row in probed(settings(), model, tmp_path, "first", latest)] == ["base"]


def test_checkpoints_with_equal_weights_are_told_apart_by_where_they_stand(model: Path, tmp_path: Path) -> None:
    silent = settings(objective={}, learner={"engine": "torch", "lr": 1e-3})  # an untrained model solves nothing
    with pytest.raises(Interrupted):
        start(silent, model, tmp_path, MemoryTracker(stop_at=3))
    store = FolderStore(tmp_path / "run", tmp_path)
    before = probed(silent, model, tmp_path, "same", store.latest())
    start(silent, model, tmp_path, MemoryTracker())
    after = probed(silent, model, tmp_path, "same", store.latest())
    assert [rows[1]["phase"] for rows in (before, after)] == ["easy", "hard"]


def test_snapshot_of_several_workers_keeps_its_start_of_the_phase(model: Path, tmp_path: Path) -> None:
    _, ports = start(settings(), model, tmp_path, MemoryTracker())
    latest = ports.store.latest()
    assert latest is not None
    variant = make_variant(settings().variant)
    composition = variant.composition(model, model)
    several = replace(settings(), learner=replace(settings().learner, workers=2))
    alone, one_of_two = (
        restored_learner(each, variant, composition, latest / "learner") for each in (settings(), several)
    )
    assert one_of_two.version == alone.version == 5
    for name, weights in alone.phase_start_weights().items():
        assert weights.equal(one_of_two.phase_start_weights()[name])
    assert any(not w.equal(one_of_two.weights()[name]) for name, w in one_of_two.phase_start_weights().items())
    for name, weights in alone.weights().items():
        assert weights.equal(one_of_two.weights()[name])
