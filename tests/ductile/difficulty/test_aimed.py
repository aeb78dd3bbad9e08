"""Rules that go by an order or by weights, against exact probabilities."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from scipy import integrate, stats

from ductile.config import DifficultySettings
from ductile.difficulty.aimed import dots, drawn_by, easy, hard, highest, peaked, target, thompson, uncertain
from ductile.difficulty.belief import beta_of
from tests.ductile.difficulty.made import candidates, fits, rng

MEANS = [0.05, 0.4, 0.55, 0.9]


def settings(**values: Any) -> DifficultySettings:
    return DifficultySettings(**values)


def test_easy_hard_and_uncertain_take_the_ends_of_the_order() -> None:
    pool = candidates([0.3, 0.9, 0.1, 0.6], uncertainty=[0.2, 0.1, 0.05, 0.3])
    assert easy(pool, 2, settings(), rng()).tolist() == [1, 3]
    assert hard(pool, 2, settings(), rng()).tolist() == [2, 0]
    assert uncertain(pool, 3, settings(), rng()).tolist() == [3, 0, 1]


def test_ties_are_broken_evenly() -> None:
    assert fits(lambda r: int(highest(np.array([0.5, 0.9, 0.5, 0.5]), 2, r)[1]), [1 / 3, 0, 1 / 3, 1 / 3])


def test_target_over_the_whole_pool_is_its_closest() -> None:
    pool = candidates(MEANS)
    assert target(pool, 3, settings(candidates=4), rng()).tolist() == [2, 1, 3]
    assert target(pool, 1, settings(candidates=4, target=1.0), rng()).tolist() == [3]


def test_target_takes_the_best_of_k_m_random_candidates_as_pcl_does() -> None:
    # of 2 random ones of 3 the better: the best is among them in 2 of 3 draws, the second wins the other pair
    assert fits(lambda r: int(target(candidates([0.5, 0.6, 0.9]), 1, settings(candidates=2), r)[0]), [2 / 3, 1 / 3, 0])


def test_dots_draws_in_proportion_to_the_distance_from_the_target() -> None:
    weights = np.exp(-np.abs(np.array(MEANS) - 0.6) / 0.2)
    given = settings(temperature=0.2, target=0.6)
    assert fits(lambda r: int(dots(candidates(MEANS), 1, given, r)[0]), weights / weights.sum())


def test_dots_draws_one_after_another_without_replacement() -> None:
    weights = np.exp(-np.abs(np.array(MEANS) - 0.5) / 0.3)
    pairs = list(permutations(range(4), 2))
    exact = [weights[a] / weights.sum() * weights[b] / (weights.sum() - weights[a]) for a, b in pairs]
    given = settings(temperature=0.3)

    def pair(generator: Generator) -> int:
        first, second = dots(candidates(MEANS), 2, given, generator).tolist()
        return pairs.index((first, second))

    assert fits(pair, exact)


def test_dots_at_its_own_temperature_is_nearly_the_closest() -> None:
    assert dots(candidates([0.0, 0.47, 0.52, 1.0]), 2, settings(), rng()).tolist() == [2, 1]


@pytest.mark.parametrize("kappa", [0.0, 1.0, 6.0])
def test_peaked_draws_by_the_density_of_the_beta(kappa: float) -> None:
    means, a = np.array([0.1, 0.45, 0.7]), 1 + kappa / 2
    density = stats.beta.pdf(1 - means, a, a)
    given = settings(concentration=kappa)
    assert fits(lambda r: int(peaked(candidates(means), 1, given, r)[0]), density / density.sum())


def test_peaked_asks_what_is_believed_certain_last_and_then_evenly() -> None:
    pool = candidates([0.0, 1e-300, 1.0, 0.5, 1 - 1e-16, 0.4])
    chosen = [peaked(pool, 6, settings(), rng(seed)).tolist() for seed in range(40)]
    assert all(set(each[-2:]) == {0, 2} and {*each[:2]} == {3, 5} for each in chosen)
    assert len({tuple(each[-2:]) for each in chosen}) == 2


def test_flat_density_draws_certain_problems_as_often_as_others() -> None:
    assert fits(lambda r: int(peaked(candidates([0.0, 0.5, 1.0]), 1, settings(concentration=0.0), r)[0]), [1 / 3] * 3)


def test_weights_of_any_size_are_drawn_from() -> None:
    assert fits(lambda r: int(drawn_by(np.array([-1e6, -1e6 + np.log(3), -np.inf]), 1, r)[0]), [0.25, 0.75, 0])


def test_thompson_draws_from_the_beliefs() -> None:
    first, second = stats.beta(2, 5), stats.beta(6, 6)
    pool = candidates([first.mean(), second.mean()], [first.std(), second.std()])

    def closer(
        distance: float,
    ) -> float:  # density that the first is at this distance, times that the second is farther
        near = second.cdf(0.5 + distance) - second.cdf(0.5 - distance)
        return float((first.pdf(0.5 + distance) + first.pdf(0.5 - distance)) * (1 - near))

    exact, _ = integrate.quad(closer, 0, 0.5)
    assert 0.2 < exact < 0.4
    assert fits(lambda r: int(thompson(pool, 1, settings(), r)[0]), [exact, 1 - exact])


def test_thompson_without_uncertainty_is_the_closest_of_the_candidates() -> None:
    pool = candidates([0.0, 1.0, 0.45, 0.6], [0.0] * 4)
    for seed in range(10):
        assert thompson(pool, 2, settings(), rng(seed)).tolist() == [2, 3]
    assert fits(
        lambda r: int(thompson(candidates([0.5, 0.6, 0.9], [0.0] * 3), 1, settings(candidates=2), r)[0]),
        [2 / 3, 1 / 3, 0],
    )


def test_beliefs_have_the_estimates_mean_and_deviation() -> None:
    mean, deviation = np.array([0.2, 0.5, 0.93]), np.array([0.1, 0.28, 0.02])
    alpha, beta = beta_of(candidates(mean, deviation).estimates)
    assert stats.beta.mean(alpha, beta) == pytest.approx(mean) and stats.beta.std(alpha, beta) == pytest.approx(
        deviation
    )


def test_beliefs_of_a_beta_are_that_beta() -> None:
    alpha, beta = np.array([1.0, 3.5, 0.5, 40.0]), np.array([1.0, 1.25, 0.5, 2.0])
    given = candidates(stats.beta.mean(alpha, beta), stats.beta.std(alpha, beta)).estimates
    assert np.stack(beta_of(given)) == pytest.approx(np.stack([alpha, beta]), rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_beliefs_at_the_limits_can_be_drawn_from() -> None:
    given = candidates([0.0, 1.0, 0.3, 0.5, 0.0], [0.0, 0.0, 0.0, 0.5, 0.1]).estimates
    alpha, beta = beta_of(given)
    drawn = rng().beta(alpha, beta, size=(2000, 5))
    assert np.isfinite(drawn).all()
    assert drawn[:, [0, 1, 4]].max(0) == pytest.approx([0, 1, 0], abs=1e-3) and drawn[:, 1].min() > 0.999
    assert drawn[:, 2] == pytest.approx(0.3, abs=0.003)
    assert set(drawn[:, 3].round(6)) == {0.0, 1.0} and drawn[:, 3].mean() == pytest.approx(0.5, abs=0.05)
