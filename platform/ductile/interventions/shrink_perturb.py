"""Shrink and perturb (Ash & Adams, arXiv 1910.08475; Dohare et al. 2024): smaller weights, and noise on them.

    theta <- a theta + epsilon,    epsilon ~ N(0, s^2)

Dohare et al. do a little of it at every step (weight decay 1e-4, s = 1e-4 and less); here it is done once, at a phase
switch, as Ash & Adams do between two sets of data.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ductile.interventions.noise import gaussian


def shrink_and_perturb(
    weights: Mapping[str, Tensor], factor: float, deviation: float, seed: int, stream: str
) -> dict[str, Tensor]:
    """factor: a; deviation: s, 0 for no noise. The noise of a weight is keyed by (seed, stream, its name)."""
    return {
        name: _changed(tensor, factor, deviation, seed, stream, name) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def _changed(tensor: Tensor, factor: float, deviation: float, seed: int, stream: str, name: str) -> Tensor:
    changed = tensor.float() * factor
    if deviation:
        changed = changed + gaussian(changed, deviation, seed, f"{stream}/perturb", name)
    return changed.to(tensor.dtype)
