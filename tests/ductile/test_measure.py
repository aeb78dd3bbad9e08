"""What is measured changes nothing of the run; a boundary has the probes that are due; branches beside it end alike."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ductile.branch import LocalBrancher
from ductile.checkpoint import FolderStore
from ductile.config import RunSettings
from ductile.loop import Ports
from ductile.ports import BranchRequest
from ductile.probes import PROBES, ProbeContext, ProbeResult
from tests.ductile.test_resume import (
    TWO_PHASES,
    Interrupted,
    MemoryTracker,
    settings,
    start,
    without_times,
)

ANCHORED = {"name": "low_drift", "kl": 0.5, "kl_estimator": "k3", "anchor": "phase_start"}
PROBE: dict[str, Any] = TWO_PHASES["probe"]  # type: ignore[assignment]
BRANCH: dict[str, Any] = PROBE["branch"]
BOTH = {**BRANCH, "modes": ["rl", "sft"], "optimizers": ["reset", "carried"]}


@pytest.fixture(scope="module")
def model(tiny_folder: str) -> Path:
    return Path(tiny_folder)


def probing(**changed: Any) -> dict[str, Any]:
    return {**PROBE, **changed}


def optimizer_state(ports: Ports) -> list[torch.Tensor]:
    state = ports.learner._engine._optimizer.state_dict()["state"]  # type: ignore[attr-defined]
    return [tensor for _, values in sorted(state.items()) for _, tensor in sorted(values.items())]


def random_states() -> tuple[Any, ...]:
    of_numpy = np.random.get_state()
    return random.getstate(), of_numpy[1].tolist(), of_numpy[2:], torch.get_rng_state().tolist()  # type: ignore[index]


@pytest.mark.parametrize("variant", [{"name": "parameter_only"}, ANCHORED])
def test_run_is_the_same_bit_for_bit_with_every_probe_and_with_none(
    variant: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    found = []
    for name, probe in (
        ("none", {"probes": []}),
        ("all", probing(branch=BOTH, probes=["all"], inside=["retention", "formats", "drift"], every=1, log_spaced=3)),
    ):
        random.seed(1)
        np.random.seed(2)
        torch.manual_seed(3)
        tracker = MemoryTracker()
        wanted = settings(variant=variant, probe=probe)
        _, ports = start(wanted, model, tmp_path / name, tracker)
        found.append((ports, tracker.logged, random_states()))
    (bare, logged, randomness), (probed, more, randomness_too) = found
    assert randomness == randomness_too
    for name, tensor in bare.learner.weights().items():
        assert torch.equal(tensor, probed.learner.weights()[name]), name
    states = [optimizer_state(ports) for ports in (bare, probed)]
    assert len(states[0]) > 0 and all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    training = ("rollout/", "learner/", "difficulty/", "budget/", "phase/")
    assert logged == {key: value for key, value in more.items() if key[1].startswith(training)}
    arms = {name.split("/")[1] for _, name in more if name.startswith("plasticity/")}
    assert arms == {"rl_reset", "rl_carried", "sft_reset", "sft_carried", "exploration_failure"}
    assert {step for step, name in more if name == "retention/prior"} == {0, 1, 2, 3, 4, 5}


def test_probe_that_uses_global_random_numbers_does_not_change_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(self: Any, context: ProbeContext) -> ProbeResult:
        random.random()
        np.random.rand()
        torch.rand(1)
        return ProbeResult()

    monkeypatch.setattr(type(PROBES["formats"]), "measure", measure)
    before = random_states()
    start(settings(probe=probing(probes=["formats"], inside=["formats"], every=1)), model, tmp_path, MemoryTracker())
    assert random_states() == before


def test_each_boundary_has_the_probes_that_its_phase_names(model: Path, tmp_path: Path) -> None:
    phases: dict[str, Any] = TWO_PHASES["phase"]  # type: ignore[assignment]
    phase = {"easy": {**phases["easy"], "probes": ["formats"]}, "hard": {**phases["hard"], "probes": ["retention"]}}
    wanted = settings(phase=phase, probe=probing(start=["retention", "drift"]))
    boundaries, _ = start(wanted, model, tmp_path, MemoryTracker())
    names = [[row["name"] for row in boundary["tables"]["probes"]] for boundary in boundaries]
    assert names == [["retention", "drift"], ["formats"], ["retention"]]
    metrics = boundaries[2]["metrics"]  # boundary 1 lacks retention: this one is compared with boundary 0
    assert metrics["retention/forgetting"] == boundaries[0]["metrics"]["retention/prior"] - metrics["retention/prior"]
    assert metrics["retention/forgetting_from_best"] == metrics["retention/forgetting"]


def test_without_boundary_0_there_is_no_forgetting_since_it(model: Path, tmp_path: Path) -> None:
    boundaries, _ = start(settings(probe=probing(probes=["retention"], start=[])), model, tmp_path, MemoryTracker())
    assert "retention/forgetting_from_best" not in boundaries[1]["metrics"]
    assert "retention/forgetting_from_best" in boundaries[2]["metrics"]
    assert not any("retention/forgetting" in boundary["metrics"] for boundary in boundaries)


def test_branch_after_one_phase_alone_is_still_compared_with_the_fresh_base(model: Path, tmp_path: Path) -> None:
    wanted = quick()
    late = replace(wanted, probe=replace(wanted.probe, start=()))
    everywhere, _ = start(wanted, model, tmp_path / "a", MemoryTracker())
    once, _ = start(late, model, tmp_path / "b", MemoryTracker())
    assert not any(name.startswith("plasticity") for name in once[0]["metrics"])
    assert without_times(once)[1:] == without_times(everywhere)[1:]


Seen = list[tuple[int, Any, int | None, float]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the formats probe is told: steps taken, phase, version of the phase's start, and a sum of its weights."""
    contexts: Seen = []

    def measure(self: Any, context: ProbeContext) -> ProbeResult:
        start = context.start
        assert context.batch is not None and context.batch([]).rows == () and context.objective is not None
        norm = float(start.weights.state["model.norm.weight"].double().sum()) if start else 0.0
        phase = context.phase and context.phase[0]
        contexts.append((context.policy.version, phase, start and start.version, norm))
        return ProbeResult()

    monkeypatch.setattr(type(PROBES["formats"]), "measure", measure)
    return contexts


