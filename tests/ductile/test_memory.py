"""What is remembered of prior tasks: which problems, asked how, which share a step uses; and that it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from ductile.checks import check
from ductile.config import RunSettings
from ductile.domains import make_domain
from ductile.memory import Memory, prior_problems, remember
from ductile.plan import make_plan
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.problem import Completion, Group, Problem
from ductile.settings import build

POLICY = PolicyRef(Composition((Member("policy", "base", 1.0),), "policy"), None, 0)
SETTINGS = {
    "variant": {"name": "low_drift", "kl": 1.0, "anchor": "prior_data"},
    "rollout": {"groups": 4, "group_size": 3},
    "phase": {
        "one": {"domain": {"name": "chain_sum"}, "levels": [2, 3], "pool": 8},
        "two": {"domain": {"name": "sort_digits"}, "levels": [3], "pool": 8},
    },
    "data": {"prior": {"reverse": {"domain": {"name": "strings", "operation": "reverse"}, "levels": [3]}}},
}


def settings(**changed: Any) -> RunSettings:
    return build(RunSettings, SETTINGS | changed)


class Recorder:
    """A pool and a learner that keep what they are asked."""

    def __init__(self) -> None:
        self.asked: list[Sampling] = []
        self.groups: list[Group] | None = None
        self.spent: dict[str, int] = {}

    def generate(self, policy: PolicyRef, problems: list[Problem], sampling: Sampling) -> list[Group]:
        self.asked.append(sampling)
        tokens = np.array([5, 6, 7], np.int32)
        return [
            Group(p, tokens[:1], (Completion(p.id, 0, tokens, np.zeros(3, np.float32), "", True, 0),)) for p in problems
        ]

    def remember(self, groups: list[Group]) -> None:
        self.groups = groups

    def spend(self, spent: dict[str, int]) -> None:
        self.spent = spent


def remembered(wanted: RunSettings, phases: int) -> tuple[Recorder, dict[str, int]]:
    recorder, earlier = Recorder(), make_plan(wanted, make_domain).phases[:phases]
    remember(wanted, earlier, "now", POLICY, recorder, recorder, make_domain)  # type: ignore[arg-type]
    return recorder, recorder.spent


def memory_of(*lengths: tuple[int, int]) -> Memory:
    random = np.random.default_rng(0)
    return Memory(tuple(tuple(random.integers(0, 90, n).astype(np.int32) for n in row) for row in lengths))  # type: ignore[misc]


MEMORY = memory_of((3, 2), (1, 5), (4, 1), (2, 2), (2, 3))


def ids(memory: Memory, count: int, seed: int, version: int) -> list[tuple[int, ...]]:
    return [tuple(row.completion.tolist()) for row in memory.share(count, seed, version).rows]


def test_share_has_no_row_twice_and_no_more_than_there_are() -> None:
    assert len(set(ids(MEMORY, 3, 0, 1))) == 3
    assert len(ids(MEMORY, 100, 0, 1)) == 5
    assert Memory().share(4, 0, 1).rows == ()


def test_share_depends_on_seed_and_version_alone() -> None:
    assert ids(MEMORY, 2, 7, 1) == ids(MEMORY, 2, 7, 1)
    shares = {tuple(ids(MEMORY, 2, seed, version)) for seed in range(3) for version in range(4)}
    assert len(shares) > 5


def test_weights_of_a_share_make_the_mean_over_its_tokens() -> None:
    rows = MEMORY.share(3, 0, 2).rows
    assert sum(row.weight * len(row.completion) for row in rows) == pytest.approx(1.0)
    assert len({row.weight for row in rows}) == 1
    assert all(row.advantage == 0.0 for row in rows)


def test_memory_survives_a_checkpoint(tmp_path: Path) -> None:
    for name, tensors in MEMORY.files().items():
        save_file(tensors, tmp_path / name)
    for kept, row in zip(Memory.load(tmp_path).rows, MEMORY.rows, strict=True):
        assert [part.tolist() for part in kept] == [part.tolist() for part in row]
        assert [part.dtype for part in kept] == [np.int32, np.int32]


def test_empty_memory_is_kept_as_none(tmp_path: Path) -> None:
    assert Memory().files() == {} and Memory.load(tmp_path).rows == ()


def test_prior_problems_are_those_of_the_base_s_skills_and_of_every_earlier_phase_alike() -> None:
    """12 completions a step: 12 of one skill, 6 of each of two, 4 of each of three; the phase to come is not asked."""
    phases = make_plan(settings(), make_domain).phases
    reverse, one, two = (make_domain(d, "") for d in (
        {"name": "strings", "operation": "reverse"}, {"name": "chain_sum"}, {"name": "sort_digits"}
    ))  # fmt: skip
    for earlier, expected in ((0, {reverse.key: 12}), (1, {reverse.key: 6, one.key: 6}),
                              (2, {reverse.key: 4, one.key: 4, two.key: 4})):  # fmt: skip
        problems = prior_problems(settings(), phases[:earlier], make_domain)
        assert {key: sum(p.domain == key for p in problems) for key in {p.domain for p in problems}} == expected
    levels = [p.level for p in prior_problems(settings(), phases[:1], make_domain) if p.domain == one.key]
    assert sorted(levels) == [2, 2, 2, 3, 3, 3]


def test_policy_answers_each_once_under_the_phase_s_name_and_the_cost_is_counted() -> None:
    recorder, spent = remembered(settings(), 1)
    assert recorder.groups is not None and len(recorder.groups) == 12
    [sampling] = recorder.asked
    assert (sampling.stream, sampling.samples, sampling.seed) == ("prior/now", 1, 0)
    assert spent == {"completions": 12, "sampled_tokens": 36, "forward_tokens": 36}


def test_nothing_is_asked_where_there_is_nothing_prior_or_another_anchor() -> None:
    recorder, spent = remembered(settings(data={}), 0)
    assert recorder.groups == [] and not recorder.asked and sum(spent.values()) == 0
    recorder, spent = remembered(settings(variant={"name": "parameter_only"}), 1)
    assert recorder.groups is None and spent == {}


def mistakes(**changed: Any) -> list[str]:
    return [line for line in check(settings(**changed)) if line.startswith("variant.")]


ONE_PHASE = {"one": SETTINGS["phase"]["one"]}  # type: ignore[index]


def test_prior_data_is_refused_only_where_there_never_is_any() -> None:
    [line] = mistakes(phase=ONE_PHASE, data={})
    assert line.startswith("variant.anchor: 'prior_data' has no prior data in a plan of one phase without data.prior")
    assert mistakes(data={}) == mistakes(phase=ONE_PHASE) == mistakes(phase={}, data={}) == []


def test_ewc_is_refused_where_no_phase_comes_after_another_and_no_branch_either() -> None:
    ewc = {"name": "low_drift", "ewc": 2.0}
    branch = {"probes": ["branch"], "branch": {"domain": {"name": "base_conversion"}, "levels": [6]}}
    [line] = mistakes(variant=ewc, phase=ONE_PHASE)
    assert line.startswith("variant.ewc: 2.0 would never be read in a plan of one phase")
    assert mistakes(variant=ewc) == mistakes(variant=ewc, phase=ONE_PHASE, probe=branch) == []


def test_horizon_that_could_turn_the_coefficient_s_sign_is_refused() -> None:
    """12 completions a step: 1 - 0.2 * 12 / 2.4 is 0."""
    adaptive = {"name": "low_drift", "kl": 1.0, "kl_estimator": "k3", "anchor": "base", "kl_target": 0.1}
    [line] = mistakes(variant=adaptive | {"kl_horizon": 2.4})
    assert line.startswith("variant.kl_horizon: 2.4 would let a step of 12 completions turn the coefficient's sign")
    assert mistakes(variant=adaptive | {"kl_horizon": 2.5}) == []


def test_kl_in_the_reward_needs_advantages_that_do_not_divide_its_noise_by_its_own_deviation() -> None:
    reward = {"name": "low_drift", "kl": 1.0, "kl_estimator": "k1", "anchor": "base", "kl_place": "reward"}
    [line] = mistakes(variant=reward)
    assert line.startswith("variant.kl_place: 'reward' does not fit objective.advantage=std")
    for objective in ({"std_floor": 0.35}, {"std_prior": 2.0}, {"advantage": "no_std"}):
        assert mistakes(variant=reward, objective=objective) == []


@pytest.mark.parametrize("option", ["l2_init", "ewc"])
def test_pull_on_weights_that_deepspeed_rounds_is_refused(option: str) -> None:
    variant = {"name": "low_drift", option: 2.0}
    for rounded in ({"learner": {"precision": "bf16"}}, {"model": {"dtype": "bfloat16", "path": "given"}}):
        [line] = mistakes(variant=variant, **rounded)
        assert line.startswith(f"variant.{option}: 2.0 does not fit weights that are rounded to bf16")
    assert mistakes(variant=variant, learner={"precision": "bf16", "engine": "torch"}) == []
