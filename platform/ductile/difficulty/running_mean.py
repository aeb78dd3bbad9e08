"""The running mean: all visits of a problem count alike, however long ago they were.

MoPPS (arXiv 2507.04632) with lambda = 1, its code's default, and without our fading: the Beta posterior of all
successes and failures. Right while the policy stands still, and slow when it moves: after m visits a change of the
pass rate shows by 1/m at the next one.
"""

from __future__ import annotations

from ductile.config import DifficultySettings
from ductile.difficulty.beta import BetaEstimator


def running_mean(settings: DifficultySettings) -> BetaEstimator:
    """The estimator that the settings describe: of them it reads `prior` alone."""
    return BetaEstimator(settings.prior, discount=1.0, drift=0.0)
