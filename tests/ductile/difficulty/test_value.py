"""The value model: its gradient steps by hand, and that a new scale leaves it the same function."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import expit
from scipy.stats import binom

from ductile.difficulty.base import Evidence, Visits
from ductile.difficulty.population import dispersion, excess
from ductile.difficulty.value import KEPT, ValueEstimator, implicit_gradient


def shown(states: np.ndarray, rows: np.ndarray | None = None) -> Evidence:
    rows = np.arange(len(states)) if rows is None else rows
    asked, nothing = np.ones(len(rows), bool), np.zeros(0)
    return Evidence(rows, states.astype(np.float32), asked, np.zeros(0, np.int64), nothing, nothing, None)


def estimator(rows: int, rate: float = 0.1) -> ValueEstimator:
    made = ValueEstimator((1.0, 1.0), rate)
    made.grow(rows, 0)
    return made


STATES = np.array([[1.0, 6.0], [3.0, 2.0], [5.0, 4.0]])
SCALED = (STATES - [3, 4]) / np.sqrt([8 / 3, 8 / 3]) / np.sqrt(2)


@pytest.mark.parametrize("rate", [0.01, 0.1, 30.0])
def test_each_visit_is_one_implicit_step_on_the_binomial_loss_in_order(rate: float) -> None:
    made = estimator(4, rate)
    made.refresh(shown(STATES), 0)
    made.observe(Visits(np.array([0, 2]), np.array([3.0, 0.0]), np.array([4.0, 5.0])), 0)
    here = np.zeros(3)
    for state, wins, count in ((SCALED[0], 3, 4), (SCALED[2], 0, 5)):  # least loss, but for |change|^2 / (2 rate)

        def loss(
            both: np.ndarray, at: np.ndarray = here, x: np.ndarray = state, s: int = wins, n: int = count
        ) -> float:
            score = both[:2] @ x + both[2]
            return float(n * np.logaddexp(0, score) - s * score + ((both - at) ** 2).sum() / (2 * rate))

        here = minimize(loss, here, method="BFGS", options={"gtol": 1e-9}).x
    expected = expit([*(SCALED @ here[:2] + here[2]), here[2]])  # the last row has no state: the average one's
    assert made.predict(np.arange(4), 0).mean == pytest.approx(expected, rel=1e-4)


def test_small_step_is_the_gradients() -> None:
    assert implicit_gradient(0.3, 1e-7, 3.0, 8.0) == pytest.approx(3 - 8 * expit(0.3), rel=1e-5)
    assert implicit_gradient(0.0, 0.5, 4.0, 8.0) == 0.0


def test_no_rate_is_too_large() -> None:
    made = estimator(3, rate=1e4)
    made.refresh(shown(STATES), 0)
    for step in range(20):
        made.observe(Visits(np.array([0]), np.array([2.0]), np.array([8.0])), step)
    assert made.predict(np.array([0]), 20).mean[0] == pytest.approx(0.25, abs=1e-3)


def test_visit_of_a_problem_without_a_state_teaches_the_bias_alone() -> None:
    made = estimator(4)
    made.refresh(shown(STATES), 0)
    made.observe(Visits(np.array([3]), np.array([4.0]), np.array([4.0])), 0)
    root = expit(brentq(lambda bias: bias - 0.1 * (4 - 4 * expit(bias)), 0, 1))
    assert made.predict(np.arange(4), 0).mean == pytest.approx(np.full(4, root))
    assert made.diagnostics()["weight_norm"] == 0


def test_new_scale_leaves_the_model_the_same_function_of_a_state() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(6, 3)) * [1.0, 5.0, 0.3] + 2
    made = estimator(12)
    made.refresh(shown(states), 0)
    for step in range(5):
        made.observe(Visits(np.arange(6), rng.integers(0, 9, 6).astype(float), np.full(6, 8.0)), step)
    before = made.predict(np.arange(6), 5).mean
    others = rng.normal(size=(6, 3)) * [4.0, 0.5, 2.0] - 3
    made.refresh(shown(others, np.arange(6, 12)), 5)
    assert made.predict(np.arange(6), 5).mean == pytest.approx(before, abs=1e-5)
    assert before.std() > 0.01


def test_uncertainty_is_the_spread_beyond_binomial_noise() -> None:
    made = estimator(4, rate=1e-9)  # learns nothing: V stays 1/2
    made.refresh(shown(STATES), 0)
    seen = Visits(np.array([0, 1, 2]), np.array([4.0, 0.0, 3.0]), np.array([4.0, 4.0, 4.0]))
    made.observe(seen, 0)
    misses = np.array([0.25, 0.25, 0.0625 - 0.1875 / 3])  # (s/n - 1/2)^2 - r (1 - r) / 3
    ages = KEPT ** np.array([2, 1, 0])
    rho = (0.25 / 3 + (ages * misses).sum()) / (0.25 + 0.25 * ages.sum())
    assert made.diagnostics()["dispersion"] == pytest.approx(rho)
    assert made.predict(np.array([0]), 0).uncertainty[0] == pytest.approx((rho * 0.25) ** 0.5)
    made.observe(Visits(np.array([0]), np.array([1.0]), np.array([1.0])), 1)  # one completion tells no spread
    made.observe(Visits(np.array([3]), np.array([4.0]), np.array([4.0])), 2)  # nor does one without a state
    assert made.diagnostics()["dispersion"] == pytest.approx(rho)
    assert made.predict(np.array([3]), 2).uncertainty[0] == pytest.approx((0.25 / 3) ** 0.5)


def test_excess_is_unbiased() -> None:
    wins = np.arange(6.0)
    estimates = excess(wins / 5, np.full(6, 5.0), np.full(6, 0.35))
    assert binom.pmf(wins, 5, 0.8) @ estimates == pytest.approx(0.45**2)


def test_dispersion_of_many_beta_binomial_visits_is_that_of_the_beta() -> None:
    rng = np.random.default_rng(0)
    value = rng.uniform(0.1, 0.9, 20_000)
    rates = rng.beta(3 * value, 3 * (1 - value))  # rho = 1 / 4
    seen = Visits(np.arange(20_000), rng.binomial(6, rates).astype(float), np.full(20_000, 6.0))
    assert dispersion(seen, value, (1.0, 1.0)) == pytest.approx(0.25, abs=0.01)
    exact = Visits(seen.rows, rng.binomial(6, value).astype(float), seen.counts)
    assert dispersion(exact, value, (1.0, 1.0)) < 0.01


def test_predictions_better_than_chance_allows_leave_the_priors_dispersion() -> None:
    exact = Visits(np.arange(9), np.full(9, 2.0), np.full(9, 4.0))
    assert dispersion(exact, np.full(9, 0.5), (1.0, 1.0)) == pytest.approx(1 / 3 / 10)
