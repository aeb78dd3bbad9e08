"""EL2N carried over to RL: the mean over a problem's rollouts of |r - p|, r the reward, p the base's pass rate.

No paper has it: it is EL2N's error with the reward for the label and the base's expectation for the prediction. Of
rollouts by a policy of pass rate q it is p (1 - q) + q (1 - p) in expectation, and of the base's own 2 p (1 - p). So it
is no hardness: it is 0 for problems that always or never succeed and largest at one half, where a group has the most
gradient. High means worth asking, as in the scores that Sorscher et al. released; the score that is high for hard is
`failure_rate`.

Taken of the same rollouts, p would be drawn towards r, and the mean would be (n - 1) / n of what it should be. Each
rollout is therefore held against the mean of the others: k successes of n give 2 k (n - k) / (n (n - 1)), unbiased.

The other reading, |mean r - p| between a later policy and the base, says how far training has moved the problem. It is
no static score: it needs that later policy. |r - p| with `rewards` of a later policy contains it where p is 0 or 1.
"""

from __future__ import annotations

import numpy as np

from ductile.scores.base import BASE, Asked, Floats


def reward_errors(rewards: Floats, p_base: Floats) -> Floats:
    """[problem] float64: mean over the rollouts of |r - p_base|; NaN where none was judged.

    rewards: [problem, rollout] 0 or 1, NaN not judged, of any policy; p_base: [problem], from other rollouts.
    """
    return _mean(np.abs(rewards - p_base[:, None]))


def own_reward_errors(rewards: Floats) -> Floats:
    """[problem] float64: the same of the base's own rollouts, each held against the mean of the others.

    NaN where fewer than two were judged.
    """
    judged, total = (~np.isnan(rewards)).sum(axis=1, keepdims=True), np.nansum(rewards, axis=1, keepdims=True)
    others = np.where(judged > 1, (total - rewards) / np.maximum(judged - 1, 1), np.nan)
    return _mean(np.abs(rewards - others))


class EL2NOfRewards:
    """Of `samples` completions of each problem by the base."""

    needs = frozenset({BASE})

    def __call__(self, asked: Asked) -> Floats:
        """[problem] float64 in [0, 1]: high is worth asking."""
        return own_reward_errors(asked.rewards())


def _mean(values: Floats) -> Floats:
    """Over each row's known values; NaN for a row without any."""
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(counts, 1), np.nan)
