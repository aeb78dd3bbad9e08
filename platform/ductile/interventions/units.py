"""Beginning some units of the MLPs anew: which ones, and what becomes of their weights.

    ReDo       units with  E|h_i| / mean_j E|h_j| <= tau        (Sokar et al., arXiv 2302.12902, section 3)
    utility    the share of least  E|h_i| * mean_k |w_ki|       (continual backprop, Dohare et al. 2024, eq. 1)

h_i is what goes into the MLP's output projection, w its column there. A unit that begins anew has its incoming weights
(all projections of a gated MLP) drawn again as at initialisation, incoming biases and outgoing weights 0; the mean of
what it gave to the next layer goes into the outgoing bias, where there is one. The optimizer's moments of all of these
are cleared.

Both papers do it during training. Continual backprop keeps a running utility, spares young units, and replaces a tiny
share of the rest at every step; here the utility is measured once, between two phases, and its share is replaced at
once. On a gated MLP hardly any unit is dormant by ReDo's measure (`probes/units.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ductile.inspected import Inspected, Rows
from ductile.interventions.perturb import noise


@dataclass(frozen=True)
class Activity:
    """What the units of a layer do, means over completion positions. size: [unit] E|h|; mean: [unit] E h."""

    size: Tensor
    mean: Tensor


def activity(policy: Inspected, rows: Rows) -> dict[str, Activity]:
    """MLP output projection's name -> its units' activity, float64. Sent to where the policy is (`pool.inspect`)."""
    sizes: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    positions = 0
    for part in policy.unit_activations(rows):
        positions += len(next(iter(part.values())))
        for name, h in part.items():
            sizes[name] = sizes.get(name, 0) + h.double().abs().sum(dim=0).cpu()
            means[name] = means.get(name, 0) + h.double().sum(dim=0).cpu()
    return {name: Activity(sizes[name] / positions, means[name] / positions) for name in sizes}


def dormant(size: Tensor, tau: float) -> Tensor:
    """[unit] bool: ReDo's. size: [unit] E|h|. A layer in which nothing acts is dormant as a whole."""
    return size <= tau * size.mean()


def least_useful(size: Tensor, outgoing: Tensor, share: float) -> Tensor:
    """[unit] bool: the `share` of least utility, rounded down. outgoing: [output, unit]; of equals the first go."""
    utility = size * outgoing.double().abs().mean(dim=0)
    chosen = torch.zeros(len(utility), dtype=torch.bool)
    chosen[utility.argsort(stable=True)[: int(share * len(utility))]] = True
    return chosen


def restart(
    weights: Mapping[str, Tensor], layer: str, chosen: Tensor, mean: Tensor, deviation: float, key: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state dict with the layer's chosen units begun anew, and where it changed: parameter name -> bool mask.

    layer: name of the MLP's output projection; chosen: [unit] bool; mean: [unit] E h; deviation: of the weights at
    initialisation; key: names the noise.
    """
    changed, masks = dict(weights), {}
    outgoing = f"{layer}.weight"
    for name in incoming(weights, layer, len(chosen)):
        tensor = weights[name]
        fresh = deviation * noise(tensor.shape, f"{key}/{name}").to(tensor) if tensor.ndim > 1 else 0 * tensor
        mask = chosen.reshape(-1, *[1] * (tensor.ndim - 1)).expand_as(tensor)
        changed[name], masks[name] = torch.where(mask, fresh, tensor), mask.clone()
    columns = chosen.expand_as(weights[outgoing])
    changed[outgoing], masks[outgoing] = torch.where(columns, 0.0, weights[outgoing]), columns.clone()
    bias = f"{layer}.bias"
    if bias in weights:
        lost = weights[outgoing].double() @ torch.where(chosen, mean, 0.0)
        changed[bias] = weights[bias] + lost.to(weights[bias])
        masks[bias] = torch.zeros_like(weights[bias], dtype=torch.bool)
    return changed, masks


def incoming(names: Iterable[str], layer: str, units: int) -> list[str]:
    """Parameters of the same MLP that lead into its units: all but the output projection's own.

    Raises `ValueError` for an MLP that has none: an architecture that is not known here.
    """
    block = layer.rpartition(".")[0]
    found = [name for name in names if name.startswith(f"{block}.") and not name.startswith(f"{layer}.")]
    if not found:
        raise ValueError(f"{layer}: nothing in {block} leads into its {units} units")
    return found
