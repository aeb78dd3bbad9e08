"""Newton's method against scipy's general minimiser, and what is known of populations of pass rates."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta, binom

from ductile.difficulty.base import Visits
from ductile.difficulty.logistic import fit_logistic
from ductile.difficulty.population import population, rates_and_squares


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_fit_is_the_minimum_that_a_general_minimiser_finds(strength: float) -> None:
    rng = np.random.default_rng(0)
    inputs, counts = rng.normal(size=(40, 5)), rng.integers(1, 9, 40).astype(float)
    successes = rng.binomial(counts.astype(int), expit(3 * inputs[:, 0])).astype(float)
    penalty, centre = strength * np.array([1.0, 2.0, 0.5, 1.0, 0.0]), np.array([0.0, 1.0, 0.0, -1.0, 0.0])

    def loss(weights: np.ndarray) -> float:
        rates = expit(inputs @ weights)
        fit = -(successes * np.log(rates) + (counts - successes) * np.log(1 - rates)).sum()
        return float(fit + (penalty * (weights - centre) ** 2).sum() / 2)

    weights, hessian = fit_logistic(inputs, successes, counts, penalty, centre)
    found = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    assert weights == pytest.approx(found.x, abs=1e-5)
    step = 1e-4
    for i, j in product(range(5), repeat=2):  # second differences
        at = [loss(weights + step * (a * np.eye(5)[i] + b * np.eye(5)[j])) for a, b in product((1, -1), repeat=2)]
        assert hessian[i, j] == pytest.approx((at[0] - at[1] - at[2] + at[3]) / (4 * step**2), abs=1e-3)


def test_outcomes_that_a_plane_separates_still_have_a_minimum_with_a_ridge() -> None:
    inputs = np.array([[-3.0], [-2.0], [2.0], [3.0]])
    weights, _ = fit_logistic(inputs, np.array([0.0, 0, 9, 9]), np.full(4, 9.0), np.array([1e-3]), np.zeros(1))
    gradient = (inputs[:, 0] * (9 * expit(inputs @ weights) - [0, 0, 9, 9])).sum() + 1e-3 * weights[0]
    assert gradient == pytest.approx(0, abs=1e-5)
    assert weights[0] > 3


def test_rate_and_square_have_the_right_expectations() -> None:
    for rate, count in product((0.1, 0.5, 0.9), (2, 5)):
        wins = np.arange(count + 1.0)
        visits = Visits(np.arange(count + 1), wins, np.full(count + 1, float(count)))
        chances = binom.pmf(wins, count, rate)
        estimates = [chances @ each for each in rates_and_squares(visits)]
        assert estimates == pytest.approx([rate, rate**2])


def test_population_of_nothing_is_the_prior() -> None:
    nothing = Visits(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    assert population(nothing, (2.0, 5.0)) == pytest.approx((beta(2, 5).mean(), beta(2, 5).std()))


def test_population_of_many_is_how_pass_rates_are_spread() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(2, 3, 20_000)
    visits = Visits(np.arange(20_000), rng.binomial(4, rates).astype(float), np.full(20_000, 4.0))
    assert population(visits, (1.0, 1.0)) == pytest.approx((beta(2, 3).mean(), beta(2, 3).std()), abs=0.005)


@pytest.mark.parametrize("count", [1.0, 8.0])
def test_problems_that_all_failed_are_no_certainty(count: float) -> None:
    visits = Visits(np.arange(9), np.zeros(9), np.full(9, count))
    mean, deviation = population(visits, (1.0, 1.0))
    assert mean == pytest.approx(0.05)
    assert 0.08 < deviation < 0.22
