"""Discounted Beta estimate of a problem's pass rate (MoPPS, arXiv 2507.04632), fading while it is not visited.

At a visit with s successes among n completions MoPPS sets

    alpha <- lambda * alpha + (1 - lambda) * alpha_0 + s
    beta  <- lambda * beta  + (1 - lambda) * beta_0  + (n - s).

We keep the evidence alone, successes = alpha - alpha_0 and failures = beta - beta_0, for which the same update is
successes <- lambda * successes + s. Where we differ: between visits the policy moves too, so evidence of age t counts
(1 - drift)^t of its value. The belief then returns to the prior and its uncertainty grows. `drift = 0` is MoPPS.

Evidence is float64: repeated discounting is then the same to the last bit after a restore as without one, and exact
for whole counts. Steps of visits are int32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Estimates, Floats, FromOutcomes, Rows, Visits
from ductile.difficulty.columns import Column


class BetaEstimator(FromOutcomes):
    """One Beta posterior a row. Fading is computed from the age when it is asked for, never by a sweep of the table."""

    def __init__(self, prior: Sequence[float], discount: float, drift: float) -> None:
        self._prior = prior
        self._discount = discount
        self._drift = drift
        self._successes = Column(np.float64)  # evidence as of the last visit
        self._failures = Column(np.float64)
        self._seen = Column(np.int32)  # step of the last visit, or of entering the table

    @classmethod
    def make(cls, settings: DifficultySettings) -> BetaEstimator:
        """The estimator that the settings describe."""
        return cls(settings.prior, settings.discount, settings.drift)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows at the prior."""
        self._successes.grow(count, 0.0)
        self._failures.grow(count, 0.0)
        self._seen.grow(count, step)

    def predict(self, rows: Rows, step: int) -> Estimates:
        """Mean and standard deviation of each row's Beta posterior, its evidence faded by its age."""
        age = self._age(rows, step)
        kept = self._kept(age)
        moments = beta_moments(kept * self._successes.values[rows], kept * self._failures.values[rows], self._prior)
        return Estimates(*moments, age)

    def observe(self, visits: Visits, step: int) -> None:
        """The update at the top of this file, on the faded evidence."""
        rows = visits.rows
        kept = self._discount * self._kept(self._age(rows, step))
        self._successes.values[rows] = kept * self._successes.values[rows] + visits.successes
        self._failures.values[rows] = kept * self._failures.values[rows] + (visits.counts - visits.successes)
        self._seen.values[rows] = step

    def snapshot(self) -> Arrays:
        """Evidence and steps of the last visits."""
        return {
            "successes": self._successes.values,
            "failures": self._failures.values,
            "seen": self._seen.values,
        }

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._successes.become(snapshot["successes"])
        self._failures.become(snapshot["failures"])
        self._seen.become(snapshot["seen"])

    def _age(self, rows: Rows, step: int) -> Rows:
        return step - self._seen.values[rows].astype(np.int64)

    def _kept(self, age: Rows) -> Floats:
        """[problem] float64, share of the evidence that counts at this age."""
        return np.power(1.0 - self._drift, age.astype(np.float64))


def beta_moments(successes: Floats, failures: Floats, prior: Sequence[float]) -> tuple[Floats, Floats]:
    """[problem] float64 each, mean and standard deviation of Beta(prior[0] + successes, prior[1] + failures)."""
    alpha, total = prior[0] + successes, prior[0] + prior[1] + successes + failures
    mean = alpha / total
    return mean, np.sqrt(mean * (1 - mean) / (total + 1))
