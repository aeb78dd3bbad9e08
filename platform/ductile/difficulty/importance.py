"""Pass rate by self-normalised importance sampling over a problem's last completions (DARE, arXiv 2605.09188).

With completions y_i sampled by earlier policies mu_i, rewards r_i in {0, 1} and the policy of the moment pi,

    w_i = exp(clip(log pi(y_i) - log mu_i(y_i), -C, C))          whole completions
    s   = sum_i w_i r_i / sum_i w_i,    ESS = (sum_i w_i)^2 / sum_i w_i^2,

and where ESS < `min_ess` the plain mean of the rewards stands in for s. Of each row only sums over i are kept.

Where we differ, and what DARE leaves open:
- The ratios are as of the last refresh. A visit after it counts with ratio 1, which is exact for the policy that
  sampled it and as old as the visit is; what was kept before keeps its ratios of the refresh, so that both are within
  a refresh's distance of the policy of the moment. The buffer is first in first out: of the older sums as large a share
  stays as the buffer has room for. The sums do not know which of the older ones have left it; the next refresh does.
- The belief is Beta(a + ESS s, b + ESS (1 - s)) with the prior (a, b): what is kept is worth ESS completions of the
  policy of the moment, also where the plain mean stands in. Its mean is the estimate, so 0 of n is never certainty.
  A prior of next to nothing gives DARE's own s.
- ESS sees how unequal the weights are and nothing else. Where the policy has moved so far that every ratio is clipped
  at the same end, the weights are equal and ESS is the number of completions: `clipped_low_share` and
  `clipped_high_share` tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ductile.config import DifficultySettings, ImportanceSettings
from ductile.difficulty.base import RATIOS, Arrays, Estimates, Evidence, Floats, Rows, Visits


class ImportanceEstimator:
    """Five sums a row, float64: completions kept, their successes, and sum w, sum w r and sum w^2."""

    needs = frozenset({RATIOS})

    def __init__(self, prior: tuple[float, float], settings: ImportanceSettings) -> None:
        self._prior = prior
        self._settings = settings
        self._sums = np.zeros((0, 5), np.float64)
        self._seen = np.zeros(0, np.int64)  # step of the last visit, or of entering the table
        self._diagnostics: dict[str, float] = {}

    @classmethod
    def make(cls, settings: DifficultySettings) -> ImportanceEstimator:
        """The estimator that the settings describe."""
        return cls((settings.prior[0], settings.prior[1]), settings.importance)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows of which nothing is kept."""
        self._sums = np.concatenate([self._sums, np.zeros((count, 5), np.float64)])
        self._seen = np.concatenate([self._seen, np.full(count, step, np.int64)])

    def predict(self, rows: Rows, step: int) -> Estimates:
        """Mean and standard deviation of each row's Beta belief; that of the prior where nothing is kept."""
        rate, ess = rate_and_ess(self._sums[rows], self._settings.min_ess)
        alpha, beta = self._prior[0] + ess * rate, self._prior[1] + ess * (1 - rate)
        total = alpha + beta
        mean = alpha / total
        return Estimates(mean, np.sqrt(mean * (1 - mean) / (total + 1)), step - self._seen[rows])

    def observe(self, visits: Visits, step: int) -> None:
        """New completions with ratio 1; of the older ones what the buffer still has room for."""
        capacity, old = self._settings.buffer, self._sums[visits.rows]
        fresh = np.minimum(visits.counts, capacity)
        wins = visits.successes / visits.counts * fresh
        stay = np.minimum((capacity - fresh) / np.maximum(old[:, 0], 1e-9), 1.0)
        self._sums[visits.rows] = stay[:, None] * old + np.stack([fresh, wins, fresh, wins, fresh], axis=1)
        self._seen[visits.rows] = step

    def measure_first(self, visits: Visits, step: int) -> None:
        """Outcomes without completions whose ratios could be known: nothing is kept of them."""

    def refresh(self, evidence: Evidence, step: int) -> None:
        """The sums anew for the rows that ratios are given of; the others stay as they were."""
        clip, logs, rewards = self._settings.clip, evidence.log_ratios, evidence.rewards
        self._diagnostics = {"completions": float(len(logs))}
        if not len(logs):
            return
        rows, position = np.unique(evidence.ratio_rows, return_inverse=True)
        weights = np.exp(np.clip(logs, -clip, clip))
        terms = (np.ones_like(weights), rewards, weights, weights * rewards, weights**2)
        sums: Floats = np.stack([np.bincount(position, term, len(rows)) for term in terms], axis=1)
        self._sums[rows] = sums
        _, ess = rate_and_ess(sums, self._settings.min_ess)
        self._diagnostics |= {
            "ess_mean": float(ess.mean()),
            "ess_share_mean": float((ess / sums[:, 0]).mean()),
            "log_ratio_mean": float(logs.mean()),
            "log_ratio_abs_mean": float(np.abs(logs).mean()),
            "log_ratio_sd": float(logs.std()),
            "clipped_low_share": float((logs < -clip).mean()),
            "clipped_high_share": float((logs > clip).mean()),
            "fallback_share": float((ess < self._settings.min_ess).mean()),
        }

    def diagnostics(self) -> Mapping[str, float]:
        """How far the policy has moved from those that sampled what is kept, and what that leaves of it."""
        return self._diagnostics

    def snapshot(self) -> Arrays:
        """Sums and steps of the last visits."""
        return {"sums": self._sums, "seen": self._seen}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._sums, self._seen = snapshot["sums"].copy(), snapshot["seen"].copy()


def rate_and_ess(sums: NDArray[np.float64], min_ess: float) -> tuple[Floats, Floats]:
    """Pass rate and effective sample size, [row] float64 each, 0 where nothing is kept.

    sums: [row, 5] as the estimator keeps them.
    """
    kept, wins, weight, weighted_wins, squares = sums.T
    some = kept > 0
    ess = np.divide(weight**2, squares, out=np.zeros_like(weight), where=some)
    plain = np.divide(wins, kept, out=np.zeros_like(wins), where=some)
    weighted = np.divide(weighted_wins, weight, out=np.zeros_like(wins), where=some)
    # sums of the same numbers in another order may differ in their last digits
    return np.clip(np.where(ess < min_ess, plain, weighted), 0.0, 1.0), ess
