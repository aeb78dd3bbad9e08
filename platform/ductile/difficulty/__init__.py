"""Which problems a step asks: estimators of each problem's pass rate, and selection rules over the estimates."""

from __future__ import annotations

from collections.abc import Callable

from ductile.config import DifficultySettings
from ductile.difficulty.base import Estimator
from ductile.difficulty.beta import BetaEstimator
from ductile.difficulty.selection import Selector, band, uniform

ESTIMATORS: dict[str, Callable[[DifficultySettings], Estimator]] = {"beta": BetaEstimator.make}

SELECTORS: dict[str, Selector] = {"uniform": uniform, "band": band}
