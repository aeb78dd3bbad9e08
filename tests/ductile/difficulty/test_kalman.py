"""The Kalman filter on the logit against a Bayes filter on a fine grid in float64, and where it must stay sane."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from ductile.config import DifficultySettings, KalmanSettings
from ductile.difficulty.base import Estimates, Visits
from ductile.difficulty.kalman import KalmanEstimator, binomial_update, pass_rate

GRID = np.linspace(-40, 40, 4001)
ROW = np.array([0])

Floats = NDArray[np.float64]


def one(*values: float) -> tuple[Floats, ...]:
    return tuple(np.array([value], np.float64) for value in values)


def moments(weights: Floats, of: Floats) -> tuple[float, float]:
    mean = float((weights * of).sum())
    return mean, float((weights * (of - mean) ** 2).sum())


def likelihood(successes: float, count: float, x: Floats = GRID) -> Floats:
    log = successes * x - count * np.logaddexp(0, x)
    return np.exp(log - log.max())


def gaussian(mean: float, variance: float, x: Floats = GRID) -> Floats:
    weights = np.exp(-((x - mean) ** 2) / (2 * variance))
    return weights / weights.sum()


class GridFilter:
    """The exact belief of one problem: a histogram of its logit."""

    def __init__(self, spread: float, noise: float, start: float = 0.0) -> None:
        self.belief, self.noise = gaussian(start, spread**2), noise

    def walk(self, steps: int) -> None:
        if steps and self.noise:
            kernel = gaussian(0.0, self.noise * steps)
            self.belief = np.convolve(self.belief, kernel, mode="same")
            self.belief /= self.belief.sum()

    def observe(self, successes: float, count: float) -> None:
        self.belief = self.belief * likelihood(successes, count)
        self.belief /= self.belief.sum()

    def rate(self) -> tuple[float, float]:
        mean, variance = moments(self.belief, expit(GRID))
        return mean, variance**0.5


def estimator(spread: float = 1.5, noise: float = 0.05) -> KalmanEstimator:
    made = KalmanEstimator(0.0, spread, noise)
    made.grow(1, 0)
    return made


def visit(made: KalmanEstimator, successes: float, count: float, step: int) -> None:
    made.observe(Visits(ROW, *one(successes, count)), step)


def belief(made: KalmanEstimator, step: int) -> tuple[float, float]:
    told: Estimates = made.predict(ROW, step)
    return float(told.mean[0]), float(told.uncertainty[0])


@pytest.mark.parametrize("variance", [1e-6, 0.01, 0.3, 2.25, 20, 60])
@pytest.mark.parametrize("mean", [-9.0, -2.0, 0.0, 0.7, 5.0])
def test_mean_and_spread_of_the_pass_rate_are_those_of_the_gaussian_logit(mean: float, variance: float) -> None:
    z = np.linspace(-10, 10, 20_001)
    expected, spread = moments(gaussian(0.0, 1.0, z), expit(mean + variance**0.5 * z))
    told = pass_rate(*one(mean, variance))
    assert told[0][0] == pytest.approx(expected, abs=1e-8)
    assert told[1][0] == pytest.approx(spread**0.5, abs=1e-4)  # its square is a difference of two that are good to 1e-8


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (0, 8), (8, 8), (3, 8), (1, 64), (64, 64), (256, 512)])
@pytest.mark.parametrize("variance", [0.05, 0.3, 2.25, 10])
@pytest.mark.parametrize("mean", [-3.0, 0.0, 1.0, 5.0])
def test_update_has_the_moments_of_the_exact_posterior(
    mean: float, variance: float, successes: int, count: int
) -> None:
    exact = GridFilter(variance**0.5, 0.0, mean)
    exact.observe(successes, count)
    expected, spread = moments(exact.belief, GRID)
    told = binomial_update(*one(mean, variance, successes, count))
    assert told[0][0] == pytest.approx(expected, abs=2e-3 * spread**0.5)
    assert told[1][0] == pytest.approx(spread, rel=5e-3)


def compared(noise: float, visits: list[tuple[int, float]], later: int = 20) -> list[float]:
    """How far mean and spread are from the grid's, right after the visits (gap, successes of 8) and later."""
    made, exact, now = estimator(noise=noise), GridFilter(1.5, noise), 0
    for gap, successes in visits:
        now += gap
        exact.walk(gap)
        exact.observe(successes, 8)
        visit(made, successes, 8, now)
    differences = []
    for wait in (0, later):
        exact.walk(wait)
        differences += [abs(a - b) for a, b in zip(belief(made, now + wait), exact.rate(), strict=True)]
    return differences


