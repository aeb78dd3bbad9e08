"""DeepSpeed: ZeRO stages 0 to 3, on GPUs over NCCL or on CPUs over gloo."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ductile.config import LearnerSettings
from ductile.engines.base import FAST, Fast, adamw, copied, copy_into, forget
from ductile.engines.shards import MOMENTS, Saved, Shard, Write, captured, untied, writer

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # without it, importing DeepSpeed probes for a compiler and GPUs
if "mlflow" not in sys.modules:  # DeepSpeed's autotuner, which nobody uses here, takes half a second to import it
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

if sys.modules["mlflow"] is None:
    del sys.modules["mlflow"]
warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning, module="torch")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
# DeepSpeed's shared-memory collectives would be compiled at start-up; gloo needs no compiler and no half minute.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class DeepSpeedEngine:
    """A DeepSpeed engine around the module. Needs no launcher: without a process group it makes one of one process."""

    def __init__(self, module: nn.Module, settings: LearnerSettings, lr: float, fast: Fast | None = None) -> None:
        if not dist.is_initialized():
            # In memory and without a port, so that any number of runs share a machine.
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it; Ray Train and launchers set it
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = adamw(module, settings, lr, fast)
        self._stage, self._world = settings.zero, dist.get_world_size()
        self._engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=parameters,
            optimizer=optimizer,
            config=_config(settings, self._world),
            dist_init_required=False,
        )
        if isinstance(self._engine.optimizer, FP16_UnfusedOptimizer):
            _forget_first_step(self._engine.optimizer)
        self.module = self._engine

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate. DeepSpeed averages over ranks and we want the sum, so the loss is multiplied by their number."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world, scale_wrt_gas=False)

    def step(self) -> float:
        """Clip and update. Without ZeRO and in fp32 DeepSpeed keeps no norm, so it is taken from the gradients."""
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._engine.step()
        known = self._engine.get_global_grad_norm()
        return float(norm if known is None else known)

    def weights(self) -> Mapping[str, Tensor]:
        """A copy on the CPU, in float32; at ZeRO 3 the shards are gathered from all ranks."""
        module = self._engine.module
        with self._gathered(list(module.parameters())):
            return copied(module, torch.float32)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """The model's own copy, and the one that the optimizer steps; at ZeRO 3 rank 0's are given out again."""
        module = self._engine.module
        with self._gathered(list(module.parameters()), modifier_rank=0):
            copy_into(module, weights)
        for shard in self._shards():
            shard.of(shard.owner).copy_(shard.cut(weights[shard.name]))

    def reset_optimizer(self) -> None:
        """See `Engine.reset_optimizer`."""
        forget(self._adamw().state.values())

    def reset_fast(self) -> None:
        """See `Engine.reset_fast`."""
        optimizer = self._engine.optimizer
        if self._stage == 3:  # the groups are empty between steps, and their parameters flat, in several parts
            parts = enumerate(optimizer.fp32_partitioned_groups_flat)
            fast = [part for number, part in parts if optimizer.sub_group_to_group_id[number] == FAST]
        else:
            fast = self._adamw().param_groups[FAST]["params"]
        forget(self._adamw().state.get(parameter, {}) for parameter in fast)

    def clear_moments(self, masks: Mapping[str, Tensor]) -> None:
        """Each rank clears what it holds; before the first step there is nothing."""
        for shard in self._shards():
            state = self._adamw().state.get(shard.owner, {})
            for moment in MOMENTS if shard.name in masks and state else ():
                shard.of(state[moment]).masked_fill_(shard.cut(masks[shard.name]), 0.0)

    def capture(self) -> Write:
        """Each rank's own shards; rank 0 those that all hold, and what is not trained."""
        rank = dist.get_rank()
        shards = list(self._shards()) if self._stage or rank == 0 else []
        trained = {name for name, parameter in self._engine.module.named_parameters() if parameter.requires_grad}
        beside = {name: held for name, held in untied(self._engine.module).items() if name not in trained}
        with self._gathered([held for held in beside.values() if isinstance(held, nn.Parameter)]):
            tensors = captured(shards, self._adamw().state, beside if rank == 0 else {})
        return writer(tensors, rank, self._world)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """The model's own copy of each weight, then what the optimizer holds: see `Engine.load`.

        At ZeRO 3 rank 0 reads a parameter and gives it out, one at a time: no rank needs room for all of them.
        """
        with Saved(folder) as saved:
            for name, held in untied(self._engine.module).items():
                parted = [held] if self._stage == 3 and isinstance(held, nn.Parameter) else []
                with self._gathered(parted, modifier_rank=0):
                    if not parted or dist.get_rank() == 0:
                        held.copy_(saved.whole(name, held))
            saved.restore(self._shards(), self._adamw().state)

    def _gathered(self, parameters: list[nn.Parameter], modifier_rank: int | None = None) -> Any:
        """These parameters whole on every rank, at ZeRO 3 where they are in parts."""
        enabled = self._stage == 3 and bool(parameters)
        return deepspeed.zero.GatheredParameters(parameters, modifier_rank=modifier_rank, enabled=enabled)

    def _adamw(self) -> torch.optim.Optimizer:
        """What `adamw` made, whatever DeepSpeed has wrapped it in."""
        optimizer: Any = self._engine.optimizer
        return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer

    def _shards(self) -> Iterator[Shard]:
        """Where this rank's optimizer holds each trained parameter."""
        optimizer: Any = self._engine.optimizer
        copies: dict[nn.Parameter, Tensor] = {}
        if isinstance(optimizer, FP16_UnfusedOptimizer):
            for ours, theirs in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
                copies.update(zip(ours, theirs, strict=True))
        for name, parameter in self._engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            if self._stage == 0:
                yield Shard(name, copies.get(parameter, parameter), 0, 0, parameter.numel())
            elif self._stage == 3:  # cut into equal parts, the last of them padded
                group, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                offset = min(size * dist.get_rank(), parameter.ds_numel)
                size = min(size, parameter.ds_numel - offset)
                yield Shard(name, optimizer.fp32_partitioned_groups_flat[group], start, offset, size)
            elif (held := parameter._hp_mapping) is not None:  # None: all of it is another rank's
                owner = optimizer.single_partition_of_fp32_groups[held.param_group_index]
                ours, theirs = held.lp_fragment_address, held.hp_fragment_address
                yield Shard(name, owner, theirs.start, ours.start, ours.numel)


def _forget_first_step(optimizer: FP16_UnfusedOptimizer) -> None:
    """Undo the step with gradients of zero by which DeepSpeed makes room for the moments in bf16 without ZeRO.

    AdamW would count it: the weights would have decayed once, and the bias correction of the first steps be short by a
    quarter of the learning rate. No other stage makes it.
    """
    optimizer.optimizer.state.clear()
    optimizer.refresh_fp32_params()


def _config(settings: LearnerSettings, world: int) -> dict[str, object]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # only for DeepSpeed's book-keeping: our micro-batches are cut by tokens
        "gradient_accumulation_steps": 1,
        "train_batch_size": world,
        "gradient_clipping": settings.clip,
        "bf16": {"enabled": settings.precision == "bf16"},
        "zero_optimization": {"stage": settings.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "steps_per_print": 1 << 31,
    }
