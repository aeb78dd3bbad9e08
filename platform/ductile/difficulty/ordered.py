"""Selection in a fixed order: from the easiest to the hardest by the static difficulty (`rising`), or back (`falling`).

The order is gone through without repeats, and then anew. Where the phase has too few steps to get through it, each
step begins no earlier than its share of the order: at half of the phase at the middle of the pool, so that the last
steps ask the other end, and what is passed over is passed over evenly. No estimate is read: this is the static
curriculum that the adaptive rules are compared to. Problems without a static difficulty come last, in random order.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Candidates, Visits


class Ordered:
    """visits: [problem] int16, visits in the phase; how often a problem was asked before it is no part of the order."""

    def __init__(self, sign: int, settings: DifficultySettings) -> None:
        self._sign = sign
        self._visits = np.zeros(0, np.int16)

    def start_phase(self) -> None:
        """The order is gone through anew."""
        self._visits[:] = 0

    def grow(self, count: int) -> None:
        """Append rows never visited."""
        self._visits = np.concatenate([self._visits, np.zeros(count, np.int16)])

    def select(self, candidates: Candidates, count: int, rng: Generator) -> NDArray[np.int64]:
        """The least visited in the order, from the phase's progress on where the visits are behind it."""
        order = rng.permutation(len(candidates.rows))  # ties and NaN keep this order
        order = order[np.argsort(self._sign * candidates.static[order], kind="stable")]  # NaN is sorted last
        visits = self._visits[candidates.rows[order]].astype(np.int64)
        share = candidates.progress * len(order)
        begin = np.ceil(share - 1e-6) if visits.sum() < share - 1e-6 else 0.0
        passed = np.arange(len(order)) < begin
        return order[np.lexsort((passed, visits))[:count]]

    def observe(self, visits: Visits) -> dict[str, float]:
        """Count the visits."""
        seen = self._visits[visits.rows]
        self._visits[visits.rows] = seen + (seen < np.iinfo(np.int16).max)
        return {}

    def snapshot(self) -> Arrays:
        """The visits in the phase."""
        return {"visits": self._visits}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._visits = snapshot["visits"].copy()


rising, falling = partial(Ordered, 1), partial(Ordered, -1)
