"""How often the base fails: 1 - its pass rate, the static difficulty of most curricula (AdaRFT, arXiv 2504.05520)."""

from __future__ import annotations

import numpy as np

from ductile.scores.base import BASE, Asked, Floats


def failure_rates(rewards: Floats) -> Floats:
    """[problem] float64: 1 - mean reward of the judged completions, NaN where there is none.

    rewards: [problem, completion] 0 or 1, NaN not judged.
    """
    judged = (~np.isnan(rewards)).sum(axis=1)
    return np.where(judged > 0, 1 - np.nansum(rewards, axis=1) / np.maximum(judged, 1), np.nan)


class FailureRate:
    """Of `samples` completions of each problem by the base."""

    needs = frozenset({BASE})
    hardness = True

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`."""
        return failure_rates(asked.rewards())