def watched() -> RunSettings:
    return settings(probe=probing(probes=["formats"], inside=["formats"], every=1))


def test_probes_see_the_start_of_the_phase_that_goes_on_or_that_the_boundary_ends(
    seen: Seen, model: Path, tmp_path: Path
) -> None:
    start(watched(), model, tmp_path, MemoryTracker())
    expected = [(0, None, None), *((n, "easy", 0) for n in (1, 2, 3)), *((n, "hard", 3) for n in (4, 5))]
    assert [row[:3] for row in seen] == expected
    assert len({row[3] for row in seen[1:4]}) == 1 and len({row[3] for row in seen[4:]}) == 1
    assert seen[1][3] == 16.0  # the norm's weights are ones in the untouched base
    assert seen[4][3] != seen[1][3]


@pytest.mark.parametrize("stop_at", [2, 5, 7, 9])
def test_start_of_the_phase_is_the_same_after_a_resume(seen: Seen, model: Path, tmp_path: Path, stop_at: int) -> None:
    start(watched(), model, tmp_path / "whole", MemoryTracker())
    expected = list(seen)
    seen.clear()
    with pytest.raises(Interrupted):
        start(watched(), model, tmp_path / "cut", MemoryTracker(stop_at))
    start(watched(), model, tmp_path / "cut", MemoryTracker())
    assert set(seen) == set(expected)  # what was measured twice, twice alike


def quick(**branch: Any) -> RunSettings:
    """Two phases of one step, and a short branch by RL with the optimizer carried."""
    phases: dict[str, Any] = TWO_PHASES["phase"]  # type: ignore[assignment]
    short = {**BRANCH, "modes": ["rl"], "optimizers": ["carried"], "steps": 1, "problems": 2, **branch}
    phase = {name: {**values, "steps": 1} for name, values in phases.items()}
    return settings(phase=phase, probe=probing(probes=["branch"], branch=short))


def branches_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "snapshots").glob("*"))


def test_branches_beside_the_run_end_as_those_in_turn(model: Path, tmp_path: Path) -> None:
    in_turn, tracker = MemoryTracker(), MemoryTracker()
    expected, _ = start(quick(), model, tmp_path / "turn", in_turn)
    boundaries, _ = start(quick(beside=True), model, tmp_path / "beside", tracker)
    assert without_times(boundaries) == without_times(expected)
    assert tracker.logged == in_turn.logged
    assert without_times(json.loads(tracker.artifacts["boundaries.json"])) == without_times(expected)
    assert branches_of(tmp_path / "beside") == branches_of(tmp_path / "turn") == []


class Late(LocalBrancher):
    """Runs nothing before it is collected, so that a snapshot must still be there then."""

    requests: list[BranchRequest]

    def submit(self, request: BranchRequest) -> Any:
        return request

    def collect(self, handle: Any) -> Any:
        return LocalBrancher.submit(self, handle)


@pytest.fixture(scope="module")
def in_turn(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    boundaries, _ = start(quick(), model, tmp_path_factory.mktemp("turn"), MemoryTracker())
    return without_times(boundaries)


# Calls of `tracker.metrics`: 0, 2 and 4 are the boundaries, 5 to 7 what the branches add to them.
@pytest.mark.parametrize(
    ("stop_at", "left"),
    [
        (1, []),
        (2, ["boundary-1"]),
        (3, ["boundary-1"]),
        (4, ["boundary-1", "boundary-2"]),
        (5, ["boundary-1", "boundary-2"]),
        (6, ["boundary-1", "boundary-2"]),
        (7, ["boundary-2"]),
    ],
)
def test_branches_that_were_not_collected_run_again_after_a_resume(
    in_turn: list[dict[str, Any]],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
    left: list[str],
) -> None:
    monkeypatch.setattr("ductile.local.LocalBrancher", Late)
    with pytest.raises(Interrupted):
        start(quick(beside=True), model, tmp_path, MemoryTracker(stop_at))
    assert branches_of(tmp_path) == left
    boundaries, _ = start(quick(beside=True), model, tmp_path, MemoryTracker())
    assert without_times(boundaries) == in_turn
    assert branches_of(tmp_path) == []


def test_half_written_snapshot_is_no_snapshot(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "run", tmp_path / "memory")

    def half(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise Interrupted

    store.snapshot("boundary-1", lambda folder: (folder / "weights").write_text("old"))
    with pytest.raises(Interrupted):
        store.snapshot("boundary-1", half)
    assert (store.find_snapshot("boundary-1") / "weights").read_text() == "old"
    store.snapshot("boundary-1", lambda folder: (folder / "weights").write_text("new"))
    assert (store.find_snapshot("boundary-1") / "weights").read_text() == "new"
    store.snapshot("boundary-2", lambda folder: None)
    store.drop_snapshots(["boundary-2"])
    assert branches_of(tmp_path) == ["boundary-2"]
