"""The policy-gradient loss per token, and how tokens are averaged into one number."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(
    logps: Tensor, behaviour_logps: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PPO's clipped surrogate with its sign turned, to be minimised (arXiv 1707.06347 eq. 7).

        ratio = exp(logps - behaviour_logps)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    logps, behaviour_logps: [row, token] float32, nats; advantages: [row, token] or [row, 1]. `clip_high` above
    `clip_low` is DAPO's clip-higher (arXiv 2503.14476). Returns loss, ratio and whether the clip took the gradient
    away, each [row, token].
    """
    ratio = torch.exp(logps - behaviour_logps)
    free = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(free, clipped), ratio, clipped < free


def token_weights(lengths: Tensor, kind: str, max_tokens: int) -> Tensor:
    """The weight of each token of a row such that the sum over all tokens is the average that `kind` names.

    lengths: [row] int64, completion lengths of ALL rows of the step, those without gradient included.
    token: mean over all tokens of the batch (DAPO). completion: mean over a completion's tokens, then over completions
    (GRPO). constant: sum over tokens divided by max_tokens, then mean over completions (Dr.GRPO). Returns [row].
    """
    count = max(len(lengths), 1)
    if kind == "token":
        return torch.full((len(lengths),), 1.0 / max(int(lengths.sum()), 1))
    if kind == "completion":
        return 1.0 / (lengths.clamp(min=1).float() * count)
    if kind == "constant":
        return torch.full((len(lengths),), 1.0 / (max_tokens * count))
    raise ValueError(f"length_norm: unknown kind {kind!r}")
