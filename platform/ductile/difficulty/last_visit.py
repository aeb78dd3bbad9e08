"""The last visit alone: the observed pass rate of each problem's newest group, as dynamic sampling reads it (DAPO).

Of s successes among n completions the mean is s/n and the uncertainty that of a binomial rate, sqrt(p (1 - p) / n):
0 after a group that was all right or all wrong, which is the estimator's known weakness, for 0 of 8 says little of a
pass rate below 0.1. Before the first visit it is the Beta prior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Estimates, FromOutcomes, Rows, Visits
from ductile.difficulty.columns import Column


class LastVisitEstimator(FromOutcomes):
    """Keeps the last outcome of each row."""

    def __init__(self, prior: Sequence[float]) -> None:
        total = prior[0] + prior[1]
        self._mean = prior[0] / total
        self._spread = (self._mean * (1 - self._mean) / (total + 1)) ** 0.5
        self._last = Column(np.float64, 2)  # successes and completions of the last visit; both 0 before the first
        self._seen = Column(np.int32)

    @classmethod
    def make(cls, settings: DifficultySettings) -> LastVisitEstimator:
        """The estimator that the settings describe."""
        return cls(settings.prior)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows at the prior."""
        self._last.grow(count, 0.0)
        self._seen.grow(count, step)

    def predict(self, rows: Rows, step: int) -> Estimates:
        """Rate and binomial uncertainty of each row's last visit."""
        successes, counts = self._last.values[rows].T
        visited, most = counts > 0, np.maximum(counts, 1)
        rate = successes / most
        return Estimates(
            mean=np.where(visited, rate, self._mean),
            uncertainty=np.where(visited, np.sqrt(rate * (1 - rate) / most), self._spread),
            age=step - self._seen.values[rows].astype(np.int64),
        )

    def observe(self, visits: Visits, step: int) -> None:
        """What was there before is forgotten."""
        self._last.values[visits.rows] = np.stack([visits.successes, visits.counts], axis=1)
        self._seen.values[visits.rows] = step

    def snapshot(self) -> Arrays:
        """Last outcomes and their steps."""
        return {"last": self._last.values, "seen": self._seen.values}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._last.become(snapshot["last"])
        self._seen.become(snapshot["seen"])
