"""What a rollout worker does: load the named policy, sample from it, compare two of them, look inside one.

A worker keeps models only to save time. Every call names its policy completely, so a call that is tried again on
a fresh worker gives the same answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.inspection import LoadedPolicy
from ductile.models.compose import ComposedPolicy, without_prefixes
from ductile.models.load import load_tokenizer
from ductile.ports import Divergence, PolicyRef, Sampling
from ductile.problem import Group, Problem
from ductile.sampling.divergence import divergence, score
from ductile.sampling.published import Published, new_token
from ductile.sampling.sampler import sample

KEPT_POLICIES = 4
"""Policies a worker keeps loaded: two variants and the base of each, as when two runs share it."""

Place = Literal["policy", "reference", "untouched"]
"""Where a loaded policy stands: what is measured, what it is compared with, and the folders as they are."""

Key = tuple[object, Place]
"""What is loaded, and where."""

T = TypeVar("T")


class RolloutWorker:
    """Samples and compares policies in this process."""

    def __init__(self, dtype: str, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._dtype = dtype
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._policies: OrderedDict[Key, ComposedPolicy] = OrderedDict()
        self._loaded: dict[Key, str] = {}
        self._spare: list[Tensor] = []

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        """`sampling.samples` completions of each problem, in order."""
        tokenizer = load_tokenizer(policy.composition.members[0].path)
        return sample(self._policy(policy), tokenizer, problems, sampling, policy.version, self._spare)

    def divergence(self, p: PolicyRef, q: PolicyRef, groups: Sequence[Group], temperature: float) -> Divergence:
        """Exact KL between p and q on the given completions."""
        return divergence(self._policy(p), self._policy(q, "reference"), groups, temperature)

    def score(self, policy: PolicyRef, groups: Sequence[Group], temperature: float) -> list[NDArray[np.float64]]:
        """For each group [completion] float64, log-probability of the whole completion, in nats."""
        return score(self._policy(policy), groups, temperature)

    def inspect(self, policy: PolicyRef, measure: Callable[[Any], T]) -> T:
        """What `measure` says of the loaded policy."""
        return measure(LoadedPolicy(self._policy(policy)))

    def _policy(self, ref: PolicyRef, place: Place = "policy") -> ComposedPolicy:
        # The same models can be loaded at every place at once. Two trained versions must never share one when they are
        # compared, and the untouched one, which never changes, is kept but once. Coefficients are not part of the key:
        # they are set at each call, so that a schedule or a sweep of alpha loads nothing anew. Only untouched models,
        # which may stand on both sides of a comparison, are kept for each of them.
        composition = without_prefixes(ref.composition) if ref.weights is None else ref.composition
        key: Key = (composition, "untouched") if ref.weights is None else (ref.composition.models, place)
        if key not in self._policies:
            self._policies[key] = ComposedPolicy.load(composition, self._dtype).to(self._device)
            self._loaded.pop(key, None)
        self._policies.move_to_end(key)
        while len(self._policies) > KEPT_POLICIES:
            self._loaded.pop(self._policies.popitem(last=False)[0], None)
        policy = self._policies[key]
        policy.set_coefficients(composition)
        if ref.weights is not None and self._loaded.get(key) != ref.weights.token:
            policy.adopt_trainable(ref.weights.state)
            self._loaded[key] = ref.weights.token
        return policy


class LocalPool(RolloutWorker):
    """The rollout pool of a run without Ray: one worker, in this process."""

    def __init__(self, dtype: str, threads: int | None = None) -> None:
        super().__init__(dtype, threads)
        self._begun: list[list[Group]] = []

    def publish(self, weights: Mapping[str, Any]) -> Published:
        """Keep them as they are: nobody writes to what is published (`ports.RolloutPool.publish`)."""
        return Published(new_token(), dict(weights))

    def begin(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> int:
        """Do it at once: there is no other process that could."""
        self._begun.append(self.generate(policy, problems, sampling))
        return len(self._begun) - 1

    def collect(self, begun: int) -> list[Group]:
        """What `begin` did."""
        groups, self._begun[begun] = self._begun[begun], []
        return groups

    def counts(self) -> dict[str, float]:
        """This process is the one actor, and no call is lost without the run."""
        return {"rollout/actors": 1.0, "rollout/retried_calls": 0.0, "rollout/hedged_calls": 0.0}
