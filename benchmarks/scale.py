"""The controller alone, at the size of a large cluster: time a step and memory must not grow as a run goes on.

    python -m benchmarks.scale [--problems 1000000] [--steps 500] [--actors 200]

What a large cluster would ask is `--problems 10000000 --steps 10000`, which takes ten minutes.

Real: the loop and its steps, the course, the difficulty table, the dispatch of rollout calls, checkpoints. Stubbed: the
model and the learner do nothing, verdicts are drawn from a hash, MLflow is a counter. Rollout actors live in virtual
time (`simulated.py`), where calls take 4 to 6 seconds, and an actor dies at every hundredth step. What is measured is
therefore what the process that drives a run does itself; it includes making the stub's completions. Times are of the
CPU, so that they are the same beside other work.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.dispatch import Dispatcher
from benchmarks.alternate import headline
from benchmarks.silent import Silent
from benchmarks.simulated import Simulated
from ductile.branch import LocalBrancher
from ductile.checkpoint import FolderStore
from ductile.config import RunSettings
from ductile.contexts import NoContexts
from ductile.course import Course
from ductile.difficulty.service import DifficultyTable
from ductile.identity import Identity
from ductile.loop import Ports, run
from ductile.metrics import check_declared
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.problem import Completion, Group, JudgedGroup, Problem, Split, Verdict
from ductile.reestimation import Reestimation
from ductile.rollouts import Rollouts
from ductile.settings import build
from ductile.variants.parameter_only import ParameterOnly

SAMPLES, TOKENS = 4, 16
CALL_S = (4.0, 4.5, 5.0, 5.5, 6.0)
DEATH_EVERY = 100
COMPOSITION = Composition((Member("policy", "nowhere", 1.0),), "policy")
PROMPT = np.arange(TOKENS, dtype=np.int32)
COMPLETIONS = tuple(np.arange(length, dtype=np.int32) for length in range(1, TOKENS + 1))
LOGPS = tuple(np.full(length, -1.0, np.float32) for length in range(1, TOKENS + 1))


class Numbered(Mapping[str, Problem]):
    """Problems by number, made when they are asked for."""

    def __init__(self, count: int, levels: Sequence[int], domain: str = "stub") -> None:
        self._count, self._levels, self._domain = count, levels, domain

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return map(f"{self._domain}/train/{{:09d}}".format, range(self._count))

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and id.startswith(f"{self._domain}/") and int(id[-9:]) < self._count

    def __getitem__(self, id: str) -> Problem:
        return Problem(id, self._domain, self._levels[int(id[-9:]) % len(self._levels)], "?", "!")


@dataclass(frozen=True)
class StubDomain:
    """Implements `domains.base.LazyDomain`."""

    key: str = "stub"
    formats: tuple[str, ...] = ("direct",)
    levels: tuple[int, ...] = (1, 2, 3)

    def pool(self, levels: Sequence[int], count: int, seed: int) -> Mapping[str, Problem]:
        return Numbered(count, levels, self.key)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        return [Numbered(count, [level], self.key)[f"{self.key}/{split}/{number:09d}"] for number in range(count)]

    def judge(self, problem: Problem, text: str) -> Verdict:
        return Verdict(1.0 if text == "right" else 0.0, "direct")


class StubLearner:
    """Counts its updates."""

    composition = origin = phase_start_composition = COMPOSITION
    models = None

    def __init__(self) -> None:
        self.version = 0

    def update(self, batch: Any) -> dict[str, float]:
        self.version += 1
        tokens = float(sum(len(row.completion) for row in batch.rows))
        return {"learner/tokens": tokens, "learner/forward_tokens": tokens}

    def weights(self) -> Mapping[str, Any]:
        return {}

    phase_start_weights = base_weights = channels = experts = prefixes = settle = weights

    def penalties(self, judged: Sequence[JudgedGroup]) -> None:
        return None

    def start_phase(self, domain: str) -> None:
        pass

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "version").write_text(str(self.version))

    def capture(self) -> Callable[[Path], None]:
        return self.save

    def load(self, folder: Path) -> None:
        raise AssertionError("a new folder has no checkpoint")


class SimulatedPool:
    """Implements `ports.RunPool` with the real dispatch of calls, one problem group a call, on simulated actors."""

    def __init__(self, settings: RunSettings) -> None:
        self._transport = Simulated([f"actor-{number}" for number in range(settings.rollout.actors)])
        self._dispatcher = Dispatcher(self._transport, settings.rollout)
        self._calls = 0

    def publish(self, weights: Mapping[str, Any]) -> str:
        return "published"

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        self._calls += 1
        self._transport.begun.clear()  # kept for tests; it would grow with the run
        if self._calls % DEATH_EVERY == 0:
            doomed = f"actor-{self._calls // DEATH_EVERY % len(self._transport.actors)}"
            self._transport.at(self._transport.now() + 1.0, lambda: self._transport.die(doomed))
        share = -(-len(problems) // len(self._transport.actors))
        parts = [problems[start : start + share] for start in range(0, len(problems), share)]
        calls = [
            lambda _, part=part, place=place: (
                CALL_S[(place + self._calls) % len(CALL_S)],
                [_answers(problem, policy.version, sampling.samples) for problem in part],
            )
            for place, part in enumerate(parts)
        ]
        return [group for part in self._dispatcher.run(calls) for group in part]

    def counts(self) -> dict[str, float]:
        return {"rollout/actors": float(self._dispatcher.alive())}


class StubJudge:
    """Judges by the text."""

    def judge(self, groups: Sequence[Group]) -> list[JudgedGroup]:
        domain = StubDomain()
        return [
            JudgedGroup(group, tuple(domain.judge(group.problem, each.text) for each in group.completions))
            for group in groups
        ]


@dataclass
class Watch(Silent):
    """Keeps the seconds of the CPU from step to step, and what memory was held when."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    ended: float = 0.0
    built: float = 0.0
    halfway: float = 0.0
    steps: int = 0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        check_declared(values)
        if "time/step_s" in values:
            now = time.process_time()
            if self.built:  # the first step comes after the tables were built
                self.seconds.append(now - self.ended)
            self.ended, self.built = now, self.built or resident()
            if len(self.seconds) == self.steps // 2:
                self.halfway = resident()


