"""What each probe costs: seconds, tokens that it had sampled, and tokens that only went forward through a model.

A pool that counts stands between the probe and the real one. Completions that several probes share are counted with the
probe that asked for them first. Tokens are counted once for each model that they pass through: three for a proxy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ductile.ports import Divergence, PolicyRef, RolloutPool, Sampling
from ductile.problem import Group, Problem

T = TypeVar("T")


class MeteredPool:
    """Passes every call on and counts its tokens.

    generated: tokens sampled, prompts aside; forward: tokens scored or looked into, prompts included.
    """

    def __init__(self, pool: RolloutPool) -> None:
        self._pool = pool
        self.generated = 0
        self.forward = 0

    def counts(self) -> Mapping[str, float]:
        """See `RolloutPool.counts`."""
        return self._pool.counts()

    def publish(self, weights: Mapping[str, Any]) -> Any:
        """See `RolloutPool.publish`."""
        return self._pool.publish(weights)

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        """See `RolloutPool.generate`."""
        groups = self._pool.generate(policy, problems, sampling)
        sampled = sum(len(completion.tokens) for group in groups for completion in group.completions)
        self.generated += sampled * len(policy.composition.members)
        return groups

    def divergence(self, p: PolicyRef, q: PolicyRef, groups: Sequence[Group], temperature: float) -> Divergence:
        """See `RolloutPool.divergence`."""
        tokens = sum(len(group.prompt_tokens) + len(c.tokens) for group in groups for c in group.completions)
        self.forward += tokens * (len(p.composition.members) + len(q.composition.members))
        return self._pool.divergence(p, q, groups, temperature)

    def inspect(self, policy: PolicyRef, measure: Callable[[Any], T]) -> T:
        """See `RolloutPool.inspect`. The loaded policy counts what goes through it."""
        value, tokens = self._pool.inspect(policy, partial(counted, measure))
        self.forward += tokens
        return value


def counted(measure: Callable[[Any], T], loaded: Any) -> tuple[T, int]:
    """What `measure` returns, and the tokens that went through the loaded policy for it."""
    return measure(loaded), loaded.forwarded


class Meter:
    """The cost of each probe, as metrics `cost/<probe>/...`."""

    def __init__(self, *pools: MeteredPool) -> None:
        self._pools = pools
        self.metrics: dict[str, float] = {}

    def run(self, name: str, measure: Callable[[], T]) -> T:
        """Call `measure` and keep what it cost under the probe's name."""
        started, generated, forward = time.monotonic(), self._generated(), self._forward()
        result = measure()
        self.metrics[f"cost/{name}/seconds"] = time.monotonic() - started
        self.metrics[f"cost/{name}/generated_tokens"] = float(self._generated() - generated)
        self.metrics[f"cost/{name}/forward_tokens"] = float(self._forward() - forward)
        return result

    def _generated(self) -> int:
        return sum(pool.generated for pool in self._pools)

    def _forward(self) -> int:
        return sum(pool.forward for pool in self._pools)
