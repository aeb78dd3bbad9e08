"""What the same weights do at other values of alpha: a composed policy swept without training anything anew.

Proxy-tuning's alpha (arXiv 2401.08565, section 6.1) trades the base for the expert; the self-proxy's goes from the base
(0) to plain RL (1). Alpha 0 is the base itself. Of the kept experts of a proxy with one for each domain, only the
current one is looked at. Nothing is measured of policies that have no alpha.
"""

from __future__ import annotations

from itertools import chain

from ductile.ports import PolicyRef
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import Cell, cells, interleaved, macro_mean, outcomes, present


class AlphasProbe:
    """`alphas/*`, at each of `probe.alphas`; the problems and random keys are those of `retention`."""

    name = "alphas"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        if context.at_alpha is None:
            return ProbeResult()
        rows = [_row(context, alpha) for alpha in context.settings.alphas]
        metrics: dict[str, float | None] = {
            f"alphas/{column}/{row['alpha']:g}": row[column]
            for row in rows
            for column in ("prior", "new", "kl_reverse_prior")
        }
        return ProbeResult(present(metrics), {"alphas": rows})


def _row(context: ProbeContext, alpha: float) -> dict[str, float | None]:
    assert context.at_alpha is not None
    policy = PolicyRef(context.at_alpha(alpha), context.policy.weights, context.policy.version)
    prior, new = cells(context, "prior"), cells(context, "new")
    rates = _pass_rates(context, policy, [*prior, *new])
    row = {"alpha": alpha, "prior": macro_mean(rates[: len(prior)]), "new": macro_mean(rates[len(prior) :])}
    kl = None
    if problems := interleaved(prior, context.settings.drift_problems):
        groups = context.bare.generate(policy, problems, context.sampling(top_p=1.0))
        kl = context.bare.divergence(policy, context.base, groups, context.rollout.temperature).token_reverse
    return {**row, "kl_reverse_prior": kl}


def _pass_rates(context: ProbeContext, policy: PolicyRef, measured: list[Cell]) -> list[float | None]:
    """Of each cell; None where nothing could be judged."""
    problems = list(chain.from_iterable(cell.problems for cell in measured))
    if not problems:
        return []
    groups = context.bare.generate(policy, problems, context.sampling(context.rollout.top_p))
    judged = iter(context.judge.judge(groups))
    passed = [outcomes([next(judged) for _ in cell.problems]).passed for cell in measured]
    return [float(each.mean()) if len(each) else None for each in passed]
