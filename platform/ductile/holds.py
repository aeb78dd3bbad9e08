"""All that holds a learner's policy: a KL to an anchor with its coefficient, remembered prior answers, pulled weights.

The learner asks at four places: for penalties on rewards before an update, for the memory's share and loss in it, after
each optimizer step, and when an update is done. An objective that names none of it is held by nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ductile.anchors import Anchor, sequence_kl
from ductile.config import RunSettings
from ductile.consolidation import Consolidation, fisher
from ductile.memory import Memory
from ductile.models.compose import ComposedPolicy
from ductile.problem import Group, JudgedGroup
from ductile.rl.batch import Batch, MicroBatch
from ductile.rl.kl import adapted_coefficient
from ductile.rl.objective import Objective, memory_loss
from ductile.rl.selected import selected
from ductile.rl.supervised import Supervised


class Holds:
    """What holds the policy of one learner. Of several ranks each has one; all are called alike."""

    def __init__(
        self,
        settings: RunSettings,
        objective: Objective | Supervised,
        base: Mapping[str, Tensor],
        load: Callable[[], ComposedPolicy],
    ) -> None:
        """base: the trainable member's state dict before any training; load: makes the policy anew from its folders."""
        self._settings, self._objective, self._load = settings, objective, load
        self._consolidation = Consolidation(objective, base)
        self.anchor = Anchor(objective, load()) if isinstance(objective, Objective) and objective.anchor else None
        self._kl = objective.kl  # the coefficient of the moment
        self._penalised: tuple[float, int] | None = None  # KL a token and completions of the last `penalties`
        self._spent = 0  # tokens through models outside of updates; nothing is owed in a checkpoint
        self._memory = Memory()

    def start_phase(self, weights: Mapping[str, Tensor]) -> None:
        """Take the anchor, where it is one of the phase's start."""
        if self.anchor:
            self.anchor.start_phase(weights)

    def penalties(self, judged: Sequence[JudgedGroup]) -> list[NDArray[np.float64]] | None:
        """Coefficient * KL of each completion to the anchor, where that is taken off the rewards."""
        objective, settings = self._objective, self._settings
        if not self.anchor or not isinstance(objective, Objective) or objective.kl_place != "reward":
            return None
        kl = sequence_kl(
            self.anchor.policy,
            judged,
            objective.kl_estimator,
            settings.rollout.temperature,
            settings.learner.micro_tokens,
            *place(),
        )
        tokens = sum(len(completion.tokens) for group in judged for completion in group.group.completions)
        completions = sum(len(group.verdicts) for group in judged)
        self._spent += _tokens([group.group for group in judged]) * len(self.anchor.policy.composition.members)
        self._penalised = (float(sum(part.sum() for part in kl)) / tokens, completions)
        return [self._kl * part for part in kl]

    def remember(self, groups: Sequence[Group]) -> None:
        """Keep prior answers; nothing is kept for an objective with another anchor, or none."""
        if self._objective.anchor == "prior_data":
            self._memory = Memory.of(groups)

    def consolidate(self, groups: Sequence[Group], weights: Mapping[str, Tensor]) -> None:
        """Add the Fisher information at these weights, for EWC: on a copy that is whole, whatever the engine shards."""
        if self._objective.ewc:
            policy = self._load()
            policy.load_trainable(weights)
            information = fisher(policy, groups, self._settings.rollout.temperature, *place())
            self._consolidation.add(information, weights)
            self._spent += _tokens(groups) * len(policy.composition.members)

    def settle(self) -> int:
        """Tokens that passed through models outside of updates since it was asked last."""
        spent, self._spent = self._spent, 0
        return spent

    def share(self, rows: int, version: int) -> Batch:
        """The remembered answers that an update of so many rows uses."""
        return self._memory.share(rows, self._settings.seed, version)

    def memory_loss(self, logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `objective.memory_loss`. logits: the policy's on remembered answers."""
        assert self.anchor  # without one nothing is remembered
        anchor = self.anchor.logits(micro.packed)
        return memory_loss(logits, anchor, micro, self._kl, self._settings.rollout.temperature)

    def anchor_logps(self, micro: MicroBatch) -> Tensor | None:
        """The anchor's log-probability of each completion token of the batch, where the loss has a KL on them."""
        if not self.anchor or not self._objective.kl_in_loss:
            return None
        logits = self.anchor.logits(micro.packed)
        return selected(logits, micro.packed.targets, self._settings.rollout.temperature)[0]

    def with_coefficient(self, objective: Objective) -> Objective:
        """The objective with the coefficient of the moment."""
        return replace(objective, kl=self._kl)

    def pulled(self, weights: Mapping[str, Tensor], lr: float) -> Mapping[str, Tensor] | None:
        """After an optimizer step: the weights pulled back; None where nothing pulls."""
        return self._consolidation.pulled(weights, lr) if self._consolidation.acts else None

    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """Let the anchor's average follow the weights after a step."""
        if self.anchor:
            self.anchor.follow(weights)

    def after_update(self, kl: float | None, completions: int) -> dict[str, float]:
        """Metrics of the KL; adapts its coefficient to the target, where there is one and a KL was measured.

        kl: nats a token as the loss had it, None where it had none. completions: of the step.
        """
        if self._penalised is not None:
            (kl, completions), self._penalised = self._penalised, None
        metrics = {} if kl is None else {"learner/kl_anchor": kl}
        if isinstance(self._objective, Objective) and self._objective.kl_target:
            metrics["learner/kl_coefficient"] = self._kl
            if kl is not None:
                target, horizon = self._objective.kl_target, self._objective.kl_horizon
                self._kl = adapted_coefficient(self._kl, kl, target, completions, horizon)
        return metrics

    def files(self) -> dict[str, dict[str, Tensor]]:
        """All of it for a checkpoint, file name -> tensors that stay as they are."""
        average = self.anchor.files() if self.anchor else {}
        return self._memory.files() | self._consolidation.files() | average

    def adapted(self) -> dict[str, float]:
        """What `load` needs in learner.json: the coefficient, where it is adapted."""
        return {"kl": self._kl} if self._objective.kl_target else {}

    def load(self, folder: Path) -> None:
        """Go on from what `files` returned, written below `folder`, with `adapted` in learner.json."""
        self._consolidation.load(folder)
        if self.anchor:
            self.anchor.load(folder)
            self._memory = Memory.load(folder)
        if self._objective.kl_target:
            self._kl = json.loads((folder / "learner.json").read_text())["kl"]


def _tokens(groups: Sequence[Group]) -> int:
    """Tokens of prompts and completions."""
    return sum(len(group.prompt_tokens) + len(each.tokens) for group in groups for each in group.completions)


def place() -> tuple[int, int]:
    """Rank and number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
