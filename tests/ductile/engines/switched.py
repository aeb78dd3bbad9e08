"""What engines do between two phases, outside of the test process, as JSON.

    python switched.py FOLDER      writes FOLDER/alone.json, FOLDER/rank-0.json and FOLDER/rank-1.json

As in `updates.py`, DeepSpeed is imported once and the three processes are forked. The model is a linear layer of 3 by 5
and a bias: 20 numbers of which neither tensor has an even count, so that two ranks cut inside a tensor and pad.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from processes import fork_all
from torch import Tensor, nn

from ductile.config import LearnerSettings
from ductile.engines import Engine, deepspeed_engine, make_engine  # noqa: F401  imported before the forks

KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")
TIMEOUT_S = 100
STEPS, ROWS, LR, CLIP = 3, 8, 0.05, 0.5
HALF = 2.0**-9
"""1 + HALF is a bfloat16 of 1; with another HALF and a bit it is the next one, 1 + 4 HALF."""


def data() -> tuple[Tensor, Tensor]:
    """Inputs [step, row, 3], targets [step, row, 5], float32."""
    random = np.random.default_rng(4)
    inputs, targets = random.normal(size=(STEPS, ROWS, 3)), random.normal(size=(STEPS, ROWS, 5))
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


def weights_of(seed: int) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    arrays = {"weight": random.normal(size=(5, 3)), "bias": random.normal(size=5)}
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}


def masks() -> dict[str, Tensor]:
    """Every other number of the weight; the bias is not named."""
    return {"weight": (torch.arange(15) % 2 == 0).reshape(5, 3)}


def engine_of(
    kind: str, precision: str = "fp32", lr: float = LR, weights: Mapping[str, Tensor] | None = None
) -> Engine:
    """kind: torch, or zero0 to zero3."""
    layer = nn.Linear(3, 5)
    layer.load_state_dict(dict(weights or weights_of(1)))
    zero = int(kind[-1]) if kind != "torch" else 0
    name = "torch" if kind == "torch" else "deepspeed"
    settings = LearnerSettings(engine=name, zero=zero, clip=CLIP, weight_decay=0.1, precision=precision)
    return make_engine(layer, settings, lr)


def update(engine: Engine, step: int) -> None:
    """One step on this rank's share of the rows."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    inputs, targets = (tensor[step, rank::world] for tensor in data())
    dtype = next(engine.module.parameters()).dtype
    engine.backward(((engine.module(inputs.to(dtype)) - targets) ** 2).sum() / ROWS, last=True)
    engine.step()


def flat(weights: Mapping[str, Tensor]) -> list[float]:
    return torch.cat([weights["weight"].flatten(), weights["bias"]]).tolist()


def stepped(kind: str, change: Callable[[Engine], None], folder: Path, precision: str) -> dict[str, list[float]]:
    """Two steps, a change, and the third.

    Returns the weights after the change and after the step, and those of an engine that was loaded between the two.
    """
    engine = engine_of(kind, precision)
    update(engine, 0)
    update(engine, 1)
    change(engine)
    changed = flat(engine.weights())
    folder.mkdir(parents=True, exist_ok=True)
    engine.capture()(folder)
    if dist.get_world_size() > 1:
        dist.barrier()
    update(engine, 2)
    other = engine_of(kind, precision)
    other.load(folder)
    loaded = flat(other.weights())
    update(other, 2)
    return {"changed": changed, "loaded": loaded, "after": flat(engine.weights()), "resumed": flat(other.weights())}


def set_weights(engine: Engine) -> None:
    engine.set_weights(weights_of(2))


def reset(engine: Engine) -> None:
    set_weights(engine)
    engine.reset_optimizer()


def clear(engine: Engine) -> None:
    engine.clear_moments(masks())


def load_then_clear(kind: str, folder: Path, precision: str) -> list[float]:
    """The third step of an engine that was loaded after two, and whose moments were cleared then."""
    engine = engine_of(kind, precision)
    update(engine, 0)
    update(engine, 1)
    folder.mkdir(parents=True, exist_ok=True)
    engine.capture()(folder)
    if dist.get_world_size() > 1:
        dist.barrier()
    other = engine_of(kind, precision)
    update(other, 0)  # so that it has moments of its own, which loading replaces
    other.load(folder)
    clear(other)
    update(other, 2)
    return flat(other.weights())


def fresh(kind: str, precision: str) -> list[float]:
    """The first step of a new engine from the other weights, on the third step's rows.

    The weights are set in bf16 too, where those that an engine is made of are rounded.
    """
    engine = engine_of(kind, precision, weights=weights_of(2))
    set_weights(engine)
    engine.reset_optimizer()  # nothing to forget, and nothing to clear
    engine.clear_moments(masks())
    update(engine, 2)
    return flat(engine.weights())


def master(kind: str) -> list[float]:
    """bf16: weights of 1 + HALF, then a step of a little more than HALF upwards."""
    engine = engine_of(kind, "bf16", lr=HALF * 1.25)
    engine.set_weights({"weight": torch.full((5, 3), 1 + HALF), "bias": torch.full((5,), 1 + HALF)})
    for group in optimizer_groups(engine):
        group["weight_decay"] = 0.0
    dtype = next(engine.module.parameters()).dtype
    engine.backward(-engine.module(torch.ones(2, 3, dtype=dtype)).float().sum(), last=True)
    engine.step()
    return flat(engine.weights())


def optimizer_groups(engine: Engine) -> list[dict[str, float]]:
    return engine._adamw().param_groups  # type: ignore[attr-defined]


def answers(folder: Path, name: str) -> None:
    saved = folder / ("alone" if name == "alone" else "two")  # both ranks write into one folder
    changes = {"set": set_weights, "reset": reset, "clear": clear}
    answer = {
        precision: {
            kind: {
                **{c: stepped(kind, change, saved / precision / kind / c, precision) for c, change in changes.items()},
                "load_then_clear": load_then_clear(kind, saved / precision / kind / "load", precision),
                "fresh": fresh(kind, precision),
                "master": master(kind) if precision == "bf16" and kind != "torch" else [],
            }
            for kind in KINDS
        }
        for precision in ("fp32", "bf16")
    }
    (folder / f"{name}.json").write_text(json.dumps(answer))


def alone(folder: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    answers(folder, "alone")


def one_of_two(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    answers(folder, f"rank-{rank}")


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
