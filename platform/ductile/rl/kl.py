"""Estimators of KL(policy || reference) from sampled tokens (Schulman 2020, "Approximating KL divergence").

With d = log reference - log policy at a token sampled from the policy:

    k1 = -d                unbiased, can be negative
    k2 = d^2 / 2           biased value, but its gradient is that of the KL in expectation (arXiv 2506.09477)
    k3 = exp(d) - d - 1    unbiased, never negative (GRPO's, arXiv 2402.03300 eq. 2)

The gradient of k1 as a term of the loss is zero in expectation: E[grad log policy] = 0. It measures, and belongs into
the reward, but as a loss term it keeps nothing close. So a variant that adds a KL to the loss takes k2 or k3.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLAMP = 20.0
"""Bound on d inside k3's exponential: one very unlikely token must not overflow a step (verl bounds d too)."""


def kl_estimate(logps: Tensor, reference_logps: Tensor, kind: str) -> Tensor:
    """Estimate per token. logps, reference_logps: [...] float32, log-probabilities in nats of the sampled tokens.

    The reference gets no gradient. kind: k1, k2 or k3; anything else raises `ValueError`.
    """
    delta = reference_logps.detach() - logps
    if kind == "k1":
        return -delta
    if kind == "k2":
        return 0.5 * delta**2
    if kind == "k3":
        delta = delta.clamp(-CLAMP, CLAMP)
        return torch.expm1(delta) - delta
    raise ValueError(f"kl estimator: unknown kind {kind!r}")


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last axis. logits: [..., vocabulary]; returns [...]."""
    logps = torch.log_softmax(logits, dim=-1)
    return -(logps.exp() * logps).sum(dim=-1)
