"""Memorization (Feldman and Zhang 2020, arXiv 2008.03703), by their estimator from random subsets.

    mem(i) = Pr[h(x_i) = y_i | i in S] - Pr[h(x_i) = y_i | i not in S]

over models trained on random subsets S, here a share `subset` of the problems (0.7 in the paper, over thousands of
models; with a dozen the score is coarse, so this one is for small sets). Right means that every token of the worked
solution is the most likely one. It lies in [-1, 1].

Where we differ: their subsets are independent, and of eight such ones with a share of 0.7 every seventeenth problem is
in all or in none. Ours are balanced: each problem is in as many subsets as any other, so that both rates are known.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ductile.scores.base import WORKED, Asked, Floats, seed_of
from ductile.scores.training import fit, hits, led

SUBSETS = 2**32 - 1
"""Names the random numbers of the subsets: no model has this number."""


def memorization(inside: NDArray[np.bool_], right: NDArray[np.bool_]) -> Floats:
    """[problem] float64: the equation above; NaN for a problem that was in every subset or in none.

    inside, right: [model, problem] bool, whether it was trained on, and whether it was answered right.
    """
    within, without = inside.sum(axis=0), (~inside).sum(axis=0)
    with np.errstate(invalid="ignore"):
        rates = (inside & right).sum(axis=0) / within, (~inside & right).sum(axis=0) / without
    return np.where((within > 0) & (without > 0), rates[0] - rates[1], np.nan)


def subsets_of(count: int, subsets: int, share: float, rng: Generator) -> NDArray[np.bool_]:
    """[subset, problem] bool: each problem in `share` of the subsets, rounded, but in one at least and never in all.

    The subsets' sizes differ by one at most; which of them a problem is in is random.
    """
    times = min(max(1, round(share * subsets)), subsets - 1)
    inside, sizes = np.zeros((subsets, count), np.bool_), np.zeros(subsets, np.int64)
    for problem in rng.permutation(count):
        smallest = np.lexsort((rng.random(subsets), sizes))[:times]
        inside[smallest, problem] = True
        sizes[smallest] += 1
    return inside


class Memorization:
    """`subsets` fresh models, each trained for all of `fit.steps` on a random subset of its own."""

    needs = frozenset({WORKED})
    hardness = True

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`."""
        rows, settings = asked.rows(), asked.settings
        rng = np.random.Generator(np.random.Philox(seed_of(asked.seed, SUBSETS)))
        inside = subsets_of(asked.count, settings.subsets, settings.subset, rng)
        right = np.zeros_like(inside)
        for number in range(settings.subsets):
            seed = seed_of(asked.seed, number)
            model = asked.fresh(seed).eval()
            if inside[number].any():  # with fewer problems than subsets, some have none
                fit(model, [rows[place] for place in np.flatnonzero(inside[number]).tolist()], settings.fit, seed)
            right[number] = led(model, rows, hits)[0] == 1
            asked.told(f"memorization: model {number + 1} of {settings.subsets}")
        return memorization(inside, right)
