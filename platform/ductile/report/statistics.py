"""Means over seeds with their t intervals, and bootstrap intervals where the literature has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 4_000


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds. `low`, `high`: its 95% t interval; None for one seed, which says nothing about spread."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.high is None else self.high - self.mean


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean +- t(0.975, n - 1) s / sqrt(n), s with n - 1 in the denominator; None for no values. values: [seed]."""
    n = len(values)
    if n == 0:
        return None
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """The difference values - reference over the seeds that both have. Both: seed -> value.

    Runs of one seed share their problems and their base, so the difference has less spread than either.
    """
    seeds = sorted(values.keys() & reference.keys())
    return estimate([values[seed] - reference[seed] for seed in seeds])


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95% percentile bootstrap interval of the mean; None for fewer than 2 values. values: [seed].

    Continual World (Wolczyk et al. 2021, arXiv 2105.10919) took 4,000 resamples too, and 90%. With 3 seeds it is too
    narrow: it never leaves the range of the values, which three of them rarely span.
    """
    if len(values) < 2:
        return None
    found = stats.bootstrap(
        (np.asarray(values, np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def plain(found: Estimate | None) -> dict[str, Any]:
    """The estimate as the summary has it."""
    if found is None:
        return {"mean": None, "low": None, "high": None, "n": 0}
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def over_seeds(values: Mapping[int, float]) -> dict[str, Any]:
    """The mean with its t interval, and what it is the mean of. values: seed -> value."""
    return {**plain(estimate(list(values.values()))), "values": {str(seed): value for seed, value in values.items()}}
