"""Which problems a step asks: estimators of pass rates, selection rules, and allocations of completions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ductile.config import DifficultySettings
from ductile.difficulty.base import Allocation, Estimator, Selector
from ductile.difficulty.beta import BetaEstimator
from ductile.difficulty.rules import Stateless, band, uniform

ESTIMATORS: dict[str, Callable[[DifficultySettings], Estimator]] = {"beta": BetaEstimator.make}

SELECTORS: dict[str, Callable[[DifficultySettings], Selector]] = {
    "uniform": partial(Stateless, uniform),
    "band": partial(Stateless, band),
}

ALLOCATIONS: dict[str, Allocation | None] = {"uniform": None}
"""None: every problem has as many completions as any other."""


def needs(settings: DifficultySettings) -> frozenset[str]:
    """What the estimators of a run need beside outcomes (`Estimator.needs`)."""
    return frozenset[str]().union(*(estimator.needs for estimator in watching(settings).values()))


ALL = "all"
"""Stands in `difficulty.shadows` for every estimator that there is."""


def watching(settings: DifficultySettings) -> dict[str, Estimator]:
    """The estimators of a run by name: the one that selection reads first, then its shadows."""
    names = [*ESTIMATORS] if ALL in settings.shadows else settings.shadows
    return {name: ESTIMATORS[name](settings) for name in dict.fromkeys((settings.estimator, *names))}
