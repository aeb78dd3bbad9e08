"""Which problems a step asks: estimators of pass rates, selection rules, and allocations of completions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ductile.config import DifficultySettings
from ductile.difficulty.aimed import dots, easy, hard, peaked, target, thompson, uncertain
from ductile.difficulty.attention import AttentionEstimator
from ductile.difficulty.base import Allocation, Estimator, Selector
from ductile.difficulty.beta import BetaEstimator
from ductile.difficulty.cdas import Cdas
from ductile.difficulty.features import FeaturesEstimator
from ductile.difficulty.frozen import FrozenEstimator
from ductile.difficulty.greso import Greso
from ductile.difficulty.importance import ImportanceEstimator
from ductile.difficulty.kalman import KalmanEstimator
from ductile.difficulty.knapsack import knapsack
from ductile.difficulty.last_visit import LastVisitEstimator
from ductile.difficulty.moving_target import MovingTarget
from ductile.difficulty.ordered import falling, rising
from ductile.difficulty.rules import Stateless, ability, band, uniform
from ductile.difficulty.running_mean import running_mean
from ductile.difficulty.value import ValueEstimator
from ductile.difficulty.variance import Variance

ESTIMATORS: dict[str, Callable[[DifficultySettings], Estimator]] = {
    "frozen": FrozenEstimator.make,
    "last": LastVisitEstimator.make,
    "mean": running_mean,
    "beta": BetaEstimator.make,
    "kalman": KalmanEstimator.make,
    "importance": ImportanceEstimator.make,
    "attention": AttentionEstimator.make,
    "value": ValueEstimator.make,
    "features": FeaturesEstimator.make,
}

SELECTORS: dict[str, Callable[[DifficultySettings], Selector]] = {
    "uniform": partial(Stateless, uniform),
    "band": partial(Stateless, band),
    "ability": partial(Stateless, ability),
    "target": partial(Stateless, target),
    "thompson": partial(Stateless, thompson),
    "dots": partial(Stateless, dots),
    "peaked": partial(Stateless, peaked),
    "easy": partial(Stateless, easy),
    "hard": partial(Stateless, hard),
    "uncertain": partial(Stateless, uncertain),
    "rising": rising,
    "falling": falling,
    "greso": Greso,
    "moving_target": MovingTarget,
    "variance": Variance,
    "cdas": Cdas,
}

STATIC = ("rising", "falling", "moving_target")
"""Selection rules that read the static difficulty."""

ALLOCATIONS: dict[str, Allocation | None] = {"uniform": None, "knapsack": knapsack}
"""None: every problem has as many completions as any other."""


ALL = "all"
"""Stands in `difficulty.shadows` for every estimator that there is."""


def watching(settings: DifficultySettings) -> dict[str, Estimator]:
    """The estimators of a run by name: the one that selection reads first, then its shadows."""
    names = [*ESTIMATORS] if ALL in settings.shadows else settings.shadows
    return {name: ESTIMATORS[name](settings) for name in dict.fromkeys((settings.estimator, *names))}


def needs(settings: DifficultySettings) -> frozenset[str]:
    """What the estimators of a run need beside outcomes (`Estimator.needs`)."""
    return frozenset[str]().union(*(estimator.needs for estimator in watching(settings).values()))
