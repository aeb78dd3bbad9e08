"""An engine's checkpoint: safetensors files of shards, read back at any number of ranks, ZeRO stage and by any engine.

Rank r of w writes `engine-r-of-w.safetensors`. A key names what a tensor is, whose, and where in it:
`weight/NAME@OFFSET`, `exp_avg/NAME@OFFSET` and `exp_avg_sq/NAME@OFFSET` hold numbers OFFSET and following of the
flattened tensor, and `step/NAME@OFFSET` how often the optimizer stepped it. A parameter that made no step has a weight
alone, as have frozen parameters and buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state beside its step count."""

STEP, WEIGHT = "step", "weight"

Write = Callable[[Path], None]
OptimizerState = MutableMapping[Any, Any]
"""Stepped tensor -> AdamW's state of it."""


class WrongEngine(RuntimeError):
    """The files do not hold what the engine needs."""


@dataclass(frozen=True)
class Shard:
    """What of a parameter this rank's optimizer holds: numbers `offset` and following of the flattened parameter.

    owner: the tensor that the optimizer steps, float32; the shard is `size` numbers of it from `start`.
    """

    name: str
    owner: Tensor
    start: int
    offset: int
    size: int

    def of(self, held: Tensor) -> Tensor:
        """The shard's part of the owner, or of one of its moments: a view."""
        return held.detach().view(-1).narrow(0, self.start, self.size)

    def cut(self, whole: Tensor) -> Tensor:
        """The shard's part of a tensor of the parameter's shape."""
        return whole.reshape(-1).narrow(0, self.offset, self.size).to(self.owner.device)


def whole_shards(module: nn.Module) -> Iterator[Shard]:
    """Of an optimizer that steps the trained parameters themselves."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield Shard(name, parameter, 0, 0, parameter.numel())


def untied(module: nn.Module) -> dict[str, Tensor]:
    """The state dict's own tensors, each once: one that is tied to another under the first of their names."""
    first = {name for name, _ in module.named_parameters()}
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)} - first
    return {name: held for name, held in module.state_dict(keep_vars=True).items() if name not in tied}


def captured(shards: Iterable[Shard], states: OptimizerState, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: the shards, what an optimizer knows of them, and whole tensors that it does not step."""
    tensors = {f"{WEIGHT}/{name}@0": _copied(tensor.detach().reshape(-1)) for name, tensor in beside.items()}
    for shard in shards:
        if not shard.size:
            continue
        place, state = f"{shard.name}@{shard.offset}", states.get(shard.owner, {})
        tensors[f"{WEIGHT}/{place}"] = _copied(shard.of(shard.owner))
        if state:
            tensors |= {f"{moment}/{place}": _copied(shard.of(state[moment])) for moment in MOMENTS}
            tensors[f"{STEP}/{place}"] = torch.as_tensor(state[STEP], dtype=torch.float32).cpu().clone()
    return tensors


def writer(tensors: dict[str, Tensor], rank: int, world: int) -> Write:
    """Writes what `captured` returned below a folder."""

    def write(folder: Path) -> None:
        save_file(tensors, folder / f"engine-{rank}-of-{world}.safetensors")

    return write


class Saved:
    """What all ranks wrote below a folder; nothing is read before it is asked for. Raises `WrongEngine` for a part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}

    def __enter__(self) -> Saved:
        self._files = ExitStack()
        paths = sorted(self.folder.glob("engine-*-of-*.safetensors"))
        worlds = {path.stem.rsplit("-", 1)[1] for path in paths}
        if len(worlds) != 1 or len(paths) != int(next(iter(worlds))):
            found = ", ".join(path.name for path in paths) or "nothing"
            raise WrongEngine(f"{self.folder} does not hold one engine's whole checkpoint but {found}")
        for path in paths:
            file = self._files.enter_context(safe_open(path, framework="pt"))
            for key in file.keys():  # noqa: SIM118  a file is no mapping
                kind, _, place = key.partition("/")
                name, _, offset = place.rpartition("@")
                size = 1 if kind == STEP else file.get_slice(key).get_shape()[0]
                self._parts.setdefault((kind, name), []).append((int(offset), size, file, key))
        for parts in self._parts.values():
            parts.sort(key=lambda part: part[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.clear()
        self._files.close()

    def whole(self, name: str, like: Tensor) -> Tensor:
        """A weight in the shape of the other tensor, which it must have."""
        held = sum(size for _, size, *_ in self._parts.get((WEIGHT, name), ()))
        if held != like.numel():
            raise WrongEngine(f"{self.folder} holds {held} numbers of {name}, which has {like.numel()} here")
        return self._cut(WEIGHT, name, 0, like.numel()).reshape(like.shape)

    @torch.no_grad()
    def restore(self, shards: Iterable[Shard], states: OptimizerState) -> None:
        """Write master weights and the optimizer's state in place; one that was saved before any step is empty again.

        Parameters that an engine steps as one tensor count their steps together: where another engine counted some
        of them apart (one that never had a gradient), the highest count is taken.
        """
        held: dict[int, list[Shard]] = {}
        for shard in shards:
            held.setdefault(id(shard.owner), []).append(shard)
        for parts in held.values():
            owner, stepped = parts[0].owner, [part for part in parts if (STEP, part.name) in self._parts]
            for part in parts:
                if part.size:
                    part.of(owner).copy_(self._cut(WEIGHT, part.name, part.offset, part.size))
            if not stepped:
                states.pop(owner, None)
                continue
            state = states.setdefault(owner, {})
            if not state:
                state[STEP] = torch.tensor(0.0, dtype=torch.float32)
                state |= {moment: torch.zeros_like(owner, requires_grad=False) for moment in MOMENTS}
            state[STEP].fill_(max(self._steps(part.name) for part in stepped))
            for moment in MOMENTS:
                state[moment].zero_()
                for part in stepped:
                    if part.size:
                        part.of(state[moment]).copy_(self._cut(moment, part.name, part.offset, part.size))

    def _steps(self, name: str) -> float:
        return max(float(file.get_tensor(key)) for _, _, file, key in self._parts[STEP, name])

    def _cut(self, kind: str, name: str, offset: int, size: int) -> Tensor:
        """Numbers `offset` and following of a flattened tensor, from the files that hold some of them."""
        found, at = [], offset
        for start, length, file, key in self._parts.get((kind, name), ()):
            if start <= at < min(start + length, offset + size):
                end = min(start + length, offset + size)
                found.append(file.get_slice(key)[at - start : end - start])
                at = end
        if at != offset + size or not found:
            raise WrongEngine(f"{self.folder} lacks numbers {at} to {offset + size} of {name} ({kind})")
        return torch.cat(found) if len(found) != 1 else found[0]


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
