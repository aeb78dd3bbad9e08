"""Expert iteration: the policy imitates those of its own completions that are right.

Rejection sampling fine-tuning as in Echo Chamber (arXiv 2504.07912): sample, keep what is right, drop exact duplicates,
learn by likelihood. There, sampler and trained model are named apart, so that each round can begin from the base again
(`restart`); here a round of that kind is a phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ductile.config import ObjectiveSettings, RunSettings
from ductile.ports import Composition
from ductile.problem import SUCCESS, JudgedGroup, by_problem, pooled_rewards
from ductile.rl.batch import Batch, Row
from ductile.rl.losses import token_weights
from ductile.rl.supervised import Supervised
from ductile.variants.base import Penalties, base_alone

if TYPE_CHECKING:  # `step` imports the variants
    from ductile.plan import Phase
    from ductile.step import StepPorts


@dataclass(frozen=True)
class ExpertIteration:
    """The policy is the base itself, and every weight of it is trained."""

    restart: bool = False
    lr: float | None = None

    needs_expert = False

    def composition(self, base: Path, expert: Path) -> Composition:
        """The base alone."""
        return base_alone(base)

    def objective(self, settings: ObjectiveSettings) -> Supervised:
        """The likelihood."""
        return Supervised()

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """A row for each different right completion of a problem; the average over tokens is over these rows."""
        known = []
        for pool in by_problem(judged):
            successes, seen = int((pooled_rewards(pool) > SUCCESS).sum()), set()
            for group in pool:
                for completion, reward in zip(group.group.completions, group.rewards, strict=True):
                    text = completion.tokens.tobytes()
                    if reward > SUCCESS and text not in seen:
                        seen.add(text)
                        known.append((group.group.prompt_tokens, completion, successes))
        lengths = torch.tensor([len(completion.tokens) for _, completion, _ in known], dtype=torch.int64)
        weights = token_weights(lengths, settings.objective.length_norm, settings.rollout.max_tokens).tolist()
        return Batch(
            tuple(
                Row(prompt, completion.tokens, completion.logps, 1.0, weight, successes)
                for (prompt, completion, successes), weight in zip(known, weights, strict=True)
            )
        )

    def switch(self, settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> None:
        """With `restart` the learner begins from the base again, with a fresh optimizer."""
        if self.restart:
            ports.learner.set_weights(ports.learner.base_weights())
            ports.learner.reset_optimizer()
