"""How fast pass rates move under training: the skill of an estimate that is frozen, and traffic through the band.

Both compare two audits of the same problems. Two audits of a policy that does not move differ too: the skill takes that
out, and beside the traffic stands what noise alone makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean
from typing import ClassVar

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

from ductile.difficulty.base import Floats
from ductile.difficulty.calibration import rate_variance

HALF = 0.5
LEAST_SPREAD = 0.002
"""Variance of the true rates between problems below which there is nothing to predict, however small the noise."""
RESOLVED = 4.0
"""Standard errors that the variance of the true rates must be at least of the squared difference of two audits of rates
that stand still. The half-life is where that difference is half of the variance: two of them away from 0."""


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

    curve: (delta in steps, skill S(delta)), S(0) = 1 first, of the deltas where problems differ enough to tell.
    steps: where S falls to one half, linear between deltas. None if it is still above at the longest delta of the
    phase (`why`: LONGER; it is at least that delta), or if the problems' rates differ too little, in all audits or in
    the later ones, to tell (NO_SPREAD).
    """

    LONGER: ClassVar[str] = "longer than the phase"
    NO_SPREAD: ClassVar[str] = "no spread"

    curve: tuple[tuple[int, float], ...]
    steps: float | None
    why: str = ""

    @property
    def censored(self) -> bool:
        """Whether the half-life is longer than any two audits are apart, which is infinity to a median."""
        return self.why == self.LONGER


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
    that still holds, 0 for one that errs as much as the pool's current mean said of every problem. The half-life is
    where it is 1/2: the frozen estimate's squared error is half of the variance between problems. A shift of all rates
    alike is error too, though it leaves the problems' order and differences as they were; S can fall below 0.

    Unbiased estimates of both sums stand in: squared differences of audited rates, minus r (1 - r) / (n - 1) for each
    rate. A delta tells where the variance is `RESOLVED` standard errors of the first sum, if no rate had moved, and
    `LEAST_SPREAD` at least; else noise would often find a half-life of rates that stand still. audits: by step, of two
    problems or more.
    """
    sums: dict[int, list[tuple[float, float, float]]] = {}
    for earlier, later in combinations(audits, 2):
        before, after = (rate_variance(audit.rate, audit.counts) for audit in (earlier, later))
        error = float(((later.rate - earlier.rate) ** 2 - after - before).mean())
        spread = float(np.var(later.rate, ddof=1) - after.mean())
        # the square of a normal difference of variance v has variance 2 v^2
        noise = float(np.sqrt(2 * ((before + after) ** 2).sum()) / len(after))
        sums.setdefault(later.step - earlier.step, []).append((error, spread, noise))
    means = {delta: tuple(map(fmean, zip(*each, strict=True))) for delta, each in sorted(sums.items())}
    telling = {
        delta: 1 - error / spread
        for delta, (error, spread, noise) in means.items()
        if spread >= max(LEAST_SPREAD, RESOLVED * noise)
    }
    curve = ((0, 1.0), *telling.items())
    for (start, above), (end, below) in pairwise(curve):
        if below <= HALF:
            return HalfLife(curve, start + (end - start) * (above - HALF) / (above - below))
    told = bool(means) and max(means) in telling
    return HalfLife(curve, None, HalfLife.LONGER if told else HalfLife.NO_SPREAD)


def crossings(earlier: Audited, later: Audited, low: float, high: float) -> Crossings:
    """Problems whose audited rate entered or left [low, high], and those expected to by noise alone.

    Of a problem whose rate did not move, the successes of both audits together say all there is to know about it: given
    them, those of the first are hypergeometric, whatever the rate. The expectation is therefore exact, with no rate to
    guess (Fisher's exact test conditions in the same way). It is that of a pool that stands still, and no part of what
    a moving pool shows: observed minus expected is neither the number that truly crossed nor a bound of it, since a
    rate that moved far from the edge crosses without help of noise, and one that moved near to it with.
    """
    before, after = (in_band(audit.rate, low, high) for audit in (earlier, later))
    s1, n1, s2, n2 = (x[:, None] for x in (earlier.successes, earlier.counts, later.successes, later.counts))
    first = np.arange(n1.max() + 1)[None, :]  # successes of the first audit that the sum allows
    chance = scipy.stats.hypergeom.pmf(first, n1 + n2, s1 + s2, n1)
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
