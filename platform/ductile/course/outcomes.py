"""What came of the problems of a step, counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ductile.problem import SUCCESS, JudgedGroup, Outcomes, by_problem, pooled_rewards


def successes(judged: Sequence[JudgedGroup]) -> dict[str, tuple[int, int]]:
    """Problem id -> (successes, judged completions); a reward above one half is a success."""
    counts = {}
    for groups in by_problem(judged):
        rewards = pooled_rewards(groups)
        known = rewards[~np.isnan(rewards)]
        counts[groups[0].group.problem.id] = (int((known > SUCCESS).sum()), len(known))
    return counts


def pass_rate(outcomes: Outcomes) -> float | None:
    """Successes over judged completions of all the problems; None when nothing could be judged."""
    judged = sum(count for _, count in outcomes.values())
    return sum(wins for wins, _ in outcomes.values()) / judged if judged else None
