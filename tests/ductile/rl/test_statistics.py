"""A step's rollout metrics, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ductile.config import ObjectiveSettings
from ductile.problem import NO_WORK, Completion, Group, JudgedGroup, Problem, Verdict
from ductile.rl.statistics import group_statistics


def judged(name: str, *answers: tuple[float | None, int]) -> JudgedGroup:
    """A group of (reward, length) answers: finished unless 9 tokens long, `steps` when 4 tokens or more."""
    completions, verdicts = [], []
    for sample, (reward, length) in enumerate(answers):
        tokens, logps = np.zeros(length, np.int32), np.zeros(length, np.float32)
        completions.append(Completion(name, sample, tokens, logps, "", length < 9, 0))
        direct = length < 4
        verdicts.append(Verdict(reward, "direct" if direct else "steps", NO_WORK if direct else ""))
    group = Group(Problem(name, "sums", 1, "", ""), np.zeros(1, np.int32), tuple(completions))
    return JudgedGroup(group, tuple(verdicts))


FOUR_GROUPS = (
    judged("lone", (1.0, 5), (0.0, 2), (0.0, 2), (0.0, 9)),
    judged("half", (1.0, 5), (1.0, 4), (0.0, 2), (0.0, 3)),
    judged("none", (0.0, 4), (0.0, 1), (0.0, 4), (0.0, 4)),
    judged("lost", (1.0, 4), (0.0, 2), (None, 9), (None, 7)),
)
"""Of 16 completions 14 were judged: 4 right, 10 wrong."""


def test_pass_rate_lengths_and_shares_by_hand() -> None:
    metrics = group_statistics(FOUR_GROUPS, ObjectiveSettings(advantage="no_std"))
    assert metrics["rollout/pass_rate"] == pytest.approx(4 / 14)
    assert metrics["rollout/unjudged_share"] == pytest.approx(2 / 16)
    assert metrics["rollout/tokens"] == 18 + 14 + 13 + 22
    assert metrics["rollout/length_mean"] == pytest.approx(67 / 16)
    assert metrics["rollout/length_min"] == 1
    assert metrics["rollout/length_max"] == 9
    assert metrics["rollout/truncated_share"] == pytest.approx(2 / 16)
    assert metrics["rollout/shortcut_share"] == pytest.approx(6 / 14)
    assert metrics["rollout/format/direct"] == pytest.approx(6 / 14)
    assert metrics["rollout/format/steps"] == pytest.approx(8 / 14)


def test_groups_are_counted_by_their_successes() -> None:
    metrics = group_statistics(FOUR_GROUPS, ObjectiveSettings(advantage="std"))
    histogram = {name: value for name, value in metrics.items() if name.startswith("rollout/successes/")}
    assert histogram == {
        "rollout/successes/k_0": 1 / 4,
        "rollout/successes/k_1": 2 / 4,
        "rollout/successes/k_2": 1 / 4,
    }
    assert metrics["rollout/silent_share"] == 1 / 4


@pytest.mark.parametrize(
    ("advantage", "lone", "half", "lost"),
    [
        ("no_std", 0.75 + 3 * 0.25, 4 * 0.5, 2 * 0.5),
        ("leave_one_out", 1 + 3 / 3, 4 * 2 / 3, 2 * 1.0),
        ("std", 1.5 + 3 * 0.5, 4 * 0.8660254, 2 * 0.70710678),
    ],
)
def test_advantage_mass_is_shared_out_by_successes(advantage: str, lone: float, half: float, lost: float) -> None:
    metrics = group_statistics(FOUR_GROUPS, ObjectiveSettings(advantage=advantage))
    total = lone + half + lost
    mass = {name: value for name, value in metrics.items() if name.startswith("rollout/advantage_mass/")}
    assert mass == pytest.approx(
        {
            "rollout/advantage_mass/k_0": 0.0,
            "rollout/advantage_mass/k_1": (lone + lost) / total,
            "rollout/advantage_mass/k_2": half / total,
        },
        abs=1e-5,
    )


def test_silent_step_has_no_advantage_mass_to_share() -> None:
    metrics = group_statistics(
        (judged("a", (0.0, 1), (0.0, 1)), judged("b", (1.0, 1), (1.0, 1))), ObjectiveSettings(advantage="std")
    )
    assert metrics["rollout/silent_share"] == 1.0
    assert not [name for name in metrics if name.startswith("rollout/advantage_mass/")]
    assert metrics["rollout/successes/k_0"] == metrics["rollout/successes/k_2"] == 0.5


def test_group_without_a_judged_completion_is_in_no_share_of_groups() -> None:
    metrics = group_statistics(
        (judged("a", (1.0, 2), (0.0, 2)), judged("b", (None, 3), (None, 5))), ObjectiveSettings(advantage="std")
    )
    assert metrics["rollout/successes/k_1"] == 1.0
    assert metrics["rollout/silent_share"] == 0.0
    assert metrics["rollout/unjudged_share"] == 0.5
    assert metrics["rollout/length_mean"] == 3.0


def test_step_in_which_nothing_was_judged_has_lengths_and_nothing_else() -> None:
    metrics = group_statistics((judged("a", (None, 2), (None, 4)),), ObjectiveSettings(advantage="std"))
    assert metrics["rollout/unjudged_share"] == 1.0
    assert metrics["rollout/tokens"] == 6.0
    assert set(metrics) == {
        f"rollout/{name}"
        for name in ("length_mean", "length_min", "length_max", "tokens", "truncated_share", "unjudged_share")
    }


def test_groups_of_one_problem_count_as_one() -> None:
    """A problem that is asked in two contexts, right in one and wrong in the other, is not two silent groups."""
    asked_twice = (judged("a", (1.0, 2), (1.0, 2)), judged("b", (0.0, 2), (0.0, 2)), judged("a", (0.0, 2), (0.0, 2)))
    metrics = group_statistics(asked_twice, ObjectiveSettings(advantage="no_std"))
    assert metrics["rollout/silent_share"] == 0.5
    assert metrics["rollout/successes/k_2"] == metrics["rollout/successes/k_0"] == 0.5
    assert metrics["rollout/advantage_mass/k_2"] == 1.0


@pytest.mark.parametrize(("kind", "learned"), [("std", 3), ("psr", 3), ("nsr", 4)])
def test_refill_factor_is_groups_sampled_over_groups_learned_from(kind: str, learned: int) -> None:
    settings = ObjectiveSettings(advantage=kind, dynamic_sampling="refill")
    assert group_statistics(FOUR_GROUPS, settings)["rollout/refill_factor"] == pytest.approx(4 / learned)
    assert "rollout/refill_factor" not in group_statistics(FOUR_GROUPS, ObjectiveSettings(advantage=kind))


def test_refill_factor_is_left_out_where_nothing_was_kept() -> None:
    silent = (judged("a", (0.0, 1), (0.0, 1)),)
    assert "rollout/refill_factor" not in group_statistics(silent, ObjectiveSettings(dynamic_sampling="drop"))


@pytest.mark.parametrize(
    ("kind", "share"), [("psr", 1 / 3), ("nsr", 1 / 3), ("w_reinforce", 0.0), ("batch_whitened", 2 / 3)]
)
def test_group_is_silent_where_its_own_rewards_give_no_gradient(kind: str, share: float) -> None:
    groups = (
        judged("mixed", (1.0, 3), (0.0, 1)),
        judged("right", (1.0, 1), (1.0, 1)),
        judged("no", (0.0, 1), (0.0, 1)),
    )
    assert group_statistics(groups, ObjectiveSettings(advantage=kind))["rollout/silent_share"] == pytest.approx(share)
