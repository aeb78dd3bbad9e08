"""VCRL: the normalised variance of groups, what kappa keeps, and the bank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ductile.config import DifficultySettings, VarianceSettings
from ductile.difficulty.variance import Variance, normalised
from tests.ductile.difficulty.made import candidates, rng, seen


def variance(rows: int, looked_at: int = 8, **values: Any) -> Variance:
    selector = Variance(DifficultySettings(candidates=looked_at, variance=VarianceSettings(**values)))
    selector.grow(rows)
    selector.start_phase()
    return selector


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
def test_normalised_variance_is_the_groups_over_the_largest(size: int) -> None:
    unbiased = [np.var([1.0] * k + [0.0] * (size - k), ddof=1) for k in range(size + 1)]
    got = normalised(seen({k: (k, size) for k in range(size + 1)}))
    assert got == pytest.approx(np.array(unbiased) / max(unbiased))


def test_single_completion_has_no_variance() -> None:
    assert normalised(seen({0: (1, 1), 1: (0, 1)})).tolist() == [0, 0]


def test_priority_is_a_momentum_average_that_begins_at_the_first_visit() -> None:
    selector = variance(3, momentum=0.75)
    selector.observe(seen({0: (1, 4), 1: (2, 4)}))  # 0.75, 1
    selector.observe(seen({0: (0, 4)}))  # 0.75 * 0.75
    selector.observe(seen({0: (2, 4)}))
    expected = [0.75 * (0.75 * 0.75) + 0.25, 1, np.nan]
    assert selector.snapshot()["priorities"].tolist() == pytest.approx(expected, nan_ok=True)


def test_problems_of_enough_estimated_variance_are_kept() -> None:
    means = [0.5, 0.9, 0.2, 0.05, 0.75, 1.0]  # 1, .36, .64, .19, .75, 0
    selector = variance(6, keep=0.3, keep_end=0.8)
    drawn = {int(i) for seed in range(40) for i in selector.select(candidates(means), 2, rng(seed))}
    assert drawn == {0, 1, 2, 4}
    selector.observe(seen({}))
    late = {int(i) for seed in range(40) for i in selector.select(candidates(means, progress=0.8), 2, rng(seed))}
    assert late == {0, 4}  # kappa is 0.7
    assert selector.observe(seen({0: (1, 4)})) == {
        "difficulty/variance/kappa": pytest.approx(0.7),
        "difficulty/variance/bank_share": 0,
    }


def test_rest_is_filled_from_the_bank_by_priority_and_then_by_estimated_variance() -> None:
    selector = variance(7, keep=0.6, keep_end=0.6)
    priorities = np.array([0.7, np.nan, 0.9, 0.5, np.nan, 0.8, np.nan], np.float32)  # 3 is below kappa: not in it
    selector.restore({"priorities": priorities})
    means = [0.0, 0.5, 0.0, 0.1, 0.15, 0.0, 0.01]  # 1 alone is kept
    assert selector.select(candidates(means), 6, rng()).tolist() == [1, 2, 5, 0, 4, 3]
    assert selector.observe(seen({1: (1, 4)}))["difficulty/variance/bank_share"] == 3 / 6


def test_only_so_many_random_candidates_are_held_against_kappa() -> None:
    selector = variance(40, looked_at=2, keep=0.3)
    selector.restore({"priorities": np.array([0.9] * 20 + [np.nan] * 20, np.float32)})
    means, shares = [0.0] * 20 + [0.5] * 20, []  # half of the pool is kept when it is looked at, half is the bank
    for seed in range(200):
        chosen = selector.select(candidates(means), 1, rng(seed))
        shares.append(int(chosen[0]) < 20)
    assert np.mean(shares) == pytest.approx(20 / 40 * 19 / 39, abs=0.1)  # both of two looked at are not kept


def test_told_once_and_only_of_a_selection() -> None:
    assert variance(2).observe(seen({0: (1, 4)})) == {}
