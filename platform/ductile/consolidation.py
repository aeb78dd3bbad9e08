"""Pulling weights back after each optimizer step: L2 to the base (L2 init) and elastic weight consolidation (EWC).

    L2 init   0.5 * l2_init * sum_i (theta_i - base_i)^2                (Kumar 2023, arXiv 2308.11958)
    EWC       0.5 * ewc * sum_i F_i * (theta_i - theta*_i)^2            (Kirkpatrick 2017, arXiv 1612.00796 eq. 3)

F is the diagonal Fisher information of log pi at the end of earlier phases, summed over them; theta* are the weights at
the end of the latest (online EWC, Schwarz 2018, arXiv 1805.06370 section 3.2, with gamma 1).

Where this differs from the papers: they add these penalties to the loss. Under Adam a gradient is normalised, so that
the strength of a penalty in it would hang on the size of the policy's gradient, as with L2 regularisation before AdamW.
Here they act as AdamW's weight decay does, beside the optimizer: each step of it is followed by the proximal step

    theta <- argmin_t 0.5 * |t - theta|^2 + lr * penalty(t)
           = theta + lr * sum_k s_k * (target_k - theta) / (1 + lr * sum_k s_k)

with s = l2_init or ewc * F. It is exact for quadratic penalties and cannot overshoot however large they are; and it
needs no gathered parameters inside a sharded backward pass.
L2 init's target is the base, which is where RL begins, rather than random initial weights: that is L2-SP (Li 2018,
arXiv 1802.01483). The papers' L2 has no factor 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from ductile.models.compose import ComposedPolicy
from ductile.problem import Group
from ductile.rl.batch import Row, tensors
from ductile.rl.objective import Objective
from ductile.rl.selected import selected
from ductile.rl.supervised import Supervised

State = Mapping[str, Tensor]


class Consolidation:
    """What the weights are pulled to, and how strongly. base: the trainable member's state dict before any training."""

    def __init__(self, objective: Objective | Supervised, base: State) -> None:
        self._l2, self._ewc = objective.l2_init, objective.ewc
        self._base = {name: tensor.detach().cpu().clone() for name, tensor in base.items()} if self._l2 else {}
        self._fisher: dict[str, Tensor] = {}
        self._latest: dict[str, Tensor] = {}

    @property
    def acts(self) -> bool:
        """Whether the weights are pulled to anything yet."""
        return bool(self._l2 or self._fisher)

    def pulled(self, weights: State, lr: float) -> dict[str, Tensor]:
        """The state dict after the proximal step."""
        return {
            name: proximal_step(tensor, list(self._pulls(name, tensor)), lr) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }

    def add(self, fisher: State, weights: State) -> None:
        """At the end of a phase: its Fisher information is added, and its weights are the new target."""
        if self._ewc:
            self._fisher = {name: new + self._fisher.get(name, 0.0) for name, new in fisher.items()}
            self._latest = {name: tensor.clone() for name, tensor in weights.items()}

    def files(self) -> dict[str, dict[str, Tensor]]:
        """Fisher information and its target, as files; nothing before the first phase's end. `add` replaces both."""
        return {"fisher.safetensors": self._fisher, "consolidated.safetensors": self._latest} if self._fisher else {}

    def load(self, folder: Path) -> None:
        """Go on from what `files` returned, written below `folder`."""
        kept = bool(self._ewc) and (folder / "fisher.safetensors").exists()
        self._fisher = load_file(folder / "fisher.safetensors") if kept else {}
        self._latest = load_file(folder / "consolidated.safetensors") if kept else {}

    def _pulls(self, name: str, tensor: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        if self._l2:
            yield torch.full_like(tensor, self._l2), self._base[name]
        if self._fisher:
            yield self._ewc * self._fisher[name], self._latest[name]


def proximal_step(weights: Tensor, pulls: Sequence[tuple[Tensor, Tensor]], lr: float) -> Tensor:
    """argmin_t 0.5 * |t - weights|^2 + lr * sum over pulls (s, target) of 0.5 * s * (t - target)^2, elementwise.

    A weight at all of its targets comes out as it went in, to the last bit.
    """
    moved = sum((lr * strength * (target - weights) for strength, target in pulls), torch.zeros_like(weights))
    return weights + moved / (1 + sum((lr * strength for strength, _ in pulls), torch.zeros_like(weights)))


def fisher(
    policy: ComposedPolicy, groups: Sequence[Group], temperature: float, rank: int = 0, world: int = 1
) -> dict[str, Tensor]:
    """Diagonal Fisher information: the mean over completions of (d log pi(completion) / d theta)^2.

    policy: not sharded; its trainable member's weights get gradients. groups: completions that it sampled itself at
    this temperature, so that the estimate is unbiased. One backward pass each; of several ranks each takes its share.
    Returns float32 tensors on the CPU by the names of the trainable member's state dict: tied weights under each of
    their names, 0 for weights that are not learned.
    """
    rows = [(group.prompt_tokens, c) for group in groups for c in group.completions]
    learned = [p for p in policy.trainable.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p, dtype=torch.float32) for p in learned]
    for prompt, completion in rows[rank::world]:
        micro = tensors([Row(prompt, completion.tokens, completion.logps, 0.0, 1.0)], policy.device)
        logps, _ = selected(policy.completion_logits(micro.packed), micro.packed.targets, temperature)
        for square, gradient in zip(sums, torch.autograd.grad(logps.sum(), learned), strict=True):
            square += gradient.float() ** 2
    if world > 1:
        for square in sums:
            dist.all_reduce(square)
    by_parameter = {id(p): square / max(len(rows), 1) for p, square in zip(learned, sums, strict=True)}
    return {
        name: by_parameter.get(id(tensor), torch.zeros_like(tensor, dtype=torch.float32)).detach().cpu().clone()
        for name, tensor in policy.trainable.state_dict(keep_vars=True).items()
    }
