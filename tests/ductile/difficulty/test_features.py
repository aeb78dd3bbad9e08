"""The regression on hidden states: against a general minimiser in all its weights, and quadrature against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from ductile.config import HiddenStateSettings
from ductile.difficulty.base import Evidence, Visits
from ductile.difficulty.features import FeaturesEstimator, LaplaceFit, Span, left_out, sigmoid_moments, thinned
from ductile.difficulty.population import dispersion, population

PRIOR = (1.5, 2.5)


def shown(states: np.ndarray, rows: np.ndarray | None = None) -> Evidence:
    rows = np.arange(len(states)) if rows is None else rows
    asked, nothing = np.ones(len(rows), bool), np.zeros(0)
    return Evidence(rows, states.astype(np.float32), asked, np.zeros(0, np.int64), nothing, nothing, None)


def outcomes(states: np.ndarray, seed: int = 1) -> Visits:
    wins = np.random.default_rng(seed).binomial(6, expit(2 * states[:, 0])).astype(float)
    return Visits(np.arange(len(states)), wins, np.full(len(states), 6.0))


@pytest.mark.parametrize("width", [3, 30])  # fewer weights than visits, and more
def test_logits_and_their_variance_are_those_of_the_whole_regression(width: int) -> None:
    rng = np.random.default_rng(0)
    states, others, ridge = rng.normal(size=(12, width)), rng.normal(size=(5, width)), 0.7
    seen = outcomes(states)
    inputs = np.vstack([np.c_[states, np.ones(12)], np.r_[np.zeros(width), 1.0]])
    wins, counts = np.append(seen.successes, PRIOR[0]), np.append(seen.counts, sum(PRIOR))

    def loss(weights: np.ndarray) -> float:
        p = expit(inputs @ weights)
        fit = -(wins * np.log(p) + (counts - wins) * np.log(1 - p)).sum()
        return float(fit + ridge * (weights[:-1] ** 2).sum() / 2)

    found = minimize(loss, np.zeros(width + 1), method="BFGS", options={"gtol": 1e-8}).x
    p = expit(inputs @ found)
    hessian = (inputs.T * (counts * p * (1 - p))) @ inputs + np.diag([ridge] * width + [0.0])
    asked = np.c_[others, np.ones(5)]
    span = Span(states)
    mean, variance = LaplaceFit(span.inside, seen, PRIOR, ridge).logits(*span.split(others))
    assert mean == pytest.approx(asked @ found, abs=1e-4)
    assert variance == pytest.approx(np.diag(asked @ np.linalg.inv(hessian) @ asked.T), rel=1e-4)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.5), (-4.0, 1.0), (2.0, 3.0), (0.7, 3.0)])
def test_moments_of_a_sigmoid_are_the_integrals(mean: float, deviation: float) -> None:
    first, second = (quad(lambda z, k=k: expit(mean + deviation * z) ** k * norm.pdf(z), -12, 12)[0] for k in (1, 2))
    moments = sigmoid_moments(np.array([mean]), np.array([deviation**2]))
    assert [float(each[0]) for each in moments] == pytest.approx([first, (second - first**2) ** 0.5], abs=1e-4)


def test_each_problem_is_told_by_a_fit_to_others() -> None:
    states = np.random.default_rng(0).normal(size=(7, 2))
    seen = outcomes(states)
    rates = left_out(states, seen, PRIOR, 1.0)
    for problem in range(7):  # folds are 0 and 5, 1 and 6, 2, 3, 4
        rest = np.array([other for other in range(7) if other % 5 != problem % 5])
        fit = LaplaceFit(states[rest], Visits(rest, seen.successes[rest], seen.counts[rest]), PRIOR, 1.0)
        assert rates[problem] == pytest.approx(expit(fit.logits(states[[problem]], np.zeros(1))[0][0]))


def test_dependent_completions_are_thinned_to_what_they_are_worth() -> None:
    seen = Visits(np.arange(3), np.array([2.0, 8.0, 1.0]), np.array([4.0, 8.0, 1.0]))
    assert thinned(seen, 0.0).counts.tolist() == [4, 8, 1]
    assert thinned(seen, 1.0).counts == pytest.approx([1, 1, 1])
    assert thinned(seen, 0.5).counts == pytest.approx([1.6, 8 / 4.5, 1])
    assert thinned(seen, 0.5).successes == pytest.approx([0.8, 8 / 4.5, 1])


def test_estimates_are_those_of_a_thinned_fit_with_the_dispersion_around_what_is_left_out() -> None:
    rng = np.random.default_rng(2)
    states = rng.normal(size=(25, 3)).astype(np.float32)
    rates = rng.beta(0.5, 0.5, 20)  # no function of the states
    seen = Visits(np.arange(20), rng.binomial(6, rates).astype(float), np.full(20, 6.0))
    made = FeaturesEstimator(PRIOR, HiddenStateSettings(ridge=0.5))
    made.grow(25, 0)
    made.observe(seen, 0)
    made.refresh(shown(states), 0)

    scaled = (states - states.mean(axis=0)) / states.std(axis=0) / np.sqrt(3)
    asked, others = scaled[:20].astype(np.float64), scaled[20:].astype(np.float64)
    none = np.zeros(20)
    first = expit(LaplaceFit(asked, seen, PRIOR, 0.5).logits(asked, none)[0])
    thin = thinned(seen, dispersion(seen, first, PRIOR))
    rho = dispersion(seen, left_out(asked, thin, PRIOR, 0.5), PRIOR)
    mean, deviation = sigmoid_moments(*LaplaceFit(asked, thin, PRIOR, 0.5).logits(others, np.zeros(5)))
    belief = made.predict(np.arange(20, 25), 0)
    assert belief.mean == pytest.approx(mean, abs=1e-5)
    expected = np.sqrt(np.minimum(deviation**2 + rho * mean * (1 - mean), mean * (1 - mean)))
    assert belief.uncertainty == pytest.approx(expected, abs=1e-5)
    assert made.diagnostics()["dispersion"] == pytest.approx(rho, abs=1e-5)


def test_one_problem_alone_can_be_fitted() -> None:
    made = FeaturesEstimator((1.0, 1.0), HiddenStateSettings())
    made.grow(2, 0)
    made.observe(Visits(np.array([0]), np.array([4.0]), np.array([4.0])), 0)
    made.refresh(shown(np.array([[1.0, 2.0], [3.0, 1.0]])), 0)
    belief = made.predict(np.arange(2), 0)
    assert 1 > belief.mean[0] > belief.mean[1] > 0.4
    assert belief.uncertainty[1] >= belief.uncertainty[0] > 0.1


def test_problem_keeps_what_was_said_when_its_state_was_last_shown() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(20, 2))
    made = FeaturesEstimator((1.0, 1.0), HiddenStateSettings())
    made.grow(24, 0)
    seen = outcomes(states[:12])
    made.observe(seen, 0)
    before = made.predict(np.arange(24), 0)
    assert before.mean == pytest.approx(np.full(24, population(seen, (1.0, 1.0))[0]))
    made.refresh(shown(states), 0)
    first = made.predict(np.arange(24), 0)
    assert np.corrcoef(first.mean[12:20], states[12:, 0])[0, 1] > 0.9
    assert first.mean[20:] == pytest.approx(before.mean[20:])
    made.observe(Visits(np.arange(12), np.zeros(12), np.full(12, 6.0)), 1)
    made.refresh(shown(states[:3]), 1)
    second = made.predict(np.arange(24), 1)
    assert (second.mean[:3] < first.mean[:3]).all()
    assert second.mean[3:20].tolist() == first.mean[3:20].tolist()


def test_fit_is_to_the_newest_visits() -> None:
    states = np.random.default_rng(0).normal(size=(16, 2))
    old, new = (
        FeaturesEstimator((1.0, 1.0), HiddenStateSettings(window=16)),
        FeaturesEstimator((1.0, 1.0), HiddenStateSettings(window=16)),
    )
    for made in (old, new):
        made.grow(16, 0)
    old.observe(Visits(np.arange(16), np.zeros(16), np.full(16, 6.0)), 0)
    for made in (old, new):
        made.observe(outcomes(states), 1)
        made.refresh(shown(states), 1)
    assert old.predict(np.arange(16), 1).mean.tolist() == new.predict(np.arange(16), 1).mean.tolist()
