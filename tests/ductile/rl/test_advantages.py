"""Group advantages against hand values, the closed forms of a lone success, float64 formulas and TRL's arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ductile.rl.advantages import group_advantages

KINDS = ("std", "no_std", "leave_one_out")


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
        group_advantages(np.array([0.0, 1.0]), "median")
