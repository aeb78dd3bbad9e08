"""Pruning by a static score: which part of a pool stays (Sorscher et al. 2022, arXiv 2206.14486).

Their theory and experiments: keep the hard examples when data are plenty, the easy ones when they are scarce. `offset`
is the offset subset of Paul et al. 2021 (arXiv 2107.07075): without the very hardest, which under label noise are the
wrong ones, the hardest of the rest. `high` keeps the highest values of a score that is no hardness, whatever they mean.
`random` is what a score has to beat (Ayed and Hayou, arXiv 2302.06960).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

RULES = ("all", "easy", "hard", "middle", "offset", "high", "random")

UNREAD = ("all", "random")
"""Rules that look at no score."""

HARDNESS = ("easy", "hard", "middle", "offset")
"""Rules that mean something only where a high score is a hard problem."""


def keep(scores: NDArray[np.float64], rule: str, fraction: float, offset: float, rng: Generator) -> NDArray[np.int64]:
    """Positions of the problems that stay, [kept] int64, rising.

    scores:   [problem] float64, high is hard but for the rule `high`; read by every rule but `all` and `random`
    rule:     one of `RULES`
    fraction: share that stays, rounded to a whole number of problems, at least one; `all` does not read it
    offset:   rule `offset`: share of the very hardest that is left out first, rounded; then the hardest of the rest
    Problems of equal score stand in random order. Raises `ValueError` for an unknown rule and for scores that are NaN.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; allowed: {', '.join(RULES)}")
    total = len(scores)
    if rule == "all" or not total:
        return np.arange(total)
    if rule != "random" and np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {total} scores are not known")
    count = min(total, max(1, _round(fraction * total)))
    shuffled = rng.permutation(total)
    rising = shuffled if rule == "random" else shuffled[np.argsort(scores[shuffled], kind="stable")]
    if rule in ("easy", "random"):
        kept = rising[:count]
    elif rule == "middle":
        start = (total - count) // 2
        kept = rising[start : start + count]
    else:
        end = max(1, total - (_round(offset * total) if rule == "offset" else 0))
        kept = rising[max(0, end - count) : end]
    return np.sort(kept)


def _round(value: float) -> int:
    """To the nearest whole number, halves up."""
    return int(np.floor(value + 0.5))
