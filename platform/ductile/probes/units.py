"""Units of the MLPs that do little: dormant by activation, dead, and dormant by gradient.

    s_i = E|h_i| / mean_j E|h_j|        dormant at tau when s_i <= tau (Sokar et al., arXiv 2302.12902, section 3)
    share of inputs with h_i != 0       dead when below 0.01 (Dohare et al. 2024)
    E|d NLL / d h_i| over its layer's mean    the same score of the gradient, as GraMa takes it

Expectations go over the completion positions of the frozen probe set; h is what enters an MLP's output projection.

Counts have no resolution on a gated MLP: its unit is a product of two smooth factors, which is hardly ever 0 and whose
mean size varies little, so every threshold counts none (scores above 0.1 in whole models are common). So quantiles of
the scores are kept beside the shares, and they move long before a count does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.inspected import Inspected, Rows
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.frozen import frozen_rows

TAUS = (0.01, 0.025, 0.1)
"""Thresholds in use: arXiv 2606.24752; Sokar et al. for the weak and for the strong criterion."""

QUANTILES = {"min": 0.0, "q01": 0.01, "q05": 0.05, "median": 0.5}

DEAD = 0.01
"""A unit is dead when it acts on a smaller share of inputs than this."""


class UnitsProbe:
    """`units/*`, over the units of all MLP layers; the table has a row for each layer."""

    name = "units"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        rows = frozen_rows(context)
        layers = context.pool.inspect(context.policy, partial(unit_means, rows=rows)) if rows else {}
        if not layers:  # nothing to look at, or an architecture whose MLPs are not known
            return ProbeResult()
        scores = {
            name: (relative(layer["activation"]), layer["active"], relative(layer["gradient"]))
            for name, layer in layers.items()
        }
        table = [{"layer": name, "units": len(parts[0]), **summary(*parts)} for name, parts in scores.items()]
        together = summary(*(np.concatenate(parts) for parts in zip(*scores.values(), strict=True)))
        return ProbeResult({f"units/{name}": value for name, value in together.items()}, {"units": table})


def unit_means(policy: Inspected, rows: Rows) -> dict[str, dict[str, NDArray[np.float64]]]:
    """MLP layer -> means over completion positions, [unit]: activation |h|, active [h != 0], gradient |d NLL / d h|."""
    forward = _mean(
        {
            (name, kind): value
            for name, h in part.items()
            for kind, value in (("activation", h.abs()), ("active", h != 0))
        }
        for part in policy.unit_activations(rows)
    )
    gradient = _mean(policy.unit_gradients(rows)) if forward else {}
    return {
        name: {"activation": forward[name, "activation"], "active": forward[name, "active"], "gradient": steepness}
        for name, steepness in gradient.items()
    }


def relative(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each unit's mean over the layer's mean, [unit]; zeros for a layer that does nothing at all."""
    level = means.mean()
    return means / level if level > 0 else np.zeros_like(means)


def summary(
    scores: NDArray[np.float64], active: NDArray[np.float64], gradient_scores: NDArray[np.float64]
) -> dict[str, float]:
    """Quantiles and shares of units by name. scores, active, gradient_scores: [unit]."""
    values = {"dead_share": float((active < DEAD).mean())}
    for prefix, measured in (("", scores), ("gradient_", gradient_scores)):
        for name, quantile in QUANTILES.items():
            values[f"{prefix}score_{name}"] = float(np.quantile(measured, quantile))
        for tau in TAUS:
            values[f"{prefix}dormant_share/{tau}"] = float((measured <= tau).mean())
    return values


def _mean(chunks: Iterable[Mapping[Any, Tensor]]) -> dict[Any, Any]:
    """Mean over all positions of all chunks, in float64."""
    sums: dict[Any, Tensor] = {}
    positions = 0
    for chunk in chunks:
        for name, values in chunk.items():
            total = values.sum(dim=0, dtype=torch.float64).cpu()
            sums[name] = sums[name] + total if name in sums else total
        positions += len(next(iter(chunk.values()), ()))
    return {name: (total / positions).numpy() for name, total in sums.items()}
