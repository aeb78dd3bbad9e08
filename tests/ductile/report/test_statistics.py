import itertools

import numpy as np
import pytest
from scipy import stats

from ductile.report.statistics import bootstrap_interval, estimate, paired_difference


def test_interval_of_three_seeds_by_hand():
    # mean 0.5, s = 0.1, t(0.975, 2) = 4.302653 (tables), half = 4.302653 * 0.1 / sqrt(3)
    found = estimate([0.4, 0.5, 0.6])
    assert found.mean == pytest.approx(0.5)
    assert found.half == pytest.approx(0.2484138, abs=1e-6)
    assert found.low == pytest.approx(0.5 - 0.2484138, abs=1e-6)
    assert found.n == 3


def test_interval_agrees_with_scipy_on_random_values():
    values = np.random.default_rng(0).normal(size=7)
    found = estimate(list(values))
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_seed_gives_no_interval_and_none_gives_nothing():
    found = estimate([0.7])
    assert (found.mean, found.low, found.high, found.half, found.n) == (0.7, None, None, None, 1)
    assert estimate([]) is None


def test_paired_difference_uses_the_seeds_that_both_have():
    found = paired_difference({0: 0.5, 1: 0.9, 7: 0.0}, {0: 0.4, 1: 0.8, 2: 0.3})
    assert found.n == 2
    assert found.mean == pytest.approx(0.1)
    assert found.half == pytest.approx(0.0, abs=1e-12)


def test_paired_difference_of_disjoint_seeds_is_nothing():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_bootstrap_interval_agrees_with_resampling_by_hand():
    # All 4**4 resamples of four values are equally likely: their means' quantiles are what the bootstrap estimates.
    values = [0.1, 0.2, 0.4, 0.8]
    means = np.sort([np.mean(each) for each in itertools.product(values, repeat=4)])
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.03)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.03)
    assert bootstrap_interval(values) == (low, high)  # the generator is seeded


def test_bootstrap_of_one_seed_says_nothing_and_of_equal_ones_is_a_point():
    assert bootstrap_interval([0.3]) is None
    assert bootstrap_interval([0.5, 0.5, 0.5]) == pytest.approx((0.5, 0.5))