def measure(problems: int, steps: int, actors: int, folder: Path, groups: int | None = None) -> dict[str, float]:
    """Run it; milliseconds of the CPU a step, MB of memory, seconds by the clock.

    groups: problems a step; as many as there are actors where it is None.
    """
    phase = {"domain": {"name": "chain_sum"}, "levels": [1, 2, 3], "steps": steps, "pool": problems}
    rollout = {"groups": groups or actors, "group_size": SAMPLES, "max_tokens": TOKENS, "actors": actors}
    values = {
        "phase": {"only": phase},
        "rollout": rollout,
        "probe": {"probes": [], "every": 0},
        "difficulty": {"selection": "band"},
        "checkpoint": {"every": max(1, steps // 2)},
    }
    settings, domain = build(RunSettings, values), StubDomain()
    pool, judge, learner, watch = SimulatedPool(settings), StubJudge(), StubLearner(), Watch(steps=steps)
    table, contexts = DifficultyTable(settings.difficulty), NoContexts()
    store, variant = FolderStore(folder / "run", folder / "memory"), ParameterOnly(settings.variant)
    stub: Any = learner
    resolve: Any = lambda values, path: domain  # noqa: E731
    rollouts = Rollouts(settings, pool, judge, contexts, stub)  # type: ignore[arg-type]
    ports = Ports(
        pool=pool,  # type: ignore[arg-type]
        learner=stub,
        difficulty=table,
        judge=judge,
        course=Course(settings, table, resolve),
        contexts=contexts,
        reestimation=Reestimation(settings, table, rollouts, pool, store),  # type: ignore[arg-type]
        ahead=None,
        tracker=watch,
        store=store,
        resolve=resolve,
        brancher=LocalBrancher(settings, variant, lambda *_: stub, pool, judge, resolve),  # type: ignore[arg-type]
    )
    start, began = resident(), time.perf_counter()
    run(settings, variant, ports, Identity("scale", "scale"))
    took = np.array(watch.seconds) * 1e3
    edge = max(1, min(1000, steps // 3))
    return {
        "problems": problems,
        "steps": steps,
        "actors": actors,
        "median_ms": float(np.median(took)),
        "p99_ms": float(np.quantile(took, 0.99)),
        "first_ms": float(np.median(took[:edge])),
        "last_ms": float(np.median(took[-edge:])),
        "memory_start_mb": start,
        "memory_built_mb": watch.built,
        "memory_halfway_mb": watch.halfway,
        "memory_end_mb": resident(),
        "seconds": time.perf_counter() - began,
    }


def resident() -> float:
    """Megabytes of memory that the process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--actors", type=int, default=200)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # of every actor that dies
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments.problems, arguments.steps, arguments.actors, Path(folder))
    print(json.dumps({name: round(value, 2) for name, value in measured.items()}, indent=1))
    grown = measured["last_ms"] / measured["first_ms"]
    headline(
        f"scale: {measured['median_ms']:.1f} ms of the CPU a step with {arguments.problems:,} problems and "
        f"{arguments.actors} actors; its last third takes {grown:.2f} times its first"
    )


def _answers(problem: Problem, version: int, samples: int) -> Group:
    number = int(problem.id[-9:]) + version
    completions = tuple(
        Completion(
            problem.id,
            sample,
            COMPLETIONS[(number + sample) % TOKENS],
            LOGPS[(number + sample) % TOKENS],
            "right" if (number * 31 + sample * 17) % 7 < 3 else "wrong",
            True,
            version,
        )
        for sample in range(samples)
    )
    return Group(problem, PROMPT, completions)


if __name__ == "__main__":
    main()
