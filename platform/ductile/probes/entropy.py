"""How undecided the policy is: the entropy of its next token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ductile.inspected import Inspected, Rows
from ductile.probes.base import ProbeContext
from ductile.problem import Group


def token_entropy(context: ProbeContext, groups: Sequence[Group]) -> float:
    """Mean entropy of the policy's next token over all positions of the completions, in nats, as the rollouts sample.

    At the rollouts' temperature and over the full vocabulary. Raises `ValueError` when there is no completion token.
    """
    rows = [(group.prompt_tokens, completion.tokens) for group in groups for completion in group.completions]
    if not sum(len(completion) for _, completion in rows):
        raise ValueError("entropy of no completion tokens")
    return context.pool.inspect(
        context.policy, partial(_mean_entropy, rows=rows, temperature=context.rollout.temperature)
    )


def _mean_entropy(policy: Inspected, rows: Rows, temperature: float) -> float:
    return float(policy.entropies(rows, temperature).mean())
