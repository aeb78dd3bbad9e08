"""What the units of a policy's MLPs do on its own completions, as `RolloutPool.inspect` asks it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ductile.inspected import Inspected, Rows


@dataclass(frozen=True)
class Activity:
    """Of a layer's units h, over completion positions. size: E|h|, mean: E h; [unit] float64."""

    size: NDArray[np.float64]
    mean: NDArray[np.float64]


def unit_activity(policy: Inspected, rows: Rows) -> dict[str, Activity]:
    """MLP output projection -> activity of the units that go into it; empty without any completion token."""
    sums: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    positions: dict[str, int] = {}
    for part in policy.unit_activations(rows):
        for layer, h in part.items():
            size, mean = h.double().abs().sum(dim=0).cpu().numpy(), h.double().sum(dim=0).cpu().numpy()
            before = sums.get(layer)
            sums[layer] = (size, mean) if before is None else (before[0] + size, before[1] + mean)
            positions[layer] = positions.get(layer, 0) + len(h)
    return {
        layer: Activity(size / positions[layer], mean / positions[layer])
        for layer, (size, mean) in sums.items()
        if positions[layer]
    }
