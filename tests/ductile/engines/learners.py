"""Runs learners on every engine outside of the test process and writes what they did as JSON.

    python learners.py BASE FOLDER      writes FOLDER/alone.json, rank-0.json and rank-1.json, and then restored.json

BASE is a Hugging Face folder. As in `updates.py`, DeepSpeed is imported once and the three processes are forked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from processes import fork_all

from ductile.config import RunSettings
from ductile.engines import deepspeed_engine  # noqa: F401  imported before the forks
from ductile.learner import PolicyLearner, branch_learner, make_learner
from ductile.ports import BranchRequest
from ductile.problem import Completion, Group, JudgedGroup, Problem, Verdict
from ductile.rl.batch import Batch, Row
from ductile.settings import build
from ductile.variants import make_variant

KINDS = ("torch", "zero0", "zero3")
HOLDS = {
    "reward": {
        "kl": 0.5, "kl_estimator": "k3", "kl_place": "reward", "anchor": "ema", "ema_decay": 0.8, "kl_target": 0.1,
        "kl_horizon": 50.0, "l2_init": 2.0, "ewc": 0.1,
    },
    "prior_data": {"kl": 0.5, "anchor": "prior_data"},
}  # fmt: skip
RECOMPOSED_KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")
BF16_KINDS = ("zero0", "zero2")
TIMEOUT_S = 100
BF16_LR = 2.0**-6
"""A weight of 1 that is moved by this much is a bfloat16 again."""


def learner_of(
    kind: str, base: Path, lr: float = 1e-2, precision: str = "fp32", hold: dict[str, object] | None = None
) -> PolicyLearner:
    """Close to the start of the phase, each row a micro-batch: of two ranks one has a row less and marches in step.

    kind: torch, or zero0 to zero3.
    """
    engine = {"engine": "torch"} if kind == "torch" else {"engine": "deepspeed", "zero": int(kind[-1])}
    variant = {"name": "low_drift"} | (hold or {"kl": 0.5, "kl_estimator": "k3", "anchor": "phase_start"})
    learner = engine | {"lr": lr, "precision": precision, "micro_tokens": 10}
    settings = build(RunSettings, {"variant": variant, "learner": learner})
    return make_learner(settings, make_variant(settings.variant), base, base)


def batch(seed: int) -> Batch:
    """Seven rows of random tokens; the behaviour's log-probabilities are near those of an even guess."""
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(2, 7, 7):
        prompt, completion = (random.integers(3, 90, size).astype(np.int32) for size in (4, length))
        behaviour = random.normal(-4.5, 0.5, length).astype(np.float32)
        rows.append(Row(prompt, completion, behaviour, float(random.normal()), 0.03))
    return Batch(tuple(rows))


def answered(seed: int) -> list[JudgedGroup]:
    """Three groups of two: the first six rows of the batch, rewarded by turns."""
    rows = batch(seed).rows
    groups = []
    for number in range(3):
        completions = tuple(
            Completion("p", i, row.completion, row.behaviour_logps, "", True, 0)
            for i, row in enumerate(rows[2 * number : 2 * number + 2])
        )
        group = Group(Problem(f"p{number}", "none", 1, "", ""), rows[2 * number].prompt, completions)
        groups.append(JudgedGroup(group, (Verdict(1.0, "direct"), Verdict(0.0, "direct"))))
    return groups


def held(hold: str, kind: str, base: Path) -> dict[str, object]:
    """Two updates in a phase, its end and two in the next: penalties, metrics and weights."""
    learner = learner_of(kind, base, hold=HOLDS[hold])
    variant, metrics, penalties = make_variant(learner._settings.variant), [], []
    for phase in (0, 1):
        learner.start_phase("domain")
        learner.remember([each.group for each in answered(10 + phase)])
        for step in (0, 1):
            judged = answered(20 + 2 * phase + step)
            taken = learner.penalties(judged)
            penalties += [] if taken is None else [value for part in taken for value in part.tolist()]
            metrics.append(learner.update(variant.batch(judged, learner._settings, taken)))
            del metrics[-1]["learner/seconds"]
        learner.consolidate([each.group for each in answered(30 + phase)])
    return {"metrics": metrics, "penalties": penalties, "weights": flat(learner)}


def branch_of(learner: PolicyLearner, mode: str, optimizer: str, folder: Path) -> PolicyLearner:
    """From a snapshot that all ranks write together and read when it is whole."""
    learner.capture()(folder)
    if dist.is_initialized():
        dist.barrier()
    settings = learner._settings
    request = BranchRequest(str(folder), mode, optimizer, 0)
    return branch_learner(settings, make_variant(settings.variant), learner.composition, request)


