"""Shrink and perturb: every weight is scaled down and given a little noise.

    theta <- a theta + e, e ~ N(0, s^2)        (Ash and Adams 2020, arXiv 1910.08475)

Ash and Adams shrink before each warm start, as here; Dohare et al. (Nature 2024) do it at every step, with a weight
decay of 5e-4 to 1e-4 and s of 1e-4 to 1e-6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def shrink_and_perturb(weights: Mapping[str, Tensor], factor: float, deviation: float, key: str) -> dict[str, Tensor]:
    """Another state dict. deviation: s; key: names the noise, the same text gives the same numbers on every rank."""
    return {
        name: factor * tensor + deviation * noise(tensor.shape, f"{key}/{name}").to(tensor)
        for name, tensor in weights.items()
    }


def noise(shape: torch.Size, key: str) -> Tensor:
    """Standard normal numbers, float32, that depend on the key alone."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
