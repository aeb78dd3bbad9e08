"""What holds the trainable weights and the optimizer: the one door to DeepSpeed, and plain PyTorch beside it."""

from __future__ import annotations

from torch import nn

from ductile.config import LearnerSettings
from ductile.engines.base import Engine, Fast


def make_engine(module: nn.Module, settings: LearnerSettings, lr: float, fast: Fast | None = None) -> Engine:
    """The engine that the settings name. The import of DeepSpeed costs seconds, so it waits until it is asked for."""
    if settings.engine == "deepspeed":
        from ductile.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(module, settings, lr, fast)
    from ductile.engines.torch_engine import TorchEngine

    return TorchEngine(module, settings, lr, fast)


__all__ = ["Engine", "Fast", "make_engine"]
