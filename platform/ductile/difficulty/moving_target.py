"""AdaRFT (arXiv 2504.05520): a target on the static difficulty that follows the reward.

After each step with mean reward R the target T, on the scale from 0 (easiest) to 100, becomes

    T <- clip(T + eta tanh(alpha (R - beta)), 0, 100)

and a step asks the problems whose static difficulty x 100 is closest to T. R is the mean of the problems' pass rates,
which with as many completions for each is the mean reward.

Where we differ: AdaRFT remembers nothing, so while T rests, at 0 or 100 for as long as the reward stays on one side,
the same problems repeat in every step. We take, of the `REACH` times as many problems closest to T, those that were
visited least, and of equally visited ones the closest: at the first step AdaRFT's own, and then no problem again
before its equals. Problems without a static difficulty come last.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Candidates, Visits

REACH = 4
"""Problems near the target that are equals, for each that is asked: a problem rests for three steps in four."""


class MovingTarget:
    """visits: [problem] int16, in this phase."""

    def __init__(self, settings: DifficultySettings) -> None:
        self._settings = settings.moving_target
        self._target = np.array([self._settings.start])
        self._visits = np.zeros(0, np.int16)

    def start_phase(self) -> None:
        """The target starts where it started: static difficulty is relative to the phase's pool."""
        self._target, self._visits[:] = np.array([self._settings.start]), 0

    def grow(self, count: int) -> None:
        """Append rows never visited."""
        self._visits = np.concatenate([self._visits, np.zeros(count, np.int16)])

    def select(self, candidates: Candidates, count: int, rng: Generator) -> NDArray[np.int64]:
        """The least visited of the `REACH` x count problems closest to the target, the closest of equals first."""
        order = rng.permutation(len(candidates.rows))
        distance = np.abs(100 * candidates.static[order] - self._target)
        visits = self._visits[candidates.rows[order]]
        near = np.lexsort((visits, distance))[: REACH * count]  # NaN is sorted last
        return order[near[np.lexsort((distance[near], visits[near]))[:count]]]

    def observe(self, visits: Visits) -> dict[str, float]:
        """Move the target by the update at the top of this file."""
        seen = self._visits[visits.rows]
        self._visits[visits.rows] = seen + (seen < np.iinfo(np.int16).max)
        reward = (visits.successes / visits.counts).mean()
        move = self._settings.rate * np.tanh(self._settings.sensitivity * (reward - self._settings.aim))
        self._target = np.clip(self._target + move, 0, 100)
        return {"difficulty/moving_target/target": float(self._target[0])}

    def snapshot(self) -> Arrays:
        """The target, and the visits in the phase."""
        return {"target": self._target, "visits": self._visits}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._target, self._visits = snapshot["target"].copy(), snapshot["visits"].copy()
