"""Which problems a step asks: estimators of pass rates, selection rules, and allocations of completions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ductile.config import DifficultySettings
from ductile.difficulty.attention import AttentionEstimator
from ductile.difficulty.base import Allocation, Estimator, Selector
from ductile.difficulty.beta import BetaEstimator
from ductile.difficulty.features import FeaturesEstimator
from ductile.difficulty.importance import ImportanceEstimator
from ductile.difficulty.rules import Stateless, band, uniform
from ductile.difficulty.value import ValueEstimator

ESTIMATORS: dict[str, Callable[[DifficultySettings], Estimator]] = {
    "beta": BetaEstimator.make,
    "importance": ImportanceEstimator.make,
    "attention": AttentionEstimator.make,
    "value": ValueEstimator.make,
    "features": FeaturesEstimator.make,
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
