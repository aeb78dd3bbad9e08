"""What a variant is, and the batch that all policy-gradient variants share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ductile.config import ObjectiveSettings, RunSettings
from ductile.ports import Composition
from ductile.problem import SUCCESS, JudgedGroup
from ductile.rl.advantages import group_advantages
from ductile.rl.batch import Batch, Row
from ductile.rl.losses import token_weights
from ductile.rl.objective import Objective

if TYPE_CHECKING:  # both import this file
    from ductile.plan import Phase
    from ductile.step import StepPorts

Penalties = Sequence[NDArray[np.float64]] | None
"""For each group, [completion], what is taken off its rewards."""


class Variant(Protocol):
    """How the policy is composed and updated. `needs_expert`: whether `composition` uses the expert's folder."""

    needs_expert: bool

    @property
    def lr(self) -> float | None:
        """Learning rate in place of `learner.lr`, or None."""

    def composition(self, base: Path, expert: Path) -> Composition:
        """The policy, of models that start from these folders."""

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """What the learner minimises."""

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """What the learner learns from. penalties: as `ports.Learner.penalties` gives them."""

    def switch(self, settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> None:
        """The variant's own part of a phase switch (see `switch.py`), before all others; most have none."""


def policy_gradient_batch(
    judged: Sequence[JudgedGroup], settings: RunSettings, objective: Objective, penalties: Penalties = None
) -> Batch:
    """A row for each judged completion that has a gradient.

    The average over tokens counts every judged completion. Those whose advantage is 0 are then left out, unless the
    objective has a term that acts on them too: they would add nothing but time.
    """
    known = [
        (group.group.prompt_tokens, completion, float(advantage), int((group.rewards > SUCCESS).sum()))
        for group in judged
        for completion, advantage in zip(
            group.group.completions,
            group_advantages(group.rewards, settings.objective.advantage),
            strict=True,
        )
        if not np.isnan(advantage)
    ]
    lengths = torch.tensor([len(completion.tokens) for _, completion, _, _ in known], dtype=torch.int64)
    weights = token_weights(lengths, settings.objective.length_norm, settings.rollout.max_tokens).tolist()
    return Batch(
        tuple(
            Row(prompt, completion.tokens, completion.logps, advantage, weight, successes)
            for (prompt, completion, advantage, successes), weight in zip(known, weights, strict=True)
            if advantage or objective.acts_without_advantage
        )
    )
