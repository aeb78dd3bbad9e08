"""The loop on in-process ports: an interrupted run is the uninterrupted one, and what must not disturb it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ductile.config import ArchitectureSettings, RunSettings
from ductile.domains.base import content_hash
from ductile.identity import identify
from ductile.judge import LocalJudge
from ductile.learner import make_learner
from ductile.local import local_ports
from ductile.loop import Ports, WrongCheckpoint, run
from ductile.metrics import check_declared
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.problem import Group, JudgedGroup, Verdict
from ductile.sampling.worker import LocalPool
from ductile.settings import as_plain, build
from ductile.variants import make_variant

pytestmark = pytest.mark.runs

Logged = dict[tuple[int, str], float]
TIMES = (
    "time/", "cost/", "rollout/seconds", "rollout/tokens_per_s", "learner/seconds", "difficulty/refresh_s",
    "reestimate/waited_s", "rollout/waited_s", "checkpoint/",
)  # fmt: skip
TWO_PHASES = {
    "variant": {"name": "parameter_only"},
    "phase": {
        "easy": {"domain": {"name": "chain_sum"}, "levels": [2], "steps": 3, "pool": 32},
        "hard": {"domain": {"name": "sort_digits"}, "levels": [3], "steps": 2, "pool": 32},
    },
    "learner": {"engine": "torch", "lr": 1e-3},
    "objective": {"entropy": 0.1},  # every step has a gradient, whatever an untrained model solves
    "rollout": {"groups": 3, "group_size": 2, "max_tokens": 6},
    "checkpoint": {"every": 1},
    "probe": {
        "probes": ["retention", "drift", "formats", "branch"],
        "problems": 3,
        "drift_problems": 2,
        "prior": {"reverse": {"domain": {"name": "strings", "operation": "reverse"}, "levels": [3]}},
        "branch": {
            "domain": {"name": "base_conversion"}, "levels": [6, 7], "steps": 2, "pool": 16, "problems": 4, "evals": 2,
            "modes": ["rl"],
        },
    },
}  # fmt: skip


class Interrupted(Exception):
    """What ends a run in these tests."""


class MemoryTracker:
    """Keeps what it is told; raises `Interrupted` in place of the call number `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.logged: Logged = {}
        self.artifacts: dict[str, str] = {}
        self._left = stop_at

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self._left is not None:
            if self._left == 0:
                raise Interrupted
            self._left -= 1
        check_declared(values)
        self.logged.update({(step, name): v for name, v in values.items() if not name.startswith(TIMES)})

    def progress(self, **state: Any) -> None:
        pass

    def artifact(self, name: str, content: str) -> None:
        self.artifacts[name] = content

    def position(self) -> Mapping[str, Any]:
        return {}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("tiny"), character_tokenizer()
    architecture = ArchitectureSettings(layers=1, width=16, heads=2, mlp=32)
    build_llama(architecture, tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(**changed: Any) -> RunSettings:
    return build(RunSettings, {**TWO_PHASES, **changed})


def start(wanted: RunSettings, model: Path, folder: Path, tracker: MemoryTracker) -> tuple[list[dict[str, Any]], Ports]:
    variant = make_variant(wanted.variant)
    learner = make_learner(wanted, variant, model, model, folder / "run" / "models")
    ports = local_ports(wanted, variant, learner, tracker, folder / "run", folder / "memory")
    return run(wanted, variant, ports, identify(wanted, [model])), ports


def without_times(boundaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "metrics": {name: v for name, v in row["metrics"].items() if not name.startswith(TIMES)}}
        for row in json.loads(json.dumps(boundaries))
    ]


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Ports, Logged]:
    tracker = MemoryTracker()
    boundaries, ports = start(settings(), model, tmp_path_factory.mktemp("whole"), tracker)
    return without_times(boundaries), ports, tracker.logged


# Calls of `tracker.metrics`: 0 boundary, 1-3 steps of the first phase, 4 boundary, 5-6 steps, 7 boundary. An
# interruption at 4 lies after the phase's last step and before its boundary was saved.
@pytest.mark.parametrize("stop_at", range(8))
def test_interrupted_anywhere_and_resumed_is_the_uninterrupted_run(whole, model, tmp_path, stop_at) -> None:
    first = MemoryTracker(stop_at)
    with pytest.raises(Interrupted):
        start(settings(), model, tmp_path, first)
    second = MemoryTracker()
    boundaries, ports = start(settings(), model, tmp_path, second)
    expected, uninterrupted, logged = whole
    assert without_times(boundaries) == expected
    assert first.logged | second.logged == logged
    assert ports.learner.version == uninterrupted.learner.version == 5  # one update a step, no more and no fewer
    for name, tensor in uninterrupted.learner.weights().items():
        assert torch.equal(ports.learner.weights()[name], tensor), name


HELD = {
    "prior_data": {"name": "low_drift", "kl": 0.5, "anchor": "prior_data"},
    "average, reward, weights": {
        "name": "low_drift", "kl": 0.5, "kl_estimator": "k1", "kl_place": "reward", "anchor": "ema", "ema_decay": 0.8,
        "kl_target": 0.01, "kl_horizon": 20, "l2_init": 20.0, "ewc": 20.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("hold", HELD)
def test_what_holds_the_policy_is_taken_up_where_the_run_was_interrupted(hold, model, tmp_path) -> None:
    changed = {"variant": HELD[hold], "objective": {"entropy": 0.1, "advantage": "no_std"}}
    wanted = settings(**changed, data={"prior": TWO_PHASES["probe"]["prior"]}, switch={"problems": 3})
    tracker = MemoryTracker()
    expected, uninterrupted = start(wanted, model, tmp_path / "whole", tracker)
    for stop_at in (2, 5, 6):  # in the first phase, after the second has begun, and in it
        first, second = MemoryTracker(stop_at), MemoryTracker()
        with pytest.raises(Interrupted):
            start(wanted, model, tmp_path / str(stop_at), first)
        boundaries, ports = start(wanted, model, tmp_path / str(stop_at), second)
        assert without_times(boundaries) == without_times(expected)
        assert first.logged | second.logged == tracker.logged
        for name, tensor in uninterrupted.learner.weights().items():
            assert torch.equal(ports.learner.weights()[name], tensor), name
    held = [value for (step, name), value in tracker.logged.items() if name == "learner/kl_anchor" and step == 5]
    assert held and held[0] != 0
    if hold == "prior_data":  # 6 completions a step; 6 answers to the base's skill, then 3 of each of two
        assert tracker.logged[3, "budget/completions"] == 24 and tracker.logged[5, "budget/completions"] == 42


PARTS = {
    "lora": {"learner": {"engine": "torch", "lr": 1e-2, "lora": {"rank": 2, "switch": "merge"}}},
    "fast_lora": {"variant": {"name": "fast_lora", "fast_rank": 2, "fast_lr": 1e-2}},
    "fast_prefix": {"variant": {"name": "fast_prefix", "prefix_tokens": 2, "fast_lr": 1e-2}},
}


@pytest.mark.parametrize("part", PARTS)
def test_adapters_and_prefixes_are_taken_up_where_the_run_was_interrupted(part, model, tmp_path) -> None:
    tracker = MemoryTracker()
    expected, uninterrupted = start(settings(**PARTS[part]), model, tmp_path / "whole", tracker)
    for stop_at in (5, 6):  # after the second phase has begun, and in it
        first, second = MemoryTracker(stop_at), MemoryTracker()
        with pytest.raises(Interrupted):
            start(settings(**PARTS[part]), model, tmp_path / str(stop_at), first)
        boundaries, ports = start(settings(**PARTS[part]), model, tmp_path / str(stop_at), second)
        assert without_times(boundaries) == without_times(expected)
        assert first.logged | second.logged == tracker.logged
        for name, tensor in uninterrupted.learner.weights().items():
            assert torch.equal(ports.learner.weights()[name], tensor), name


def test_steps_of_the_second_phase_are_trained_after_a_resume_at_the_boundary(model, tmp_path) -> None:
    tracker = MemoryTracker(stop_at=5)  # the boundary is saved, the second phase has logged nothing
    with pytest.raises(Interrupted):
        start(settings(), model, tmp_path, tracker)
    resumed = MemoryTracker()
    start(settings(), model, tmp_path, resumed)
    assert {step for step, name in resumed.logged if name == "learner/loss"} == {4, 5}


@pytest.mark.parametrize(
    "variant",
    [
        {"name": "low_drift", "kl": 0.5, "kl_estimator": "k3", "anchor": "phase_start"},
        {"name": "proxy", "alpha": 1.0},
        {"name": "fast_slow", "contexts": 2, "evolve_every": 1, "evolve_calls": 36, "reflector": "vocabulary"},
    ],
)
@pytest.mark.parametrize("lost", ["train/0/2", "train/1/1", "train/1/2"])  # checkpoints: after 0/1, the phase, and 1/1
def test_lost_call_of_the_pool_is_made_up_from_the_last_checkpoint(variant, lost, model, tmp_path, monkeypatch) -> None:
    quick = {"probes": ["retention"], "prior": TWO_PHASES["probe"]["prior"], "problems": 3, "every": 1}
    phase = {**TWO_PHASES["phase"], "hard": {**TWO_PHASES["phase"]["hard"], "steps": 3}}
    wanted = settings(variant=variant, probe=quick, phase=phase, checkpoint={"every": 2})
    generate = LocalPool.generate

    def lose(self: LocalPool, policy: Any, problems: Any, sampling: Any) -> Any:
        if sampling.stream == lost:
            raise Interrupted
        return generate(self, policy, problems, sampling)

    expected, whole_ports = start(wanted, model, tmp_path / "whole", MemoryTracker())
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LocalPool, "generate", lose)
        start(wanted, model, tmp_path / "cut", MemoryTracker())
    boundaries, ports = start(wanted, model, tmp_path / "cut", MemoryTracker())
    assert without_times(boundaries) == without_times(expected)
    for name, tensor in whole_ports.learner.weights().items():
        assert torch.equal(ports.learner.weights()[name], tensor), name


def rare(judge: LocalJudge, groups: Sequence[Group]) -> list[JudgedGroup]:
    """Verdicts that an untrained model gets some of: right where the tokens add up to a multiple of five."""
    return [
        JudgedGroup(group, tuple(Verdict(float(c.tokens.sum() % 5 == 0), "direct") for c in group.completions))
        for group in groups
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"objective": {"dynamic_sampling": "refill", "refill_rounds": 3, "clip_high": 0.28}},
        {"variant": {"name": "expert_iteration", "restart": True}, "objective": {"advantage": "psr"}},
    ],
)
@pytest.mark.parametrize("stop_at", [2, 5])
def test_refilled_and_imitating_runs_resume_exactly(changed, stop_at, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(LocalJudge, "judge", rare)
    quick = {"probes": ["retention", "gradients"], "prior": TWO_PHASES["probe"]["prior"], "problems": 3}
    wanted = settings(probe=quick, **changed)
    whole = MemoryTracker()
    expected, straight = start(wanted, model, tmp_path / "whole", whole)
    first, second = MemoryTracker(stop_at), MemoryTracker()
    with pytest.raises(Interrupted):
        start(wanted, model, tmp_path / "cut", first)
    boundaries, ports = start(wanted, model, tmp_path / "cut", second)
    assert without_times(boundaries) == without_times(expected)
    assert first.logged | second.logged == whole.logged
    assert any(name == "gradient/norm" for row in boundaries for name in row["metrics"])
    if "variant" not in changed:
        assert any(value > 1 for (_, name), value in whole.logged.items() if name == "rollout/refill_factor")
    for name, tensor in straight.learner.weights().items():
        assert torch.equal(ports.learner.weights()[name], tensor), name


REMEDIES: dict[str, Any] = {
    "phase": {
        "easy": {"domain": {"name": "chain_sum"}, "levels": [4], "steps": 5, "pool": 12},
        "hard": {"domain": {"name": "sort_digits"}, "levels": [4], "steps": 4, "pool": 12},
    },
    "rollout": {"groups": 4, "group_size": 2, "max_tokens": 3},
    "probe": {"probes": [], "prior": {}},
    "data": {
        "prior": {"words": {"domain": {"name": "strings", "operation": "reverse"}, "levels": [3]}},
        "replay": 0.25, "review": 0.25, "review_every": 2, "mastered": 0.5, "hint": 0.8, "hint_end": 0.2,
        "ladder": [2, 3], "ladder_rate": 0.5, "defer_after": 1, "defer_steps": 2,
    },
}  # fmt: skip


@pytest.fixture
def drawn_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right or wrong by the problem and the policy's version: an untrained model would never be right."""

    def judge(self: LocalJudge, groups: Sequence[Group]) -> list[JudgedGroup]:
        return [
            JudgedGroup(
                group,
                tuple(
                    Verdict(float(content_hash(f"{c.problem_id} {c.sample} {c.policy_version}") % 2), "direct")
                    for c in group.completions
                ),
            )
            for group in groups
        ]

    monkeypatch.setattr(LocalJudge, "judge", judge)


def test_run_with_every_remedy_resumes_exactly_wherever_it_was_cut(drawn_verdicts, model, tmp_path) -> None:
    wanted, tracker = settings(**REMEDIES), MemoryTracker()
    _, ports = start(wanted, model, tmp_path / "whole", tracker)
    seen = {name: [v for (_, n), v in tracker.logged.items() if n == name] for _, name in tracker.logged}
    assert seen["data/replay_share"] == [0.25] * 9
    for name in ("data/review_share", "data/deferred_share", "data/rung"):
        assert max(seen[name]) > 0, f"the run does not show {name}"
    for stop_at in (3, 6, 9):  # inside the first phase, before its boundary, inside the second
        first, second, folder = MemoryTracker(stop_at), MemoryTracker(), tmp_path / str(stop_at)
        with pytest.raises(Interrupted):
            start(wanted, model, folder, first)
        _, resumed = start(wanted, model, folder, second)
        assert first.logged | second.logged == tracker.logged
        for name, tensor in ports.learner.weights().items():
            assert torch.equal(resumed.learner.weights()[name], tensor), name


WATCHED = {
    "shadows": ["all"],
    "offline": 2,
    "refresh_every": 1,
    "reestimate": 0.5,
    "audit": {"every": 1, "problems": 4, "unseen": 2, "samples": 4},
}
CHOOSING = {
    "importance, greso": {"estimator": "importance", "selection": "greso"},
    "attention, variance": {"estimator": "attention", "selection": "variance", "attention": {"reference": 3}},
    "value, moving target, knapsack": {
        "estimator": "value", "selection": "moving_target", "allocation": "knapsack", "knapsack": {"high": 4},
    },
    "features, cdas, screening": {"estimator": "features", "selection": "cdas", "screen": {"pilots": 2}},
    "kalman, rising": {"estimator": "kalman", "selection": "rising", "considered": 8},
}  # fmt: skip


@pytest.mark.parametrize("how", CHOOSING)
def test_estimates_rules_and_audits_go_on_where_the_run_was_cut(how, drawn_verdicts, model, tmp_path) -> None:
    wanted = settings(difficulty={**WATCHED, **CHOOSING[how]}, probe={"probes": []})
    tracker = MemoryTracker()
    _, uninterrupted = start(wanted, model, tmp_path / "whole", tracker)
    audits = json.loads(tracker.artifacts["audits.json"])
    assert [(row["phase"], row["step"]) for row in audits] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
    assert len(audits[0]["pool"]["estimators"]) == 9 and audits[0]["unseen"]["ids"]
    assert tracker.logged[5, "budget/reestimation_completions"] > 0
    for stop_at in (4, 9, 11):  # in the first phase, after it, in the second
        folder = tmp_path / str(stop_at)
        first, second = MemoryTracker(stop_at), MemoryTracker()
        with pytest.raises(Interrupted):
            start(wanted, model, folder, first)
        _, ports = start(wanted, model, folder, second)
        assert first.logged | second.logged == tracker.logged
        assert json.loads(second.artifacts["audits.json"]) == audits
        for name, tensor in uninterrupted.learner.weights().items():
            assert torch.equal(ports.learner.weights()[name], tensor), name
        for service in ("difficulty", "reestimation"):
            one, other = getattr(uninterrupted, service).snapshot(), getattr(ports, service).snapshot()
            assert one.keys() == other.keys()
            for name, array in one.items():
                np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("estimator", ["beta", "value", "features", "attention", "importance"])
def test_audits_and_shadows_change_nothing_in_a_run(estimator, drawn_verdicts, model, tmp_path) -> None:
    plain, watched = MemoryTracker(), MemoryTracker()
    own = {"estimator": estimator, "selection": "target", "refresh_every": 1}
    watching = {**own, "shadows": ["kalman" if estimator != "beta" else "all"], "audit": WATCHED["audit"]}
    _, alone = start(settings(probe={"probes": []}, difficulty=own), model, tmp_path / "alone", plain)
    _, beside = start(settings(probe={"probes": []}, difficulty=watching), model, tmp_path / "beside", watched)
    assert plain.logged.keys() < watched.logged.keys()
    shadowed = ("budget/forward",) if estimator == "beta" else ()  # of the forward passes that the shadows ask for
    for key, value in plain.logged.items():
        assert watched.logged[key] == value or key[1].startswith(shadowed or "-"), key
    for name, tensor in alone.learner.weights().items():
        assert torch.equal(beside.learner.weights()[name], tensor), name


def test_finished_run_returns_what_it_measured_and_trains_nothing(model, tmp_path) -> None:
    first, _ = start(settings(), model, tmp_path, MemoryTracker())
    tracker = MemoryTracker()
    again, _ = start(settings(), model, tmp_path, tracker)
    assert again == first and tracker.logged == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"learner": {"engine": "torch", "lr": 2e-3}},
        {"variant": {"name": "low_drift", "kl": 0.1, "kl_estimator": "k3", "anchor": "base"}},
        {"phase": {"easy": {**TWO_PHASES["phase"]["easy"], "steps": 4}}},
    ],
)
def test_checkpoint_of_another_run_is_refused(model, tmp_path, changed) -> None:
    with pytest.raises(Interrupted):
        start(settings(), model, tmp_path, MemoryTracker(stop_at=2))
    mine, other = (identify(settings(**c), [model]).run for c in ({}, changed))
    with pytest.raises(WrongCheckpoint, match=f"(?s){mine}.*{other}"):
        start(settings(**changed), model, tmp_path, MemoryTracker())


def test_checkpoint_of_another_model_is_refused(model, tmp_path) -> None:
    with pytest.raises(Interrupted):
        start(settings(), model, tmp_path, MemoryTracker(stop_at=2))
    other, tokenizer = tmp_path / "other", character_tokenizer()
    build_llama(ArchitectureSettings(layers=1, width=16, heads=2, mlp=32), tokenizer, seed=2).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(WrongCheckpoint):
        start(settings(), other, tmp_path, MemoryTracker())


def test_branch_probe_leaves_the_run_as_it_was(whole, model, tmp_path) -> None:
    probe = {**TWO_PHASES["probe"], "probes": ["retention"]}
    tracker = MemoryTracker()
    _, ports = start(settings(probe=probe), model, tmp_path, tracker)
    _, with_branch, logged = whole
    assert all(logged[key] == value for key, value in tracker.logged.items())
    for name, tensor in with_branch.learner.weights().items():
        assert torch.equal(ports.learner.weights()[name], tensor), name


def test_branch_from_the_untouched_base_is_measured_once(model, tmp_path) -> None:
    start(settings(), model, tmp_path / "a", MemoryTracker())
    remembered = {path.name.split("-", 2)[2]: path for path in (tmp_path / "a" / "memory").glob("branch-*.json")}
    assert remembered.keys() == {"rl-0.json"}
    value = json.loads(remembered["rl-0.json"].read_text())
    marked = {**value, "passed": [[0.0] * 4, [1.0, 1.0, 0.0, 0.0]]}
    remembered["rl-0.json"].write_text(json.dumps(marked))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "memory").rename(tmp_path / "b" / "memory")
    # Another plan with the same model, variant and seed starts from the same base.
    boundaries, _ = start(settings(phase={}), model, tmp_path / "b", MemoryTracker())
    assert boundaries[0]["metrics"]["plasticity/rl_reset/end"] == 0.5
    assert value["passed"] != marked["passed"]


def test_remembered_branch_is_the_one_that_would_be_measured(whole, model, tmp_path) -> None:
    expected, _, _ = whole  # measured in a folder without a memory
    start(settings(phase={}), model, tmp_path / "other", MemoryTracker())
    (tmp_path / "mine").mkdir()
    (tmp_path / "other" / "memory").rename(tmp_path / "mine" / "memory")
    tracker = MemoryTracker(stop_at=1)
    with pytest.raises(Interrupted):
        start(settings(), model, tmp_path / "mine", tracker)
    assert without_times(json.loads(tracker.artifacts["boundaries.json"])) == expected[:1]


def test_plan_without_phases_measures_the_base_alone(model, tmp_path) -> None:
    tracker = MemoryTracker()
    boundaries, ports = start(settings(phase={}), model, tmp_path, tracker)
    assert len(boundaries) == 1 and ports.learner.version == 0
    drift = {name: v for name, v in boundaries[0]["metrics"].items() if name.startswith("drift/")}
    assert drift and set(drift.values()) == {0.0}


def test_probes_inside_a_phase_are_logged_at_their_step(model, tmp_path) -> None:
    probe = {**TWO_PHASES["probe"], "probes": ["retention", "formats"], "every": 1}
    tracker = MemoryTracker()
    start(settings(probe=probe), model, tmp_path, tracker)
    assert {step for step, name in tracker.logged if name == "retention/prior"} == {0, 1, 2, 3, 4, 5}


def test_every_group_that_was_sampled_is_learned_from(model, tmp_path, monkeypatch) -> None:
    from ductile.variants.parameter_only import ParameterOnly

    sizes = []
    original = ParameterOnly.batch

    def batch(self: ParameterOnly, judged: Any, wanted: RunSettings, penalties: Any) -> Any:
        sizes.append([len(group.verdicts) for group in judged])
        return original(self, judged, wanted, penalties)

    monkeypatch.setattr(ParameterOnly, "batch", batch)
    tight = {"easy": {**TWO_PHASES["phase"]["easy"], "pool": 3}}  # every step asks the whole pool
    start(settings(phase=tight, probe={**TWO_PHASES["probe"], "probes": []}), model, tmp_path, MemoryTracker())
    assert sizes == [[2, 2, 2]] * 3


def test_settings_that_a_run_writes_repeat_it(model, tmp_path) -> None:
    wanted = settings()
    again = build(RunSettings, json.loads(json.dumps(as_plain(wanted))))
    assert identify(again, [model]) == identify(wanted, [model])
    assert identify(replace(wanted, seed=5), [model]) != identify(wanted, [model])
