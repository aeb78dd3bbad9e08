"""The reset of continual backprop (Dohare et al., Nature 2024): the least useful units of each layer begin anew.

    u_i = E|h_i| * mean_o |W_down[o, i]|

There u is a running mean over steps (eta = 0.99), a unit is spared until it is of age, and a small share of those of
age is replaced at every step (1e-4). A single reset at a phase switch has no steps to run over: u is measured once, on
the policy's own answers to problems of the phase that ended; every unit is of age; and the share goes at once. As
there, the layer's output bias takes over what the units gave on average, in models that have one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.interventions.activity import Activity


def utility(of: Activity, outgoing: Tensor) -> NDArray[np.float64]:
    """u, [unit]. outgoing: W_down, [width, unit]."""
    weight: NDArray[np.float64] = outgoing.double().abs().mean(dim=0).cpu().numpy()
    return of.size * weight


def least_useful(activity: Mapping[str, Activity], weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Layer -> [unit] bool: the share of lowest utility, at least one unit; of equals the first."""
    chosen = {}
    for layer, of in activity.items():
        order = np.argsort(utility(of, weights[f"{layer}.weight"]), kind="stable")
        chosen[layer] = torch.zeros(len(order), dtype=torch.bool)
        chosen[layer][order[: max(1, round(share * len(order)))].copy()] = True
    return chosen
