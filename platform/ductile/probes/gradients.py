"""Whose groups steer the update: the policy's gradient in parts by k, how many of a group's completions succeeded.

With g the gradient of the objective on freshly sampled groups of the phase's own training problems, judged as the
phase judges, and g_k the part of the groups with k successes (g = sum of g_k):

    norm_share/k_<k>   ||g_k|| / sum_j ||g_j||      how much gradient there is, whether or not it cancels
    projection/k_<k>   <g_k, g> / ||g||^2           how much of the update it makes; sums to 1, can be negative

The KL to an anchor is left out of the objective: it acts on every completion, whatever its group's k.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ductile.inspected import GradientNorms, Inspected
from ductile.metrics import segment
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import Cell, interleaved
from ductile.problem import JudgedGroup, Problem

STREAM = "probe/gradient"
"""Stream of the groups; the same random keys at every boundary."""


class GradientsProbe:
    """`gradient/*` on the phase that the boundary ends; nothing at boundary 0 or when every group is silent."""

    name = "gradients"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        if context.phase is None or context.batch is None or context.objective is None:
            return ProbeResult()
        judged = _judged(context)
        batch = context.batch(judged)
        if not batch.rows or any(row.successes < 0 for row in batch.rows):
            return ProbeResult()
        measured = context.pool.inspect(
            context.policy,
            partial(gradient_norms, batch=batch, objective=context.objective, temperature=context.rollout.temperature),
        )
        total = sum(measured.norms.values())
        if not (total > 0 and measured.norm > 0):
            return ProbeResult()
        metrics = {"gradient/norm": measured.norm}
        table = []
        for k, norm in measured.norms.items():
            if not norm:
                continue
            share, projection = norm / total, measured.dots[k] / measured.norm**2
            metrics |= {f"gradient/norm_share/k_{k}": share, f"gradient/projection/k_{k}": projection}
            rows = sum(row.successes == k for row in batch.rows)
            table.append({"k": k, "rows": rows, "norm": norm, "norm_share": share, "projection": projection})
        return ProbeResult(metrics, {"gradients": table})


def gradient_norms(policy: Inspected, batch: Any, objective: Any, temperature: float) -> GradientNorms:
    """The objective's gradient on the batch, in parts by successes."""
    return policy.gradient_norms(batch, objective, temperature)


def _judged(context: ProbeContext) -> list[JudgedGroup]:
    """Groups as a step of the phase sees them, noise and leniency included, of the size of the rollouts."""
    sampling = replace(context.sampling(context.rollout.top_p, STREAM), samples=context.rollout.group_size)
    return context.judged(_training_problems(context), sampling)


def _training_problems(context: ProbeContext) -> list[Problem]:
    assert context.phase is not None
    name, phase = context.phase
    count = context.settings.gradient_groups
    domain = context.resolve(phase.domain, f"phase.{name}.domain")
    levels = [
        Cell("train", segment(name), level, domain, tuple(domain.problems(level, "train", count, context.seed)))
        for level in phase.levels
    ]
    return interleaved(levels, count)
