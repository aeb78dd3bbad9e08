"""Base fusion (Rejuvenation, arXiv 2606.09932): the trained weights are averaged with those they began from.

    theta <- a theta + (1 - a) theta_base        all tensors; a = 0.5 there

What the phase taught is kept in part, and so is the base's ability to learn. A proxy's base is its expert's folder.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def fuse(weights: Mapping[str, Tensor], base: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """share: a, of the trained weights. Averages in float32; what is no floating-point number stays."""
    return {
        name: (share * tensor.float() + (1 - share) * base[name].to(tensor.device).float()).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }
