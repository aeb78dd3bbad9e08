"""Selection rules that remember nothing, pure functions of the candidates: all of them, and bands of pass rates.

Each returns positions among the candidates, [selected] int64, without repeats. Those that go by an order or by weights
are in `aimed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty.base import Arrays, Candidates, Estimates, Visits

Rule = Callable[[Candidates, int, DifficultySettings, Generator], NDArray[np.int64]]


@dataclass(frozen=True)
class Stateless:
    """A selector that is a rule alone."""

    rule: Rule
    settings: DifficultySettings

    def start_phase(self) -> None:
        """It remembers nothing."""

    def grow(self, count: int) -> None:
        """It remembers nothing."""

    def select(self, candidates: Candidates, count: int, rng: Generator) -> NDArray[np.int64]:
        """What the rule chooses."""
        return self.rule(candidates, count, self.settings, rng)

    def observe(self, visits: Visits) -> dict[str, float]:
        """It learns nothing."""
        return {}

    def snapshot(self) -> Arrays:
        """Nothing."""
        return {}

    def restore(self, snapshot: Arrays) -> None:
        """It remembers nothing."""


def uniform(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """Every problem as likely as any other."""
    return rng.permutation(len(candidates.rows))[:count]


def band(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """Problems whose estimated pass rate lies in `settings.band`, drawn evenly (see `within`)."""
    return within(candidates.estimates, settings.band[0], settings.band[1], count, settings.explore, rng)


def ability(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """The same with `settings.quantiles` of the candidates' estimates as the band.

    A band of fixed pass rates runs empty when the model outgrows the pool or the pool is far too hard; this one stays
    at the same part of the pool as the model knows it, whatever its ability is.
    """
    low, high = np.quantile(candidates.estimates.mean, settings.quantiles)
    return within(candidates.estimates, float(low), float(high), count, settings.explore, rng)


def within(
    estimates: Estimates, low: float, high: float, count: int, explore: float, rng: Generator
) -> NDArray[np.int64]:
    """Problems whose estimated pass rate lies in [low, high], drawn evenly.

    The share `explore` of the step goes to problems outside the band, so that an estimate that has become wrong is
    found out: half of it to the least certain, half to the oldest. Age has its own half because the belief in a
    problem that always fails is narrow: by uncertainty alone it would never be asked again. When the band holds
    fewer than needed, all of them are taken and the nearest to the band fill up.
    """
    order = rng.permutation(len(estimates.mean))  # ties below are broken by this order
    distance = np.maximum(np.maximum(low - estimates.mean, estimates.mean - high), 0)[order]
    inside, outside = order[distance == 0], order[distance > 0]
    explored = uncertain_or_old(estimates, outside, min(_round(explore * count, rng), count), rng)
    accepted = inside[: count - len(explored)]
    chosen = np.concatenate([accepted, explored])
    nearest = order[np.argsort(distance, kind="stable")]
    fill = nearest[~np.isin(nearest, chosen)][: count - len(chosen)]
    return np.concatenate([chosen, fill])


def uncertain_or_old(estimates: Estimates, among: NDArray[np.int64], count: int, rng: Generator) -> NDArray[np.int64]:
    """`count` of the positions `among`: half of them those of the least certain estimates, half those of the oldest."""
    uncertain = among[np.argsort(-estimates.uncertainty[among], kind="stable")][: _round(count / 2, rng)]
    rest = among[~np.isin(among, uncertain)]
    oldest = rest[np.argsort(-estimates.age[rest], kind="stable")][: count - len(uncertain)]
    return np.concatenate([uncertain, oldest])


def _round(expected: float, rng: Generator) -> int:
    """A whole number with this expectation: a tenth of a step of four problems is one problem in 2 of 5 steps."""
    return int(np.floor(expected + rng.random()))
