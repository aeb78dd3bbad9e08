"""How sparse a vector is, in the versions that are in use; a number says nothing without the name of its version.

For h of width d (arXiv 2603.03415; the scripts of one study differ, so each keeps its own name):

    energy_top5_squared, energy_top10_squared   share of sum h^2 that the top 5% or 10% by |h| hold
    energy_top10_absolute                       the same share of sum |h|
    l0_above_1sd                                share of |h| above the mean of |h| plus one (population) deviation
    l1                                          sum |h|
    hoyer                                       (sqrt(d) - ||h||_1 / ||h||_2) / (sqrt(d) - 1)      (Hoyer 2004)
    gini                                        Gini index of |h|                 (Hurley & Rickard, arXiv 0811.4706)
    effective_rank_squared, _absolute           exp(entropy of p) / d, p = h^2 / sum h^2 or |h| / sum |h|

The top share holds floor(share * d) entries, at least one. Sparser is more energy, hoyer and gini, and less l1 and
effective rank. A vector of zeros has no sparsity: NaN, except for its l0 and l1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def top_energy(masses: Values, share: float) -> Values:
    """Share of the masses that their largest entries hold. masses: [..., width], not negative; returns [...]."""
    count = max(1, int(share * masses.shape[-1] + 1e-9))
    return _over(np.sort(masses, axis=-1)[..., -count:].sum(axis=-1), masses.sum(axis=-1))


def l0_above_1sd(h: Values) -> Values:
    """Share of |h| above its mean plus one standard deviation. h: [..., width]; returns [...]."""
    size = np.abs(h)
    return (size > size.mean(axis=-1, keepdims=True) + size.std(axis=-1, keepdims=True)).mean(axis=-1)


def l1(h: Values) -> Values:
    """Sum of |h|. h: [..., width]; returns [...]."""
    return np.abs(h).sum(axis=-1)


def hoyer(h: Values) -> Values:
    """0 for entries of equal size, 1 for a single one. h: [..., width]; returns [...]."""
    root = h.shape[-1] ** 0.5
    return (root - _over(l1(h), np.linalg.norm(h, axis=-1))) / (root - 1)


def gini(h: Values) -> Values:
    """1 - 2 sum_k c_k / ||c||_1 (d - k + 1/2) / d with c = |h| rising, k from 1. h: [..., width]; returns [...]."""
    size = np.sort(np.abs(h), axis=-1)
    width = h.shape[-1]
    ranks = (width - np.arange(1, width + 1) + 0.5) / width
    return 1 - 2 * _over((size * ranks).sum(axis=-1), size.sum(axis=-1))


def effective_rank(masses: Values) -> Values:
    """exp of the entropy of the normalised masses, over the width. masses: [..., width]; returns [...]."""
    p = _over(masses, masses.sum(axis=-1, keepdims=True))
    terms = p * np.log(np.where(p > 0, p, 1.0))
    return np.exp(-terms.sum(axis=-1)) / masses.shape[-1]


MEASURES: dict[str, Callable[[Values], Values]] = {
    "energy_top5_squared": lambda h: top_energy(h**2, 0.05),
    "energy_top10_squared": lambda h: top_energy(h**2, 0.10),
    "energy_top10_absolute": lambda h: top_energy(np.abs(h), 0.10),
    "l0_above_1sd": l0_above_1sd,
    "l1": l1,
    "hoyer": hoyer,
    "gini": gini,
    "effective_rank_squared": lambda h: effective_rank(h**2),
    "effective_rank_absolute": lambda h: effective_rank(np.abs(h)),
}


def _over(a: Values, b: Values) -> Values:
    with np.errstate(invalid="ignore"):
        return a / b
