"""Runs learners with adapters and prefixes on every engine, outside of the test process; writes what they did as JSON.

    python adapted.py BASE FOLDER      writes FOLDER/alone.json, FOLDER/rank-0.json and FOLDER/rank-1.json

As in `learners.py`, DeepSpeed is imported once and the processes are forked. The two ranks run ZeRO 2 alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from processes import fork_all

from ductile.config import RunSettings
from ductile.engines import deepspeed_engine  # noqa: F401  imported before the forks
from ductile.learner import PolicyLearner, make_learner
from ductile.rl.batch import Batch, Row
from ductile.settings import build
from ductile.variants import make_variant

ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3")
PARTS: dict[str, dict[str, Any]] = {
    "lora": {"variant": {"name": "parameter_only"}},
    "fast_lora": {"variant": {"name": "fast_lora", "fast_rank": 2, "fast_lr": 2e-2}},
    "fast_prefix": {"variant": {"name": "fast_prefix", "prefix_tokens": 2, "fast_lr": 2e-2}},
}
TIMEOUT_S = 240


def learner_of(part: str, engine: str, base: Path) -> PolicyLearner:
    learner: dict[str, Any] = (
        {"engine": "torch"} if engine == "torch" else {"engine": "deepspeed", "zero": int(engine[-1])}
    )
    learner |= {"lr": 1e-2, "micro_tokens": 24}
    if part == "lora":
        learner["lora"] = {"rank": 2, "switch": "merge"}
    phase = {"domain": {"name": "chain_sum"}}
    settings = build(RunSettings, PARTS[part] | {"learner": learner, "phase": {"a": phase, "b": phase}})
    return make_learner(settings, make_variant(settings.variant), base, base)


def batch(seed: int, prefix: tuple[int, ...]) -> Batch:
    """Six rows of random tokens after the prefix."""
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(2, 7, 6):
        prompt, completion = (random.integers(3, 90, size).astype(np.int32) for size in (4, length))
        prompt = np.concatenate([np.array(prefix, np.int32), prompt])
        behaviour = random.normal(-4.5, 0.5, length).astype(np.float32)
        rows.append(Row(prompt, completion, behaviour, float(random.normal()), 0.03))
    return Batch(tuple(rows))


def updated(learner: PolicyLearner, domain: str, seed: int) -> float:
    return learner.update(batch(seed, learner.prefixes().get(domain, ())))["learner/grad_norm"]


def run(part: str, engine: str, base: Path, folder: Path) -> dict[str, object]:
    """Two updates in one domain, two in the next, with a checkpoint between the last two; and from it again."""
    learner, norms = learner_of(part, engine, base), []
    for domain in ("a", "b"):
        learner.switch_adapters()
        learner.start_phase(domain)
        norms += [updated(learner, domain, seed) for seed in (1, 2)]
    learner.capture()(folder)
    if dist.is_initialized():
        dist.barrier()
    resumed = learner_of(part, engine, base)
    resumed.load(folder)
    saved = flat(resumed)
    differences = [distance(learner, resumed)]
    for domain in ("b", "a"):
        for each in (learner, resumed):
            each.start_phase(domain)
            updated(each, domain, 3)
        differences.append(distance(learner, resumed))
    return {"norms": norms, "saved": saved, "weights": flat(learner), "differences": differences}


def flat(learner: PolicyLearner) -> list[float]:
    return torch.cat([tensor.flatten() for tensor in learner.weights().values()]).tolist()


def distance(one: PolicyLearner, other: PolicyLearner) -> float:
    return max(float((tensor - other._state[name]).abs().max()) for name, tensor in one._state.items())


def answers(base: Path, target: Path, engines: tuple[str, ...], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    found = {
        part: {engine: run(part, engine, base, folder / f"{part}-{engine}") for engine in engines} for part in PARTS
    }
    target.write_text(json.dumps(found))


def one_of_two(base: Path, folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    answers(base, folder / f"rank-{rank}.json", ("zero2",), folder / "two")


def main(base: Path, folder: Path) -> int:
    """The number of processes that failed."""
    torch.set_num_threads(1)
    calls = [
        (answers, (base, folder / "alone.json", ENGINES, folder / "alone")),
        (one_of_two, (base, folder, 0)),
        (one_of_two, (base, folder, 1)),
    ]
    return fork_all(calls, TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
