"""Engines that go on from the checkpoint of another number of ranks, stage and engine, outside of the test process.

    python worlds.py FOLDER      writes FOLDER/alone.json, FOLDER/rank-0.json and FOLDER/rank-1.json

As in `updates.py`, DeepSpeed is imported once and the three processes are forked. The model has two layers of odd
sizes, so that two ranks cut inside a tensor and pad; a bias that learns at a rate of its own, as fast parameters do; a
frozen layer, whose weights are not those that the model begins with; and a buffer.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from processes import fork_all
from torch import Tensor, nn

from ductile.config import LearnerSettings
from ductile.engines import Engine, Fast, deepspeed_engine, make_engine  # noqa: F401  imported before the forks

KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")
TIMEOUT_S = 200
ROWS, STEPS = 8, 4


class Model(nn.Module):
    """3 -> 5 -> 7, of which the first layer is frozen; at ZeRO 3 the last weight is cut up too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.frozen, self.inner, self.outer = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 7)
        self.register_buffer("scale", torch.rand(7, generator=random) + 0.5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random))
        self.frozen.requires_grad_(False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(self.frozen(rows)))) * self.scale


def engine_of(kind: str, precision: str, seed: int = 1) -> Engine:
    """kind: torch, or zero0 to zero3. seed: of the first weights, the frozen ones too."""
    name, zero = ("torch", 0) if kind == "torch" else ("deepspeed", int(kind[-1]))
    settings = LearnerSettings(engine=name, zero=zero, clip=0.5, weight_decay=0.1, precision=precision)
    return make_engine(Model(seed), settings, 0.05, Fast(0.02, lambda name: name.endswith("bias")))


def update(engine: Engine, step: int) -> None:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    rows = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(100 + step))[rank::world]
    dtype = next(engine.module.parameters()).dtype
    engine.backward((engine.module(rows.to(dtype)).float() ** 2).sum() / ROWS, last=True)
    engine.step()


def flat(engine: Engine) -> list[float]:
    return torch.cat([tensor.flatten().float() for tensor in engine.weights().values()]).tolist()


def whole(kind: str, precision: str, save_after: int, folder: Path) -> list[list[float]]:
    """Weights after each step, never interrupted, with a checkpoint that the steps after it must not reach."""
    engine, weights = engine_of(kind, precision), []
    for step in range(STEPS):
        if step == save_after:
            folder.mkdir(parents=True, exist_ok=True)
            write = engine.capture()
        update(engine, step)
        weights.append(flat(engine))
    write(folder)
    return weights


def resumed(kind: str, precision: str, save_after: int, folder: Path, ahead: int) -> list[list[float]]:
    """From the checkpoint, by an engine that began elsewhere and made some steps of its own."""
    engine, weights = engine_of(kind, precision, seed=2), []
    for step in range(ahead):
        update(engine, step)
    engine.load(folder)
    loaded = flat(engine)
    for step in range(save_after, STEPS):
        update(engine, step)
        weights.append(flat(engine))
    return [loaded, *weights]


def answers(folder: Path, name: str, world: int, wait: Callable[[], None]) -> None:
    """By precision: what a whole run of each kind did, and those that went on from one of either world."""
    answer: dict[str, dict[str, object]] = {}
    for precision, after in itertools.product(("fp32", "bf16"), (0, 2)):
        runs = {
            kind: whole(kind, precision, after, folder / f"{precision}-{after}-{kind}-of-{world}") for kind in KINDS
        }
        answer[f"{precision}-{after}"] = {"whole": runs}
    wait()
    for precision, after in itertools.product(("fp32", "bf16"), (0, 2)):
        went_on = {}
        for origin, written in itertools.product(KINDS, (1, 2)):
            there = folder / f"{precision}-{after}-{origin}-of-{written}"
            # Every kind from every kind's checkpoint: too many, so each from its own and from one more.
            for kind in {origin, KINDS[(KINDS.index(origin) + 1 + written) % len(KINDS)]}:
                went_on[f"{origin}-of-{written} by {kind}"] = resumed(kind, precision, after, there, ahead=written - 1)
        answer[f"{precision}-{after}"]["resumed"] = went_on
    (folder / f"{name}.json").write_text(json.dumps(answer))


def others_have_written(folder: Path, name: str) -> None:
    """The three processes share no group."""
    (folder / f"{name}.written").touch()
    end = time.monotonic() + TIMEOUT_S
    while len(list(folder.glob("*.written"))) < 3 and time.monotonic() < end:
        time.sleep(0.05)


def alone(folder: Path) -> None:
    answers(folder, "alone", 1, lambda: others_have_written(folder, "alone"))


def one_of_two(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    answers(folder, f"rank-{rank}", 2, lambda: others_have_written(folder, f"rank-{rank}"))


def main(folder: Path) -> int:
    """The number of processes that failed."""
    torch.set_num_threads(1)
    calls = [(alone, (folder,)), (one_of_two, (folder, 0)), (one_of_two, (folder, 1))]
    return fork_all(calls, TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
