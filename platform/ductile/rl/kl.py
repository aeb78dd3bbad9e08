"""Estimators of KL(policy || reference) from sampled tokens (Schulman 2020, "Approximating KL divergence").

With d = log reference - log policy at a token sampled from the policy:

    k1 = -d                unbiased, can be negative
    k2 = d^2 / 2           biased value, but its gradient is that of the KL in expectation (arXiv 2506.09477)
    k3 = exp(d) - d - 1    unbiased, never negative (GRPO's, arXiv 2402.03300 eq. 2); its gradient in expectation is
                           that of KL(reference || policy)
    k3+                    value of k3, gradient of k2 (straight-through, as in verl)

The gradient of k1 as a term of the loss is zero in expectation: E[grad log policy] = 0. It measures, and belongs into
the reward, but as a loss term it keeps nothing close. So a variant that adds a KL to the loss takes k2, k3 or k3+.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLAMP = 20.0
"""Bound on d inside k3's exponential: one very unlikely token must not overflow a step (verl bounds d too)."""


def kl_estimate(logps: Tensor, reference_logps: Tensor, kind: str) -> Tensor:
    """Estimate per token. logps, reference_logps: [...] float32, log-probabilities in nats of the sampled tokens.

    The reference gets no gradient. kind: k1, k2, k3 or k3+; anything else raises `ValueError`.
    """
    delta = reference_logps.detach() - logps
    if kind == "k1":
        return -delta
    if kind == "k2":
        return 0.5 * delta**2
    if kind == "k3":
        delta = delta.clamp(-CLAMP, CLAMP)
        return torch.expm1(delta) - delta
    if kind == "k3+":
        gradient = kl_estimate(logps, reference_logps, "k2")
        return gradient - gradient.detach() + kl_estimate(logps, reference_logps, "k3").detach()
    raise ValueError(f"kl estimator: unknown kind {kind!r}")


def adapted_coefficient(coefficient: float, kl: float, target: float, completions: int, horizon: float) -> float:
    """The next step's coefficient, by proportional control (Ziegler 2019, arXiv 1909.08593; as in verl).

        coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * completions / horizon)

    kl, target: nats a token; completions: of the step. Positive as long as completions < 5 * horizon.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * completions / horizon)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last axis. logits: [..., vocabulary]; returns [...]."""
    logps = torch.log_softmax(logits, dim=-1)
    return -(logps.exp() * logps).sum(dim=-1)
