"""Attention over hidden states: weights by hand, and the calibration against a general minimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from ductile.config import AttentionSettings
from ductile.difficulty.attention import AttentionEstimator, attention, directions, fit_calibration
from ductile.difficulty.base import Evidence, Visits
from ductile.difficulty.population import population
from tests.ductile.difficulty.worlds import World


def shown(rows: list[int], states: list[list[float]], reference: Visits | None = None) -> Evidence:
    nothing = np.zeros(0, np.int64)
    return Evidence(
        np.array(rows),
        np.array(states, np.float32),
        np.ones(len(rows), bool),
        nothing,
        np.zeros(0),
        np.zeros(0),
        reference,
    )


def visits(rows: list[int], successes: list[float], count: float) -> Visits:
    return Visits(np.array(rows), np.array(successes), np.full(len(rows), count))


def estimator(rows: int, reference: int = 0, temperature: float = 0.5, window: int = 256) -> AttentionEstimator:
    made = AttentionEstimator((1.0, 1.0), AttentionSettings(reference, window, temperature))
    made.grow(rows, 0)
    return made


def by_hand(query: np.ndarray, keys: np.ndarray, rates: list[float], temperature: float) -> tuple[np.ndarray, float]:
    cosines = [query @ key / np.linalg.norm(query) / np.linalg.norm(key) for key in keys]
    weights = np.exp(np.array(cosines) / temperature)
    weights = weights / weights.sum()
    return weights, float(weights @ rates)


def test_estimate_is_the_calibrated_weighted_mean_of_the_reference() -> None:
    states = [[2.0, 0.0], [0.0, 1.0], [-2.0, -1.0], [1.0, 3.0]]  # the first three sum to 0: nothing is taken off
    made = estimator(4)
    made.refresh(shown([0, 1, 2, 3], states), 0)
    made.observe(visits([0, 1, 2], [1, 3, 4], 5.0), 0)
    keys, rates = np.array(states[:3]), [0.2, 0.6, 0.8]
    weights, rate = by_hand(np.array(states[3]), keys, rates, 0.5)

    others = []
    for each in range(3):
        rest = [other for other in range(3) if other != each]
        others.append(by_hand(keys[each], keys[rest], [rates[other] for other in rest], 0.5)[1])
    slope, bias = fit_calibration(np.array(others), visits([0, 1, 2], [1, 3, 4], 5.0))
    belief = made.predict(np.array([3]), 0)
    assert belief.mean[0] == pytest.approx(expit(slope * logit(rate) + bias), rel=1e-6)

    square = weights @ [1 * 0 / 20, 3 * 2 / 20, 4 * 3 / 20]
    effective = 1 / (weights**2).sum()
    overall = population(visits([0, 1, 2], [1, 3, 4], 5.0), (1.0, 1.0))[1] ** 2
    variance = (effective * max(square - rate**2, 0) + overall) / (effective + 1) * (1 + 1 / effective)
    limit = belief.mean[0] * (1 - belief.mean[0])
    assert belief.uncertainty[0] == pytest.approx(min(variance, limit) ** 0.5, rel=1e-6)


def test_what_all_states_share_makes_no_difference() -> None:
    states = np.random.default_rng(0).normal(size=(6, 3)) + 3 * np.array([[1], [-1], [1], [-1], [1], [-1]])
    beliefs = []
    for shared in (0.0, 200.0):
        made = estimator(6)
        made.refresh(shown(list(range(6)), (states + shared).tolist()), 0)
        made.observe(visits([0, 1, 2, 3], [0, 4, 1, 3], 4.0), 0)
        beliefs.append(made.predict(np.arange(6), 0).mean)
    assert beliefs[0] == pytest.approx(beliefs[1], abs=1e-4)
    assert beliefs[0].std() > 0.1


def test_newest_visit_of_a_problem_is_the_one_that_serves_and_old_ones_leave() -> None:
    first, second = estimator(4, window=3), estimator(4, window=3)
    for made in (first, second):
        made.refresh(shown([0, 1, 2, 3], [[1, 0], [0, 1], [-1, 1], [-1, -1]]), 0)
    first.observe(visits([3], [4], 4.0), 0)
    first.observe(visits([0], [4], 4.0), 1)
    first.observe(visits([1, 2], [1, 2], 4.0), 2)
    second.observe(visits([0, 1, 2], [4, 1, 2], 4.0), 2)
    assert first.predict(np.arange(4), 3).mean.tolist() == second.predict(np.arange(4), 3).mean.tolist()
    first.observe(visits([0], [0], 4.0), 3)  # the earlier visit of 0 has left the window
    second = estimator(4)
    second.refresh(shown([0, 1, 2, 3], [[1, 0], [0, 1], [-1, 1], [-1, -1]]), 0)
    second.observe(visits([1, 2, 0], [1, 2, 0], 4.0), 3)
    assert first.predict(np.arange(4), 3).mean.tolist() == second.predict(np.arange(4), 3).mean.tolist()


def test_a_reference_that_is_rolled_out_replaces_the_last_and_visits_do_not_enter_it() -> None:
    made, reference = estimator(6, reference=4), [0, 1, 2, 3]
    states = [[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1], [3.0, 0.0], [-3.0, 0.0]]
    made.refresh(shown([*range(6)], states, visits(reference, [4, 3, 1, 0], 4.0)), 0)
    before = made.predict(np.array([4, 5]), 1)
    made.observe(visits([1, 4], [0, 0], 4.0), 1)
    after = made.predict(np.array([4, 5]), 1)
    assert after.mean.tolist() == before.mean.tolist()
    assert before.mean[0] > 0.6 > 0.4 > before.mean[1]
    assert (before.age.tolist(), after.age.tolist()) == ([1, 1], [0, 1])
    made.refresh(shown([*range(6)], states, visits(reference, [1, 0, 4, 3], 4.0)), 2)
    turned = made.predict(np.array([4, 5]), 2).mean
    assert turned == pytest.approx(before.mean[::-1], abs=0.02)
    made.refresh(shown([*range(6)], states), 3)  # none came: the last goes on
    assert made.predict(np.array([4, 5]), 3).mean.tolist() == turned.tolist()
    assert made.diagnostics()["reference"] == 4
    made.refresh(shown([0], [[1.0, 0.1]], visits([0, 2], [1, 0], 4.0)), 4)
    assert made.diagnostics()["reference"] == 2


def test_problem_without_a_state_has_the_references_mean_and_spread() -> None:
    made = estimator(4)
    made.refresh(shown([0, 1], [[1.0, 0.0], [0.0, 1.0]]), 0)
    taken = visits([0, 1, 2], [4, 0, 1], 4.0)
    made.observe(taken, 0)
    belief = made.predict(np.array([3]), 0)
    assert (belief.mean[0], belief.uncertainty[0]) == population(taken, (1.0, 1.0))
    assert made.diagnostics()["reference"] == 2


def test_calibration_is_the_minimum_that_a_general_minimiser_finds() -> None:
    rng = np.random.default_rng(3)
    rates, counts = rng.uniform(0.05, 0.95, 60), rng.integers(1, 9, 60).astype(float)
    wins = rng.binomial(counts.astype(int), expit(1.7 * logit(rates) - 0.6)).astype(float)

    def loss(both: np.ndarray) -> float:
        p = expit(both[0] * logit(rates) + both[1])
        return float(-(wins * np.log(p) + (counts - wins) * np.log(1 - p)).sum() + ((both - [1, 0]) ** 2).sum() / 2)

    found = minimize(loss, np.array([0.5, 0.5]), method="L-BFGS-B", bounds=[(0, None), (None, None)], tol=1e-12)
    assert fit_calibration(rates, Visits(np.arange(60), wins, counts)) == pytest.approx(tuple(found.x), abs=1e-4)
    assert found.x == pytest.approx([1.7, -0.6], abs=0.3)

    wrong = Visits(np.arange(60), counts - wins, counts)  # high where the others say low: no negative slope
    turned = minimize(
        lambda b: loss_of(rates, wrong, b), [0.5, 0.5], method="L-BFGS-B", bounds=[(0, None), (None, None)]
    )
    slope, bias = fit_calibration(rates, wrong)
    assert slope == turned.x[0] == 0.0
    assert bias == pytest.approx(turned.x[1], abs=1e-4)


def loss_of(rates: np.ndarray, seen: Visits, both: np.ndarray) -> float:
    p = expit(both[0] * logit(rates) + both[1])
    fit = -(seen.successes * np.log(p) + (seen.counts - seen.successes) * np.log(1 - p)).sum()
    return float(fit + ((both - [1, 0]) ** 2).sum() / 2)


def test_calibration_on_nothing_to_speak_of_stays_near_identity() -> None:
    slope, bias = fit_calibration(np.array([0.5, 0.5]), visits([0, 1], [1, 1], 2.0))
    assert (slope, bias) == pytest.approx((1.0, 0.0))


def test_useless_states_get_a_slope_near_zero_and_telling_ones_do_not() -> None:
    slopes = []
    for telling in (False, True):
        world, made = World.make(telling), AttentionEstimator((1.0, 1.0), AttentionSettings())
        world.live(made, 40)
        slopes.append(made.diagnostics()["slope"])
    assert slopes[0] < 0.15
    assert slopes[1] > 0.4


def test_leaving_out_the_own_leaves_weights_that_sum_to_one() -> None:
    keys = directions(np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]))
    assert keys[0].tolist() == [0.6, 0.8]
    weights = attention(keys @ keys.T, 0.1, without_own=True)
    assert np.diag(weights).tolist() == [0, 0, 0]
    assert weights.sum(axis=1) == pytest.approx(np.ones(3))
    assert weights[2].tolist() == [0.5, 0.5, 0.0]  # one without a direction is like all alike
