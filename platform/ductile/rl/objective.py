"""The whole objective of a micro-batch: clipped policy loss, KL to an anchor, entropy bonus."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ductile.rl.batch import MicroBatch
from ductile.rl.kl import kl_estimate
from ductile.rl.losses import importance
from ductile.rl.losses import policy_loss as token_losses
from ductile.rl.selected import selected

IMPORTANCE_CAP = 2.0
"""Cut of importance weights where none is set (`objective.importance_cap`)."""


@dataclass(frozen=True)
class Objective:
    """loss = policy loss + kl * KL(policy || anchor) - entropy * entropy, each a weighted sum over tokens.

    anchor:      "base", "phase_start", "ema" or "prior_data" when kl > 0, else None
    kl_place:    "loss", or "reward": the KL is taken off the rewards and is no term of the loss
    kl_target:   nats a token that the coefficient is adapted to over kl_horizon completions; None: it is fixed
    ema_decay:   share of the anchor "ema" that stays at each optimizer step
    l2_init, ewc: strengths of the pull of the weights after each optimizer step (`consolidation.py`); 0: none
    loss, dual_clip: as in `losses.policy_loss`
    importance_cap: rollouts are stale, and their importance weights are cut to it (`losses.importance`): the policy
                    loss and the KL, expectations over the sampled token, have them; the entropy is exact and has none.
                    None: the behaviour policy is taken for the one that the update began with
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
    importance_cap: float | None = None

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


def with_proximal(micro: MicroBatch, logits: Tensor, temperature: float) -> MicroBatch:
    """The micro-batch with the policy of these logits as the proximal one. logits: as in `micro_loss`."""
    with torch.no_grad():
        logps, _ = selected(logits, micro.packed.targets, temperature)
    return replace(micro, proximal_logps=logps)


def micro_loss(
    logits: Tensor, anchor_logps: Tensor | None, micro: MicroBatch, objective: Objective, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of the step's loss, and sums over its tokens that the step's metrics are made of.

    logits: [token, vocabulary] that predict each completion token; anchor_logps: [token] float32, the anchor's
    log-probability of it, nats at the sampling temperature.
    Sums: loss and policy_loss are weighted as the loss is; kl, entropy, clipped, gap and tokens count every
    completion token once; ratio_max is a maximum. Each a scalar without gradient. With `importance_cap` also sums of
    the importance weights, their squares, and how many were cut; kl is then weighted by them, and ratio and clip are
    those of the policy to the proximal one. Raises `ValueError` where that is missing (`with_proximal`).
    """
    rows, before, stale = micro.packed.rows, micro.behaviour_logps, None
    if objective.importance_cap is not None:
        if micro.proximal_logps is None:
            raise ValueError("importance_cap needs the micro-batch's proximal log-probabilities; see with_proximal")
        before = micro.proximal_logps
        free = importance(before, micro.behaviour_logps, rows, objective.loss, math.inf)
        stale = free.clamp(max=objective.importance_cap)
    logps, entropy = selected(logits, micro.packed.targets, temperature)
    policy, ratio, clipped = token_losses(
        logps,
        before,
        micro.advantages,
        rows,
        objective.loss,
        objective.clip_low,
        objective.clip_high,
        objective.dual_clip,
    )
    if stale is not None:
        policy = policy * stale
    policy_loss = (policy * micro.weights).sum()
    loss = policy_loss
    kl = torch.zeros_like(logps)
    if anchor_logps is not None:
        kl = kl_estimate(logps, anchor_logps, objective.kl_estimator)
        if stale is not None:
            kl = kl * stale
        loss = loss + objective.kl * (kl * micro.weights).sum()
    if objective.entropy > 0:
        loss = loss - objective.entropy * (entropy * micro.weights).sum()
    counted = micro.weights > 0
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
    if stale is not None:
        sums |= {
            "importance": (stale * counted).sum(),
            "importance_squares": (stale**2 * counted).sum(),
            "importance_cut": ((free > stale) & counted).sum(),
        }
    return loss, {name: value.detach() for name, value in sums.items()}


def memory_loss(
    logits: Tensor, anchor_logits: Tensor, micro: MicroBatch, coefficient: float, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of  coefficient * sum over tokens of weight * KL(anchor || policy), exact.

    logits, anchor_logits: [token, vocabulary]; the KL is over the full vocabulary at each completion token, at the
    sampling temperature. Sums, without gradient: loss; kl and tokens count each token once.
    """
    policy = torch.log_softmax(logits / temperature, dim=-1)
    anchor = torch.log_softmax(anchor_logits / temperature, dim=-1)
    kl = (anchor.exp() * (anchor - policy)).sum(dim=-1)
    loss = coefficient * (kl * micro.weights).sum()
    counted = micro.weights > 0
    sums = {"loss": loss, "kl": (kl * counted).sum(), "tokens": counted.sum()}
    return loss, {name: value.detach() for name, value in sums.items()}
