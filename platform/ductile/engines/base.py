"""What the learner needs of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ductile.config import LearnerSettings
from ductile.engines.shards import Write, untied


@dataclass(frozen=True)
class Fast:
    """Parameters that learn at a rate of their own and do not decay. chosen: whether a name is one of theirs."""

    lr: float
    chosen: Callable[[str], bool]


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
        """The module's whole state dict, on the CPU, detached copies; tied weights share one. Every rank calls it.

        Nobody writes to them: what is published lies on their memory, or is copied from it.
        """

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from this state dict, given whole on every rank; moments and step counts stay.

        A weight that is tied to another is taken under the first of its names. Raises `KeyError` for a missing one.
        """

    def reset_optimizer(self) -> None:
        """Moments and step counts become those of a new AdamW."""

    def reset_fast(self) -> None:
        """`reset_optimizer` for the fast parameters alone. Every rank calls it."""

    def clear_moments(self, masks: Mapping[str, Tensor]) -> None:
        """Both moments become 0 where a mask is True; step counts stay. masks: parameter name -> bool, its shape."""

    def capture(self) -> Write:
        """Copy this rank's part of weights and optimizer. Every rank calls it, and may write in a thread of its own."""

    def load(self, folder: Path) -> None:
        """Read what all ranks of some engine wrote, of either kind; the learning rates stay the engine's own.

        Every rank calls it. Raises `shards.WrongEngine` when the files are not of this module, or not all there.
        """


@torch.no_grad()
def forget(states: Iterable[Mapping[str, Tensor]]) -> None:
    """Zero what an optimizer knows, step counts too: AdamW's first step makes its state so, and goes on from it."""
    for state in states:
        for value in state.values():
            value.zero_()


FAST = 1
"""Number of the fast parameters' group in the optimizer."""


def adamw(module: nn.Module, settings: LearnerSettings, lr: float, fast: Fast | None) -> torch.optim.AdamW:
    """The optimizer of both engines (AdamW, arXiv 1711.05101) on the parameters that have gradients."""
    learned = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    groups = [{"params": [p for name, p in learned if not (fast and fast.chosen(name))]}]
    if fast:
        groups.append({"params": [p for name, p in learned if fast.chosen(name)], "lr": fast.lr, "weight_decay": 0.0})  # type: ignore[dict-item]
    betas = (settings.betas[0], settings.betas[1])
    return torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=settings.weight_decay)


@torch.no_grad()
def copied(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A module's state dict on the CPU, with memory of its own: one copy, which all names of a tied weight share.

    dtype: of all tensors; their own when it is None.
    """
    copies: dict[int, Tensor] = {}
    named = {}
    for name, held in module.state_dict(keep_vars=True).items():
        if id(held) not in copies:
            copies[id(held)] = held.detach().to("cpu", dtype or held.dtype, copy=True)
        named[name] = copies[id(held)]
    return named


@torch.no_grad()
def copy_into(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write a state dict into a module in place; of names that are tied the first one counts."""
    for name, held in untied(module).items():
        held.copy_(weights[name])
