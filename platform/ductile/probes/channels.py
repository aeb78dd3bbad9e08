"""The 2x2 of channels: base or trained weights, asked as at the start (seed) or through the fast channel (evolved).

The channel split of fast-slow training (arXiv 2605.12484): what the weights learned, what the fast channel learned, and
what only both have. A fast channel is an evolved context, an adapter or a soft prefix; a run without any measures
nothing. Beside it stands KL(trained || base) with and without the channel, on completions of the trained weights: the
paper does not say which of the two it reports.

The problems are the evaluation split's of each phase whose domain has a channel; all four cells have the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ductile.contexts.context import Context, in_context
from ductile.metrics import segment
from ductile.ports import PolicyRef, Sampling
from ductile.probes.base import Arm, ProbeContext, ProbeResult
from ductile.probes.evaluation import Cell, cells, macro_mean, outcomes, present
from ductile.problem import Group, Problem

ASKED = ("seed", "evolved")


class ChannelsProbe:
    """`channels/<base|trained>_<seed|evolved>/<phase>` and `channels/kl_<seed|evolved>/<phase>`."""

    name = "channels"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        metrics: dict[str, float | None] = {}
        rows: list[dict[str, Any]] = []
        of_phase: dict[str, list[Cell]] = {}
        for cell in cells(context, "new") if context.channels else []:
            of_phase.setdefault(cell.skill, []).append(cell)
        for phase, arms in context.channels.items():
            for name, arm in arms.items():
                rates = [_pass_rate(context, arm, cell.problems) for cell in of_phase[segment(phase)]]
                metrics[f"channels/{name}/{segment(phase)}"] = macro_mean(rates)
                rows.append(
                    {
                        "phase": phase,
                        "arm": name,
                        "pass_rate": macro_mean(rates),
                        "instruction": arm.context.instruction,
                        "examples": [list(example) for example in arm.context.examples],
                        "prefix_tokens": len(arm.prefix),
                    }
                )
            problems = [problem for cell in of_phase[segment(phase)] for problem in cell.problems]
            for asked in ASKED:
                trained, base = arms.get(f"trained_{asked}"), arms.get(f"base_{asked}")
                if trained and base:
                    metrics[f"channels/kl_{asked}/{segment(phase)}"] = _kl(context, trained, base.policy, problems)
        return ProbeResult(present(metrics), {"channels": rows} if rows else {})


def _pass_rate(context: ProbeContext, arm: Arm, problems: Sequence[Problem]) -> float | None:
    groups = _completions(context, arm, problems, context.sampling(context.rollout.top_p))
    passed = outcomes(context.judge.judge(groups)).passed
    return float(passed.mean()) if len(passed) else None


def _kl(context: ProbeContext, trained: Arm, base: PolicyRef, problems: Sequence[Problem]) -> float:
    """KL(trained || base) in nats per token: exact over the vocabulary, sampled without top-p as in the drift probe."""
    chosen = problems[: context.settings.drift_problems]
    groups = _completions(context, trained, chosen, context.sampling(top_p=1.0))
    return context.bare.divergence(trained.policy, base, groups, context.rollout.temperature).token_reverse


def _completions(context: ProbeContext, arm: Arm, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
    asked = [replace(_in(problem, arm.context), prefix=arm.prefix) for problem in problems]
    return context.bare.generate(arm.policy, asked, sampling)


def _in(problem: Problem, context: Context) -> Problem:
    return in_context(problem, context) if context.name else problem
