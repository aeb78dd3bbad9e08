"""How pass rates are spread over problems, or around what is predicted of them, told from few completions of each."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from ductile.difficulty.base import Floats, Visits

Number = TypeVar("Number", float, Floats)


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


def excess(rates: Number, counts: Number, predicted: Number) -> Number:
    """(p - predicted)^2 without bias, for the pass rate p of each visited problem: [visit] float64, also below 0.

    That is (s/n - predicted)^2 - (s/n)(1 - s/n)/(n - 1): the second term is the noise of s/n. Counts are above 1.
    """
    return (rates - predicted) ** 2 - rates * (1 - rates) / (counts - 1)


def dispersion(visits: Visits, predicted: Floats, prior: tuple[float, float]) -> float:
    """rho in [0, 1] for which pass rates p around the predictions V have the variance rho V (1 - V), by moments.

    The prior Beta(a, b), of rho = 1 / (a + b + 1), counts as one more visit. Visits of one completion tell nothing.
    predicted: [visit] float64.
    """
    alpha, beta = prior
    several = visits.counts > 1
    value, counts = predicted[several], visits.counts[several]
    found = excess(visits.successes[several] / counts, counts, value).sum()
    most = alpha * beta / (alpha + beta) ** 2
    return float(np.clip((most / (alpha + beta + 1) + max(found, 0.0)) / (most + (value * (1 - value)).sum()), 0, 1))
