"""What can be asked of a loaded policy by those who look inside it, and in which shapes it answers.

Apart from the probes that ask and from `inspection.py`, which answers: a rollout actor needs no probe to start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Rows = Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
"""Sequences to look at: token ids of prompt and completion, [length] int32 each."""


@dataclass(frozen=True)
class HiddenStates:
    """The residual stream on a chunk of rows, padded on the right.

    states:     [layer, row, position, width] float32: the embedding's output first, the final norm's output last
    mask:       [row, position] bool, True on tokens
    completion: [row, position - 1] bool, True where the next token belongs to the completion
    """

    states: Tensor
    mask: Tensor
    completion: Tensor


@dataclass(frozen=True)
class GradientNorms:
    """The gradient g of an objective, and its parts: g is the sum of g_k over k, the successes of a row's group.

    norm: ||g||;  norms: k -> ||g_k||;  dots: k -> <g_k, g>.
    """

    norm: float
    norms: Mapping[int, float]
    dots: Mapping[int, float]


class Inspected(Protocol):
    """A loaded policy as `RolloutPool.inspect` hands it to a measure, which must not change it.

    What lies inside (weights, hidden states, units) is that of the trainable member; entropies, the likelihoods under
    gradients and the objective are those of the composed policy. Iterators go over the rows in chunks, in order.
    A completion position is one that predicts a completion's token.
    """

    def weights(self) -> dict[str, Tensor]:
        """Parameters by name, detached; a tied one once."""

    def hidden_states(self, rows: Rows) -> Iterator[HiddenStates]:
        """The residual stream at every layer."""

    def unit_activations(self, rows: Rows) -> Iterator[dict[str, Tensor]]:
        """MLP layer -> [completion position, unit] float32: what goes into the MLP's output projection.

        That is the gated product of a SwiGLU or GeGLU, and what the non-linearity returns in a plain MLP.
        """

    def unit_gradients(self, rows: Rows) -> Iterator[dict[str, Tensor]]:
        """MLP layer -> [completion position, unit] float32: |d NLL / d h| at the same places.

        NLL is the mean cross-entropy of the completion tokens of all rows, in nats at temperature 1.
        """

    def nll_gradient_norm(self, rows: Rows) -> float:
        """Norm of the gradient of the same NLL by the trainable weights."""

    def entropies(self, rows: Rows, temperature: float) -> NDArray[np.float64]:
        """[completion position] entropy of the next token in nats."""

    def gradient_norms(self, batch: Any, objective: Any, temperature: float) -> GradientNorms:
        """The gradient of an `rl.objective.Objective` without its KL on an `rl.batch.Batch`, by successes."""
