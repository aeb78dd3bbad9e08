"""Whether a number of each item goes with its pass rate: rank correlation and AUC, with bootstrap intervals over items.

All functions take [..., item] arrays and work along the last axis, so that a thousand resamples are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

from ductile.probes.intervals import percentile_interval

Values = NDArray[np.float64]

RESAMPLES = 1000


def spearman(values: Values, rates: Values) -> Values:
    """Spearman's rank correlation, ties by their mean rank; NaN where one of the two is constant."""
    a, b = (
        ranks - ranks.mean(axis=-1, keepdims=True)
        for ranks in (scipy.stats.rankdata(x, axis=-1) for x in (values, rates))
    )
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))


def within_spearman(values: Values, rates: Values, strata: Sequence[slice]) -> Values:
    """Mean of the correlations within strata; those where one of the two is constant are left out of it."""
    each = np.stack([spearman(values[..., s], rates[..., s]) for s in strata])
    known = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        return np.where(known, each, 0.0).sum(axis=0) / known.sum(axis=0)


def auc(values: Values, inside: NDArray[np.bool_]) -> Values:
    """P(value of an item inside > of one outside), ties one half: Mann-Whitney's U over n_1 n_0; NaN without both."""
    count = inside.sum(axis=-1)
    u = (scipy.stats.rankdata(values, axis=-1) * inside).sum(axis=-1) - count * (count + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return u / (count * (inside.shape[-1] - count))


def resamples(strata: Sequence[slice], seed: int, stratified: bool) -> NDArray[np.int64]:
    """[RESAMPLES, item] item numbers drawn with replacement: among all items, or each within its own stratum."""
    rng = np.random.default_rng(seed)
    count = strata[-1].stop
    if not stratified:
        return rng.integers(0, count, (RESAMPLES, count))
    return np.concatenate([rng.integers(s.start, s.stop, (RESAMPLES, s.stop - s.start)) for s in strata], axis=-1)


def with_interval(
    name: str, statistic: Callable[[NDArray[np.int64]], Values], everyone: int, drawn: NDArray[np.int64]
) -> dict[str, float | None]:
    """The statistic of all items and its 95% percentile interval: `name`, `name_low`, `name_high`; None if undefined.

    statistic: [..., item] item numbers -> [...]. Resamples in which it is undefined are left out.
    """
    value = float(statistic(np.arange(everyone)))
    if not np.isfinite(value):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    again = statistic(drawn)
    low, high = percentile_interval(again[np.isfinite(again)])
    return {name: value, f"{name}_low": low, f"{name}_high": high}
