"""What the learner needs of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ductile.config import LearnerSettings


class Engine(Protocol):
    """Holds a module's weights and its optimizer.

    A step's gradient is the sum of the gradients of all `backward` calls on all ranks since the last `step`.
    """

    module: nn.Module
    """What to call in the forward pass: takes and returns what the module does."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a scalar loss's gradient; `last` marks the step's final one. As many calls on every rank."""

    def step(self) -> float:
        """Clip the gradient, update the weights, clear the gradient; returns the norm before clipping."""

    def weights(self) -> Mapping[str, Tensor]:
        """The module's whole state dict, on the CPU, detached copies. Every rank calls it."""

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from this whole state dict; the optimizer's state stays. Every rank calls it alike."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer below `folder`. Every rank calls it."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote; the learning rate stays the engine's own."""


def adamw(parameters: Iterable[nn.Parameter], settings: LearnerSettings, lr: float) -> torch.optim.AdamW:
    """The optimizer of both engines (AdamW, arXiv 1711.05101)."""
    betas = (settings.betas[0], settings.betas[1])
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=settings.weight_decay)
