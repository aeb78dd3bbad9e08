"""The jobs of a soak: one under Ray Tune on its own Ray, one under Ray Train on a cluster of several nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ductile.domains.base import split_of
from tests.cluster.tiny import TINY

POISON = "9^{9^{9}}"
"""An answer that math-verify never ends to work out."""

WATCHED = (
    "difficulty.shadows=[all]",
    "difficulty.reestimate=0.3",
    "difficulty.refresh_every=5",
    "difficulty.audit={every: 10, problems: 4, unseen: 2, samples: 4}",
)


@dataclass(frozen=True)
class Leg:
    """A job and the faults that it is put through.

    steps: of all its runs.  nodes: of the cluster that it is on, each with `cpus`; 0: a Ray of its own.
    """

    name: str
    command: tuple[str, ...]
    steps: int
    kinds: tuple[str, ...]
    nodes: int = 0
    cpus: int = 2


def trial(steps: int, rows: Path, cache: Path, more: Sequence[str] = ()) -> Leg:
    """A comparison of two variants, each run in a Tune trial; its first phase has answers that hang the verifier."""
    poisoned = [
        f"phase.sum.domain={{name: jsonl, path: {rows}, lenient: true, timeout_s: 3, template: '{{question}}='}}",
        "phase.sum.levels=[1]",
        "phase.sum.pool=4",
    ]
    grid = ["variant=[parameter_only,low_drift]", "plan=[sequence]", "seeds=1", "cluster.cpus=2"]
    sizes = [*_sizes(cache), *_phases(1, steps), *poisoned, "rollout.actors=1"]
    kinds = (
        "rollout actor killed",
        "straggler",
        "learner killed",
        "difficulty table killed",
        "tracker killed",
        "small actor killed",
        "driver killed",
        "NaN loss",
        "verifier killed",
        "verifier frozen",
        "MLflow killed",
        "MLflow frozen",
        "disk full",
        "files limited",
    )
    return Leg("trial", ("jobs.compare", *sizes, *grid, *more), 2 * steps, kinds)


def train(steps: int, cache: Path, more: Sequence[str] = ()) -> Leg:
    """A run of two DeepSpeed workers under Ray Train with two rollout actors, on a cluster of three nodes."""
    learner = [
        "learner.workers=2",
        "learner.engine=deepspeed",
        "learner.zero=1",
        "rollout.actors=2",
        "rollout.actors_max=3",
    ]
    command = [*_sizes(cache), *_phases(steps // 3, steps), "variant=parameter_only", "plan=sequence", *learner]
    kinds = (
        "rollout actor killed",
        "straggler",
        "learner killed",
        "difficulty table killed",
        "tracker killed",
        "small actor killed",
        "driver killed",
        "NaN loss",
        "MLflow killed",
        "disk full",
        "files limited",
        "node removed",
    )
    return Leg("train", ("jobs.run", *command, *more), steps, kinds, nodes=3, cpus=2)


def short(steps: int, cache: Path, more: Sequence[str] = ()) -> Leg:
    """A comparison of one run of one phase, for the tests."""
    sizes = [*_sizes(cache), f"phase.hard.steps={steps}", "phase.hard.levels=[3]", "model.pretrain.steps=60"]
    grid = ["variant=[parameter_only]", "plan=[guessable]", "seeds=1", "cluster.cpus=2"]
    kinds = ("rollout actor killed", "learner killed", "difficulty table killed", "NaN loss", "driver killed")
    return Leg("short", ("jobs.compare", *sizes, *grid, *more), steps, kinds)


def write_rows(path: Path) -> None:
    """Questions of which each has a plain answer, but one of the four that are trained on: its answer hangs."""
    asked = {"train": 4, "eval": 8}
    lines, number = list[str](), 0
    while any(asked.values()):
        number += 1
        question = f"{number}+{number}"
        split = split_of(question)
        if asked.get(split, 0):
            answer = POISON if split == "train" and asked[split] == 1 else str(2 * number)
            asked[split] -= 1
            lines.append(json.dumps({"question": question, "answer": answer}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _phases(first: int, steps: int) -> list[str]:
    """Three phases, `steps` together."""
    last = (steps - first) // 3
    return [f"phase.sum.steps={first}", f"phase.rotate.steps={steps - first - last}", f"phase.errand.steps={last}"]


def _sizes(cache: Path) -> list[str]:
    """Tiny, but trained for long enough that measurements are not all zero."""
    tiny = [setting for setting in TINY if not setting.startswith("phase.")]
    return [
        *tiny,
        "model.pretrain.steps=300",
        "checkpoint.every=2",
        "probe.probes=[retention,drift,formats]",
        *WATCHED,
        f"cache={cache}",
    ]
