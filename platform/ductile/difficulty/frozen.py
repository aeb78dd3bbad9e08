"""The estimate that never moves: each problem's pass rate as it was first measured.

This is what static difficulty labels amount to (pass@k of the base model, arXiv 2605.28388), and what the estimators
that follow the policy are compared with. Of s successes among n completions it is the Beta posterior, mean
(prior_0 + s) / (prior_0 + prior_1 + n); its uncertainty is that of the first measurement alone, as if the policy had
not moved since.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Estimates, FromOutcomes, Rows, Visits
from ductile.difficulty.beta import beta_moments
from ductile.difficulty.columns import Column


class FrozenEstimator(FromOutcomes):
    """Keeps the first outcome of each row: that of `measure_first`, or where there was none that of the first visit."""

    def __init__(self, prior: Sequence[float]) -> None:
        self._prior = prior
        self._first = Column(np.float64, 2)  # successes, failures of the first measurement; both 0 before it
        self._seen = Column(np.int32)

    @classmethod
    def make(cls, settings: DifficultySettings) -> FrozenEstimator:
        """The estimator that the settings describe."""
        return cls(settings.prior)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows that nothing was measured of."""
        self._first.grow(count, 0.0)
        self._seen.grow(count, step)

    def predict(self, rows: Rows, step: int) -> Estimates:
        """The posterior of the first measurement. The age is that of the last visit, as every estimator's is."""
        first = self._first.values[rows]
        age = step - self._seen.values[rows].astype(np.int64)
        return Estimates(*beta_moments(first[:, 0], first[:, 1], self._prior), age)

    def observe(self, visits: Visits, step: int) -> None:
        """Outcomes of problems that were not measured before; of the others the step alone."""
        self._measure(visits)
        self._seen.values[visits.rows] = step

    def measure_first(self, visits: Visits, step: int) -> None:
        """Outcomes of the untouched base; a problem that was measured already stays as it is."""
        self._measure(visits)

    def snapshot(self) -> Arrays:
        """First measurements and steps of the last visits."""
        return {"first": self._first.values, "seen": self._seen.values}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._first.become(snapshot["first"])
        self._seen.become(snapshot["seen"])

    def _measure(self, visits: Visits) -> None:
        fresh = self._first.values[visits.rows].sum(axis=1) == 0  # a visit has completions, so a measured row has not 0
        rows, successes = visits.rows[fresh], visits.successes[fresh]
        self._first.values[rows] = np.stack([successes, visits.counts[fresh] - successes], axis=1)
