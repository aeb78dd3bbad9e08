"""The policy as it answers outside of training: each domain with the expert, context and soft prefix it has for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ductile.contexts.context import Context, in_context, with_prefixes
from ductile.ports import OTHER_DOMAINS, Divergence, PolicyRef, RolloutPool, Sampling
from ductile.problem import Group, Problem

T = TypeVar("T")


@dataclass(frozen=True)
class DeployedPool:
    """A rollout pool in which `policy` stands for the whole of them; any other policy answers bare problems.

    experts, contexts, prefixes: by domain key; experts may have one for `OTHER_DOMAINS`. The routing knows a problem's
    domain, as whoever deploys them would.
    """

    pool: RolloutPool
    policy: PolicyRef
    experts: Mapping[str, PolicyRef]
    contexts: Mapping[str, Context]
    prefixes: Mapping[str, tuple[int, ...]]

    def counts(self) -> Mapping[str, float]:
        """See `RolloutPool.counts`."""
        return self.pool.counts()

    def publish(self, weights: Mapping[str, Any]) -> Any:
        """See `RolloutPool.publish`."""
        return self.pool.publish(weights)

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        """See `RolloutPool.generate`."""
        if policy != self.policy:
            return self.pool.generate(policy, problems, sampling)
        asked = [in_context(p, self.contexts[p.domain]) if p.domain in self.contexts else p for p in problems]
        asked = with_prefixes(asked, self.prefixes)
        groups: dict[int, Group] = {}
        for answering, positions in self._by_policy([problem.domain for problem in problems]):
            made = self.pool.generate(answering, [asked[position] for position in positions], sampling)
            groups.update(zip(positions, made, strict=True))
        return [groups[position] for position in range(len(problems))]

    def divergence(self, p: PolicyRef, q: PolicyRef, groups: Sequence[Group], temperature: float) -> Divergence:
        """See `RolloutPool.divergence`; `p` may be the whole, `q` is one policy."""
        if p != self.policy:
            return self.pool.divergence(p, q, groups, temperature)
        parts = [
            self.pool.divergence(answering, q, [groups[position] for position in positions], temperature)
            for answering, positions in self._by_policy([group.problem.domain for group in groups])
        ]
        return parts[0] if len(parts) == 1 else _together(parts)

    def inspect(self, policy: PolicyRef, measure: Callable[[Any], T]) -> T:
        """See `RolloutPool.inspect`: of the one policy that is named."""
        return self.pool.inspect(policy, measure)

    def _by_policy(self, domains: Sequence[str]) -> list[tuple[PolicyRef, list[int]]]:
        """Each answering policy and the positions of the domains that it answers."""
        others = self.experts.get(OTHER_DOMAINS, self.policy)
        answering = [self.experts.get(domain, others) for domain in domains]
        policies = [policy for i, policy in enumerate(answering) if policy not in answering[:i]]
        return [(policy, [i for i, other in enumerate(answering) if other == policy]) for policy in policies]


def _together(parts: Sequence[Divergence]) -> Divergence:
    """Means over the tokens, or the completions, of all parts."""
    tokens, completions = sum(part.tokens for part in parts), sum(part.completions for part in parts)
    return Divergence(
        sum(part.token_forward * part.tokens for part in parts) / tokens,
        sum(part.token_reverse * part.tokens for part in parts) / tokens,
        sum(part.sequence_forward * part.completions for part in parts) / completions,
        sum(part.sequence_reverse * part.completions for part in parts) / completions,
        tokens,
        completions,
    )
