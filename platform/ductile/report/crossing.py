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
    """
    found = []
    for fraction in sorted({row["fraction"] for row in rows if row["rule"] != "all"}, reverse=True):
        for metric, sign in METRICS.items():
            values = {
                (row["rule"], row["size"], row["seed"]): sign * row[metric]
                for row in rows
                if row["fraction"] == fraction and row["rule"] in ("easy", "hard")
            }
            sizes = sorted({size for _, size, _ in values})
            seeds = sorted({seed for _, _, seed in values})
            whole = [s for s in seeds if all((r, n, s) in values for r in ("easy", "hard") for n in sizes)]
            if not whole:
                continue
            curves = np.array([[values["hard", n, s] - values["easy", n, s] for n in sizes] for s in whole])
            at = []
            for n in sizes:
                hard, easy = ({s: values[rule, n, s] for s in whole} for rule in ("hard", "easy"))
                difference = paired_difference(hard, easy)
                assert difference is not None
                at.append({"size": n, "mean": difference.mean, "low": difference.low, "high": difference.high})
            found.append(
                {
                    "fraction": fraction,
                    "metric": metric,
                    "seeds": whole,
                    **crossing(sizes, curves),
                    "hard_minus_easy": at,
                }
            )
    return found
