"""EL2N carried over to RL, of later policies: the mean of |r - p|, r a later policy's reward, p the pass rate at first.

Of rollouts by a policy of pass rate q it is p (1 - q) + q (1 - p) in expectation. Where p is 0 or 1 it says how far
training has moved the problem, else mostly that p is in the middle. So it is no hardness, as `el2n_rl` is none.

p is the rate in the problem's first audit: the base's in the first phase, in a later one that of the policy that the
phase began with. r are the completions of all audits after it, each counted alike; the two share no completion.
"""

from __future__ import annotations

import numpy as np

from ductile.scores.base import HISTORY, Asked, Floats
from ductile.scores.history import History


def later_errors(history: History) -> Floats:
    """[problem] float64 in [0, 1]: mean of |r - p|; NaN for a problem that was audited less than twice."""
    audits, problems = history.counts.shape
    audited = history.counts > 0
    first = np.where(audited.any(axis=0), audited.argmax(axis=0), audits)
    later = np.arange(audits)[:, None] > first
    counts, wins = (np.where(later, values, 0.0).sum(axis=0) for values in (history.counts, history.successes))
    at = np.minimum(first, audits - 1), np.arange(problems)
    p = history.successes[at] / np.maximum(history.counts[at], 1)
    return np.where(counts > 0, (wins * (1 - p) + (counts - wins) * p) / np.maximum(counts, 1), np.nan)


class LaterEL2NOfRewards:
    """Of the audits of a finished run."""

    needs = frozenset({HISTORY})
    hardness = False

    def __call__(self, asked: Asked) -> Floats:
        """[problem] float64 in [0, 1]: high is moved by training, or in the middle."""
        return later_errors(asked.history())
