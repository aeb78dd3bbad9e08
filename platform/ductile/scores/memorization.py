"""Memorization (Feldman and Zhang 2020, arXiv 2008.03703), by their estimator from random subsets.

    mem(i) = Pr[h(x_i) = y_i | i in S] - Pr[h(x_i) = y_i | i not in S]

over models trained on random subsets S, here a share `subset` of the problems (0.7 in the paper, over thousands of
models; with a dozen the score is coarse, so this one is for small sets). Right means that every token of the worked
solution is the most likely one. It lies in [-1, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ductile.scores.base import WORKED, Asked, Floats, seed_of
from ductile.scores.training import fit, hits, led


def memorization(inside: NDArray[np.bool_], right: NDArray[np.bool_]) -> Floats:
    """[problem] float64: the equation above; NaN for a problem that was in every subset or in none.

    inside, right: [model, problem] bool, whether it was trained on, and whether it was answered right.
    """
    within, without = inside.sum(axis=0), (~inside).sum(axis=0)
    with np.errstate(invalid="ignore"):
        rates = (inside & right).sum(axis=0) / within, (~inside & right).sum(axis=0) / without
    return np.where((within > 0) & (without > 0), rates[0] - rates[1], np.nan)


class Memorization:
    """`subsets` fresh models, each trained for all of `fit.steps` on a random subset of its own."""

    needs = frozenset({WORKED})

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`."""
        rows, settings = asked.rows(), asked.settings
        size = max(1, round(settings.subset * asked.count))
        inside = np.zeros((settings.subsets, asked.count), np.bool_)
        right = np.zeros_like(inside)
        for number in range(settings.subsets):
            seed = seed_of(asked.seed, number)
            chosen = np.random.Generator(np.random.Philox(seed)).permutation(asked.count)[:size]
            inside[number, chosen] = True
            model = asked.fresh(seed)
            fit(model, [rows[place] for place in chosen], settings.fit, seed)
            right[number] = led(model, rows, hits)[0] == 1
            asked.told(f"memorization: model {number + 1} of {settings.subsets}")
        return memorization(inside, right)
