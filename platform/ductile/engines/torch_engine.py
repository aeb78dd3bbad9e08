"""Plain PyTorch: for one machine, for debugging, and as the reference that the DeepSpeed engine is tested against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ductile.config import LearnerSettings
from ductile.engines.base import FAST, Fast, adamw, copied, copy_into, forget
from ductile.engines.shards import MOMENTS, Saved, Write, captured, untied, whole_shards, writer


class TorchEngine:
    """AdamW on the module's parameters; gradients are summed over ranks where there are several."""

    def __init__(self, module: nn.Module, settings: LearnerSettings, lr: float, fast: Fast | None = None) -> None:
        self.module = module
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._optimizer = adamw(module, settings, lr, fast)
        self._clip = settings.clip
        self._autocast = settings.precision == "bf16"
        if self._autocast:
            module.forward = torch.autocast(self._parameters[0].device.type, torch.bfloat16)(module.forward)  # type: ignore[method-assign]

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate; nothing is sent before `step`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """Sum over ranks, clip, update."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._clip))
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def weights(self) -> Mapping[str, Tensor]:
        """A copy on the CPU."""
        return copied(self.module)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """In place: the optimizer knows the parameters by identity."""
        copy_into(self.module, weights)

    def reset_optimizer(self) -> None:
        """See `Engine.reset_optimizer`."""
        forget(self._optimizer.state.values())

    def reset_fast(self) -> None:
        """See `Engine.reset_fast`."""
        forget(self._optimizer.state[parameter] for parameter in self._optimizer.param_groups[FAST]["params"])

    @torch.no_grad()
    def clear_moments(self, masks: Mapping[str, Tensor]) -> None:
        """A parameter that made no step yet has none."""
        for name, parameter in self.module.named_parameters():
            state = self._optimizer.state.get(parameter, {})
            for moment in MOMENTS if name in masks and state else ():
                state[moment].masked_fill_(masks[name].to(state[moment].device), 0.0)

    def capture(self) -> Write:
        """Every rank holds the same; rank 0 writes it."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        shards, state = (list(whole_shards(self.module)), untied(self.module)) if rank == 0 else ([], {})
        beside = {name: state[name] for name in state.keys() - {shard.name for shard in shards}}
        return writer(captured(shards, self._optimizer.state, beside), rank, world)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """In place, on every rank by itself."""
        with Saved(folder) as saved:
            for name, held in untied(self.module).items():
                held.copy_(saved.whole(name, held))
            saved.restore(whole_shards(self.module), self._optimizer.state)
