"""The whole objective of a micro-batch: clipped policy loss, KL to an anchor, entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ductile.rl.batch import MicroBatch
from ductile.rl.kl import kl_estimate, token_entropy
from ductile.rl.losses import policy_loss as token_losses


@dataclass(frozen=True)
class Objective:
    """loss = policy loss + kl * KL(policy || anchor) - entropy * entropy, each a weighted sum over tokens.

    anchor:      "base", "phase_start", "ema" or "prior_data" when kl > 0, else None
    kl_place:    "loss", or "reward": the KL is taken off the rewards and is no term of the loss
    kl_target:   nats a token that the coefficient is adapted to over kl_horizon completions; None: it is fixed
    ema_decay:   share of the anchor "ema" that stays at each optimizer step
    l2_init, ewc: strengths of the pull of the weights after each optimizer step (`consolidation.py`); 0: none
    loss, dual_clip: as in `losses.policy_loss`
    """

    clip_low: float
    clip_high: float
    kl: float
    kl_estimator: str
    anchor: str | None
    entropy: float
    loss: str = "clip"
    dual_clip: float | None = None
    kl_place: str = "loss"
    kl_target: float | None = None
    kl_horizon: float = 10_000.0
    ema_decay: float = 0.99
    l2_init: float = 0.0
    ewc: float = 0.0

    @property
    def acts_on_batch(self) -> bool:
        """Whether a term of the loss acts on the batch's own completions whatever their advantage."""
        return self.kl_in_loss or self.entropy > 0

    @property
    def kl_in_loss(self) -> bool:
        """Whether the loss has a KL term on the batch's own completions."""
        return self.kl > 0 and self.kl_place == "loss" and self.anchor != "prior_data"

    @property
    def acts_without_advantage(self) -> bool:
        """Whether a completion whose advantage is 0 still has a gradient, or (prior_data) brings rows that have one."""
        return (self.kl > 0 and self.kl_place == "loss") or self.entropy > 0


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
    policy, ratio, clipped = token_losses(
        logps,
        micro.behaviour_logps,
        micro.advantages,
        inside,
        objective.loss,
        objective.clip_low,
        objective.clip_high,
        objective.dual_clip,
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


def memory_loss(
    logits: Tensor, anchor_logits: Tensor, micro: MicroBatch, coefficient: float, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of  coefficient * sum over tokens of weight * KL(anchor || policy), exact.

    logits, anchor_logits: [row, position, vocabulary]; the KL is over the full vocabulary at each completion token, at
    the sampling temperature. Sums, without gradient: loss; kl and tokens count each token once.
    """
    inside = micro.padded.completion
    policy = torch.log_softmax(logits[:, :-1] / temperature, dim=-1)
    anchor = torch.log_softmax(anchor_logits[:, :-1] / temperature, dim=-1)
    kl = torch.where(inside, (anchor.exp() * (anchor - policy)).sum(dim=-1), 0.0)
    loss = coefficient * (kl * micro.weights).sum()
    counted = inside & (micro.weights > 0)
    sums = {"loss": loss, "kl": (kl * counted).sum(), "tokens": counted.sum()}
    return loss, {name: value.detach() for name, value in sums.items()}
