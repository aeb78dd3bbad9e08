"""Where keeping the hard examples overtakes keeping the easy ones, over data sizes, with what the seeds say of it.

With d(N) the mean over seeds of (hard - easy) at data size N, higher is better, a size *tells* where the paired 95% t
interval of d leaves 0 out (with one seed: where d is not 0). At the others the two differ by no more than noise: small
sizes lie at the floor, large ones at the ceiling, where signs are drawn by lot. (Of the sizes at which nothing differs
one in twenty tells all the same.) The kind of a curve is by what tells:

    crosses   easy is better up to some size and hard from a later one
    hard      hard is better wherever the sizes tell
    easy      easy is better wherever they tell
    mixed     both, in another order
    nothing   no size tells

Where it crosses, the crossing lies between the last size at which easy is better and the first at which hard is, and
there where the signs contradict least, linear in log2 N between the two sizes around it: see `least_contradicted`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.report.statistics import estimate, paired_difference

METRICS = {"passed": 1.0, "loss": -1.0}
"""What is compared, and whether more of it is better."""


def kind_of(signs: Sequence[int]) -> str:
    """Of a curve that is better for easy (-1), for hard (1) or does not tell (0) at each size, by size."""
    telling = [sign for sign in signs if sign]
    if not telling:
        return "nothing"
    if len(set(telling)) == 1:
        return "hard" if telling[0] > 0 else "easy"
    return "crosses" if telling == sorted(telling) else "mixed"


def least_contradicted(sizes: Sequence[int], differences: NDArray[np.float64]) -> tuple[str, float | None]:
    """How one curve splits into easy before and hard after: (crosses, the size), or (hard | easy | nothing, None).

    The split is where the sum of the differences before it is least, which is where what speaks against it, hard that
    is better before and easy after, weighs least. The first or the last change of sign would be drawn by noise: the
    first at the floor, the last at the ceiling. Of equal sums one between two sizes is preferred, and the later one;
    sizes at which d is exactly 0 say nothing. sizes: rising; differences: [size] hard minus easy, higher is better.
    """
    told = [(np.log2(size), d) for size, d in zip(sizes, differences, strict=True) if d != 0]
    if not told:
        return "nothing", None
    sums = np.cumsum([0.0, *(d for _, d in told)])
    splits = [i for i, total in enumerate(sums) if total <= sums.min() + 1e-12]
    split = max((i for i in splits if 0 < i < len(told)), default=splits[-1])
    if not 0 < split < len(told):
        return ("easy" if split else "hard"), None
    (before, easier), (after, harder) = told[split - 1], told[split]
    return "crosses", float(2 ** (before + (after - before) * -easier / (harder - easier)))


def crossing(sizes: Sequence[int], differences: NDArray[np.float64], seeds: Sequence[int]) -> dict[str, Any]:
    """What the seeds say of one kept share and metric. differences: [seed, size].

    kind:    of the mean curve
    size:    of its crossing; None for every other kind
    by_seed: seed, kind and size of each seed's own curve by `least_contradicted`, without regard to noise
    low, high: ends of the 95% t interval of the mean of log2 of the seeds' own crossings, where all seeds cross and
        there are at least two. It is about their geometric mean, which is near `size` and not the same. None otherwise:
        then the seeds' own are all there is, and how far they spread. (A bootstrap over five seeds is too narrow.)
    """
    telling = [_sign(differences[:, i]) for i in range(len(sizes))]
    kind, size = kind_of(telling), None
    if kind == "crosses":
        start, end = max(i for i, s in enumerate(telling) if s < 0), min(i for i, s in enumerate(telling) if s > 0)
        _, size = least_contradicted(sizes[start : end + 1], differences.mean(axis=0)[start : end + 1])
    own = [least_contradicted(sizes, curve) for curve in differences]
    low = high = None
    if all(each == "crosses" for each, _ in own):
        found = estimate([float(np.log2(each)) for _, each in own if each is not None])
        if found is not None and found.low is not None and found.high is not None:
            low, high = 2**found.low, 2**found.high
    by_seed = [{"seed": seed, "kind": each, "size": at} for seed, (each, at) in zip(seeds, own, strict=True)]
    return {"kind": kind, "size": size, "low": low, "high": high, "by_seed": by_seed}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each kept share and metric: the crossing, and hard minus easy at each size with its paired t interval.

    rows: of trainings, with size, fraction, rule, seed and the metrics. Only seeds that have every size count.
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
            found.append(
                {
                    "fraction": fraction,
                    "metric": metric,
                    "seeds": whole,
                    **crossing(sizes, curves, whole),
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


def _sign(differences: NDArray[np.float64]) -> int:
    """Which is better at one size: 1 hard, -1 easy, 0 where that does not tell. differences: [seed]."""
    found = estimate([float(d) for d in differences])
    assert found is not None
    low, high = (found.mean, found.mean) if found.low is None or found.high is None else (found.low, found.high)
    return 1 if low > 0 else -1 if high < 0 else 0


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
