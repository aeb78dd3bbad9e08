"""Token entropy: how undecided the policy is at the positions of its own completions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ductile.probes.base import Inspected, ProbeContext, Rows
from ductile.problem import Group


def token_entropy(context: ProbeContext, groups: Sequence[Group]) -> float:
    """Mean entropy in nats of the policy's next-token distribution over the completions' positions."""
    rows = [(group.prompt_tokens, completion.tokens) for group in groups for completion in group.completions]
    return context.pool.inspect(context.policy, partial(_mean, rows=rows, temperature=context.rollout.temperature))


def _mean(loaded: Inspected, rows: Rows, temperature: float) -> float:
    return float(loaded.entropies(rows, temperature).mean())
