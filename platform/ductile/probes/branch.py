"""Plasticity: how well the policy still learns something new, on a copy that is thrown away.

Each boundary's weights are trained for the same budget on a domain that the plan does not hold, and the pass rate m(s)
over steps s is compared with the same from the fresh base: same budget, arm, problems, orders and random keys. An arm
is how the copy is trained, `rl` or `sft` (worked solutions), and with which optimizer, `reset` or `carried`. With AUC =
mean of m over the budget,

    auc_ratio  = AUC / AUC_base
    gain_ratio = (AUC - m(0)) / (AUC_base - m_base(0)).

Plasticity as the literature defines it is the gain ratio, but the gain shrinks by construction when m(0) is high and
the end points saturate (gain = const - start), and it is undefined when the base gains nothing. The AUC ratio counts
what was already there as learned. Neither is enough alone, so both are kept, with the end point beside them.

`auc_ratio_low` and `auc_ratio_high` are a 95% percentile bootstrap over repetitions and evaluation problems, the same
ones of the policy and of the base (they are paired). With `probe.branch.seeds` 1 there is nothing to resample but the
problems: the interval then covers the noise of the evaluation alone, not that of the training.

A group whose rewards are all equal has no gradient. At a pass rate p a group of G has one with probability
1 - p^G - (1 - p)^G, about one half at p*(G) = 1 - 2^(-1/G). An RL arm that stays below p* says that nothing was found
to learn from, not that it could not be learned: the supervised arm, which needs no exploration, tells the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import present
from ductile.probes.intervals import percentile_interval

SMALLEST = 0.02
"""Smallest denominator of a ratio: below it, the noise of 64 evaluation problems would be most of the ratio."""

HEALTHY = 0.9
"""AUC ratio from which an arm learns as the fresh base does; one whose whole interval lies below has lost something."""

RESAMPLES = 2000

LEARNS, EXPLORATION_FAILURE, LOST, UNDECIDED = "learns", "exploration failure", "plasticity lost", "undecided"

Arms = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""arm -> `now` and `base` -> for each repetition, what `branch.branch_probe` returned."""


class BranchProbe:
    """`plasticity/*`; measures nothing while `probe.branch.domain` is empty, nor before the branches are done."""

    name = "branch"
    version = 2

    def measure(self, context: ProbeContext) -> ProbeResult:
        if not context.settings.branch.domain:
            return ProbeResult()
        if context.run_branch is None:
            raise ValueError("the branch probe runs at phase boundaries only")
        arms = context.run_branch()
        if arms is None:
            return ProbeResult()
        return plasticity(arms, context.settings.branch.threshold, context.rollout.group_size, context.seed)


def arm_name(mode: str, optimizer: str) -> str:
    """`rl_reset` and so on: the part of a metric's name."""
    return f"{mode}_{optimizer}"


def plasticity(arms: Arms, threshold: float, group_size: int, seed: int) -> ProbeResult:
    """Metrics and tables of all arms, and the verdict where both RL and supervised learning had a fresh optimizer."""
    metrics = _cost(arms)
    curves: list[dict[str, Any]] = []
    for arm, results in arms.items():
        found = arm_metrics(results["now"], results["base"], threshold, seed)
        metrics |= {f"plasticity/{arm}/{name}": value for name, value in found.items()}
        for repetition, result in enumerate(results["now"]):
            rates = pass_rates(_passed([result]))[0]
            curves += [
                {"arm": arm, "seed": repetition, "step": step, "pass_rate": float(rate)}
                for step, rate in zip(result["steps"], rates, strict=True)
            ]
    tables = {"branch": curves}
    if {"rl_reset", "sft_reset"} <= arms.keys():
        rl, sft = (_of_arm(metrics, arm) for arm in ("rl_reset", "sft_reset"))
        peak = float(pass_rates(_passed(arms["rl_reset"]["now"])).mean(axis=0).max())
        half_silent = half_silent_rate(group_size)
        said = verdict(peak < half_silent, rl, sft)
        metrics["plasticity/exploration_failure"] = float(said == EXPLORATION_FAILURE)
        ratios = {f"{arm}_auc_ratio": of.get("auc_ratio") for arm, of in (("rl", rl), ("sft", sft))}
        tables["plasticity_verdict"] = [{"verdict": said, "rl_peak": peak, "half_silent_rate": half_silent, **ratios}]
    return ProbeResult(metrics, tables)


def _cost(arms: Arms) -> dict[str, float]:
    """What the policy's branches cost; at boundary 0 two arms may be one branch, which counts once."""
    unique = {id(result): result for results in arms.values() for result in results["now"]}.values()
    return {
        f"cost/branch/{name}": float(sum(result[name] for result in unique))
        for name in ("seconds", "generated_tokens", "trained_tokens")
    }


def half_silent_rate(group_size: int) -> float:
    """p*(G) = 1 - 2^(-1/G): the pass rate at which half of all groups of G have no success."""
    return float(1 - 2 ** (-1 / group_size))


