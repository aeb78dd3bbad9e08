"""How fast pass rates move under training: the skill of an estimate that is frozen, and traffic through the band.

Both compare two audits of the same problems and take the audits' own noise out, since two audits of a policy that does
not move differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ductile.difficulty.base import Floats
from ductile.difficulty.calibration import rate_variance

HALF = 0.5
LEAST_SPREAD = 0.002
"""Variance of the true rates between problems below which there is no difference to predict: that of 64 problems
with 32 completions each is known to 0.25 / 32 x sqrt(2 / 64) = 0.0014."""


@dataclass(frozen=True)
class Audited:
    """One audit's counts. step: of the phase. successes, counts: [problem] float64, the same problems in each audit."""

    step: int
    successes: Floats
    counts: Floats

    @property
    def rate(self) -> Floats:
        """[problem] the audited rates."""
        return self.successes / self.counts


@dataclass(frozen=True)
class HalfLife:
    """How long an estimate that is frozen stays of use.

    curve: (delta in steps, skill S(delta)), S(0) = 1 first. steps: where S falls to one half, linear between deltas;
    None where it does not within the phase (`why`: "longer than the phase"), or where the problems' rates do not
    differ by more than noise ("no spread").
    """

    curve: tuple[tuple[int, float], ...]
    steps: float | None
    why: str = ""


@dataclass(frozen=True)
class Crossings:
    """Problems that entered or left the band between two audits, of `problems`, and how many by noise alone.

    entered, left: observed. noise_entered, noise_left: expected where no rate moved.
    """

    step: int
    steps: int
    problems: int
    entered: int
    left: int
    noise_entered: float
    noise_left: float


def half_life(audits: Sequence[Audited]) -> HalfLife:
    """The skill of an audit t as a forecast of the audit t + delta, pooled over all pairs of one delta.

        S(delta) = 1 - sum (p(t + delta) - p(t))^2 / sum (p(t + delta) - mean p(t + delta))^2

    with the true rates p: the mean squared error's skill over the current mean (Murphy 1988), 1 for a frozen estimate
    that still holds, 0 for one that says no more of a problem than the pool's mean. Unbiased estimates of both sums
    stand in: squared differences of audited rates, minus r (1 - r) / (n - 1) for each rate. audits: by step, of two
    problems or more.
    """
    errors: dict[int, list[float]] = {}
    spreads: dict[int, list[float]] = {}
    for earlier, later in combinations(audits, 2):
        noise = rate_variance(later.rate, later.counts)
        error = (later.rate - earlier.rate) ** 2 - noise - rate_variance(earlier.rate, earlier.counts)
        errors.setdefault(later.step - earlier.step, []).append(float(error.mean()))
        spread = np.var(later.rate, ddof=1) - noise.mean()
        spreads.setdefault(later.step - earlier.step, []).append(float(spread))
    known = sorted(delta for delta in errors if fmean(spreads[delta]) >= LEAST_SPREAD)
    if not known:
        return HalfLife(((0, 1.0),), None, "no spread")
    curve = ((0, 1.0), *((delta, 1 - fmean(errors[delta]) / fmean(spreads[delta])) for delta in known))
    for (before, above), (after, below) in pairwise(curve):
        if below <= HALF:
            return HalfLife(curve, before + (after - before) * (above - HALF) / (above - below))
    return HalfLife(curve, None, "longer than the phase")


def crossings(earlier: Audited, later: Audited, low: float, high: float) -> Crossings:
    """Problems whose audited rate entered or left [low, high], and those expected to by noise alone.

    Of a problem whose rate did not move, the successes of both audits together say all there is to know about it: given
    them, those of the first are hypergeometric, whatever the rate. The expectation is therefore exact, with no rate to
    guess (Fisher's exact test conditions in the same way). Of a rate that did move it is too large, so that what is
    observed beyond it is a lower bound of what truly crossed.
    """
    before, after = (in_band(audit.rate, low, high) for audit in (earlier, later))
    s1, n1, s2, n2 = (x[:, None] for x in (earlier.successes, earlier.counts, later.successes, later.counts))
    first = np.arange(n1.max() + 1)[None, :]  # successes of the first audit that the sum allows
    chance = stats.hypergeom.pmf(first, n1 + n2, s1 + s2, n1)
    inside, then = in_band(first / n1, low, high), in_band((s1 + s2 - first) / n2, low, high)
    return Crossings(
        step=later.step,
        steps=later.step - earlier.step,
        problems=len(before),
        entered=int((~before & after).sum()),
        left=int((before & ~after).sum()),
        noise_entered=float(chance[~inside & then].sum()),
        noise_left=float(chance[inside & ~then].sum()),
    )


def in_band(rate: Floats, low: float, high: float) -> NDArray[np.bool_]:
    """Whether each rate lies in [low, high], ratios of whole numbers compared with room for rounding."""
    return (rate >= low - 1e-9) & (rate <= high + 1e-9)
