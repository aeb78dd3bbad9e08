"""Where keeping the hard examples overtakes keeping the easy ones, over data sizes, with an interval over seeds.

With d(N) the mean over seeds of (hard - easy) at data size N, higher is better, the crossing is the size at which d
goes from below to above 0 for the first time, linear in log2 N between the two sizes around it. Sizes at which d is
exactly 0 say nothing: there both are at their floor or ceiling. Where d never goes up through 0, the crossing lies
below the smallest size (0) when hard is better first, and above the largest (infinity) when easy is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.report.statistics import RESAMPLES, paired_difference

METRICS = {"passed": 1.0, "loss": -1.0}
"""What is compared, and whether more of it is better."""


def crossing_size(sizes: Sequence[int], differences: NDArray[np.float64]) -> float:
    """The crossing of one curve: between two sizes, 0 below them all, infinity above; NaN where nothing differs.

    sizes: rising; differences: [size] hard minus easy, higher is better.
    """
    telling = [(np.log2(size), d) for size, d in zip(sizes, differences, strict=True) if d != 0]
    if not telling:
        return float("nan")
    for (before, easier), (after, harder) in pairwise(telling):
        if easier < 0 < harder:
            return float(2 ** (before + (after - before) * -easier / (harder - easier)))
    return 0.0 if telling[0][1] > 0 else float("inf")


def crossing(sizes: Sequence[int], differences: NDArray[np.float64], seed: int = 0) -> dict[str, float | None]:
    """The crossing of the mean curve and its 95% percentile bootstrap interval over seeds.

    differences: [seed, size]. Returns size, low and high, as in `crossing_size` but None for infinity or not known, and
    crossed: the share of resamples that cross between two of the sizes.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = rng.integers(0, len(differences), (RESAMPLES, len(differences)))
    sampled = np.array([crossing_size(sizes, differences[some].mean(axis=0)) for some in drawn])
    sampled = np.sort(sampled[~np.isnan(sampled)])
    found = {"size": crossing_size(sizes, differences.mean(axis=0)), "low": float("nan"), "high": float("nan")}
    if len(sampled) and len(differences) > 1:
        # Order statistics: interpolating between a size and infinity would be none of both.
        found["low"], found["high"] = (
            sampled[int(0.025 * len(sampled))],
            sampled[int(np.ceil(0.975 * len(sampled))) - 1],
        )
    inside = float(((sampled > 0) & np.isfinite(sampled)).mean()) if len(sampled) else 0.0
    return {**{name: float(value) if np.isfinite(value) else None for name, value in found.items()}, "crossed": inside}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each kept share and metric: the crossing, and hard minus easy at each size with its paired t interval.

    rows: of trainings, with size, fraction, rule, seed and the metrics. Only seeds that have every size count.
    by_seed: the crossing of each seed's own curve, None where it lies above the largest size or nothing differs.
    """
    found = []
    for fraction in sorted({row["fraction"] for row in rows if row["rule"] != "all"}, reverse=True):
        for metric, sign in METRICS.items():
            hard, easy = (_values(rows, fraction, rule, metric, sign) for rule in ("hard", "easy"))
            sizes = sorted({size for size, _ in hard.keys() | easy.keys()})
            seeds = sorted({seed for _, seed in hard.keys() | easy.keys()})
            whole = [seed for seed in seeds if all((n, seed) in each for n in sizes for each in (hard, easy))]
            if not whole:
                continue
            curves = np.array([[hard[n, seed] - easy[n, seed] for n in sizes] for seed in whole])
            own = [crossing_size(sizes, curve) for curve in curves]
            found.append(
                {
                    "fraction": fraction,
                    "metric": metric,
                    "seeds": whole,
                    "by_seed": [size if np.isfinite(size) else None for size in own],
                    **crossing(sizes, curves),
                    "hard_minus_easy": _differences(hard, easy, sizes, whole),
                }
            )
    return found


def against_random(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each rule minus `random` at each kept share, size and metric, higher is better, with its paired t interval."""
    found = []
    for fraction in sorted({row["fraction"] for row in rows if row["rule"] != "all"}, reverse=True):
        for rule in sorted({row["rule"] for row in rows} - {"all", "random"}):
            for metric, sign in METRICS.items():
                values, random = (_values(rows, fraction, each, metric, sign) for each in (rule, "random"))
                both = values.keys() & random.keys()
                sizes, seeds = sorted({size for size, _ in both}), sorted({seed for _, seed in both})
                found += [
                    {"fraction": fraction, "rule": rule, "metric": metric, **each}
                    for each in _differences(values, random, sizes, seeds)
                ]
    return found


def _values(
    rows: Sequence[Mapping[str, Any]], fraction: float, rule: str, metric: str, sign: float
) -> dict[tuple[int, int], float]:
    """(size, seed) -> the metric, higher is better."""
    return {
        (row["size"], row["seed"]): sign * row[metric]
        for row in rows
        if (row["fraction"], row["rule"]) == (fraction, rule)
    }


def _differences(
    values: Mapping[tuple[int, int], float],
    reference: Mapping[tuple[int, int], float],
    sizes: Sequence[int],
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """values - reference at each size, over the seeds that both have there."""
    found = []
    for size in sizes:
        mine, theirs = ({s: each[size, s] for s in seeds if (size, s) in each} for each in (values, reference))
        difference = paired_difference(mine, theirs)
        if difference is not None:
            ends = {"mean": difference.mean, "low": difference.low, "high": difference.high}
            found.append({"size": size, **ends, "seeds": difference.n})
    return found