def verdict(rl_at_zero: bool, rl: Mapping[str, float], sft: Mapping[str, float]) -> str:
    """What the two arms say together.

    rl_at_zero: whether the whole RL curve lies below p*(G).  rl, sft: their auc_ratio, auc_ratio_low, auc_ratio_high,
    as far as they could be measured. Healthy: a ratio of at least `HEALTHY`, or an interval that holds 1. Below: an
    interval that ends under `HEALTHY`, for RL also a curve at zero.

    exploration failure: RL at zero, supervised learning healthy.  plasticity lost: both below.
    learns: RL healthy and above zero, supervised learning not below.  Anything else is undecided.
    """
    if rl_at_zero and _healthy(sft):
        return EXPLORATION_FAILURE
    if (rl_at_zero or _below(rl)) and _below(sft):
        return LOST
    if not rl_at_zero and _healthy(rl) and not _below(sft):
        return LEARNS
    return UNDECIDED


def arm_metrics(
    now: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], threshold: float, seed: int
) -> dict[str, float]:
    """One arm's metrics, means over repetitions; what could not be measured is left out.

    now, base: results of the same repetitions. seed: key of the bootstrap.
    """
    steps = np.array(now[0]["steps"], np.float64)
    passed, passed_base = _passed(now), _passed(base)
    rates, rates_base = (pass_rates(each).mean(axis=0) for each in (passed, passed_base))
    area, area_base = (float(area_under(each, steps)) for each in (rates, rates_base))
    gain, gain_base = area - float(rates[0]), area_base - float(rates_base[0])
    ratio = _ratio(area, area_base)
    low, high = bootstrap_interval(passed, passed_base, steps, seed) if ratio is not None else (None, None)
    silent = [result["silent_share"] for result in now]
    return present(
        {
            "auc": area,
            "start": float(rates[0]),
            "end": float(rates[-1]),
            "gain_auc": gain,
            "steps_to_threshold": steps_to_threshold(rates, steps, threshold),
            "auc_ratio": ratio,
            "auc_ratio_low": low,
            "auc_ratio_high": high,
            "gain_ratio": _ratio(gain, gain_base),
            "end_difference": float(rates[-1] - rates_base[-1]),
            "silent_share": None if None in silent else float(np.mean(silent)),
        }
    )


def area_under(rates: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a curve over the budget, by the trapezoid rule. rates: [..., eval]; steps: [eval]; returns [...]."""
    return np.asarray(np.trapezoid(rates, steps, axis=-1) / (steps[-1] - steps[0]))


def steps_to_threshold(rates: NDArray[np.float64], steps: NDArray[np.float64], threshold: float) -> float | None:
    """The first step at which the curve reaches the threshold, linear between evaluations; None when it never does."""
    reached = np.flatnonzero(rates >= threshold)
    if not len(reached):
        return None
    after = int(reached[0])
    if after == 0:
        return float(steps[0])
    before = after - 1
    share = (threshold - rates[before]) / (rates[after] - rates[before])
    return float(steps[before] + share * (steps[after] - steps[before]))


def pass_rates(passed: NDArray[np.float64], counts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Mean over the problems that were judged. passed: [repetition, eval, problem], NaN where not judged.

    counts: [resample, problem], how often each problem was drawn; without them every problem counts once.
    Returns [repetition, eval], with counts [resample, repetition, eval].
    """
    known = ~np.isnan(passed)
    weights = np.ones((1, passed.shape[-1])) if counts is None else counts
    right = np.einsum("bp,sep->bse", weights, np.where(known, passed, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where a resample has no judged problem
        rates = right / np.einsum("bp,sep->bse", weights, known.astype(np.float64))
    return rates[0] if counts is None else rates


def bootstrap_interval(
    passed: NDArray[np.float64], passed_base: NDArray[np.float64], steps: NDArray[np.float64], seed: int
) -> tuple[float | None, float | None]:
    """95% percentile interval of AUC / AUC_base. Both arrays: [repetition, eval, problem], paired in both.

    (None, None) when a resample has no base AUC to divide by.
    """
    repetitions, _, problems = passed.shape
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed])))
    counts = rng.multinomial(problems, np.full(problems, 1 / problems), size=RESAMPLES).astype(np.float64)
    drawn = rng.integers(repetitions, size=(RESAMPLES, repetitions))
    areas, areas_base = (
        np.take_along_axis(area_under(pass_rates(each, counts), steps), drawn, axis=1).mean(axis=1)
        for each in (passed, passed_base)
    )
    if not (np.isfinite(areas).all() and (areas_base > 0).all()):
        return None, None
    return percentile_interval(areas / areas_base)


def _passed(results: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return np.array([result["passed"] for result in results], np.float64)  # None becomes NaN


def _of_arm(metrics: Mapping[str, float], arm: str) -> dict[str, float]:
    start = f"plasticity/{arm}/"
    return {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}


def _healthy(arm: Mapping[str, float]) -> bool:
    if "auc_ratio" not in arm:
        return False
    holds_one = "auc_ratio_low" in arm and arm["auc_ratio_low"] <= 1 <= arm["auc_ratio_high"]
    return arm["auc_ratio"] >= HEALTHY or holds_one


def _below(arm: Mapping[str, float]) -> bool:
    return arm.get("auc_ratio_high", HEALTHY) < HEALTHY


def _ratio(value: float, base: float) -> float | None:
    return value / base if base >= SMALLEST else None
