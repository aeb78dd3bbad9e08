"""The Beta distribution that an estimate stands for, where a rule needs all of it."""

from __future__ import annotations

import numpy as np

from ductile.difficulty.base import Estimates, Floats

FEWEST, MOST = 1e-6, 1e6
"""Bounds of alpha + beta: an estimate without uncertainty is a Beta of this much evidence, and one of the largest
uncertainty that there is, a coin that has fallen but is not seen, is a Beta of this little."""


def beta_of(estimates: Estimates) -> tuple[Floats, Floats]:
    """alpha and beta, each [problem] float64 above 0, of the Beta with the estimates' mean and standard deviation.

    mean = alpha / (alpha + beta) and variance = mean (1 - mean) / (alpha + beta + 1), so for the estimator `beta` they
    are its posterior's own.
    """
    mean, spread, variance = estimates.mean, estimates.mean * (1 - estimates.mean), estimates.uncertainty**2
    total = np.full(len(mean), MOST)
    np.divide(spread, variance, out=total, where=variance > spread / MOST)
    total = np.clip(total - 1, FEWEST, MOST)
    return np.maximum(mean * total, 1e-12), np.maximum((1 - mean) * total, 1e-12)
