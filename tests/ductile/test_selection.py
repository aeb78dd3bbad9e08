"""Selection rules: who may be picked, how often, and what fills up when the band holds too few."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, Philox

from ductile.config import DifficultySettings
from ductile.difficulty import SELECTORS
from ductile.difficulty.base import Estimates
from ductile.difficulty.selection import band, select, uniform

MEANS = [0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0]  # 2, 3 and 4 lie in the band


def estimates(
    means: list[float] = MEANS, uncertainty: list[float] | None = None, age: list[int] | None = None
) -> Estimates:
    count = len(means)
    return Estimates(
        np.array(means), np.array(uncertainty or [0.1] * count), np.array(age or [0] * count, dtype=np.int64)
    )


def settings(explore: float = 0.0, low: float = 0.2, high: float = 0.8) -> DifficultySettings:
    return DifficultySettings(selection="band", band=(low, high), explore=explore)


def rng(seed: int = 0) -> Generator:
    return Generator(Philox(seed))


def test_band_takes_problems_inside_it_alone() -> None:
    drawn = Counter(int(i) for seed in range(300) for i in band(estimates(), 2, settings(), rng(seed)))
    assert set(drawn) == {2, 3, 4}
    assert all(160 < count < 240 for count in drawn.values())  # 200 expected, standard deviation 8


def test_edges_belong_to_the_band() -> None:
    chosen = band(estimates([0.2, 0.8, 0.19, 0.81]), 2, settings(), rng())
    assert sorted(chosen) == [0, 1]


def test_band_that_holds_too_few_is_filled_by_the_nearest() -> None:
    chosen = band(estimates(), 5, settings(), rng())
    assert sorted(chosen[:3]) == [2, 3, 4]
    assert chosen[3:].tolist() == [5, 1]  # 0.05 and 0.1 away


def test_empty_band_gives_the_nearest() -> None:
    assert band(estimates([0.0, 1.0, 0.95, 0.1]), 2, settings(), rng()).tolist() == [3, 2]


def test_share_explored_is_the_setting_on_average() -> None:
    means = [0.5] * 8 + [0.0] * 8
    outside = [int((band(estimates(means), 4, settings(explore=0.1), rng(seed)) >= 8).sum()) for seed in range(2000)]
    assert set(outside) == {0, 1}  # 0.4 problems of 4: one in two steps of five
    assert np.mean(outside) == pytest.approx(0.4, abs=0.04)  # standard error 0.011


def test_half_of_the_exploring_goes_to_the_least_certain_and_half_to_the_oldest() -> None:
    means = [0.0] * 6 + [0.5] * 4
    uncertainty = [0.1, 0.3, 0.1, 0.2, 0.1, 0.1] + [0.9] * 4
    age = [9, 0, 1, 0, 7, 2] + [99] * 4
    chosen = band(estimates(means, uncertainty, age), 8, settings(explore=0.5), rng())
    assert sorted(chosen[:4]) == [6, 7, 8, 9]
    assert chosen[4:].tolist() == [1, 3, 0, 4]


def test_oldest_of_problems_that_always_fail_are_asked_again() -> None:
    never = estimates([0.0] * 4 + [0.5] * 4, age=[3, 40, 2, 1] + [0] * 4)
    seen = {int(i) for seed in range(40) for i in band(never, 4, settings(explore=0.25), rng(seed))}
    assert 1 in seen


def test_nothing_outside_to_explore_leaves_the_whole_step_to_the_band() -> None:
    chosen = band(estimates([0.5] * 6), 4, settings(explore=1.0), rng())
    assert len(set(chosen.tolist())) == 4


def test_uniform_asks_every_problem_as_often() -> None:
    drawn = Counter(int(i) for seed in range(700) for i in uniform(estimates(), 2, settings(), rng(seed)))
    assert all(150 < drawn[i] < 250 for i in range(7))  # 200 expected, standard deviation 12


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5), st.integers(0, 50)), min_size=1, max_size=12),
    st.data(),
    st.floats(0, 1),
    st.sampled_from(sorted(SELECTORS)),
)
def test_every_rule_gives_as_many_as_asked_without_repeats(
    table: list[tuple[float, float, int]], data: st.DataObject, explore: float, rule: str
) -> None:
    means, uncertainty, age = (list(column) for column in zip(*table, strict=True))
    count = data.draw(st.integers(0, len(table)))
    believed = estimates(means, uncertainty, age)
    chosen = SELECTORS[rule](believed, count, settings(explore), rng(data.draw(st.integers(0, 9)))).tolist()
    assert len(chosen) == len(set(chosen)) == count
    assert set(chosen) <= set(range(len(table)))


@given(st.integers(1, 5), st.integers(0, 23), st.sampled_from(sorted(SELECTORS)))
def test_pool_smaller_than_the_step_is_repeated_evenly(pool: int, count: int, rule: str) -> None:
    chosen = select(SELECTORS[rule], estimates([0.5] * pool), count, settings(), seed=3, step=1)
    counts = [chosen.tolist().count(i) for i in range(pool)]
    assert sum(counts) == count and max(counts) - min(counts) <= 1


def test_seed_and_step_alone_decide_the_draw() -> None:
    def draw(seed: int, step: int) -> list[int]:
        return select(uniform, estimates([0.5] * 100), 8, settings(), seed, step).tolist()

    assert draw(0, 0) == draw(0, 0)
    assert len({tuple(draw(seed, step)) for seed in range(3) for step in range(3)}) == 9