@pytest.mark.parametrize("gap", [1, 10])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_it_follows_the_bayes_filter_on_a_grid_where_its_model_holds(noise: float, gap: int) -> None:
    rng, found = np.random.default_rng(5), []
    for _ in range(20):
        walk = rng.normal(0, 1.5) + np.cumsum(rng.normal(0, (noise * gap) ** 0.5, 5))
        found.append(compared(noise, [(gap, float(rng.binomial(8, expit(x)))) for x in walk]))
    assert np.mean(found) < 0.006
    assert np.max(found) < 0.03


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_it_follows_the_bayes_filter_on_a_grid_at_the_edges(noise: float) -> None:
    assert max(compared(noise, [(1, 0), (1, 0), (1, 0)])) < 0.005
    assert max(compared(noise, [(1, 8), (1, 8)])) < 0.005
    assert max(compared(noise, [(1, 8), (1, 0), (1, 1)])) < 0.1  # which its model all but excludes


def test_before_the_first_visit_it_is_the_priors_logit_and_the_spread() -> None:
    made = KalmanEstimator.make(DifficultySettings(prior=(1.0, 3.0), kalman=KalmanSettings(noise=0.0, spread=1e-3)))
    made.grow(1, 0)
    mean, spread = belief(made, 100)
    assert mean == pytest.approx(0.25, abs=1e-6)
    assert spread == pytest.approx(0.25 * 0.75 * 1e-3, abs=1e-4)  # sigmoid's slope times the spread


def test_unvisited_problem_grows_uncertain_and_its_logit_stays() -> None:
    made = estimator(noise=0.1)
    visit(made, 7, 8, 0)
    spreads = [belief(made, step)[1] for step in (0, 5, 20, 80)]
    assert spreads == sorted(spreads) and spreads[0] < 0.6 * spreads[-1]
    assert all(belief(made, step)[0] > 0.5 for step in (0, 5, 20, 80))


@given(st.integers(1, 1024), st.booleans(), st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=40)
def test_all_right_and_all_wrong_are_never_infinite(count: int, right: bool, age: int, times: int) -> None:
    made = estimator(noise=0.05)
    for time in range(times):
        visit(made, count * right, count, age + time)
    snapshot = made.snapshot()["belief"][0]
    mean, spread = belief(made, age + times)
    assert np.isfinite(snapshot).all() and snapshot[1] > 0
    assert (mean > 0.5) == right and 0 <= spread <= 0.5


@given(st.integers(0, 8), st.floats(-6, 6), st.floats(0.01, 50))
def test_right_and_wrong_are_mirror_images(successes: int, mean: float, variance: float) -> None:
    one_way = binomial_update(*one(mean, variance, successes, 8))
    other = binomial_update(*one(-mean, variance, 8 - successes, 8))
    assert other[0] == pytest.approx(-one_way[0], abs=1e-6) and other[1] == pytest.approx(one_way[1], rel=1e-6)
    assert one_way[1][0] <= variance * (1 + 1e-9)  # a log-concave likelihood never widens a Gaussian (Brascamp-Lieb)


def test_many_completions_in_one_visit_decide_it() -> None:
    made = estimator(noise=0.0)
    visit(made, 200, 1000, 0)
    mean, spread = belief(made, 0)
    assert mean == pytest.approx(0.2, abs=0.002)
    assert spread == pytest.approx((0.2 * 0.8 / 1000) ** 0.5, rel=0.02)
