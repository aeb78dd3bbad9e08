"""VCRL (arXiv 2509.19803): problems whose group variance is at least kappa, and a bank of problems that had much.

The unbiased variance of a group of G rewards with k successes is k (G - k) / (G (G - 1)). Divided by its maximum,
G / (4 (G - 1)) for even G and (G + 1) / (4 G) for odd, it is

    p = 4 k (G - k) / G^2  for even G,    4 k (G - k) / (G^2 - 1)  for odd G.

VCRL rolls a batch out, keeps the groups with p >= kappa and fills up from the bank. We know of the paper from summaries
alone; where we surely differ: a step's problems are chosen before they are rolled out, so kappa is held against what
the estimate says, 4 mean (1 - mean), of `settings.candidates` problems for each that is asked. kappa rises from `keep`
to `keep_end` over the phase. A problem that this phase has visited has the priority

    priority <- momentum x priority + (1 - momentum) x p    (p itself at its first visit),

and those with a priority of at least kappa are the bank. What is missing is taken from there, the highest priority
first, and when that is through, those of the rest with the highest estimated variance.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Candidates, Floats, Visits


class Variance:
    """priorities: [problem] float32, NaN for a problem that the phase has not visited."""

    def __init__(self, settings: DifficultySettings) -> None:
        self._settings, self._candidates = settings.variance, settings.candidates
        self._priorities = np.zeros(0, np.float32)
        self._told: dict[str, float] = {}  # metrics of this step's selection, told with its outcomes

    def start_phase(self) -> None:
        """The bank is empty: its variances were another policy's."""
        self._priorities[:] = np.nan

    def grow(self, count: int) -> None:
        """Append rows never visited."""
        self._priorities = np.concatenate([self._priorities, np.full(count, np.nan, np.float32)])

    def select(self, candidates: Candidates, count: int, rng: Generator) -> NDArray[np.int64]:
        """Those of random candidates that are at least kappa, then the bank, then what is left."""
        order = rng.permutation(len(candidates.rows))
        mean = candidates.estimates.mean[order]
        kappa = self._settings.keep + (self._settings.keep_end - self._settings.keep) * candidates.progress
        looked_at = np.arange(len(order)) < self._candidates * count
        kept = np.flatnonzero(looked_at & (4 * mean * (1 - mean) >= kappa))[:count]
        priorities = self._priorities[candidates.rows[order]]
        rest = np.setdiff1d(np.arange(len(order)), kept)
        banked = np.where(priorities >= kappa, priorities, -1)[rest]
        filled = rest[np.lexsort((-mean[rest] * (1 - mean[rest]), -banked))][: count - len(kept)]
        share = float((priorities[filled] >= kappa).sum() / max(count, 1))
        # What a step asks more of, after its first problems, is told of with those.
        self._told = self._told or {"difficulty/variance/kappa": kappa, "difficulty/variance/bank_share": share}
        return order[np.concatenate([kept, filled])]

    def observe(self, visits: Visits) -> dict[str, float]:
        """The priorities of the visited problems change."""
        seen, old = normalised(visits), self._priorities[visits.rows].astype(np.float64)
        momentum = np.where(np.isnan(old), 0.0, self._settings.momentum)
        self._priorities[visits.rows] = momentum * np.nan_to_num(old) + (1 - momentum) * seen
        told, self._told = self._told, {}
        return told

    def snapshot(self) -> Arrays:
        """The priorities."""
        return {"priorities": self._priorities}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._priorities = snapshot["priorities"].copy()


def normalised(visits: Visits) -> Floats:
    """[problem] float64 in [0, 1], the group variance over the largest there is; 0 for a single completion."""
    wins, counts = visits.successes, visits.counts
    largest = counts**2 - counts % 2
    return 4 * wins * (counts - wins) / np.maximum(largest, 1)
