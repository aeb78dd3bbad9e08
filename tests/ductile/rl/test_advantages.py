"""Group advantages against hand values, the closed forms of a lone success, float64 formulas and TRL's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ductile.config import ObjectiveSettings
from ductile.rl.advantages import step_advantages
from ductile.settings import SettingsError, build

Reference = Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]
KINDS = ("std", "no_std", "leave_one_out")


def group_advantages(rewards: NDArray[np.float64], kind: str, **remedies: Any) -> NDArray[np.float64]:
    """Advantages of a step of one group."""
    settings = build(ObjectiveSettings, {"advantage": kind, **remedies})
    return step_advantages([rewards], [np.ones(len(rewards), np.int64)], settings)[0]


def rewards_of(successes: int, group_size: int) -> NDArray[np.float64]:
    return np.array([1.0] * successes + [0.0] * (group_size - successes))


def direct_formula(rewards: list[float], kind: str) -> list[float]:
    """Each advantage written out over plain floats: leave-one-out by averaging the others, one by one."""
    count = len(rewards)
    mean = math.fsum(rewards) / count
    if kind == "leave_one_out":
        return [r - math.fsum(rewards[:i] + rewards[i + 1 :]) / (count - 1) for i, r in enumerate(rewards)]
    scale = 1.0
    if kind == "std":
        scale = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (count - 1)) + 1e-6
    return [(r - mean) / scale for r in rewards]


def test_one_success_of_8_gets_advantage_2_47_and_each_failure_minus_0_35() -> None:
    advantages = group_advantages(rewards_of(1, 8), "std")
    assert advantages[0] == pytest.approx(2.4749, abs=1e-4)  # 7 / sqrt(8)
    assert advantages[1:] == pytest.approx([-0.35355] * 7, abs=1e-4)  # -1 / sqrt(8)


@pytest.mark.parametrize(
    ("group_size", "std", "no_std", "leave_one_out", "std_half"),
    [
        (4, 1.5, 0.75, 1.0, 0.8660),
        (8, 2.4749, 0.875, 1.0, 0.9354),
        (16, 3.75, 0.9375, 1.0, 0.9682),
        (64, 7.875, 0.984375, 1.0, 0.9922),
        (128, 11.2252, 0.9921875, 1.0, 0.9961),
    ],
)
def test_lone_success_is_amplified_by_the_std_and_the_group_size_alone(
    group_size: int, std: float, no_std: float, leave_one_out: float, std_half: float
) -> None:
    lone = rewards_of(1, group_size)
    assert group_advantages(lone, "std")[0] == pytest.approx(std, rel=3e-5)
    assert group_advantages(lone, "no_std")[0] == pytest.approx(no_std, rel=1e-12)
    assert group_advantages(lone, "leave_one_out")[0] == pytest.approx(leave_one_out, rel=1e-12)
    assert group_advantages(rewards_of(group_size // 2, group_size), "std")[0] == pytest.approx(std_half, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("std", [1.1547, -0.57735, np.nan, -0.57735]),  # of 3: mean 1/3, sample std 1/sqrt(3)
        ("no_std", [2 / 3, -1 / 3, np.nan, -1 / 3]),
        ("leave_one_out", [1.0, -0.5, np.nan, -0.5]),
    ],
)
def test_unjudged_completion_counts_in_no_mean_and_stays_unknown(kind: str, expected: list[float]) -> None:
    advantages = group_advantages(np.array([1.0, 0.0, np.nan, 0.0]), kind)
    assert advantages == pytest.approx(expected, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_group_without_a_second_judged_completion_has_no_baseline(kind: str) -> None:
    assert group_advantages(np.array([np.nan, 1.0, np.nan]), kind) == pytest.approx([np.nan, 0.0, np.nan], nan_ok=True)
    assert np.isnan(group_advantages(np.full(3, np.nan), kind)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("group_size", [3, 7, 8, 128])
def test_group_of_equal_rewards_is_exactly_silent(kind: str, reward: float, group_size: int) -> None:
    assert (group_advantages(np.full(group_size, reward), kind) == 0.0).all()


@pytest.mark.parametrize("kind", KINDS)
@given(rewards=st.lists(st.floats(0, 1).map(lambda r: round(r, 3)), min_size=2, max_size=12))
def test_advantages_are_the_direct_formula(kind: str, rewards: list[float]) -> None:
    expected = [0.0] * len(rewards) if len(set(rewards)) == 1 else direct_formula(rewards, kind)
    assert group_advantages(np.array(rewards), kind) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(
    rewards=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=2, max_size=8),
    holes=st.lists(st.integers(0, 8), max_size=4),
)
def test_unjudged_completions_change_nothing_for_the_others(kind: str, rewards: list[float], holes: list[int]) -> None:
    with_holes = np.array(rewards)
    for hole in holes:
        with_holes = np.insert(with_holes, min(hole, len(with_holes)), np.nan)
    advantages = group_advantages(with_holes, kind)
    assert (np.isnan(advantages) == np.isnan(with_holes)).all()
    assert advantages[~np.isnan(advantages)] == pytest.approx(group_advantages(np.array(rewards), kind))


@pytest.mark.parametrize("successes", [1, 3, 32, 63])
def test_std_is_trl_s_up_to_the_constant_that_it_adds(successes: int) -> None:
    """As TRL's GRPOTrainer scales rewards within a group, but it adds 1e-4 to the deviation where we add 1e-6.

    The smallest deviation here is 1/8, so that the two may differ by 8e-4 of the value and no more.
    """
    trl = pytest.importorskip("trl.trainer.utils")
    rewards = rewards_of(successes, 64)
    rewards[-1] = np.nan
    rewards = np.append(rewards, 0.0)
    groups = torch.tensor(rewards).view(-1, 65)
    expected = (groups - torch.nanmean(groups, dim=1, keepdim=True)) / (trl.nanstd(groups, dim=1, keepdim=True) + 1e-4)
    assert group_advantages(rewards, "std") == pytest.approx(expected[0].numpy(), rel=1e-3, nan_ok=True)


def test_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown kind 'median'"):
        step_advantages([np.array([0.0, 1.0])], [np.ones(2, np.int64)], ObjectiveSettings(advantage="median"))


# Advantages of a whole step, against verl's core_algos written again in torch: one score a row, once for each token.


def verl_rows(rewards: list[list[float]], lengths: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    scores = torch.tensor([r for group in rewards for r in group], dtype=torch.float64)
    sizes = [n for group in lengths for n in group]
    mask = torch.zeros(len(sizes), max(sizes), dtype=torch.float64)
    for row, n in enumerate(sizes):
        mask[row, :n] = 1
    return scores, mask, [number for number, group in enumerate(rewards) for _ in group]


def verl_means(scores: torch.Tensor, index: list[int]) -> torch.Tensor:
    return torch.stack([scores[[i for i, other in enumerate(index) if other == own]].mean() for own in index])


def verl_reinforce_plus_plus_baseline(scores: torch.Tensor, mask: torch.Tensor, index: list[int]) -> torch.Tensor:
    tokens = (scores - verl_means(scores, index)).unsqueeze(-1).tile([1, mask.shape[1]]) * mask
    mean = (tokens * mask).sum() / mask.sum()
    variance = (((tokens - mean) ** 2) * mask).sum() / mask.sum()
    variance = variance * mask.sum() / (mask.sum() - 1)  # Bessel's correction
    whitened = (tokens - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened * mask).sum(dim=1) / mask.sum(dim=1)


def verl_opo(scores: torch.Tensor, mask: torch.Tensor, index: list[int]) -> torch.Tensor:
    lengths, out = mask.sum(dim=-1), scores.clone()
    for row, own in enumerate(index):
        group = [i for i, other in enumerate(index) if other == own]
        out[row] = scores[row] - (lengths[group] * scores[group]).sum() / lengths[group].sum()
    return out


def verl_passk(scores: torch.Tensor, mask: torch.Tensor, index: list[int]) -> torch.Tensor:
    out = torch.zeros_like(scores)
    for own in set(index):
        group = [i for i, other in enumerate(index) if other == own]
        top, places = torch.topk(scores[group], 2)
        out[group[int(places[0])]] = top[0] - top[1]
    return out


def lite_ppo(scores: torch.Tensor, mask: torch.Tensor, index: list[int]) -> torch.Tensor:
    return (scores - verl_means(scores, index)) / (scores.std() + 1e-6)


steps = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 9)), min_size=2, max_size=5),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("batch_whitened", verl_reinforce_plus_plus_baseline),
        ("length_weighted", verl_opo),
        ("best_of_group", verl_passk),
        ("batch_std", lite_ppo),
    ],
)
@given(step=steps)
def test_advantages_of_a_step_are_the_reference_s(kind: str, reference: Reference, step: list[list[Any]]) -> None:
    rewards, lengths = [[r for r, _ in group] for group in step], [[n for _, n in group] for group in step]
    if kind == "best_of_group":  # of two best ones it does not matter which gets their difference, 0
        rewards = [[r + 0.001 * i for i, r in enumerate(group)] for group in rewards]
    found = step_advantages(
        [np.array(group) for group in rewards],
        [np.array(group) for group in lengths],
        ObjectiveSettings(advantage=kind),
    )
    expected = reference(*verl_rows(rewards, lengths))
    assert np.concatenate(found) == pytest.approx(expected.numpy(), rel=1e-6, abs=1e-9)


def step_of(kind: str, *rewards: list[float], **remedies: Any) -> list[list[float]]:
    settings = build(ObjectiveSettings, {"advantage": kind, **remedies})
    lengths = [np.ones(len(group), np.int64) for group in rewards]
    return [values.tolist() for values in step_advantages([np.array(group) for group in rewards], lengths, settings)]


def test_batch_deviation_gives_a_lone_success_and_a_half_the_same_scale() -> None:
    lone, half = step_of("batch_std", [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    std = math.sqrt(8 * (3 / 8) * (5 / 8) / 7)  # 3 of 8 are right
    assert lone == pytest.approx([0.75 / std, *[-0.25 / std] * 3], rel=1e-5)
    assert half == pytest.approx([0.5 / std] * 2 + [-0.5 / std] * 2, rel=1e-5)


def test_length_weighted_baseline_by_hand() -> None:
    settings = ObjectiveSettings(advantage="length_weighted")
    (found,) = step_advantages([np.array([1.0, 0.0, np.nan])], [np.array([30, 10, 99])], settings)
    assert found == pytest.approx([0.25, -0.75, np.nan], nan_ok=True)  # baseline 30 / 40


def test_best_of_group_rewards_its_lead_alone() -> None:
    assert step_of("best_of_group", [0.2, 1.0, 0.7], [1.0, 1.0, 0.0]) == [
        pytest.approx([0.0, 0.3, 0.0]),
        [0.0, 0.0, 0.0],
    ]


@pytest.mark.parametrize(
    ("kind", "options", "mixed", "right", "wrong"),
    [
        ("psr", {}, [1.0, 0.0, 0.0], [1.0, 1.0], [0.0, 0.0]),
        ("nsr", {}, [0.0, -1.0, -1.0], [0.0, 0.0], [-1.0, -1.0]),
        ("w_reinforce", {}, [0.1, -1.0, -1.0], [0.1, 0.1], [-1.0, -1.0]),
        ("w_reinforce", {"positive_weight": 0.5}, [0.5, -1.0, -1.0], [0.5, 0.5], [-1.0, -1.0]),
    ],
)
def test_kinds_without_a_baseline_weigh_successes_and_failures(
    kind: str, options: dict[str, Any], mixed: list[float], right: list[float], wrong: list[float]
) -> None:
    assert step_of(kind, [1.0, 0.0, 0.0], [1.0, 1.0], [0.0, 0.0], **options) == [mixed, right, wrong]


@pytest.mark.parametrize(
    ("floor", "prior", "success"),
    [
        (0.354, 0.0, 2.4749),  # the deviation of a lone success is .35355: this floor is the value itself
        (0.45, 0.0, 0.875 / 0.45),
        (0.0, 8.0, 0.875 / math.sqrt((8 * 0.125 + 8 * 0.25) / 16)),  # half the weight on each variance
        (0.45, 8.0, 0.875 / 0.45),  # the prior's .433 lies below the floor
    ],
)
def test_floor_and_prior_tame_a_lone_success(floor: float, prior: float, success: float) -> None:
    found = group_advantages(rewards_of(1, 8), "std", std_floor=floor, std_prior=prior)
    assert found[0] == pytest.approx(success, rel=2e-3 if floor == 0.354 else 1e-4)
    assert found[1:] == pytest.approx([-found[0] / 7] * 7)


def test_prior_counts_the_judged_completions_alone() -> None:
    found = group_advantages(np.append(rewards_of(1, 8), np.nan), "std", std_prior=8.0)
    assert found[:8] == pytest.approx(group_advantages(rewards_of(1, 8), "std", std_prior=8.0))


@pytest.mark.parametrize(("k", "factor"), [(1, 4 * 0.2 * 0.8), (4, 1.0), (7, 4 * 0.8 * 0.2)])
def test_confidence_shrinks_a_group_by_its_posterior_mean(k: int, factor: float) -> None:
    plain = group_advantages(rewards_of(k, 8), "std")
    assert group_advantages(rewards_of(k, 8), "std", confidence_shrink=True) == pytest.approx(factor * plain)


@pytest.mark.parametrize("kind", ["std", "no_std", "leave_one_out", "batch_std", "length_weighted", "w_reinforce"])
def test_too_few_successes_are_not_learned_from_and_failures_are(kind: str) -> None:
    plain, tamed = (step_of(kind, [1.0, 0, 0, 0], [1.0, 1, 0, 0], min_successes=least) for least in (1, 2))
    assert tamed[1] == plain[1]
    assert tamed[0] == [0.0, *plain[0][1:]] and plain[0][1] < 0 < plain[0][0]


def test_cap_cuts_after_everything_else() -> None:
    assert group_advantages(rewards_of(1, 64), "std", advantage_cap=2.0)[0] == 2.0
    assert group_advantages(rewards_of(63, 64), "std", advantage_cap=2.0)[63] == -2.0
    shrunk = group_advantages(rewards_of(1, 64), "std", advantage_cap=2.0, confidence_shrink=True)
    p = 2 / 66
    assert shrunk[0] == pytest.approx(7.875 * 4 * p * (1 - p), rel=1e-4)  # .93: below the cap when it is cut


@pytest.mark.parametrize("sampling", ["drop", "refill"])
@pytest.mark.parametrize("kind", ["batch_std", "batch_whitened"])
def test_group_that_dynamic_sampling_leaves_out_is_in_no_statistic(kind: str, sampling: str) -> None:
    mixed, silent = [1.0, 0.0, 0.0], [0.0, 0.0]
    alone, kept = step_of(kind, mixed)[0], step_of(kind, mixed, silent, dynamic_sampling=sampling)
    assert kept == [alone, [0.0, 0.0]]
    assert step_of(kind, mixed, silent)[0] != pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("kind", ["batch_std", "batch_whitened"])
def test_step_of_silent_groups_has_no_advantage(kind: str) -> None:
    assert step_of(kind, [0.0, 0.0], [1.0, 1.0]) == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("no_std", [0.9 - 0.2, 0.0 - 0.2, -0.3 - 0.2]),
        ("psr", [0.9, 0.0, -0.3]),
        ("nsr", [-0.1, -1.0, -1.3]),
        ("w_reinforce", [0.1 - 0.1, -1.0, -1.3]),
    ],
)
def test_penalty_is_taken_off_the_reward_before_the_advantage(kind: str, expected: list[float]) -> None:
    rewards, penalties = [np.array([1.0, 0.0, 0.0])], [np.array([0.1, 0.0, 0.3])]
    settings, lengths = ObjectiveSettings(advantage=kind), [np.ones(3, np.int64)]
    assert step_advantages(rewards, lengths, settings, penalties)[0] == pytest.approx(expected)


def test_success_is_what_the_reward_says_whatever_the_penalty() -> None:
    settings = ObjectiveSettings(advantage="no_std", min_successes=2)
    found = step_advantages([np.array([1.0, 1.0, 0.0])], [np.ones(3, np.int64)], settings, [np.array([0.9, 0.0, 0.0])])
    assert found[0] == pytest.approx([0.1 - 1.1 / 3, 1 - 1.1 / 3, -1.1 / 3])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"positive_weight": 0.2}, "positive_weight: 0.2 is set, but advantage std"),
        ({"advantage": "batch_std", "std_floor": 0.5}, "std_floor: 0.5 is set, but advantage batch_std"),
        ({"advantage": "no_std", "std_prior": 4}, "std_prior: 4"),
        ({"advantage": "nsr", "min_successes": 2}, "min_successes: 2: nsr learns from no success"),
        ({"advantage": "best_of_group", "min_successes": 2}, "min_successes: 2: best_of_group"),
        ({"refill_rounds": 3, "dynamic_sampling": "drop"}, "refill_rounds: 3 is set, but dynamic_sampling is drop"),
        ({"dual_clip": 3.0, "loss": "cispo"}, "dual_clip: 3.0 is set, but the loss is cispo"),
        ({"dual_clip": 3.0, "loss": "gspo"}, "dual_clip: 3.0 is set, but the loss is gspo"),
    ],
)
def test_option_that_would_never_act_is_refused_with_what_is_allowed(options: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(ObjectiveSettings, options)
    (problem,) = caught.value.problems
    assert problem.startswith(line) and "; allowed: " in problem
