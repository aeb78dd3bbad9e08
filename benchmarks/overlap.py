"""Steps a second of bounded staleness against synchronous steps, with rollouts and learning on a core each.

    python -m benchmarks.overlap [rounds; 5]

A real run on a local Ray: one rollout actor and one learner of one thread each, the default base with fresh weights,
the default engine; MLflow, checkpoints and probes are off. Generation and update are first brought to about the same
cost by the number of problems a step and of passes over them, since overlap can hide no more than the shorter of the
two. The sides take turns, a run of some steps each, and the time between the reports of two steps counts, without the
first ones. Both sides' shares of a step outside generation, verification, update and publication are printed too: a
synchronous step should waste nothing. With `trace.steps` the same is seen step by step (docs/speed.md).
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from actors.learner import RunSpec, run_spec
from actors.rollout import ActorPool
from benchmarks.alternate import headline, in_turn, print_speeds, ratio
from benchmarks.silent import Silent
from ductile.config import ArchitectureSettings, RunSettings
from ductile.identity import Identity
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.settings import build
from jobs.driver import connect

GROUP_SIZE, TOKENS = 8, 64
STEPS, FIRST = 16, 4
"""Steps of a measured run, and how many of them are not counted."""

GROUPS, PASSES = (4, 8, 16, 32, 64), (1, 2, 3)
"""Problems a step, and passes over them, that are tried for balance."""

BALANCE = 1.15
"""Generation and update are as long as one another where neither is more than so many times the other."""

LOPSIDED = 0.6
"""Generation that takes so many times as long as the update is not looked at further."""


@dataclass
class Reports(Silent):
    """Keeps each step's metrics and when they came."""

    steps: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if "time/step_s" in values:
            self.steps.append((time.perf_counter(), dict(values)))

    def median(self, name: str) -> float:
        """Of the steps that count."""
        return statistics.median(values[name] for _, values in self.steps[FIRST:])

    @property
    def speed(self) -> float:
        """Steps a second of those that count."""
        return (len(self.steps) - FIRST) / (self.steps[-1][0] - self.steps[FIRST - 1][0])


def settings_of(groups: int, epochs: int, steps: int, staleness: int) -> RunSettings:
    """A run of a fresh model: its entropy bonus gives every step a gradient, whatever it solves."""
    return build(
        RunSettings,
        {
            "phase": {"only": {"domain": {"name": "chain_sum"}, "levels": [6], "steps": steps}},
            "rollout": {
                "groups": groups,
                "group_size": GROUP_SIZE,
                "max_tokens": TOKENS,
                "staleness": staleness,
                "actors": 1,
                "threads": 1,
            },
            "objective": {"entropy": 0.01},
            "learner": {"epochs": epochs, "threads": 1, "lr": 1e-5},
            "probe": {"probes": [], "every": 0},
            "checkpoint": {"every": 1_000_000},
        },
    )


def main(rounds: int) -> None:
    """Print both costs, steps a second of both sides, and the ratio."""
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="ductile-overlap-"))
    os.environ.setdefault("RAY_worker_niceness", "0")  # else other work slows the actor alone
    connect(settings_of(4, 1, STEPS, 0))
    try:
        base, tokenizer = folder / "base", character_tokenizer()
        build_llama(ArchitectureSettings(), tokenizer, seed=0).save_pretrained(base)
        tokenizer.save_pretrained(base)
        run = runner(folder, base)
        groups, epochs = balanced(run)
        print(f"{groups} problems of {GROUP_SIZE} completions of at most {TOKENS} tokens, {epochs} passes")
        kept: dict[str, list[Reports]] = {"staleness 1": [], "synchronous": []}

        def side(name: str, staleness: int) -> Callable[[], float]:
            def speed() -> float:
                reports = run(settings_of(groups, epochs, STEPS, staleness))
                kept[name].append(reports)
                return reports.speed

            return speed

        speeds = in_turn({"staleness 1": side("staleness 1", 1), "synchronous": side("synchronous", 0)}, rounds)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    for name, reports in kept.items():
        generation, update, share = (
            statistics.median(each.median(metric) for each in reports)
            for metric in ("rollout/seconds", "learner/seconds", "time/other_share")
        )
        waits = "generation waited for" if name == "staleness 1" else "generation"
        print(f"{name}: {waits} {generation:.3f} s, update {update:.3f} s, outside of a step's work {share:.1%}")
    print_speeds(speeds, "steps/s")
    headline(f"overlap: staleness 1 takes {ratio(*speeds.values())} times the steps a second of synchronous steps")
    headline(f"overlap: a synchronous step wastes {share:.1%}")


def runner(folder: Path, base: Path) -> Callable[[RunSettings], Reports]:
    """Makes runs on one rollout actor, which stays."""
    pool = ActorPool.start(1, "float32", settings_of(4, 1, STEPS, 0).rollout)
    made = 0

    def run(settings: RunSettings) -> Reports:
        nonlocal made
        made += 1
        reports: Any = Reports()
        run_spec(RunSpec(settings, Identity(f"{made}", f"{made}"), base, base, folder / str(made), pool, reports))
        shutil.rmtree(folder / str(made), ignore_errors=True)
        return reports  # type: ignore[no-any-return]

    return run


def balanced(run: Callable[[RunSettings], Reports]) -> tuple[int, int]:
    """The largest size at which a synchronous step generates about as long as it updates, or what is nearest to it."""
    off: dict[tuple[int, int], float] = {}
    for groups in GROUPS:
        for epochs in PASSES:
            reports = run(settings_of(groups, epochs, steps=FIRST + 3, staleness=0))
            times = reports.median("rollout/seconds") / reports.median("learner/seconds")
            print(f"{groups} problems, {epochs} passes: generation takes {times:.2f} times as long as the update")
            off[groups, epochs] = max(times, 1 / times)
            if times < 1:  # more passes would only be further off
                break
        if times < LOPSIDED:  # and so would be more problems: together they are sampled faster
            break
    near = [size for size, value in off.items() if value < BALANCE]
    return max(near) if near else min(off, key=lambda size: off[size])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
