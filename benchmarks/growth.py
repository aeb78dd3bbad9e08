"""How the cost of a step grows: with problems, domains, runs beside each other, rollout actors and sequence length.

    python -m benchmarks.growth [--output runs/bench] [--rounds 3] [--only problems actors]

For each of them a table, the exponent e of cost ~ n^e (least squares in log-log over all rounds, with its 95% interval)
and a curve in `growth.png`. Two costs: the whole step by the clock, with a real model, sampler and update; and the
controller's, which is what is neither generation nor update nor publication: choosing problems, judging, observing,
dispatch. Values of one dimension take turns. An exponent whose interval lies above 1.1 is superlinear, and said to be.

    problems    a step of a fixed size from ever larger pools
    domains     a step of a fixed size in a plan of so many phases, each a domain of its own, with a quarter replayed
    runs        as many runs beside each other as a comparison makes, each on a rollout actor of its own; the cost is of
                a step of all of them: flat while there are cores, then linear
    actors      a step of a fixed size on so many real rollout actors: of no use beyond the cores that there are
    simulated   the controller alone with up to 200 actors in virtual time (simulated.py), and a step of a fixed size
    tokens      longest completion, which here is every completion's: linear, and quadratic in attention where that
                dominates
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import ray
import torch
from numpy.typing import NDArray
from scipy import stats

from actors.learner import RunSpec, run_spec
from actors.rollout import ActorPool
from benchmarks.alternate import headline, in_turn
from benchmarks.overlap import Reports
from benchmarks.scale import StubDomain, StubJudge, measure
from ductile.config import ArchitectureSettings, RunSettings
from ductile.course import Course
from ductile.identity import Identity
from ductile.learner import make_learner
from ductile.local import local_ports
from ductile.loop import run
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.reestimation import Reestimation
from ductile.rollouts import Rollouts
from ductile.settings import build
from ductile.variants import make_variant
from jobs.driver import connect

DIMENSIONS = ("problems", "domains", "tokens", "simulated", "runs", "actors")
SUPERLINEAR = 1.1
FIRST, STEPS = 2, 5
"""Steps of a run that are not counted, and steps in all."""

GROUPS, GROUP_SIZE, TOKENS = 8, 4, 32
Cost = Mapping[str, float]
"""`step_ms` and, where it was measured, `controller_ms`."""


@dataclass(frozen=True)
class Dimension:
    """What grows. cost: of a step at a value of it."""

    values: tuple[int, ...]
    cost: Callable[[int], Cost]


@dataclass(frozen=True)
class Exponent:
    """e of cost ~ n^e with its 95% interval; last: between the two largest values alone."""

    value: float
    half: float
    last: float

    @property
    def superlinear(self) -> bool:
        return self.value - self.half > SUPERLINEAR

    def __str__(self) -> str:
        return f"{self.value:6.2f} +- {self.half:.2f} (last two values: {self.last:.2f})"


def fitted(values: NDArray[np.float64], costs: NDArray[np.float64]) -> Exponent:
    """values [n]; costs [n, rounds]: least squares of log cost on log value."""
    x, y = np.repeat(np.log(values), costs.shape[1]), np.log(costs).ravel()
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)
    medians = np.median(costs, axis=1)
    last = float(np.log(medians[-1] / medians[-2]) / np.log(values[-1] / values[-2]))
    return Exponent(float(line.slope), half, last)


class Steps:
    """Runs of a small model that never stops before the longest completion, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, 0
        self.base, tokenizer = folder / "base", character_tokenizer()
        model = build_llama(ArchitectureSettings(positions=1024), tokenizer, seed=0)
        with torch.no_grad():  # a direction that all tokens share and the end has turned round, so that nothing ends
            model.model.embed_tokens.weight[:, 0] = 0.5
            model.model.embed_tokens.weight[tokenizer.eos_token_id, 0] = -0.5
        model.save_pretrained(self.base)
        tokenizer.save_pretrained(self.base)

    def folder(self) -> Path:
        """One that no run has used."""
        self._made += 1
        return self._folder / str(self._made)

    def alone(self, problems: int = 512, domains: int = 1, tokens: int = TOKENS) -> Cost:
        """A run in this process on one thread; the last phase counts, and its first steps do not."""
        settings, folder = run_settings(problems, domains, tokens), self.folder()
        variant, reports = make_variant(settings.variant), Reports()
        learner: Any = make_learner(settings, variant, self.base, self.base)
        made = local_ports(settings, variant, learner, reports, folder, folder / "memory")
        known = {values.domain["name"]: StubDomain(values.domain["name"]) for values in settings.phase.values()}
        resolve: Any = lambda values, path: known[values["name"]]  # noqa: E731
        judge: Any = StubJudge()
        rollouts = Rollouts(settings, made.pool, judge, made.contexts, learner)
        ports = replace(
            made,
            judge=judge,
            resolve=resolve,
            course=Course(settings, made.difficulty, resolve),
            reestimation=Reestimation(settings, made.difficulty, rollouts, made.pool, made.store),
        )
        run(settings, variant, ports, Identity("growth", "growth"))
        shutil.rmtree(folder, ignore_errors=True)
        return costs([values for _, values in reports.steps[-STEPS:]])


