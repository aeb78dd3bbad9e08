"""Models that a run makes and keeps: Hugging Face folders below the run's own, there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from ductile.models.load import load_model, load_tokenizer


def kept_model(models: Path, like: str, weights: Mapping[str, Tensor], dtype: str, label: str) -> Path:
    """Folder of the model in the folder `like` with these weights. The same weights are the same folder."""

    def make() -> PreTrainedModel:
        model = load_model(like, dtype)
        model.load_state_dict(weights)
        return model

    return kept(models, f"{label}-{fingerprint(weights)}", like, make)


def kept(models: Path, name: str, like: str, make: Callable[[], PreTrainedModel]) -> Path:
    """Folder `name` below `models`, with the tokenizer in `like`; what is not there yet is made.

    Rank 0 makes and writes it, and all ranks, which call alike, wait for it. Two processes that make the same one, as
    branches of a snapshot do, do not disturb each other.
    """
    folder = models / name
    if _rank() == 0 and not folder.exists():
        temporary = models / f".writing-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        make().save_pretrained(temporary)
        load_tokenizer(like).save_pretrained(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        try:
            temporary.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(temporary)
            if not folder.exists():
                raise
    if dist.is_initialized():
        dist.barrier()
    return folder


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that name a state dict's values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().float().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
