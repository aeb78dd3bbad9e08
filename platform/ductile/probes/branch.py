"""Plasticity: how well the policy still learns something new, by RL on a copy that is thrown away.

Each boundary's weights are trained for the same budget on a domain that the plan does not hold, and the pass rate m(s)
over steps s is compared with the same from the fresh base (boundary 0). With AUC = mean of m over the budget,

    auc_ratio  = AUC / AUC_base
    gain_ratio = (AUC - m(0)) / (AUC_base - m_base(0)).

Neither is enough alone: the gain shrinks by construction when m(0) is high, so the endpoint is reported too. A ratio
whose denominator is below `SMALLEST` is left out. A policy whose groups are all silent (every reward equal) has no
gradient to learn from: `branch_silent_share` tells that failure to explore from a failure to learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ductile.ports import PolicyRef
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import honest, outcomes, present
from ductile.problem import Problem

SMALLEST = 0.02
"""Smallest denominator of a ratio: below it, the noise of 64 evaluation problems would be most of the ratio."""


class BranchProbe:
    """`plasticity/*`; measures nothing while `probe.branch.domain` is empty."""

    name = "branch"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        if not context.settings.branch.domain:
            return ProbeResult()
        if context.run_branch is None:
            raise ValueError("the branch probe runs at phase boundaries only")
        problems = _problems(context)
        sampling = context.sampling(context.rollout.top_p, "probe/branch")

        def evaluate(policy: PolicyRef, step: int) -> float:
            judged = context.judge.judge(context.pool.generate(policy, problems, sampling))
            passed = outcomes(judged).passed
            if not len(passed):
                raise RuntimeError(f"branch probe, step {step}: none of the completions could be judged")
            return float(passed.mean())

        branch = context.run_branch(evaluate)
        metrics = curve_metrics(branch["steps"], branch["pass_rates"])
        fresh = context.history[0].metrics if context.history else metrics
        metrics |= ratios(metrics, fresh)
        metrics["plasticity/branch_silent_share"] = float(branch["silent_share"])
        curve = [
            {"step": step, "pass_rate": rate} for step, rate in zip(branch["steps"], branch["pass_rates"], strict=True)
        ]
        return ProbeResult(metrics, {"branch": curve})


def curve_metrics(steps: Sequence[float], rates: Sequence[float]) -> dict[str, float]:
    """AUC by the trapezoid rule over the budget, start, end and AUC gained over the start. Both: [eval]."""
    auc = float(np.trapezoid(rates, steps) / (steps[-1] - steps[0]))
    return {
        "plasticity/branch_auc": auc,
        "plasticity/branch_start": float(rates[0]),
        "plasticity/branch_end": float(rates[-1]),
        "plasticity/branch_gain_auc": auc - float(rates[0]),
    }


def ratios(metrics: Mapping[str, float], fresh: Mapping[str, float]) -> dict[str, float]:
    """AUC and AUC gain against those of the fresh base, where those are large enough to divide by."""
    pairs = {
        "plasticity/branch_auc_ratio": "plasticity/branch_auc",
        "plasticity/branch_gain_ratio": "plasticity/branch_gain_auc",
    }
    return present({name: _ratio(metrics[of], fresh.get(of)) for name, of in pairs.items()})


def _ratio(value: float, fresh: float | None) -> float | None:
    return None if fresh is None or not fresh >= SMALLEST else value / fresh


def _problems(context: ProbeContext) -> list[Problem]:
    """The evaluation problems of the branch's domain, each level as often, judged without noise or leniency."""
    branch = context.settings.branch
    domain = context.resolve(honest(branch.domain), "probe.branch.domain")
    share, rest = divmod(branch.problems, len(branch.levels))
    counts = [share + (position < rest) for position in range(len(branch.levels))]
    return [
        problem
        for level, count in zip(branch.levels, counts, strict=True)
        if count
        for problem in domain.problems(level, "eval", count, context.seed)
    ]