@dataclass
class Meeting(Reports):
    """Reports of a run that waits for the others of its comparison before the steps that count."""

    place: Path = Path()
    size: int = 1

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        super().metrics(values, step)
        if len(self.steps) == FIRST:
            (self.place / str(os.getpid())).touch()
            while len(list(self.place.iterdir())) < self.size:
                time.sleep(0.005)


class Runs:
    """Real runs on a local Ray with four rollout actors."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        logging.getLogger("ray").setLevel(logging.ERROR)
        connect(run_settings())
        self._actors = ActorPool.start(4, "float32", run_settings().rollout).actors

    def on_actors(self, actors: int) -> Cost:
        """A run whose rollouts are made by so many actors."""
        settings = run_settings(actors=actors, real=True)
        pool = ActorPool(self._actors[:actors], settings.rollout)
        return costs(run_here(settings, pool, self._steps.base, self._steps.folder(), Meeting(place=self._place())))

    def beside(self, runs: int) -> Cost:
        """A step of so many runs beside each other, while all of them go on."""
        settings, place = run_settings(real=True), self._place()
        pool, task = ActorPool(self._actors[:runs], settings.rollout), ray.remote(num_cpus=0)(run_here)
        meeting = Meeting(place=place, size=runs)
        going = [
            task.remote(settings, pool.at_home(slot), self._steps.base, self._steps.folder(), meeting)
            for slot in range(runs)
        ]
        return {"step_ms": statistics.mean(costs(steps)["step_ms"] for steps in ray.get(going))}

    def _place(self) -> Path:
        place = self._steps.folder()
        place.mkdir()
        return place


def run_here(settings: RunSettings, pool: ActorPool, base: Path, folder: Path, reports: Meeting) -> list[Cost]:
    """The metrics of a run's steps."""
    tracker: Any = reports
    run_spec(RunSpec(settings, Identity("growth", "growth"), base, base, folder, pool, tracker))
    shutil.rmtree(folder, ignore_errors=True)
    return [values for _, values in reports.steps]


def costs(steps: Sequence[Mapping[str, float]]) -> Cost:
    """Medians over the steps that count."""
    counted = steps[FIRST:]

    def median(*names: str) -> float:
        return 1e3 * statistics.median(sum(values[name] for name in names) for values in counted)

    return {
        "step_ms": median("time/step_s", "time/between_s"),
        "controller_ms": median("time/other_s", "time/verification_s", "time/between_s"),
    }


def simulated(actors: int) -> Cost:
    """CPU time of the controller for a step of 200 problems on so many simulated actors."""
    with tempfile.TemporaryDirectory() as folder:
        return {"controller_ms": measure(10_000, 30, actors, Path(folder), groups=200)["median_ms"]}


def run_settings(
    problems: int = 512, domains: int = 1, tokens: int = TOKENS, actors: int = 1, real: bool = False
) -> RunSettings:
    """A run of a fresh model, whose entropy bonus gives every step a gradient. real: of a domain that there is."""
    domain: Callable[[int], Mapping[str, Any]] = (
        (lambda number: {"name": "chain_sum"}) if real else (lambda number: {"name": f"stub-{number}"})
    )
    phase = {"levels": [6 if real else 1], "steps": STEPS, "pool": problems}
    return build(
        RunSettings,
        {
            "phase": {f"phase-{number}": {"domain": domain(number), **phase} for number in range(domains)},
            "rollout": {"groups": GROUPS, "group_size": GROUP_SIZE, "max_tokens": tokens, "actors": actors},
            "objective": {"entropy": 0.01},
            "learner": {"engine": "torch", "lr": 1e-5},
            "data": {"replay": 0.25 if domains > 1 else 0.0},
            "probe": {"probes": [], "every": 0},
            "checkpoint": {"every": 1_000_000},
        },
    )


