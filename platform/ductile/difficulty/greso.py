"""GRESO (arXiv 2506.02177): problems whose last visits were silent are skipped with a probability that grows.

A problem with c silent visits in a row (all right, or none right) is skipped with probability

    1 - max(p^c, 0.01),    p = p_easy where they were all right, p_hard where none was,

and after each step p_easy rises by `settings.greso.step` when the share of all-right groups was at most its target,
`silent` x `easy_share`, and falls by it when it was more; p_hard does the same for groups without a success and the
rest of `silent`. Both stay in [0.05, 0.95]. The step's sign is all that counts, so it is the median of the share over
steps that settles at the target; in small steps, of lumpy shares, the mean may differ from it.

Where we differ: a visit that is silent the other way begins a new run of visits; GRESO's code goes by mean rewards
(at least .98, at most .11), we by successes among judged completions. GRESO skips while it walks through an epoch and
samples more until a batch is full; we choose among the whole pool, and take skipped problems, the least likely to be
skipped first, when all others are asked. A phase begins anew: silence is of the policy that was silent.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Candidates, Floats, Visits

FLOOR = 0.01
"""Least probability that a problem is not skipped."""

LEAST, MOST = 0.05, 0.95
"""Bounds of the base probabilities."""


class Greso:
    """runs: [problem] int16, visits in a row that were all right (above 0) or without a success (below 0)."""

    def __init__(self, settings: DifficultySettings) -> None:
        self._settings = settings.greso
        self._runs = np.zeros(0, np.int16)
        self._base = np.full(2, settings.greso.start)  # p_easy, p_hard
        self._skipped: float | None = None  # share of this step's candidates; told with its outcomes, decides nothing

    def start_phase(self) -> None:
        """Nothing is known to be silent, and the controller starts where it started."""
        self._runs[:] = 0
        self._base = np.full(2, self._settings.start)

    def grow(self, count: int) -> None:
        """Append rows never visited."""
        self._runs = np.concatenate([self._runs, np.zeros(count, np.int16)])

    def skip_probability(self, rows: NDArray[np.int64]) -> Floats:
        """[problem] float64 of each of the rows; 0 where the last visit was not silent."""
        runs = self._runs[rows].astype(np.int64)
        return 1 - np.maximum(np.where(runs > 0, self._base[0], self._base[1]) ** np.abs(runs), FLOOR)

    def select(self, candidates: Candidates, count: int, rng: Generator) -> NDArray[np.int64]:
        """Random problems that are not skipped; then skipped ones, the least likely to be skipped first."""
        order = rng.permutation(len(candidates.rows))
        probability = self.skip_probability(candidates.rows[order])
        skipped = rng.random(len(order)) < probability
        if self._skipped is None:  # what a step asks more of, after its first problems, is not told
            self._skipped = float(skipped.mean())
        return order[np.argsort(np.where(skipped, probability, 0), kind="stable")[:count]]

    def observe(self, visits: Visits) -> dict[str, float]:
        """Count the runs and move the controller."""
        easy, hard = visits.successes == visits.counts, visits.successes == 0
        runs = self._runs[visits.rows].astype(np.int64)
        runs = np.where(easy, np.maximum(runs, 0) + 1, np.where(hard, np.minimum(runs, 0) - 1, 0))
        most = np.iinfo(np.int16).max
        self._runs[visits.rows] = np.clip(runs, -most, most)
        aims = self._settings.silent * np.array([self._settings.easy_share, 1 - self._settings.easy_share])
        moves = np.where(np.array([easy.mean(), hard.mean()]) > aims, -self._settings.step, self._settings.step)
        self._base = np.clip(self._base + moves, LEAST, MOST)
        skipped, self._skipped = self._skipped, None
        metrics = {} if skipped is None else {"difficulty/greso/skipped_share": skipped}
        base = self._base.tolist()
        return metrics | {"difficulty/greso/p_easy": base[0], "difficulty/greso/p_hard": base[1]}

    def snapshot(self) -> Arrays:
        """Runs and base probabilities."""
        return {"runs": self._runs, "base": self._base}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._runs, self._base = snapshot["runs"].copy(), snapshot["base"].copy()
