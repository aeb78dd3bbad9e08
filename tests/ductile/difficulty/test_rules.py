"""Bands of pass rates: who may be picked, how often, and what fills up when the band holds too few."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from ductile.config import DifficultySettings
from ductile.difficulty.rules import ability, band, uniform
from tests.ductile.difficulty.made import candidates, fits, rng

MEANS = [0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0]  # 2, 3 and 4 lie in the band


def settings(explore: float = 0.0, low: float = 0.2, high: float = 0.8) -> DifficultySettings:
    return DifficultySettings(selection="band", band=(low, high), explore=explore)


def test_band_takes_problems_inside_it_alone() -> None:
    drawn = Counter(int(i) for seed in range(300) for i in band(candidates(MEANS), 2, settings(), rng(seed)))
    assert set(drawn) == {2, 3, 4}
    assert all(160 < count < 240 for count in drawn.values())  # 200 expected, standard deviation 8


def test_edges_belong_to_the_band() -> None:
    assert sorted(band(candidates([0.2, 0.8, 0.19, 0.81]), 2, settings(), rng())) == [0, 1]


def test_band_that_holds_too_few_is_filled_by_the_nearest() -> None:
    chosen = band(candidates(MEANS), 5, settings(), rng())
    assert sorted(chosen[:3]) == [2, 3, 4]
    assert chosen[3:].tolist() == [5, 1]  # 0.05 and 0.1 away


def test_empty_band_gives_the_nearest() -> None:
    assert band(candidates([0.0, 1.0, 0.95, 0.1]), 2, settings(), rng()).tolist() == [3, 2]


def test_share_explored_is_the_setting_on_average() -> None:
    pool = candidates([0.5] * 8 + [0.0] * 8)
    outside = [int((band(pool, 4, settings(explore=0.1), rng(seed)) >= 8).sum()) for seed in range(2000)]
    assert set(outside) == {0, 1}  # 0.4 problems of 4: one in two steps of five
    assert np.mean(outside) == pytest.approx(0.4, abs=0.04)  # standard error 0.011


def test_half_of_the_exploring_goes_to_the_least_certain_and_half_to_the_oldest() -> None:
    uncertainty = [0.1, 0.3, 0.1, 0.2, 0.1, 0.1] + [0.9] * 4
    pool = candidates([0.0] * 6 + [0.5] * 4, uncertainty, [9, 0, 1, 0, 7, 2] + [99] * 4)
    chosen = band(pool, 8, settings(explore=0.5), rng())
    assert sorted(chosen[:4]) == [6, 7, 8, 9]
    assert chosen[4:].tolist() == [1, 3, 0, 4]


def test_oldest_of_problems_that_always_fail_are_asked_again() -> None:
    never = candidates([0.0] * 4 + [0.5] * 4, age=[3, 40, 2, 1] + [0] * 4)
    assert 1 in {int(i) for seed in range(40) for i in band(never, 4, settings(explore=0.25), rng(seed))}


def test_nothing_outside_to_explore_leaves_the_whole_step_to_the_band() -> None:
    assert len(set(band(candidates([0.5] * 6), 4, settings(explore=1.0), rng()).tolist())) == 4


def test_uniform_asks_every_pair_as_often() -> None:
    pairs = list(combinations(range(5), 2))

    def pair(generator: np.random.Generator) -> int:
        first, second = sorted(uniform(candidates([0.5] * 5), 2, settings(), generator).tolist())
        return pairs.index((first, second))

    assert fits(pair, [0.1] * 10)


def test_ability_band_is_quantiles_of_what_is_believed_now() -> None:
    given = DifficultySettings(quantiles=(0.25, 0.75), explore=0.0)
    means = [0.0, 0.01, 0.02, 0.03, 0.04, 0.9, 0.95, 1.0, 1.0]  # quartiles 0.02 and 0.95
    chosen = [ability(candidates(means), 3, given, rng(seed)).tolist() for seed in range(60)]
    assert {i for each in chosen for i in each} == {2, 3, 4, 5, 6}


def test_ability_band_moves_with_the_estimates() -> None:
    given = DifficultySettings(quantiles=(0.4, 0.6), explore=0.0)
    means = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    for shift in (0.0, 0.3, 0.6):
        assert ability(candidates(means + shift), 1, given, rng()).tolist() == [2]


def test_ability_band_of_a_pool_without_differences_is_the_whole_pool() -> None:
    drawn = Counter(int(ability(candidates([0.3] * 4), 1, settings(), rng(seed))[0]) for seed in range(60))
    assert set(drawn) == {0, 1, 2, 3}
