"""Runs engines outside of the test process, because DeepSpeed makes a process group, and writes what they did as JSON.

    python updates.py FOLDER      writes FOLDER/alone.json, FOLDER/rank-0.json and FOLDER/rank-1.json

DeepSpeed takes seconds to import, so it is imported once and the three processes are forked.
The model is a linear layer of 3 by 2 and a bias, float32. A step's loss is a weighted sum of squares over 8 rows in
micro-batches of 2; its gradient can be written down by hand, which is what the tests do.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from processes import fork_all
from torch import nn

from ductile.config import LearnerSettings
from ductile.engines import Engine, deepspeed_engine, make_engine  # noqa: F401  imported before the forks

KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")
TIMEOUT_S = 100
STEPS, ROWS, MICRO, LR, CLIP = 3, 8, 2, 0.05, 0.5


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs [step, row, 3], targets [step, row, 2], first weight [2, 3] and bias [2], float32."""
    random = np.random.default_rng(3)
    arrays = (random.normal(size=shape) for shape in ((STEPS, ROWS, 3), (STEPS, ROWS, 2), (2, 3), (2,)))
    inputs, targets, weight, bias = (torch.tensor(array, dtype=torch.float32) for array in arrays)
    targets[0] *= 3  # the first gradients are far above the clip
    return inputs, targets, weight, bias


def engine_of(kind: str) -> Engine:
    """kind: torch, or zero0 to zero3."""
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(data()[2])
        layer.bias.copy_(data()[3])
    zero = int(kind[-1]) if kind != "torch" else 0
    name = "torch" if kind == "torch" else "deepspeed"
    return make_engine(layer, LearnerSettings(engine=name, zero=zero, clip=CLIP, weight_decay=0.1), LR)


def update(engine: Engine, step: int, rank: int, world: int) -> float:
    """One step on this rank's share of the rows, in micro-batches; returns the gradient's norm."""
    inputs, targets, *_ = data()
    rows = range(rank, ROWS, world)
    parts = [rows[i : i + MICRO] for i in range(0, len(rows), MICRO)]
    for part in parts:
        error = engine.module(inputs[step, list(part)]) - targets[step, list(part)]
        engine.backward((error**2).sum() / ROWS, last=part == parts[-1])
    return engine.step()


def plain(engine: Engine) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in engine.weights().items()}


def updates(kind: str, rank: int = 0, world: int = 1) -> dict[str, object]:
    """Norm and weights at each step."""
    engine = engine_of(kind)
    norms, weights = [], []
    for step in range(STEPS):
        norms.append(update(engine, step, rank, world))
        weights.append(plain(engine))
    return {"norms": norms, "weights": weights}


def resume(kind: str, folder: Path) -> dict[str, object]:
    """One step, saved; then two more steps, and the same two by an engine that was loaded."""
    folder.mkdir()
    first = engine_of(kind)
    update(first, 0, 0, 1)
    first.capture()(folder)
    saved = plain(first)
    other = engine_of(kind)
    other.load(folder)
    loaded = plain(other)
    for step in (1, 2):
        update(first, step, 0, 1)
        update(other, step, 0, 1)
    return {"saved": saved, "loaded": loaded, "went_on": plain(first), "continued": plain(other)}


def surgery(kind: str, rank: int = 0, world: int = 1) -> dict[str, object]:
    """After a step: other weights and the next step; a forgotten optimizer; moments cleared where a weight is negative.

    Each in an engine of its own. The last weights of each, and those that were set.
    """
    random = torch.Generator().manual_seed(11)
    other = {"weight": torch.randn(2, 3, generator=random), "bias": torch.randn(2, generator=random)}
    answer: dict[str, object] = {"other": {name: tensor.flatten().tolist() for name, tensor in other.items()}}
    for what in ("set", "fresh", "reset", "cleared"):
        engine = engine_of(kind)
        if what != "fresh":
            update(engine, 0, rank, world)
        if what == "cleared":
            engine.clear_moments({"weight": other["weight"] < 0})
        engine.set_weights(other)
        answer[f"{what}_at_once"] = plain(engine)
        if what == "reset":
            engine.reset_optimizer()
        update(engine, 1, rank, world)
        answer[what] = plain(engine)
    return answer


def alone(folder: Path) -> None:
    answer = {
        "surgery": {kind: surgery(kind) for kind in KINDS},
        "updates": {kind: updates(kind) for kind in KINDS},
        "resumed": {kind: resume(kind, folder / kind) for kind in KINDS},
    }
    (folder / "alone.json").write_text(json.dumps(answer))


def sharded(rank: int, world: int) -> dict[str, object]:
    """ZeRO 3 on a layer that is really cut up: DeepSpeed keeps parameters of less than 1e5 numbers whole on each rank.

    Returns how many of the weight's numbers the layer itself holds, the shape that `weights` gives, and the largest
    distance of any weight to plain PyTorch's after a step.
    """
    random = torch.Generator().manual_seed(5)
    weight, inputs = torch.randn(260, 400, generator=random), torch.randn(ROWS, 400, generator=random)
    states = []
    for name in ("torch", "deepspeed"):
        layer = nn.Linear(400, 260, bias=False)
        with torch.no_grad():
            layer.weight.copy_(weight)
        engine = make_engine(layer, LearnerSettings(engine=name, zero=3, clip=CLIP), LR)
        engine.backward((engine.module(inputs[rank::world]) ** 2).sum() / ROWS, last=True)
        engine.step()
        states.append(engine.weights()["weight"])
    plainly, gathered = states
    difference = float((plainly - gathered).abs().max()) if plainly.shape == gathered.shape else math.inf
    return {"held": layer.weight.numel(), "shape": list(gathered.shape), "difference": difference}


def one_of_two(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    answer = {kind: updates(kind, rank, 2) for kind in KINDS} | {"sharded": sharded(rank, 2)}
    answer["surgery"] = {kind: surgery(kind, rank, 2) for kind in KINDS}
    (folder / f"rank-{rank}.json").write_text(json.dumps(answer))


def main(folder: Path) -> int:
    """The number of processes that failed."""
    torch.set_num_threads(1)
    calls = [
        (alone, (folder,)),
        (one_of_two, (folder, 0)),
        (one_of_two, (folder, 1)),
    ]
    return fork_all(calls, TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
