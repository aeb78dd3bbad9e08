"""The mathematics of each static score against values by hand, sums over all cases, and simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ductile.scores.el2n import error_norms
from ductile.scores.el2n_rl import own_reward_errors
from ductile.scores.el2n_rl_later import later_errors
from ductile.scores.failure_rate import failure_rates
from ductile.scores.forgetting import evaluation_steps, forgetting_events
from ductile.scores.forgetting_rl import majority
from ductile.scores.history import History, history_of, read_audits
from ductile.scores.memorization import memorization, subsets_of
from ductile.scores.prototypes import prototype_distances
from ductile.settings import SettingsError

NAN = float("nan")


def test_error_norm_is_the_distance_of_the_probabilities_from_the_one_hot_label() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(2.0), 0.0, 0.0, -80.0], [80.0, 0.0, 0.0, 0.0]])
    found = error_norms(logits, torch.tensor([1, 0, 2]))
    # (1/4, -3/4, 1/4, 1/4); (-1/2, 1/4, 1/4, 0); sure and wrong
    expected = [math.sqrt(3 / 16 + 9 / 16), math.sqrt(1 / 4 + 2 / 16), math.sqrt(2)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_error_norm_is_numpys_on_random_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7))
    labels = np.arange(50) % 7
    exact = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(7)[labels]
    found = error_norms(torch.tensor(logits), torch.tensor(labels))
    assert np.allclose(found.numpy(), np.linalg.norm(exact, axis=1))


@pytest.mark.parametrize(
    ("history", "events"),
    [
        ([0, 1, 1, 1], 0),
        ([1, 0, 1, 0], 2),
        ([0, 1, 0, 0], 1),
        ([0, 0, 0, 0], 4),  # never learned: the maximum
        ([1, NAN, 0, 1], 1),  # forgotten while nobody looked
        ([NAN, 1, NAN, 1], 0),
        ([NAN, 0, NAN, NAN], 4),
        ([NAN, NAN, NAN, NAN], NAN),
    ],
)
def test_forgetting_counts_from_right_to_wrong(history: list[float], events: float) -> None:
    assert forgetting_events(np.array([history]).T).tolist() == pytest.approx([events], nan_ok=True)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3), min_size=1, max_size=12))
def test_no_learned_problem_reaches_the_maximum(history: list[list[float]]) -> None:
    found = forgetting_events(np.array(history))
    for events, column in zip(found, zip(*history, strict=True), strict=True):
        text = "".join(str(int(right)) for right in column)
        assert events == (text.count("10") if "1" in text else len(history))
        assert events < len(history) or "1" not in text


def test_majority_needs_more_than_half_and_a_judged_completion() -> None:
    found = majority(History(np.array([[4.0, 5.0, 0.0, 2.0]]), np.array([[8.0, 8.0, 0.0, 2.0]])))
    assert found[0].tolist() == pytest.approx([0.0, 1.0, NAN, 1.0], nan_ok=True)


def audits(*parts: tuple[list[str], list[int], list[int]]) -> list[dict[str, Any]]:
    return [{"pool": dict(zip(("ids", "successes", "counts"), part, strict=True)), "unseen": None} for part in parts]


ROWS = audits(
    (["a", "b", "other"], [3, 0, 4], [4, 4, 4]),
    (["b", "a"], [1, 1], [4, 4]),
    (["c"], [2], [2]),  # another phase's problems
    (["a", "b"], [4, 0], [4, 3]),
    (["a"], [2], [4]),
)


def test_history_puts_each_audits_counts_at_their_problems() -> None:
    history = history_of(ROWS, ["b", "a", "c", "never"])
    assert history.successes.tolist() == [[0, 3, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 4, 0, 0], [0, 2, 0, 0]]
    assert history.counts.tolist() == [[4, 4, 0, 0], [4, 4, 0, 0], [0, 0, 2, 0], [3, 4, 0, 0], [0, 4, 0, 0]]


def test_problems_that_a_run_solved_and_lost_are_forgotten_and_unsolved_ones_are_the_maximum() -> None:
    found = forgetting_events(majority(history_of(ROWS, ["a", "b", "c", "never"])))
    # a: right wrong right wrong (a tie); b: never, of five audits; c: right once
    assert found.tolist() == pytest.approx([2.0, 5.0, 0.0, NAN], nan_ok=True)


def test_later_errors_are_those_of_each_completion_against_the_first_rate() -> None:
    found = later_errors(history_of(ROWS, ["a", "b", "c", "never"]))
    rewards = [1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0]  # of a, after the audit that found 3 of 4
    by_hand = sum(abs(reward - 0.75) for reward in rewards) / 12
    assert found.tolist() == pytest.approx([by_hand, 1 / 7, NAN, NAN], nan_ok=True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read: No such file"),
        ("[", "is no JSON"),
        ("[]", "has no rows of audits"),
        ("{}", "has no rows of audits"),
        ('[{"pool": {"ids": ["a"], "successes": [1], "counts": []}}]', "has no rows of audits"),
    ],
)
def test_file_that_holds_no_audits_says_what_to_give(tmp_path: Path, content: str | None, what: str) -> None:
    path = tmp_path / "audits.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_audits(str(path))
    [line] = caught.value.problems
    assert line.startswith(f"history: {str(path)!r} {what}") and "difficulty.audit.every above 0" in line
    path.write_text(json.dumps(ROWS))
    assert read_audits(str(path)) == ROWS


def test_evaluations_are_even_and_end_with_the_training() -> None:
    assert evaluation_steps(10, 5) == {2, 4, 6, 8, 10}
    assert evaluation_steps(10, 3) == {3, 7, 10}


def test_memorization_is_the_difference_of_two_rates() -> None:
    inside = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]], np.bool_)
    right = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1]], np.bool_)
    # 2/2 - 1/2; 1/2 - 2/2; in every subset
    assert memorization(inside, right).tolist() == pytest.approx([0.5, -0.5, NAN], nan_ok=True)


@pytest.mark.parametrize(
    ("count", "subsets", "share", "times"),
    [(64, 8, 0.7, 6), (5, 3, 0.5, 2), (7, 2, 0.7, 1), (9, 4, 0.99, 3), (9, 4, 0.01, 1), (1, 8, 0.7, 6)],
)
def test_every_problem_is_in_as_many_subsets_and_never_in_none_or_all(
    count: int, subsets: int, share: float, times: int
) -> None:
    inside = subsets_of(count, subsets, share, np.random.default_rng(0))
    assert inside.shape == (subsets, count) and inside.sum(axis=0).tolist() == [times] * count
    assert np.ptp(inside.sum(axis=1)) <= 1
    assert np.isfinite(memorization(inside, inside)).all()


def test_subsets_are_random() -> None:
    """Of 8 subsets, 6 hold a problem: each with probability 3/4, and any 2 of them together with 15/28."""
    draws = np.array([subsets_of(4, 8, 0.7, np.random.default_rng(seed))[:, 2] for seed in range(2000)])
    assert np.allclose(draws.mean(axis=0), 0.75, atol=0.04)
    assert (draws[:, 0] & draws[:, 5]).mean() == pytest.approx(15 / 28, abs=0.045)


def test_memorized_problem_is_told_from_a_general_one_by_subsets() -> None:
    """Right only where trained on: 1. Right anyway: 0. Right with 0.9 inside and 0.4 outside: 0.5."""
    rng = np.random.default_rng(0)
    inside = rng.random((4000, 3)) < 0.7
    right = np.stack(
        [inside[:, 0], np.ones(4000, np.bool_), rng.random(4000) < np.where(inside[:, 2], 0.9, 0.4)], axis=1
    )
    found = memorization(inside, right)
    assert found[:2].tolist() == [1.0, 0.0]
    assert found[2] == pytest.approx(0.5, abs=0.06)  # four standard errors


def test_own_reward_error_is_the_unbiased_2_p_1_minus_p() -> None:
    """Over all rollouts of 5 at p: the expectation, by enumeration."""
    outcomes = np.array([[bits >> place & 1 for place in range(5)] for bits in range(32)], np.float64)
    found = own_reward_errors(outcomes)
    k = outcomes.sum(axis=1)
    assert found == pytest.approx(2 * k * (5 - k) / 20)
    for p in (0.1, 0.5, 0.8):
        chance = p**k * (1 - p) ** (5 - k)
        assert float((chance * found).sum()) == pytest.approx(2 * p * (1 - p))


def test_own_reward_error_is_of_the_judged_rollouts_alone() -> None:
    rewards = np.array([[1.0, 0.0, NAN, 0.0], [1.0, 1.0, 1.0, 1.0], [NAN, NAN, NAN, NAN]])
    assert own_reward_errors(rewards).tolist() == pytest.approx([2 * 1 * 2 / (3 * 2), 0.0, NAN], nan_ok=True)
    assert np.isnan(own_reward_errors(np.array([[1.0, NAN]]))[0])  # one rollout has no others


def test_failure_rate_counts_judged_completions_alone() -> None:
    rewards = np.array([[1.0, 0.0, NAN, 0.0], [1.0, 1.0, 1.0, 1.0], [NAN, NAN, NAN, NAN]])
    assert failure_rates(rewards).tolist() == pytest.approx([2 / 3, 0.0, NAN], nan_ok=True)


def test_prototypes_are_found_and_what_lies_off_them_is_far() -> None:
    """Two tight bundles of directions, and one vector 60 degrees off the nearer of them."""
    rng = np.random.default_rng(1)
    bundles = [np.array([10.0, 0.0, 0.0]), np.array([0.0, 10.0, 0.0])]
    near = np.concatenate([bundle + 0.01 * rng.normal(size=(50, 3)) for bundle in bundles])
    off = 10 * np.array([[0.5, 0.0, math.sqrt(0.75)]])
    distances = prototype_distances(np.concatenate([near, off]), 2, seed=0)
    assert distances[:-1].max() < 0.001
    assert distances[-1] == pytest.approx(0.5, abs=0.03)  # it draws its own centroid a little
    assert distances.argmax() == 100


def test_prototype_distance_is_the_least_of_all_centroids_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [3.0, 4.0]])
    mean = np.array([2.0, 2.0])
    expected = [1 - vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean) for vector in vectors]
    assert prototype_distances(vectors, 1, seed=0) == pytest.approx(expected)
    assert prototype_distances(vectors, 9, seed=0) == pytest.approx([0.0, 0.0], abs=1e-12)  # each its own prototype


def test_prototypes_depend_on_the_seed_alone() -> None:
    vectors = np.random.default_rng(3).normal(size=(60, 5))
    first, again, other = (prototype_distances(vectors, 6, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
