"""Knapsack RL (arXiv 2509.25849): a step's completions go to the problems where one more is worth most.

The value of n completions of a problem with pass rate p is the chance that its group is mixed, and so has a gradient,
times the information of that gradient:

    v(n, p) = (1 - p^n - (1 - p)^n)  p (1 - p)^2

and one more completion adds (p^n (1 - p) + (1 - p)^n p) p (1 - p)^2, which falls in n: giving each next completion to
whoever gains most by it is the optimum. Where we differ: the paper puts the estimate in for p; we take the mean over
the Beta that is believed (`belief.beta_of`), so that a problem believed to be impossible on little evidence is worth
more than one so believed on much. With M(i, j) = E[p^i (1 - p)^j] the gain is M(n + 1, 3) + M(2, n + 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from ductile.difficulty.base import Estimates, Floats
from ductile.difficulty.belief import beta_of


def knapsack(estimates: Estimates, total: int, low: int, high: int) -> NDArray[np.int64]:
    """[problem] int64, completions of each between low and high, together exactly `total`, of the greatest value.

    Ties go to whoever has fewer, then to the earlier in the order. Where `total` is less than `low` for each or more
    than `high` for each, that limit gives way, for all alike, as far as the even share.
    """
    problems = len(estimates.mean)
    low, high = min(low, total // problems), max(high, -(-total // problems))
    gains = marginal_values(estimates, low, high).T.ravel()  # by completions first: ties go to whoever has fewer
    winners = np.argsort(-gains, kind="stable")[: total - problems * low] % problems
    return low + np.bincount(winners, minlength=problems).astype(np.int64)


def marginal_values(estimates: Estimates, low: int, high: int) -> Floats:
    """[problem, high - low] float64, the expected value that completion n + 1 adds, n from low to high - 1."""
    alpha, beta = (column[:, None] for column in beta_of(estimates))
    n = np.arange(low, high)[None]

    def moment(i: NDArray[np.int64] | int, j: NDArray[np.int64] | int) -> Floats:
        return np.exp(betaln(alpha + i, beta + j) - betaln(alpha, beta))

    return moment(n + 1, 3) + moment(2, n + 2)
