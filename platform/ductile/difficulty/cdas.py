"""CDAS (arXiv 2505.17652): problems whose difficulty is nearest to the model's competence, from both sides.

A problem's difficulty is the mean over its visits of what was expected minus what came,

    D <- D + (sigmoid(C - D) - pass rate - D) / visits,

and the competence C is minus the mean difficulty of the problems, so the two settle together. Half of a step are the
problems below C that are nearest to it, half those above; when a side has too few, the other gives more.

We know the paper from summaries alone; its code may differ in detail. A phase begins anew: competence is about a pool.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import expit

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Candidates, Visits


class Cdas:
    """difficulty: [problem] float32; visits: [problem] int16, in this phase."""

    def __init__(self, settings: DifficultySettings) -> None:
        self._difficulty = np.zeros(0, np.float32)
        self._visits = np.zeros(0, np.int16)
        self._competence: float | None = None  # this step's, of the candidates that it selected from

    def start_phase(self) -> None:
        """All problems are as hard as the model is able."""
        self._difficulty[:], self._visits[:], self._competence = 0, 0, None

    def grow(self, count: int) -> None:
        """Append rows of difficulty 0."""
        self._difficulty = np.concatenate([self._difficulty, np.zeros(count, np.float32)])
        self._visits = np.concatenate([self._visits, np.zeros(count, np.int16)])

    def select(self, candidates: Candidates, count: int, rng: Generator) -> NDArray[np.int64]:
        """The nearest to the competence, half of them harder and half not; ties in random order."""
        order = rng.permutation(len(candidates.rows))
        difficulty = self._difficulty[candidates.rows[order]].astype(np.float64)
        if self._competence is None:  # one a step, also where it asks for more problems
            self._competence = float(-difficulty.mean())
        competence = self._competence
        gap = difficulty - competence
        nearest = order[np.argsort(np.abs(gap), kind="stable")]
        above = np.isin(nearest, order[gap > 0])
        half = (count + int(rng.random() < 0.5)) // 2  # of an odd count either side has the one more as often
        first = np.concatenate([nearest[above][:half], nearest[~above][: count - half]])
        return np.concatenate([first, nearest[~np.isin(nearest, first)][: count - len(first)]])

    def observe(self, visits: Visits) -> dict[str, float]:
        """The update at the top of this file."""
        rows, most = visits.rows, np.iinfo(np.int16).max
        competence, self._competence = self._competence, None
        if competence is None:  # nothing was selected: the whole pool was asked
            competence = float(-self._difficulty[rows].mean(dtype=np.float64))
        self._visits[rows] += self._visits[rows] < most
        old = self._difficulty[rows].astype(np.float64)
        discrepancy = expit(competence - old) - visits.successes / visits.counts
        self._difficulty[rows] = old + (discrepancy - old) / self._visits[rows]
        return {"difficulty/cdas/competence": competence}

    def snapshot(self) -> Arrays:
        """Difficulties and visits; the competence follows from them at the next selection."""
        return {"difficulty": self._difficulty, "visits": self._visits}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._difficulty, self._visits = snapshot["difficulty"].copy(), snapshot["visits"].copy()
