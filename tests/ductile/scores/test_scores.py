"""The mathematics of each static score against values by hand, sums over all cases, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ductile.scores.el2n import error_norms
from ductile.scores.el2n_rl import own_reward_errors, reward_errors
from ductile.scores.failure_rate import failure_rates
from ductile.scores.forgetting import evaluation_steps, forgetting_events, majority
from ductile.scores.memorization import memorization
from ductile.scores.prototypes import prototype_distances

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
    found = majority(np.array([4.0, 5.0, 0.0, 2.0]), np.array([8.0, 8.0, 0.0, 2.0]))
    assert found.tolist() == pytest.approx([0.0, 1.0, NAN, 1.0], nan_ok=True)


def test_evaluations_are_even_and_end_with_the_training() -> None:
    assert evaluation_steps(10, 5) == {2, 4, 6, 8, 10}
    assert evaluation_steps(10, 3) == {3, 7, 10}


def test_memorization_is_the_difference_of_two_rates() -> None:
    inside = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]], np.bool_)
    right = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1]], np.bool_)
    # 2/2 - 1/2; 1/2 - 2/2; in every subset
    assert memorization(inside, right).tolist() == pytest.approx([0.5, -0.5, NAN], nan_ok=True)


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


def test_reward_errors_against_the_bases_expectation() -> None:
    rewards = np.array([[1.0, 0.0, NAN, 0.0], [1.0, 1.0, 1.0, 1.0], [NAN, NAN, NAN, NAN]])
    found = reward_errors(rewards, np.array([0.25, 0.25, 0.5]))
    assert found.tolist() == pytest.approx([(0.75 + 0.25 + 0.25) / 3, 0.75, NAN], nan_ok=True)
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
