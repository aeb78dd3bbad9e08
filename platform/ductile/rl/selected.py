"""Log-probabilities of given tokens and the entropy, without a second tensor of the size of the logits before backward.

With z = logits / temperature, L = logsumexp(z) and p = exp(z - L):

    log p(y) = z_y - L                        gradient by z:  onehot(y) - p
    H        = L - sum_v p_v z_v              gradient by z:  -p (z - L + H)

Autograd keeps for these a log-softmax, and for the entropy its exponential beside it, each as large as the logits. Here
the logits themselves and L are kept, and backward makes the one tensor that it returns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 21
"""Logits that are looked at at a time: 8 MiB in float32, which stays in a processor's cache."""


def selected(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, in nats at the temperature, each [token].

    logits: [token, vocabulary]; targets: [token] int64. float64 stays so, anything else gives float32. What is not
    used of the two costs no backward pass.
    """
    logps, entropy = _Selected.apply(logits, targets, temperature)  # type: ignore[no-untyped-call]
    return logps, entropy


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        kept = torch.float64 if logits.dtype == torch.float64 else torch.float32
        total, logps, entropy = (torch.empty(len(logits), dtype=kept, device=logits.device) for _ in range(3))
        for part in _parts(logits):
            z = logits[part].to(kept) / temperature
            total[part] = torch.logsumexp(z, dim=-1)
            logps[part] = z.gather(-1, targets[part, None]).squeeze(-1) - total[part]
            p = (z - total[part, None]).exp_()
            entropy[part] = total[part] - p.mul_(z).sum(dim=-1)
        ctx.save_for_backward(logits, targets, total, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logps, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_logps: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor, None, None]:
        logits, targets, total, entropy = ctx.saved_tensors
        g = torch.zeros_like(total) if of_logps is None else of_logps / ctx.temperature
        gradient = torch.empty_like(logits)
        for part in _parts(logits):
            log_p = logits[part].to(total.dtype).div(ctx.temperature).sub_(total[part, None])
            by_z, factor = log_p.exp(), -g[part, None]
            if of_entropy is not None:
                factor = log_p.add_(entropy[part, None]).mul_(-of_entropy[part, None] / ctx.temperature).add_(factor)
            gradient[part] = by_z.mul_(factor).scatter_add_(-1, targets[part, None], g[part, None])
        return gradient, None, None


def _parts(logits: Tensor) -> list[slice]:
    size = max(1, CHUNK // logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]
