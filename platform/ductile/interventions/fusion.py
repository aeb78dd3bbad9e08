"""Base fusion: the trained weights are averaged with the base's.

    theta <- a theta + (1 - a) theta_base, all tensors        (arXiv 2606.09932, with a = 0.5)

What fusion gains in later learning it may pay with what the phase has taught: look at the end of the next phase, not at
the difference over it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def fuse(weights: Mapping[str, Tensor], base: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The average of two state dicts; share: of `weights` in it."""
    return {name: share * tensor + (1 - share) * base[name].to(tensor) for name, tensor in weights.items()}