def dimensions(steps: Steps, runs: Runs | None) -> dict[str, Dimension]:
    """What grows, by name; without a Ray only what needs none."""
    alone = {
        "problems": Dimension((1_000, 10_000, 100_000, 1_000_000), lambda value: steps.alone(problems=value)),
        "domains": Dimension((2, 4, 8), lambda value: steps.alone(domains=value)),
        "tokens": Dimension((32, 64, 128, 256, 512), lambda value: steps.alone(tokens=value)),
        "simulated": Dimension((8, 25, 50, 100, 200), simulated),
    }
    if runs is None:
        return alone
    return alone | {"runs": Dimension((1, 2, 4), runs.beside), "actors": Dimension((1, 2, 4), runs.on_actors)}


def report(name: str, values: Sequence[int], found: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Print a dimension's table; returns the costs of it that are superlinear."""
    print(f"{name:14}" + "".join(f"{value:>12,}" for value in values) + "     exponent")
    surprises = []
    for cost, measured in found.items():
        exponent = fitted(np.array(values, np.float64), measured)
        row = "".join(f"{value:12.4g}" for value in np.median(measured, axis=1))
        print(f"  {cost:12}{row}     {exponent}")
        if exponent.superlinear:
            surprises.append(f"{cost} in {name} (e = {exponent.value:.2f})")
    return surprises


def plot(found: Mapping[str, tuple[Sequence[int], Mapping[str, NDArray[np.float64]]]], path: Path) -> None:
    """A panel for each dimension, both axes logarithmic; bars from the least to the largest round."""
    columns = min(3, len(found))
    shape = (-(-len(found) // columns), columns)
    size = (3.6 * shape[1], 2.8 * shape[0])
    figure, grid = plt.subplots(*shape, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel in grid.ravel()[len(found) :]:
        panel.remove()
    for panel, (name, (values, measured)) in zip(grid.ravel(), found.items(), strict=False):
        for cost, rounds in measured.items():
            middle = np.median(rounds, axis=1)
            bars = np.abs(np.stack([rounds.min(axis=1), rounds.max(axis=1)]) - middle)
            exponent = fitted(np.array(values, np.float64), rounds)
            label, color = f"{cost} (e = {exponent.value:.2f})", "C0" if cost == "step_ms" else "C1"
            panel.errorbar(values, middle, bars, marker="o", ms=3, color=color, label=label)
        panel.set(xscale="log", yscale="log", xlabel=name)
        panel.minorticks_off()
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.legend(fontsize=7)
    for panel in grid[:, 0]:
        panel.set_ylabel("ms a step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], choices=DIMENSIONS)
    arguments = parser.parse_args()
    names = arguments.only or DIMENSIONS
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="ductile-growth-"))
    found, surprises = {}, list[str]()
    try:
        steps = Steps(folder)
        known = dimensions(steps, Runs(steps) if set(names) & {"runs", "actors"} else None)
        for name in names:
            values, cost = known[name].values, known[name].cost
            kept: dict[str, dict[int, list[float]]] = {}

            def side(value: int, cost: Callable[[int], Cost] = cost, kept: Any = kept) -> float:
                measured = cost(value)
                for each, milliseconds in measured.items():
                    kept.setdefault(each, {}).setdefault(value, []).append(milliseconds)
                return 0.0

            in_turn({str(value): partial(side, value) for value in values}, arguments.rounds, warm=0)
            table = {each: np.array([of[value] for value in values]) for each, of in kept.items()}
            found[name] = (values, table)
            surprises += report(name, values, table)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    plot(found, arguments.output / "growth.png")
    print(f"curves: {arguments.output / 'growth.png'}")
    headline("growth: superlinear: " + (", ".join(surprises) or "nothing"))


if __name__ == "__main__":
    main()
