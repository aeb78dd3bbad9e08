"""The whole objective of a micro-batch: clipped policy loss, KL to an anchor, entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ductile.rl.batch import MicroBatch
from ductile.rl.kl import kl_estimate, token_entropy
from ductile.rl.losses import clipped_policy_loss


@dataclass(frozen=True)
class Objective:
    """loss = policy loss + kl * KL(policy || anchor) - entropy * entropy, each a weighted sum over tokens.

    anchor: "base" or "phase_start" when kl > 0, else None.
    """

    clip_low: float
    clip_high: float
    kl: float
    kl_estimator: str
    anchor: str | None
    entropy: float

    @property
    def acts_without_advantage(self) -> bool:
        """Whether a completion whose advantage is 0 still has a gradient."""
        return self.kl > 0 or self.entropy > 0


def token_logps(logits: Tensor, micro: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each next token and the logits they come from, at the sampling temperature.

    logits: [row, position, vocabulary]; returns [row, position - 1] and [row, position - 1, vocabulary], float32.
    """
    scaled = logits[:, :-1] / temperature
    # Ids of a soft prefix lie beyond the logits; they stand in prompts alone, where what is gathered is never read.
    following = micro.padded.ids[:, 1:].clamp(max=logits.shape[-1] - 1).unsqueeze(-1)
    return torch.log_softmax(scaled, dim=-1).gather(-1, following).squeeze(-1), scaled


def micro_loss(
    logits: Tensor, anchor_logits: Tensor | None, micro: MicroBatch, objective: Objective, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of the step's loss, and sums over its tokens that the step's metrics are made of.

    Sums: loss and policy_loss are weighted as the loss is; kl, entropy, clipped, gap and tokens count every
    completion token once; ratio_max is a maximum. Each a scalar without gradient.
    """
    inside = micro.padded.completion
    logps, scaled = token_logps(logits, micro, temperature)
    logps = torch.where(inside, logps, 0.0)
    policy, ratio, clipped = clipped_policy_loss(
        logps, micro.behaviour_logps, micro.advantages, objective.clip_low, objective.clip_high
    )
    weights = inside * micro.weights
    policy_loss = (policy * weights).sum()
    loss = policy_loss
    kl = torch.zeros_like(logps)
    if anchor_logits is not None:
        anchor = torch.where(inside, token_logps(anchor_logits, micro, temperature)[0], 0.0)
        kl = kl_estimate(logps, anchor, objective.kl_estimator)
        loss = loss + objective.kl * (kl * weights).sum()
    with torch.set_grad_enabled(objective.entropy > 0):
        entropy = token_entropy(scaled)
    if objective.entropy > 0:
        loss = loss - objective.entropy * (entropy * weights).sum()
    counted = inside & (micro.weights > 0)
    gap = (logps - micro.behaviour_logps).abs()
    sums = {
        "loss": loss,
        "policy_loss": policy_loss,
        "kl": (kl * counted).sum(),
        "entropy": (entropy * counted).sum(),
        "clipped": (clipped & counted).sum(),
        "gap": (gap * counted).sum(),
        "tokens": counted.sum(),
        "ratio_max": torch.where(counted, ratio, 0.0).max(),
    }
    return loss, {name: value.detach() for name, value in sums.items()}
