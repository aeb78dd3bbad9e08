"""Candidates and visits that a test writes down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from scipy.stats import chisquare

from ductile.difficulty.base import Candidates, Estimates, Selector, Visits


def candidates(
    means: Sequence[float],
    uncertainty: Sequence[float] | None = None,
    age: Sequence[int] | None = None,
    static: Sequence[float] | None = None,
    progress: float = 0.0,
    rows: Sequence[int] | None = None,
) -> Candidates:
    count = len(means)
    return Candidates(
        rows=np.array(range(count) if rows is None else rows, np.int64),
        estimates=Estimates(
            np.array(means, np.float64),
            np.array([0.1] * count if uncertainty is None else uncertainty, np.float64),
            np.array([0] * count if age is None else age, np.int64),
        ),
        static=np.array([np.nan] * count if static is None else static, np.float64),
        progress=progress,
    )


def ordered(static: Sequence[float], progress: float = 0.0) -> Candidates:
    return candidates([0.5] * len(static), static=static, progress=progress)


def seen(outcomes: Mapping[int, tuple[float, float]]) -> Visits:
    """Row -> (successes, judged completions)."""
    wins, counts = np.array(list(outcomes.values()), np.float64).reshape(-1, 2).T
    return Visits(np.array(list(outcomes), np.int64), wins.copy(), counts.copy())


def rng(seed: int = 0) -> Generator:
    return Generator(Philox(seed))


def copied(selector: Selector) -> dict[str, NDArray]:  # type: ignore[type-arg]
    return {name: array.copy() for name, array in selector.snapshot().items()}


def fits(draw: Callable[[Generator], int], probabilities: Sequence[float], draws: int = 4000) -> bool:
    """Whether the draws have these probabilities: chi-square, wrongly refused by one seed in a thousand."""
    generator, expected = rng(1), np.asarray(probabilities)
    counts = np.bincount([draw(generator) for _ in range(draws)], minlength=len(expected))
    possible = expected > 0
    return counts[~possible].sum() == 0 and chisquare(counts[possible], draws * expected[possible]).pvalue > 1e-3
