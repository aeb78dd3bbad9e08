"""How pass rates are spread over problems, told from few completions of each."""

from __future__ import annotations

import numpy as np

from ductile.difficulty.base import Floats, Visits


def rates_and_squares(visits: Visits) -> tuple[Floats, Floats]:
    """Estimates of each visited problem's p and p^2, [visit] float64.

    s / n and s (s - 1) / (n (n - 1)) have these expectations for s successes of n, so the binomial noise of s / n is in
    neither. A single completion says nothing of p^2: there s / n, the largest that p^2 can be, stands for it.
    """
    wins, counts = visits.successes, visits.counts
    rates = wins / counts
    pairs = counts * (counts - 1)
    return rates, np.divide(wins * (wins - 1), pairs, out=rates.copy(), where=pairs > 0)


def population(visits: Visits, prior: tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation of the pass rate of a problem of which no more is known than that it is like these.

    The prior Beta(a, b) counts as one more problem, so neither is 0 for problems that all failed.
    """
    alpha, beta = prior
    rates, squares = rates_and_squares(visits)
    mean = alpha / (alpha + beta)
    square = mean * (alpha + 1) / (alpha + beta + 1)
    mean = (mean + rates.sum()) / (1 + len(rates))
    square = (square + squares.sum()) / (1 + len(rates))
    floor = alpha * beta / (alpha + beta) ** 2 / (alpha + beta + 1) / (1 + len(rates))
    return float(mean), float(np.sqrt(np.clip(square - mean**2, min(floor, mean * (1 - mean)), mean * (1 - mean))))
