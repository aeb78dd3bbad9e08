"""Group-relative advantages: how much better a completion did than the others for the same problem.

With G completions, rewards r_i, mean r and sample standard deviation s (unbiased, as in verl and OpenRLHF):

    std            (r_i - r) / (s + 1e-6)        GRPO, arXiv 2402.03300 eq. 4 (outcome supervision)
    no_std          r_i - r                      Dr.GRPO, arXiv 2503.20783
    leave_one_out   G / (G - 1) * (r_i - r)      RLOO, arXiv 2402.14740: the baseline is the mean of the others
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STD_FLOOR = 1e-6
"""Added to the standard deviation, as in verl; a group of equal rewards gets zeros, not a division by zero."""


def group_advantages(rewards: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Advantages of one group. rewards: [completion] float64, NaN where a completion could not be judged.

    The unjudged count in no mean and get NaN back. A group with fewer than two judged completions has no
    baseline: its advantages are 0. kind: std, no_std or leave_one_out; anything else raises `ValueError`.
    """
    if kind not in ("std", "no_std", "leave_one_out"):
        raise ValueError(f"advantage: unknown kind {kind!r}")
    judged = ~np.isnan(rewards)
    known = rewards[judged]
    advantages = np.full(rewards.shape, np.nan)
    count = len(known)
    if count < 2 or known.min() == known.max():  # exact zeros: the mean of equal floats can be off by one rounding
        advantages[judged] = 0.0
        return advantages
    centred = known - known.mean()
    if kind == "std":
        centred = centred / (known.std(ddof=1) + STD_FLOOR)
    elif kind == "leave_one_out":
        centred = centred * count / (count - 1)
    advantages[judged] = centred
    return advantages
