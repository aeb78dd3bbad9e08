"""What the policy's KL is taken to: a frozen policy of the learner, and the KL of whole completions to it.

base         the untouched base (GRPO, arXiv 2402.03300)
phase_start  the policy at the start of the phase (reference reset, as in ProRL, arXiv 2505.24864)
ema          an exponential moving average of the weights, in float32, from the base on (WARP, arXiv 2406.16768)
prior_data   the policy at the start of the phase, on what it answered to prior tasks then (`memory.py`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from ductile.models.compose import ComposedPolicy
from ductile.packed import Packed
from ductile.problem import JudgedGroup
from ductile.rl.batch import Row, cut, deal, tensors
from ductile.rl.kl import kl_estimate
from ductile.rl.objective import Objective
from ductile.rl.selected import selected


class Anchor:
    """A frozen policy. policy: the composition of the learner, with the base's weights; it is whole on every rank."""

    def __init__(self, objective: Objective, policy: ComposedPolicy) -> None:
        self.policy = policy.requires_grad_(False)
        self._kind, self._decay = objective.anchor, objective.ema_decay
        self._average = _copied(policy.trainable.state_dict()) if self._kind == "ema" else {}

    @torch.no_grad()
    def logits(self, packed: Packed) -> Tensor:
        """As `ComposedPolicy.completion_logits`, without gradient."""
        return self.policy.completion_logits(packed)

    def start_phase(self, weights: Mapping[str, Tensor]) -> None:
        """Become the policy with these trainable weights, where the anchor is taken at the start of a phase."""
        if self._kind in ("phase_start", "prior_data"):
            self.policy.load_trainable(weights)

    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """After an optimizer step: average <- decay * average + (1 - decay) * weights, where it is one."""
        if self._average:
            for name, average in self._average.items():
                average.lerp_(weights[name].float(), 1 - self._decay)
            self.policy.load_trainable(self._average)

    def files(self) -> dict[str, dict[str, Tensor]]:
        """A copy of the average, as a file; nothing else is more than the learner keeps anyway."""
        return {"ema.safetensors": _copied(self._average)} if self._average else {}

    def load(self, folder: Path) -> None:
        """Go on from what `files` returned, written below `folder`."""
        if self._average:
            self._average = load_file(folder / "ema.safetensors")
            self.policy.load_trainable(self._average)


def sequence_kl(
    policy: ComposedPolicy,
    judged: Sequence[JudgedGroup],
    estimator: str,
    temperature: float,
    micro_tokens: int,
    rank: int = 0,
    world: int = 1,
) -> list[NDArray[np.float64]]:
    """The estimate of KL(behaviour || policy) in nats of each completion: for each group, [completion] float64.

    It is the sum over the completion's tokens, of their log-probabilities when they were sampled and those under
    `policy`. With several ranks each computes its share of the completions, and all get the same numbers.
    """
    rows = [
        Row(group.group.prompt_tokens, completion.tokens, completion.logps, 0.0, 1.0)
        for group in judged
        for completion in group.group.completions
    ]
    order = deal(rows, world)[rank]
    totals = torch.zeros(len(rows), dtype=torch.float64, device=policy.device)
    done = 0
    for part in cut([rows[i] for i in order], micro_tokens):
        micro = tensors(part, policy.device)
        with torch.no_grad():
            logps, _ = selected(policy.completion_logits(micro.packed), micro.packed.targets, temperature)
        places = torch.tensor(order[done : done + len(part)], device=policy.device)[micro.packed.rows]
        totals.index_add_(0, places, kl_estimate(micro.behaviour_logps, logps, estimator).double())
        done += len(part)
    if world > 1:
        dist.all_reduce(totals)
    ends = np.cumsum([len(group.verdicts) for group in judged])
    return np.split(totals.cpu().numpy(), ends[:-1])


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU in float32, each tensor with memory of its own."""
    return {name: tensor.detach().float().cpu().clone() for name, tensor in state.items()}
