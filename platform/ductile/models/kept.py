"""Models that a run makes and keeps: Hugging Face folders below the run's own, there whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from ductile.manifest import flush_files
from ductile.models.load import load_model, load_tokenizer
from ductile.paths import inside
from ductile.ports import Composition, Member

_ORIGIN, _MODELS = "origin:", "models:"


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
    folder = inside(models, name)
    if _rank() == 0 and not folder.exists():
        temporary = models / f".writing-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        make().save_pretrained(temporary)
        load_tokenizer(like).save_pretrained(temporary)
        flush_files(temporary)
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


def recorded(composition: Composition, origin: Composition, models: Path | None) -> dict[str, Any]:
    """A composition as plain values without this machine's paths: a run's folders may move between two starts.

    origin: what the run began as, whose folders are named by their roles; models: the run's folder for models.
    """
    begun = {member.path: f"{_ORIGIN}{member.role}" for member in reversed(origin.members)}

    def named(path: str) -> str:
        inside = models is not None and Path(path).is_relative_to(models)
        return f"{_MODELS}{Path(path).relative_to(models)}" if models is not None and inside else begun[path]

    members = [{**asdict(member), "path": named(member.path)} for member in composition.members]
    return {"members": members, "trainable": composition.trainable}


def recalled(values: Mapping[str, Any], origin: Composition, models: Path | None) -> Composition:
    """The composition that `recorded` wrote, in the folders of now; raises `UnsafePath` for a folder elsewhere."""
    begun = {f"{_ORIGIN}{member.role}": member.path for member in origin.members}

    def found(name: str) -> str:
        return begun[name] if models is None or name in begun else str(inside(models, name.removeprefix(_MODELS)))

    members = tuple(Member(**{**member, "path": found(member["path"])}) for member in values["members"])
    return Composition(members, values["trainable"])
