"""Variants refuse settings that they would not read, compose what their paper says, and batch what has a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ductile.config import ObjectiveSettings, RunSettings, VariantSettings
from ductile.ports import Member
from ductile.problem import Completion, Group, JudgedGroup, Problem, Verdict
from ductile.rl.objective import Objective
from ductile.rl.supervised import Supervised
from ductile.settings import SettingsError, build
from ductile.variants import VARIANTS, make_variant
from ductile.variants.parameter_only import ParameterOnly

OPTIONS: dict[str, dict[str, Any]] = {
    "parameter_only": {},
    "low_drift": {"kl": 0.3, "kl_estimator": "k3", "anchor": "base"},
    "proxy": {"alpha": 0.5},
    "self_proxy": {"alpha": 0.5},
    "expert_iteration": {},
    "fast_slow": {"contexts": 2, "evolve_every": 6, "evolve_calls": 256, "reflector": "vocabulary"},
    "fast_prefix": {"prefix_tokens": 2, "fast_lr": 0.01},
    "fast_lora": {"fast_rank": 2, "fast_lr": 0.01},
}
POLICY_GRADIENT = [name for name in VARIANTS if name != "expert_iteration"]
BASE, EXPERT = Path("models/base"), Path("models/expert")


def variant_of(name: str, **options: Any) -> Any:
    return make_variant(build(VariantSettings, {"name": name} | OPTIONS.get(name, {}) | options))


def refusal(name: str, **options: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        variant_of(name, **options)
    return caught.value.problems


def judged(name: str, *answers: tuple[float | None, int]) -> JudgedGroup:
    """A group of (reward, length) answers; token ids are `sample + 1`, log-probabilities -0.5."""
    completions = tuple(
        Completion(name, i, np.full(n, i + 1, np.int32), np.full(n, -0.5, np.float32), "", True, 0)
        for i, (_, n) in enumerate(answers)
    )
    group = Group(Problem(name, "sums", 1, "", ""), np.array([len(name), 9], np.int32), completions)
    return JudgedGroup(group, tuple(Verdict(reward, "direct") for reward, _ in answers))


MIXED = judged("mixed", (1.0, 2), (0.0, 3), (None, 7), (0.0, 1))
SILENT = judged("no", (0.0, 4), (0.0, 6))


def settings_of(length_norm: str, entropy: float = 0.0) -> RunSettings:
    return build(
        RunSettings,
        {
            "objective": {"length_norm": length_norm, "advantage": "leave_one_out", "entropy": entropy},
            "rollout": {"max_tokens": 8},
        },
    )


def test_unknown_variant_is_named_with_the_nearest_known_one() -> None:
    assert refusal("low_drif") == (
        "variant.name: unknown variant 'low_drif'; allowed: expert_iteration, fast_lora, fast_prefix, fast_slow, "
        "low_drift, parameter_only, proxy, self_proxy (did you mean low_drift?)",
    )


@pytest.mark.parametrize(
    ("name", "missing"),
    [("proxy", "alpha")],
)
def test_missing_option_is_named_with_the_preset_that_has_it(name: str, missing: str) -> None:
    (problem,) = refusal(name, **{missing: None})
    assert problem.startswith(f"variant.{missing}: {name} needs it")
    assert f"variant={name}" in problem


@pytest.mark.parametrize(
    ("name", "unused", "value", "user"),
    [
        ("parameter_only", "kl", 0.1, "low_drift"),
        ("parameter_only", "anchor", "base", "low_drift"),
        ("parameter_only", "alpha", 1.0, "proxy, self_proxy"),
        ("proxy", "kl_estimator", "k2", "low_drift"),
        ("low_drift", "alpha", 1.0, "proxy, self_proxy"),
    ],
)
def test_option_that_would_not_be_read_is_named_with_its_user(name: str, unused: str, value: Any, user: str) -> None:
    (problem,) = refusal(name, **{unused: value})
    assert problem == f"variant.{unused}: {value!r} is set, but {name} does not use it; used by: {user}"


def test_all_mistakes_are_told_at_once() -> None:
    assert len(refusal("proxy", alpha=None, kl=0.1, anchor="base")) == 3


def test_path_of_the_settings_is_the_caller_s() -> None:
    with pytest.raises(SettingsError, match=r"^compare\.variant\.name: unknown variant"):
        make_variant(VariantSettings("grpo"), "compare.variant")


@pytest.mark.parametrize("name", VARIANTS)
def test_learning_rate_of_its_own_is_an_option_of_every_variant(name: str) -> None:
    assert variant_of(name).lr is None
    assert variant_of(name, lr=1e-4).lr == 1e-4


@pytest.mark.parametrize("name", ["parameter_only", "low_drift", "expert_iteration"])
def test_policy_of_one_model_is_the_base_itself_and_trained(name: str) -> None:
    composition = variant_of(name).composition(BASE, EXPERT)
    assert composition.members == (Member("policy", "models/base", 1.0),)
    assert composition.trainable == "policy"
    assert not variant_of(name).needs_expert


def test_proxy_adds_what_the_expert_learned_to_the_untouched_base() -> None:
    composition = variant_of("proxy").composition(BASE, EXPERT)
    assert composition.members == (
        Member("base", "models/base", 1.0),
        Member("expert", "models/expert", 0.5),
        Member("anti_expert", "models/expert", -0.5),
    )
    assert composition.trainable == "expert"
    assert variant_of("proxy").needs_expert


@pytest.mark.parametrize("anchor", ["base", "phase_start"])
def test_low_drift_minimises_a_kl_to_its_anchor(anchor: str) -> None:
    objective = variant_of("low_drift", anchor=anchor, kl_estimator="k2").objective(
        ObjectiveSettings(clip_low=0.1, clip_high=0.4, entropy=0.01)
    )
    assert objective == Objective(clip_low=0.1, clip_high=0.4, kl=0.3, kl_estimator="k2", anchor=anchor, entropy=0.01)


@pytest.mark.parametrize("name", ["parameter_only", "proxy"])
def test_other_variants_have_no_kl_and_no_anchor(name: str) -> None:
    objective = variant_of(name).objective(ObjectiveSettings(clip_low=0.1, clip_high=0.4, entropy=0.01))
    assert (objective.clip_low, objective.clip_high, objective.entropy) == (0.1, 0.4, 0.01)
    assert (objective.kl, objective.anchor) == (0.0, None)


@pytest.mark.parametrize(
    ("name", "entropy", "lengths"),
    [
        ("parameter_only", 0.0, [2, 3, 1]),
        ("proxy", 0.0, [2, 3, 1]),
        ("low_drift", 0.0, [2, 3, 1, 4, 6]),  # the KL pulls on silent groups too
        ("parameter_only", 0.1, [2, 3, 1, 4, 6]),  # and so does the entropy bonus
    ],
)
def test_silent_rows_are_left_out_unless_a_term_acts_on_them(name: str, entropy: float, lengths: list[int]) -> None:
    batch = variant_of(name).batch([MIXED, SILENT], settings_of("token", entropy))
    assert [len(row.completion) for row in batch.rows] == lengths


@pytest.mark.parametrize("name", POLICY_GRADIENT)
def test_unjudged_completion_is_never_a_row(name: str) -> None:
    batch = variant_of(name).batch([MIXED, judged("lost", (None, 5), (None, 5))], settings_of("token"))
    assert [len(row.completion) for row in batch.rows] == [2, 3, 1]


def test_row_holds_its_prompt_completion_and_advantage() -> None:
    rows = variant_of("parameter_only").batch([SILENT, MIXED], settings_of("token")).rows
    assert [row.prompt.tolist() for row in rows] == [[5, 9]] * 3
    assert [row.completion.tolist() for row in rows] == [[1, 1], [2, 2, 2], [4]]
    assert [row.behaviour_logps.tolist() for row in rows] == [[-0.5] * 2, [-0.5] * 3, [-0.5]]
    assert [row.advantage for row in rows] == pytest.approx([1.0, -0.5, -0.5])


@pytest.mark.parametrize("name", POLICY_GRADIENT)
@pytest.mark.parametrize(
    ("length_norm", "expected"),
    [
        ("token", [1 / 16] * 3),  # 2 + 3 + 1 and the silent 4 + 6 tokens
        ("completion", [1 / (5 * 2), 1 / (5 * 3), 1 / (5 * 1)]),  # five judged completions
        ("constant", [1 / (5 * 8)] * 3),
    ],
)
def test_weights_count_every_judged_completion_and_no_other(name: str, length_norm: str, expected: list[float]) -> None:
    rows = variant_of(name).batch([MIXED, SILENT], settings_of(length_norm)).rows
    assert [row.weight for row in rows[:3]] == pytest.approx(expected)


def test_step_without_a_gradient_has_an_empty_batch() -> None:
    assert variant_of("parameter_only").batch([SILENT], settings_of("token")).rows == ()


def test_row_knows_how_many_of_its_group_succeeded() -> None:
    other = judged("other", (1.0, 2), (0.6, 1), (0.5, 3), (None, 1))  # one half is no success
    rows = variant_of("low_drift").batch([MIXED, SILENT, other], settings_of("token")).rows
    assert [row.successes for row in rows] == [1, 1, 1, 0, 0, 2, 2, 2]


@pytest.mark.parametrize("name", POLICY_GRADIENT)
def test_loss_that_the_settings_name_is_every_variant_s(name: str) -> None:
    assert variant_of(name).objective(ObjectiveSettings(loss="cispo")).loss == "cispo"
    assert variant_of(name).objective(ObjectiveSettings(dual_clip=3.0)).dual_clip == 3.0


@dataclass(frozen=True)
class Contradictory(ParameterOnly):
    """A variant whose options contradict each other where a learning rate of 7 is set."""

    def check(self) -> Iterator[str]:
        if self.lr == 7:
            yield "lr: 7.0: an unlucky number; allowed: any other"


def test_variant_s_own_check_is_told_by_the_path_of_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "parameter_only", Contradictory)
    assert refusal("parameter_only", lr=7.0) == ("variant.lr: 7.0: an unlucky number; allowed: any other",)
    assert variant_of("parameter_only", lr=6.0).lr == 6.0


def asked_in_two_contexts() -> list[JudgedGroup]:
    """Problem `a` right in one context and wrong in the other, `b` between them."""
    first, other, second = judged("a", (1.0, 2), (1.0, 2)), judged("b", (1.0, 1), (0.0, 1)), judged("a", (0.0, 3))
    second = replace(second, group=replace(second.group, prompt_tokens=np.array([7, 7, 7], np.int32)))
    return [first, other, second]


def test_groups_of_one_problem_share_a_baseline_and_keep_their_prompts() -> None:
    rows = variant_of("parameter_only").batch(asked_in_two_contexts(), settings_of("token")).rows
    assert [row.prompt.tolist() for row in rows] == [[1, 9], [1, 9], [7, 7, 7], [1, 9], [1, 9]]
    assert [row.advantage for row in rows] == pytest.approx([0.5, 0.5, -1.0, 1.0, -1.0])  # leave one out
    assert [row.successes for row in rows] == [2, 2, 2, 1, 1]


def test_penalties_follow_their_groups_into_the_pool() -> None:
    penalties = [np.array([0.0, 0.3]), np.array([0.0, 0.5]), np.array([0.9])]
    rows = variant_of("parameter_only").batch(asked_in_two_contexts(), settings_of("token"), penalties).rows
    shaped = [1.0, 0.7, -0.9]
    expected = [r - (sum(shaped) - r) / 2 for r in shaped] + [1.5, -1.5]  # of b: 1 and -0.5
    assert [row.advantage for row in rows] == pytest.approx(expected)
    assert [row.successes for row in rows] == [2, 2, 2, 1, 1]


def test_penalty_gives_a_silent_group_a_gradient() -> None:
    rows = variant_of("parameter_only").batch([SILENT], settings_of("token"), [np.array([0.2, 0.0])]).rows
    assert [row.advantage for row in rows] == pytest.approx([-0.2, 0.2])


@pytest.mark.parametrize("sampling", ["drop", "refill"])
@pytest.mark.parametrize("name", POLICY_GRADIENT)
def test_dynamic_sampling_leaves_silent_groups_out_of_every_average(name: str, sampling: str) -> None:
    settings = settings_of("token")
    settings = replace(settings, objective=replace(settings.objective, dynamic_sampling=sampling))
    rows = variant_of(name).batch([SILENT, MIXED], settings).rows
    assert [len(row.completion) for row in rows] == [2, 3, 1]
    assert [row.weight for row in rows] == pytest.approx([1 / 6] * 3)


def of_tokens(name: str, *answers: tuple[float | None, list[int]]) -> JudgedGroup:
    completions = tuple(
        Completion(name, i, np.array(tokens, np.int32), np.zeros(len(tokens), np.float32), "", True, 0)
        for i, (_, tokens) in enumerate(answers)
    )
    group = Group(Problem(name, "sums", 1, "", ""), np.array([9], np.int32), completions)
    return JudgedGroup(group, tuple(Verdict(reward, "direct") for reward, _ in answers))


def test_expert_iteration_learns_each_right_completion_of_a_problem_once() -> None:
    groups = [
        of_tokens("a", (1.0, [1, 2]), (0.0, [3]), (1.0, [1, 2]), (1.0, [1, 2, 4]), (None, [5])),
        of_tokens("b", (1.0, [1, 2]), (0.5, [6])),
        of_tokens("c", (0.0, [1])),
        of_tokens("a", (1.0, [1, 2])),  # the same problem again
    ]
    rows = variant_of("expert_iteration").batch(groups, settings_of("token")).rows
    assert [row.completion.tolist() for row in rows] == [[1, 2], [1, 2, 4], [1, 2]]
    assert [row.successes for row in rows] == [4, 4, 1]
    assert [row.weight for row in rows] == pytest.approx([1 / 7] * 3)  # the mean over the tokens that are learned
    assert variant_of("expert_iteration").objective(ObjectiveSettings()) == Supervised()


@pytest.mark.parametrize(("restart", "calls"), [(True, ["weights of the base", "optimizer"]), (False, [])])
def test_restart_begins_from_the_base_with_a_fresh_optimizer(restart: bool, calls: list[str]) -> None:
    done: list[str] = []
    learner: Any = SimpleNamespace(
        base_weights=lambda: "weights of the base",
        set_weights=done.append,
        reset_optimizer=lambda: done.append("optimizer"),
    )
    ports: Any = SimpleNamespace(learner=learner)
    variant_of("expert_iteration", restart=restart).switch(RunSettings(), None, "switch/a", ports)
    assert done == calls
