"""The policy-gradient loss per token, and how tokens are averaged into one number.

Tokens are those of completions alone, flat: those of one row after those of another. `rows` [token] int64 numbers the
row of each, for what is one number for a completion.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Bound on the log-ratio inside an exponential, as in verl: one very unlikely token must not overflow a step."""

Losses = tuple[Tensor, Tensor, Tensor]
"""Loss, importance ratio, and whether the clip acted on it; each [token]."""


def policy_loss(
    logps: Tensor,
    behaviour_logps: Tensor,
    advantages: Tensor,
    rows: Tensor,
    kind: str,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Losses:
    """The loss of each token, to be minimised. With every ratio 1 all kinds have the same gradient: - A grad log p.

    logps, behaviour_logps, advantages: [token] float32, log-probabilities in nats; rows: [token] int64. kind: clip,
    cispo or gspo; dual_clip: of clip alone. The ratio is 1 where the behaviour policy is the policy itself: on one pass
    over a batch (learner.epochs 1) no clip ever acts.
    """
    if kind == "clip":
        return clipped_loss(logps, behaviour_logps, advantages, clip_low, clip_high, dual_clip)
    if kind == "cispo":
        return cispo_loss(logps, behaviour_logps, advantages, clip_low, clip_high)
    if kind == "gspo":
        return gspo_loss(logps, behaviour_logps, advantages, rows, clip_low, clip_high)
    raise ValueError(f"loss: unknown kind {kind!r}")


def clipped_loss(
    logps: Tensor,
    behaviour_logps: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Losses:
    """PPO's clipped surrogate with its sign turned (arXiv 1707.06347 eq. 7).

        ratio = exp(logps - behaviour_logps)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A),   and where A < 0 at most -dual_clip * A

    `clip_high` above `clip_low` is DAPO's clip-higher (arXiv 2503.14476); dual clip: arXiv 1912.09729 eq. 5. Where a
    clip acts there is no gradient.
    """
    ratio = torch.exp((logps - behaviour_logps).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    free = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss, acted = -torch.minimum(free, clipped), clipped < free
    if dual_clip is not None:
        bound = torch.where(advantages < 0, -dual_clip * advantages, torch.inf).expand_as(loss)
        acted = acted | (bound < loss)
        loss = torch.minimum(loss, bound)
    return loss, ratio, acted


def cispo_loss(logps: Tensor, behaviour_logps: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Losses:
    """CISPO (arXiv 2506.13585 eq. 4, as in verl): the weight is clipped, and every token keeps its gradient.

        loss = -stop_gradient(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logps

    `clip_low` 1 is the paper's form, without a lower clip.
    """
    ratio = torch.exp((logps - behaviour_logps).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)).detach()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * logps, ratio, weight != ratio


def gspo_loss(
    logps: Tensor, behaviour_logps: Tensor, advantages: Tensor, rows: Tensor, clip_low: float, clip_high: float
) -> Losses:
    """GSPO (arXiv 2507.18071 eq. 5 and 7; the token form of eq. 13 to 14, as in verl): one ratio for a completion.

        s     = exp(mean over the completion's tokens of logps - behaviour_logps)
        ratio = stop_gradient(s) * p / stop_gradient(p)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    The paper averages over each completion's tokens first (length_norm: completion) and clips at 3e-4 and 4e-4.
    """
    mean = row_means(logps - behaviour_logps, rows)
    ratio = torch.exp(mean.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO) + logps - logps.detach())
    free = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(free, clipped), ratio, clipped < free


def importance(proximal_logps: Tensor, behaviour_logps: Tensor, rows: Tensor, kind: str, cap: float) -> Tensor:
    """Truncated importance weights of what an older policy sampled: w = min(p_proximal / p_behaviour, cap).

    The decoupled objective (arXiv 2110.00641, as in AReaL, arXiv 2505.24298) is w times the clipped loss, whose ratio
    is to the proximal policy: the one that the update began with. So the clip bounds how far the update goes, and not
    how far the policy had gone since it sampled. Truncation as in IMPALA (arXiv 1802.01561, c-bar). Below the cap,
    w * f has the expectation under the behaviour policy that f has under the proximal one, token by token given what
    stands before; the states themselves stay those of the behaviour policy.

    proximal_logps, behaviour_logps: [token] float32, nats; rows: [token] int64; cap: `inf` cuts nothing. Returns
    [token]; for gspo, whose ratio is the completion's, its geometric mean over the tokens is cut.
    """
    difference = proximal_logps - behaviour_logps
    if kind == "gspo":
        difference = row_means(difference, rows)
    return torch.exp(difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)).clamp(max=cap).detach()


def row_means(values: Tensor, rows: Tensor) -> Tensor:
    """For each token the mean over all tokens of its row. values: [token]; rows: [token] int64."""
    lengths = torch.bincount(rows)
    sums = values.new_zeros(len(lengths)).index_add(0, rows, values)
    return (sums / lengths)[rows]


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