def run(kind: str, base: Path, snapshots: Path) -> dict[str, object]:
    """Two updates with branches between them, one of two updates: metrics of all and weights of all."""
    learner = learner_of(kind, base)
    metrics = [learner.update(batch(0))]
    learner.start_phase("domain")
    before, branch = flat(learner), branch_of(learner, "rl", "reset", snapshots / kind)
    carried = branch_of(learner, "sft", "carried", snapshots / kind)
    start = flat(branch)
    branch.start_phase("domain")
    metrics += [branch.update(batch(1)), branch.update(batch(2)), learner.update(batch(3))]
    metrics += [carried.update(batch(4))]
    for each in metrics:
        del each["learner/seconds"]
    return {
        "metrics": metrics,
        "weights": flat(learner),
        "before_branch": before,
        "branch_start": start,
        "branch": flat(branch),
        "carried": flat(carried),
    }


def recomposed(kind: str, base: Path, snapshots: Path) -> dict[str, object]:
    """A proxy that updates, becomes the sum of its frozen expert and a fresh one, updates, is saved and restored."""
    engine = {"engine": "torch"} if kind == "torch" else {"engine": "deepspeed", "zero": int(kind[-1])}
    variant = {"name": "proxy", "alpha": 0.5, "memory": "sum"}
    settings = build(RunSettings, {"variant": variant, "learner": engine | {"lr": 1e-2, "micro_tokens": 10}})
    proxy = make_variant(settings.variant)
    learner = make_learner(settings, proxy, base, base, snapshots / f"{kind}-models")
    learner.update(batch(0))
    before = flat(learner)
    proxy.switch(settings, None, "", SimpleNamespace(learner=learner))  # type: ignore[arg-type]
    fresh = flat(learner)
    learner.update(batch(1))
    learner.capture()(snapshots / f"{kind}-recomposed")
    if dist.is_initialized():
        dist.barrier()
    restored = make_learner(settings, proxy, base, base, snapshots / f"{kind}-models")
    restored.load(snapshots / f"{kind}-recomposed")
    same = restored.composition == learner.composition and flat(restored) == flat(learner)
    for each in (learner, restored):
        each.update(batch(2))
    return {
        "before": before,
        "fresh": fresh,
        "weights": flat(learner),
        "same": same and flat(restored) == flat(learner),
        "roles": [member.role for member in learner.composition.members],
    }


def first_bf16_step(kind: str, base: Path) -> list[float]:
    """By how much a first update moves the weights of the last norm, which are 1."""
    learner = learner_of(kind, base, lr=BF16_LR, precision="bf16")
    learner.update(batch(0))
    return (learner.weights()["model.norm.weight"] - 1).abs().tolist()


def flat(learner: PolicyLearner) -> list[float]:
    return torch.cat([tensor.flatten() for tensor in learner.weights().values()]).tolist()


def answers(base: Path, target: Path, store: str) -> None:
    answer = {
        "fp32": {kind: run(kind, base, target.parent / f"snapshots-{store}") for kind in KINDS},
        "held": {hold: {kind: held(hold, kind, base) for kind in KINDS} for hold in HOLDS},
        "recomposed": {kind: recomposed(kind, base, target.parent / f"snapshots-{store}") for kind in RECOMPOSED_KINDS},
        "bf16": {kind: first_bf16_step(kind, base) for kind in BF16_KINDS},
    }
    target.write_text(json.dumps(answer))


def restored_from(written: str, base: Path, folder: Path) -> dict[str, object]:
    """What `run` saved before its branch, taken up by one process: its weights, and those after another update."""
    found = {}
    for kind in KINDS:
        learner = learner_of(kind, base)
        learner.load(folder / f"snapshots-{written}" / kind)
        start, version = flat(learner), learner.version
        learner.update(batch(3))
        found[kind] = {"version": version, "start": start, "after": flat(learner)}
    return found


def restored(base: Path, folder: Path) -> None:
    both = {written: restored_from(written, base, folder) for written in ("alone", "two")}
    (folder / "restored.json").write_text(json.dumps(both))


def one_of_two(base: Path, folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    answers(base, folder / f"rank-{rank}.json", "two")


def main(base: Path, folder: Path) -> int:
    """The number of processes that failed."""
    torch.set_num_threads(1)
    calls = [
        (answers, (base, folder / "alone.json", "alone")),
        (one_of_two, (base, folder, 0)),
        (one_of_two, (base, folder, 1)),
    ]
    return fork_all(calls, TIMEOUT_S) or fork_all([(restored, (base, folder))], TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
