"""Knapsack: the greedy shares against every way to share out, and values against numerical integrals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from ductile.difficulty.base import Estimates
from ductile.difficulty.knapsack import knapsack, marginal_values


def believed(*alpha_beta: tuple[float, float]) -> Estimates:
    alpha, beta = np.array(alpha_beta).T
    return Estimates(stats.beta.mean(alpha, beta), stats.beta.std(alpha, beta), np.zeros(len(alpha), np.int64))


def value(n: int, alpha: float, beta: float) -> float:
    belief = stats.beta(alpha, beta)
    exact, _ = integrate.quad(lambda p: belief.pdf(p) * (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2, 0, 1)
    return float(exact)


BELIEFS = [(1.0, 1.0), (1.0, 9.0), (6.0, 2.0), (3.0, 12.0)]


@pytest.mark.parametrize("belief", BELIEFS)
def test_marginal_value_is_the_expected_gain_of_one_more_completion(belief: tuple[float, float]) -> None:
    gains = [value(n + 1, *belief) - value(n, *belief) for n in range(2, 7)]
    assert marginal_values(believed(belief), 2, 7)[0] == pytest.approx(gains, rel=1e-6)


def test_known_pass_rate_has_the_papers_value() -> None:
    known = Estimates(np.array([0.2]), np.array([0.0]), np.zeros(1, np.int64))
    exact = [(0.2**n * 0.8 + 0.8**n * 0.2) * 0.2 * 0.8**2 for n in range(2, 6)]
    assert marginal_values(known, 2, 6)[0] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("total", [6, 9, 13, 18])
def test_shares_are_the_best_of_all(total: int) -> None:
    beliefs, low, high = BELIEFS[:3], 2, 6
    worth = [{n: value(n, *belief) for n in range(low, high + 1)} for belief in beliefs]
    best = max(
        (shares for shares in product(range(low, high + 1), repeat=3) if sum(shares) == total),
        key=lambda shares: sum(worth[i][n] for i, n in enumerate(shares)),
    )
    assert knapsack(believed(*beliefs), total, low, high).tolist() == list(best)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9),
    st.integers(0, 120),
    st.integers(2, 6),
    st.integers(0, 20),
)
def test_shares_are_exactly_the_total_within_the_limits_or_the_even_share(
    rows: list[tuple[float, float]], total: int, low: int, more: int
) -> None:
    mean, certain = np.array(rows).T
    given = Estimates(mean, certain * np.sqrt(mean * (1 - mean)), np.zeros(len(mean), np.int64))
    shares = knapsack(given, total, low, low + more)
    assert shares.dtype == np.int64 and len(shares) == len(rows) and shares.sum() == total
    assert shares.min() >= min(low, total // len(rows)) and shares.max() <= max(low + more, -(-total // len(rows)))


def test_total_beyond_the_limits_is_shared_out_evenly() -> None:
    assert sorted(knapsack(believed((1, 1), (1, 9), (9, 1)), 4, 2, 8).tolist()) == [1, 1, 2]
    assert sorted(knapsack(believed((1, 1), (1, 9), (9, 1)), 32, 2, 10).tolist()) == [10, 11, 11]


def test_equals_have_equal_shares() -> None:
    assert knapsack(believed(*[(2, 3)] * 4), 34, 2, 32).tolist() == [9, 9, 8, 8]


def test_hard_problems_have_more_than_even_and_easy_ones_least() -> None:
    even, hard, easy = knapsack(believed((50, 50), (5, 95), (98, 2)), 24, 2, 20)
    assert hard > even > easy == 2


def test_impossible_on_little_evidence_is_worth_more_than_on_much() -> None:
    little, much = knapsack(believed((1, 5), (1, 300)), 16, 2, 14)
    assert much == 2 and little == 14
