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
        """Take on a whole state dict, the same on every rank; the optimizer's state stays. Every rank calls it.

        In bf16 they are rounded to it, fp32 master copies too: what is published has no more digits.
        """

    def reset_optimizer(self) -> None:
        """Forget moments and step counts: the next step is that of a new optimizer. Every rank calls it."""

    def clear_moments(self, masks: Mapping[str, Tensor]) -> None:
        """Set both of Adam's moments to 0 where a mask is True. Every rank calls it.

        masks: parameter name -> bool tensor of its shape.
        """

    def save(self, folder: Path) -> None:
        """Write weights and optimizer below `folder`. Every rank calls it."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote; the learning rate stays the engine's own."""


MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's moments, as PyTorch names them."""


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Zero all of the optimizer's state in place, step counts too, so that whoever holds its tensors sees it."""
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


def clear(state: Mapping[str, Tensor], mask: Tensor) -> None:
    """Zero a parameter's moments where the mask is True; there are none before its first step."""
    for name in MOMENTS:
        if name in state:
            state[name].masked_fill_(mask.to(state[name].device), 0.0)


def adamw(parameters: Iterable[nn.Parameter], settings: LearnerSettings, lr: float) -> torch.optim.AdamW:
    """The optimizer of both engines (AdamW, arXiv 1711.05101)."""
    betas = (settings.betas[0], settings.betas[1])
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=settings.weight_decay)
