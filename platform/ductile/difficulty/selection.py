"""Selection rules: which problems of the pool a step asks.

A rule is a pure function of the estimates, how many problems are wanted, and a random generator. It returns
positions in the pool, [selected] int64, without repeats; `select` repeats only what a pool that is too small forces.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty.base import Estimates

Selector = Callable[[Estimates, int, DifficultySettings, Generator], NDArray[np.int64]]


def select(
    rule: Selector, estimates: Estimates, count: int, settings: DifficultySettings, seed: int, step: int
) -> NDArray[np.int64]:
    """`count` positions by `rule`; the same arguments give the same positions.

    A pool smaller than `count` is asked whole as often as it fits, and the rule chooses the remainder.
    """
    rng = Generator(Philox(SeedSequence([seed, step])))
    pool = len(estimates.mean)
    if not pool:
        raise ValueError("the pool is empty: start_phase was given no problems")
    whole, rest = divmod(count, pool)
    chosen = [rng.permutation(pool) for _ in range(whole)]
    if rest:
        chosen.append(rule(estimates, rest, settings, rng))
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


def uniform(estimates: Estimates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """Every problem as likely as any other."""
    return rng.permutation(len(estimates.mean))[:count]


def band(estimates: Estimates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """Problems whose estimated pass rate lies in `settings.band`, drawn evenly.

    `settings.explore` of the step goes to problems outside the band, so that an estimate that has become wrong is
    found out: half of it to the least certain, half to the oldest. Age has its own half because the belief in a
    problem that always fails is narrow: by uncertainty alone it would never be asked again. When the band holds
    fewer than needed, all of them are taken and the nearest to the band fill up.
    """
    low, high = settings.band
    order = rng.permutation(len(estimates.mean))  # ties below are broken by this order
    distance = np.maximum(np.maximum(low - estimates.mean, estimates.mean - high), 0)[order]
    inside, outside = order[distance == 0], order[distance > 0]
    explored = _explore(estimates, outside, min(_round(settings.explore * count, rng), count), rng)
    accepted = inside[: count - len(explored)]
    chosen = np.concatenate([accepted, explored])
    nearest = order[np.argsort(distance, kind="stable")]
    fill = nearest[~np.isin(nearest, chosen)][: count - len(chosen)]
    return np.concatenate([chosen, fill])


def _explore(estimates: Estimates, outside: NDArray[np.int64], count: int, rng: Generator) -> NDArray[np.int64]:
    uncertain = outside[np.argsort(-estimates.uncertainty[outside], kind="stable")][: _round(count / 2, rng)]
    rest = outside[~np.isin(outside, uncertain)]
    oldest = rest[np.argsort(-estimates.age[rest], kind="stable")][: count - len(uncertain)]
    return np.concatenate([uncertain, oldest])


def _round(expected: float, rng: Generator) -> int:
    """A whole number with this expectation: a tenth of a step of four problems is one problem in 2 of 5 steps."""
    return int(np.floor(expected + rng.random()))
