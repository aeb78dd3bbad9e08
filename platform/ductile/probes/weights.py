"""How large the trainable weights are, how far they moved, and how steep the loss is where they stand.

Distances are root mean squares over weights, sqrt(||theta - theta_ref||^2 / N), in float64. The gradient norm is that
of the mean cross-entropy on the frozen probe set. It misleads when read alone: over-trained models had a larger
gradient norm than others and yet moved and gained less, so read it beside `learner/update_to_weight` and the drift.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.inspected import Inspected, Rows
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import present
from ductile.probes.frozen import frozen_rows

MOVERS = 20
"""Tensors in the table: those that moved farthest from the base."""

Weights = dict[str, NDArray[np.float32]]


class WeightsProbe:
    """`weights/*` of the trainable member. Weights of two policies at a time are compared where the probe runs."""

    name = "weights"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        now = context.pool.inspect(context.policy, copied)
        from_base = movement(now, context.pool.inspect(context.base, copied))
        from_start = movement(now, context.pool.inspect(context.start, copied)) if context.start else None
        rows = frozen_rows(context)
        squares, sizes = sum(squared(w) for w in now.values()), sum(w.size for w in now.values())
        metrics: dict[str, float | None] = {
            "weights/mean_abs": sum(float(np.abs(w.astype(np.float64)).sum()) for w in now.values()) / sizes,
            "weights/rms": (squares / sizes) ** 0.5,
            "weights/gradient_norm": context.pool.inspect(context.policy, partial(nll_gradient_norm, rows=rows))
            if rows
            else None,
        }
        for place, moved in (("base", from_base), ("start", from_start)):
            if moved is not None:
                metrics[f"weights/drift_rms_{place}"] = (sum(m["squares"] for m in moved.values()) / sizes) ** 0.5
                metrics[f"weights/changed_share_{place}"] = sum(m["changed"] for m in moved.values()) / sizes
        table = [_row(name, now[name], from_base[name], (from_start or {}).get(name)) for name in now]
        table.sort(key=lambda row: -row["drift_rms_base"])
        return ProbeResult(present(metrics), {"weights": table[:MOVERS]})


def copied(policy: Inspected) -> Weights:
    """The trainable weights by name, on the CPU, as float32."""
    return {name: weight.float().cpu().numpy().copy() for name, weight in policy.weights().items()}


def nll_gradient_norm(policy: Inspected, rows: Rows) -> float:
    """Norm of the gradient of the rows' mean cross-entropy by the trainable weights."""
    return policy.nll_gradient_norm(rows)


def movement(now: Weights, before: Weights) -> dict[str, dict[str, float]]:
    """Of each tensor: the squared distance, and how many of its weights are other numbers than before."""
    return {
        name: {
            "squares": squared(now[name].astype(np.float64) - before[name]),
            "changed": int((now[name] != before[name]).sum()),
        }
        for name in now
    }


def squared(weights: NDArray[Any]) -> float:
    """Sum of squares in float64."""
    return float((weights.astype(np.float64) ** 2).sum())


def _row(
    name: str, weights: NDArray[np.float32], base: dict[str, float], start: dict[str, float] | None
) -> dict[str, Any]:
    size = weights.size
    return {
        "name": name,
        "weights": size,
        "mean_abs": float(np.abs(weights.astype(np.float64)).mean()),
        "rms": (squared(weights) / size) ** 0.5,
        "drift_rms_base": (base["squares"] / size) ** 0.5,
        "drift_rms_start": (start["squares"] / size) ** 0.5 if start else None,
    }
