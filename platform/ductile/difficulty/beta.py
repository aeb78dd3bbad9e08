"""Discounted Beta estimate of a problem's pass rate (MoPPS, arXiv 2507.04632), fading while it is not visited.

At a visit with s successes among n completions MoPPS sets

    alpha <- lambda * alpha + (1 - lambda) * alpha_0 + s
    beta  <- lambda * beta  + (1 - lambda) * beta_0  + (n - s).

We keep the evidence alone, successes = alpha - alpha_0 and failures = beta - beta_0, for which the same update is
successes <- lambda * successes + s. Where we differ: between visits the policy moves too, so evidence of age t counts
(1 - drift)^t of its value. The belief then returns to the prior and its uncertainty grows. `drift = 0` is MoPPS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Estimates, FromOutcomes, Rows, Visits


class BetaEstimator(FromOutcomes):
    """One Beta posterior a row. Fading is computed from the age when it is asked for, never by a sweep of the table."""

    def __init__(self, prior: tuple[float, float], discount: float, drift: float) -> None:
        self._prior = prior
        self._discount = discount
        self._drift = drift
        self._evidence = np.zeros((0, 2), np.float64)  # successes, failures, as of the last visit
        self._seen = np.zeros(0, np.int64)  # step of the last visit, or of entering the table

    @classmethod
    def make(cls, settings: DifficultySettings) -> BetaEstimator:
        """The estimator that the settings describe."""
        return cls((settings.prior[0], settings.prior[1]), settings.discount, settings.drift)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows at the prior."""
        self._evidence = np.concatenate([self._evidence, np.zeros((count, 2), np.float64)])
        self._seen = np.concatenate([self._seen, np.full(count, step, np.int64)])

    def predict(self, rows: Rows, step: int) -> Estimates:
        """Mean and standard deviation of each row's Beta posterior, its evidence faded by its age."""
        alpha, beta = (np.asarray(self._prior) + self._faded(rows, step)).T
        total = alpha + beta
        mean = alpha / total
        return Estimates(mean, np.sqrt(mean * (1 - mean) / (total + 1)), step - self._seen[rows])

    def observe(self, visits: Visits, step: int) -> None:
        """The update at the top of this file, on the faded evidence."""
        fresh = np.stack([visits.successes, visits.counts - visits.successes], axis=1)
        self._evidence[visits.rows] = self._discount * self._faded(visits.rows, step) + fresh
        self._seen[visits.rows] = step

    def snapshot(self) -> Arrays:
        """Evidence and steps of the last visits."""
        return {"evidence": self._evidence, "seen": self._seen}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._evidence, self._seen = snapshot["evidence"].copy(), snapshot["seen"].copy()

    def _faded(self, rows: Rows, step: int) -> NDArray[np.float64]:
        age = step - self._seen[rows]
        return self._evidence[rows] * ((1 - self._drift) ** age)[:, None]
