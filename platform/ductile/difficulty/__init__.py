"""Which problems a step asks: estimators of pass rates, selection rules, and allocations of completions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ductile.config import DifficultySettings
from ductile.difficulty.base import Allocation, Estimator, Selector
from ductile.difficulty.beta import BetaEstimator
from ductile.difficulty.frozen import FrozenEstimator
from ductile.difficulty.kalman import KalmanEstimator
from ductile.difficulty.last_visit import LastVisitEstimator
from ductile.difficulty.rules import Stateless, band, uniform
from ductile.difficulty.running_mean import running_mean

ESTIMATORS: dict[str, Callable[[DifficultySettings], Estimator]] = {
    "beta": BetaEstimator.make,
    "frozen": FrozenEstimator.make,
    "last": LastVisitEstimator.make,
    "mean": running_mean,
    "kalman": KalmanEstimator.make,
}

SELECTORS: dict[str, Callable[[DifficultySettings], Selector]] = {
    "uniform": partial(Stateless, uniform),
    "band": partial(Stateless, band),
}

ALLOCATIONS: dict[str, Allocation | None] = {"uniform": None}
"""None: every problem has as many completions as any other."""

ALL = "all"
"""Stands in `difficulty.shadows` for every estimator that there is."""


def watching(settings: DifficultySettings) -> dict[str, Estimator]:
    """The estimators of a run by name: the one that selection reads first, then its shadows."""
    names = [*ESTIMATORS] if ALL in settings.shadows else settings.shadows
    return {name: ESTIMATORS[name](settings) for name in dict.fromkeys((settings.estimator, *names))}
