"""Units of gated MLPs that begin anew.

    y = W_down h + b,    h = act(W_gate x) * (W_up x)

Unit i is row i of W_gate and W_up, its incoming weights, and column i of W_down, its outgoing ones. A unit that begins
anew has incoming weights as the model class would draw them, and outgoing ones of 0: it changes nothing yet, and its
gradient reaches the outgoing weights first (Sokar et al., arXiv 2302.12902, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ductile.interventions.noise import gaussian

INCOMING = ("gate_proj", "up_proj")
OUTGOING = "down_proj"


def gated_layers(names: Iterable[str]) -> list[str]:
    """The output projections of gated MLPs (Llama, Mistral, Qwen, Gemma), in order. names: of parameters."""
    known = list(names)
    return [
        name.removesuffix(".weight")
        for name in known
        if name.endswith(f".{OUTGOING}.weight")
        and all(name.replace(f".{OUTGOING}.", f".{incoming}.") in known for incoming in INCOMING)
    ]


def begin_anew(
    weights: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    deviation: float,
    seed: int,
    stream: str,
    means: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """New weights, and masks of the entries that are new, for the optimizer's moments.

    units: output projection -> [unit] bool, True for those that begin anew; deviation: of the incoming weights' normal
    distribution, keyed by (seed, stream, name); means: output projection -> [unit] E h, where the layer's output bias,
    if it has one, shall take over what the units gave on average. Parameters that stay as they are have no mask.
    """
    changed, masks = dict(weights), dict[str, Tensor]()
    for layer, chosen in units.items():
        if not chosen.any():
            continue
        for incoming in INCOMING:
            name = layer.removesuffix(OUTGOING) + incoming
            fresh = gaussian(changed[f"{name}.weight"], deviation, seed, stream, f"{name}.weight")
            _replace(changed, masks, f"{name}.weight", chosen[:, None], fresh)
            if f"{name}.bias" in changed:
                _replace(changed, masks, f"{name}.bias", chosen, torch.zeros_like(changed[f"{name}.bias"]))
        down, bias = changed[f"{layer}.weight"], f"{layer}.bias"
        if means is not None and bias in changed:
            given = down[:, chosen].double() @ means[layer][chosen].double()
            changed[bias] = (changed[bias].double() + given).to(changed[bias].dtype)
        _replace(changed, masks, f"{layer}.weight", chosen[None, :], torch.zeros_like(down))
    return changed, masks


def _replace(weights: dict[str, Tensor], masks: dict[str, Tensor], name: str, where: Tensor, fresh: Tensor) -> None:
    masks[name] = where.expand(weights[name].shape).clone()
    weights[name] = torch.where(masks[name], fresh, weights[name])
