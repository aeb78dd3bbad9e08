"""EL2N carried over to RL: the mean over a problem's rollouts of |r - p|, r the reward, p the base's pass rate.

No paper has it: it is EL2N's error with the reward for the label and the base's expectation for the prediction. Of the
base's own rollouts it is 2 p (1 - p) in expectation. So it is no hardness: it is 0 for problems that always or never
succeed and largest at one half, where a group has the most gradient. High means worth asking, as in the scores that
Sorscher et al. released: `difficulty.prune.keep=high` keeps those; the score that is high for hard is `failure_rate`.

Taken of the same rollouts, p would be drawn towards r, and the mean would be (n - 1) / n of what it should be. Each
rollout is therefore held against the mean of the others: k successes of n give 2 k (n - k) / (n (n - 1)), unbiased.

Of rollouts by a later policy it is `el2n_rl_later`.
"""

from __future__ import annotations

import numpy as np

from ductile.scores.base import BASE, Asked, Floats


def own_reward_errors(rewards: Floats) -> Floats:
    """[problem] float64: the mean of |r - p| of the base's own rollouts, each held against the mean of the others.

    rewards: [problem, rollout] 0 or 1, NaN not judged; NaN for a problem of which fewer than two were judged.
    """
    judged, wins = (~np.isnan(rewards)).sum(axis=1), np.nansum(rewards, axis=1)
    pairs = judged * (judged - 1)
    return np.where(pairs > 0, 2 * wins * (judged - wins) / np.maximum(pairs, 1), np.nan)


class EL2NOfRewards:
    """Of `samples` completions of each problem by the base."""

    needs = frozenset({BASE})
    hardness = False

    def __call__(self, asked: Asked) -> Floats:
        """[problem] float64 in [0, 1]: high is worth asking."""
        return own_reward_errors(asked.rewards())
