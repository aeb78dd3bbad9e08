"""Correlation and AUC against SciPy, item by item and resample by resample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ductile.probes.association import auc, resamples, spearman, with_interval, within_spearman

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 6, (5, 30)).astype(float)  # with ties
RATES = RNG.integers(0, 9, (5, 30)) / 8
STRATA = [slice(0, 12), slice(12, 30)]


def test_spearman_is_scipys() -> None:
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(VALUES, RATES, strict=True)]
    assert spearman(VALUES, RATES) == pytest.approx(expected)


def test_constant_items_have_no_correlation() -> None:
    assert np.isnan(spearman(np.ones(4), np.arange(4.0))) and np.isnan(spearman(np.arange(4.0), np.ones(4)))


def test_within_is_the_mean_over_strata_that_have_one() -> None:
    expected = [np.mean([stats.spearmanr(a[s], b[s]).statistic for s in STRATA]) for a, b in zip(VALUES, RATES)]  # noqa: B905
    assert within_spearman(VALUES, RATES, STRATA) == pytest.approx(expected)
    flat = RATES[0].copy()
    flat[:12] = 0.5
    assert within_spearman(VALUES[0], flat, STRATA) == pytest.approx(
        stats.spearmanr(VALUES[0, 12:], flat[12:]).statistic
    )
    assert np.isnan(within_spearman(VALUES[0], np.ones(30), STRATA))


def test_shift_between_strata_is_not_a_correlation_within() -> None:
    values = np.array([1.0, 2, 3, 11, 12, 13])
    rates = np.array([0.1, 0.2, 0.3, -0.3, -0.2, -0.1])
    assert within_spearman(values, rates, [slice(0, 3), slice(3, 6)]) == pytest.approx(1)
    assert spearman(values, rates) < 0


def test_auc_is_mann_whitneys() -> None:
    inside = (RATES >= 0.2) & (RATES <= 0.7)
    expected = [
        stats.mannwhitneyu(v[i], v[~i]).statistic / (i.sum() * (~i).sum()) for v, i in zip(VALUES, inside, strict=True)
    ]
    assert auc(VALUES, inside) == pytest.approx(expected)
    assert np.isnan(auc(VALUES[0], np.ones(30, bool))) and np.isnan(auc(VALUES[0], np.zeros(30, bool)))
    assert auc(np.array([1.0, 2, 3]), np.array([False, False, True])) == 1


def test_resamples_are_the_same_for_a_seed_and_keep_to_their_strata() -> None:
    drawn = resamples(STRATA, 3, stratified=True)
    assert np.array_equal(drawn, resamples(STRATA, 3, stratified=True))
    assert not np.array_equal(drawn, resamples(STRATA, 4, stratified=True))
    assert (drawn[:, :12] < 12).all() and (drawn[:, 12:] >= 12).all()
    assert drawn[:, :12].max() == 11 and drawn[:, 12:].max() == 29
    everywhere = resamples(STRATA, 3, stratified=False)
    assert everywhere.shape == drawn.shape and (everywhere[:, :12] >= 12).any()


def test_interval_is_the_percentiles_of_the_resamples() -> None:
    """The bootstrap of a mean of n values has a standard error of std / sqrt(n)."""
    values = RNG.normal(size=400)
    drawn = resamples([slice(0, 400)], 0, stratified=False)
    found = with_interval("mean", lambda i: values[i].mean(axis=-1), 400, drawn)
    assert found["mean"] == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert found["mean_low"] == pytest.approx(values.mean() - half, abs=0.02)
    assert found["mean_high"] == pytest.approx(values.mean() + half, abs=0.02)


def test_resamples_without_the_statistic_are_left_out_and_none_is_told_as_none() -> None:
    rates = np.array([0.0, 0, 0, 1])  # a third of the resamples have no 1
    drawn = resamples([slice(0, 4)], 0, stratified=False)
    found = with_interval("rho", lambda i: spearman(np.arange(4.0)[i], rates[i]), 4, drawn)
    assert all(value is not None and np.isfinite(value) for value in found.values())
    nothing = with_interval("rho", lambda i: spearman(np.ones(4)[i], rates[i]), 4, drawn)
    assert nothing == {"rho": None, "rho_low": None, "rho_high": None}
