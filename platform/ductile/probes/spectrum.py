"""How many directions features and weights use: effective rank, and three numbers that are all called stable rank.

With singular values s_1 >= s_2 >= ... of a matrix,

    effective_rank       exp(-sum p log p), p = s / sum s                        (Roy & Vetterli 2007)
    srank_99             min{k: sum_{i<=k} s_i   / sum s   >= 0.99}              (Kumar et al., arXiv 2010.14498)
    approximate_rank_99  min{k: sum_{i<=k} s_i^2 / sum s^2 >= 0.99}              (Yang et al., arXiv 1909.12255)
    stable_rank          ||F||_F^2 / ||F||_2^2 = sum s^2 / s_1^2                 (Rudelson & Vershynin 2007)

Features are hidden states at the completion positions of the frozen probe set, NOT centred, as in the plasticity
literature: a large common mean counts as one strong direction. All in float64. Fewer positions than the width would
bound the rank by the sample, so they are refused.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.inspected import Inspected, Rows
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import macro_mean, present
from ductile.probes.frozen import frozen_rows

LARGEST = 2**24
"""Matrices with more entries, such as the embedding of a large vocabulary, are left out: minutes each."""

Spectrum = NDArray[np.float64]
"""[direction] singular values, falling."""


class SpectrumProbe:
    """`spectrum/*`: features of the last layer, and means over the weight matrices; all of them in the tables."""

    name = "spectrum"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        layers, matrices = context.pool.inspect(context.policy, partial(spectra, rows=frozen_rows(context)))
        features = [{"layer": layer, "last": layer == len(layers) - 1, **row} for layer, row in enumerate(layers)]
        weights: list[dict[str, Any]] = [
            {
                "matrix": name,
                "effective_rank": effective_rank(singular),
                "stable_rank": stable_rank(singular),
                "spectral_norm": float(singular[0]),
            }
            for name, singular in matrices.items()
        ]
        metrics: dict[str, float | None] = {
            f"spectrum/features/{name}": features[-1].get(name) if features else None for name in RANKS
        }
        for name in ("effective_rank", "stable_rank", "spectral_norm"):
            metrics[f"spectrum/weights/{name}"] = macro_mean([row[name] for row in weights])
        return ProbeResult(present(metrics), {"spectrum_features": features, "spectrum_weights": weights})


def spectra(policy: Inspected, rows: Rows) -> tuple[list[dict[str, Any]], dict[str, Spectrum]]:
    """Of each layer its ranks, or why there are none; of each weight matrix its singular values, if any is not 0."""
    layers: list[list[Tensor]] = []
    for chunk in policy.hidden_states(rows):
        layers = layers or [[] for _ in chunk.states]
        for kept, states in zip(layers, chunk.states, strict=True):
            kept.append(states[:, :-1][chunk.completion])
    matrices = {
        name: _singular_values(weight)
        for name, weight in policy.weights().items()
        if weight.ndim == 2 and weight.numel() <= LARGEST and bool(weight.any())
    }
    return [_layer(torch.cat(kept)) for kept in layers], matrices


def feature_spectrum(features: Tensor) -> Spectrum:
    """Singular values of features, [sample, width], not centred.

    Raises `ValueError` for fewer samples than the width, and for features that are all 0.
    """
    samples, width = features.shape
    if samples < width:
        raise ValueError(f"{samples} positions are fewer than the width {width}: their rank would be the sample's")
    if not features.any():
        raise ValueError("every feature is 0")
    return _singular_values(features)


def effective_rank(singular: Spectrum) -> float:
    """exp of the entropy of the normalised singular values."""
    p = singular[singular > 0] / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def srank_99(singular: Spectrum) -> int:
    """How many directions hold 99% of the sum of the singular values."""
    return _directions(singular)


def approximate_rank_99(singular: Spectrum) -> int:
    """How many directions hold 99% of the sum of their squares, the variance about 0."""
    return _directions(singular**2)


def stable_rank(singular: Spectrum) -> float:
    """Squared Frobenius norm over squared spectral norm."""
    return float((singular**2).sum() / singular[0] ** 2)


RANKS = {
    "effective_rank": effective_rank,
    "srank_99": srank_99,
    "approximate_rank_99": approximate_rank_99,
    "stable_rank": stable_rank,
}


def _layer(features: Tensor) -> dict[str, Any]:
    size = {"positions": features.shape[0], "width": features.shape[1]}
    try:
        singular = feature_spectrum(features)
    except ValueError as reason:
        return {**size, "left_out": str(reason)}
    return {**size, **{name: float(rank(singular)) for name, rank in RANKS.items()}}


def _directions(masses: NDArray[np.float64]) -> int:
    shares = masses.cumsum() / masses.sum()
    return int(np.argmax(shares >= 0.99 - 1e-12)) + 1  # a share of exactly 99% must not fail by a rounding


def _singular_values(matrix: Tensor) -> Spectrum:
    return torch.linalg.svdvals(matrix.detach().double()).cpu().numpy()
