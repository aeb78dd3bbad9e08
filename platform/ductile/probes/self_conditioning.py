"""How many turns a policy carries out before it fails, and whether its own mistakes in the context make it fail more.

After arXiv 2509.09677. Turns are generated one after another, each after the answers of the turns before. At turn t

    index accuracy   the stated sum is the true running sum
    prefix accuracy  all stated sums up to t are (a failure is absorbing)
    step accuracy    the stated sum is the one before it, as the context shows it, plus what the turn adds

An answer that cannot be read is wrong, and the value before it stands in for it at the next turn. The horizon H_s is
the last turn with prefix accuracy of at least s; at a constant step accuracy p it would be ceil(ln s / ln p).

Self-conditioning is the slope b of step accuracy at a fixed turn in eps, the share of earlier answers replaced by wrong
ones. Our wrong values always differ from the truth (the paper's noise may be 0), and the truth itself is not moved.
The remedies: only the last turns stay in the context, or wrong answers are corrected before the next turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ductile.config import SelfConditioningSettings
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import honest, present
from ductile.probes.intervals import percentile_interval
from ductile.problem import Problem, Split

STREAM = "probe/self_conditioning"

OWN, WINDOW, CLEANED = "own", "window", "cleaned"
"""What the context holds: the policy's own answers, the last of them, or them with mistakes corrected."""

MODES = {"scratch": True, "direct": False}
"""With work asked for and without: the domain's option `scratch`."""


@runtime_checkable
class TurnDomain(Protocol):
    """A domain of several turns, each of which can be asked after any history. Turns count from 0."""

    def instances(self, turns: int, split: Split, count: int, seed: int) -> Sequence[Any]:
        """Up to `count` different instances of so many turns."""

    def turn(self, instance: Any, turn: int, answered: Sequence[str], window: int | None = None) -> Problem:
        """The problem of one turn after the texts that answered the turns before it; `window`: the last ones alone."""

    def increment(self, instance: Any, turn: int) -> int:
        """What the turn adds."""

    def after(self, instance: Any, turn: int, previous: int) -> int:
        """The value that the turn leads to from `previous`."""

    def truth(self, instance: Any, turn: int) -> int:
        """The right value after the turn; turn -1 is the start."""

    def wrong(self, instance: Any, turn: int, seed: int) -> int:
        """A value that is never the truth, fixed by the arguments."""

    def write(self, instance: Any, turn: int, previous: int, stated: int) -> str:
        """An answer that goes from `previous` to what is stated, right or wrong."""

    def parse(self, text: str) -> int | None:
        """What a completion states; None when that cannot be read."""


@dataclass(frozen=True)
class Accuracies:
    """Whether each answer is right, in the three senses of the module's docstring. All: [instance, turn] bool."""

    index: NDArray[np.bool_]
    prefix: NDArray[np.bool_]
    step: NDArray[np.bool_]


@dataclass
class _Run:
    """One instance under one condition as its turns go by: what the context shows, and what was right."""

    domain: TurnDomain
    instance: Any
    condition: str
    answered: list[str]
    shown: list[int]
    index: list[bool]
    step: list[bool]


class SelfConditioningProbe:
    """`self_conditioning/*`; measures nothing while `probe.self_conditioning.domain` is empty."""

    name = "self_conditioning"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        settings = context.settings.self_conditioning
        if not settings.domain:
            return ProbeResult()
        domains = {mode: _domain(context, scratch) for mode, scratch in MODES.items()}
        free = _free_running(context, domains, settings)
        injected = _injected(context, domains, settings)
        metrics: dict[str, float | None] = {}
        tables: dict[str, list[dict[str, Any]]] = {"self_conditioning": [], "horizon": [], "injection": []}
        for mode in domains:
            generator = np.random.Generator(np.random.Philox(context.seed))
            accuracies = {condition: free[mode, condition] for condition in (OWN, WINDOW, CLEANED)}
            if not accuracies[OWN].index.size:
                continue
            for condition, measured in accuracies.items():
                tables["self_conditioning"] += _turn_rows(mode, condition, measured)
                tables["horizon"].append(_horizon_row(mode, condition, measured, settings, generator))
            tables["injection"] += _injection_rows(mode, injected[mode], settings, generator)
            metrics |= _metrics(mode, accuracies, injected[mode], settings)
        return ProbeResult(present(metrics), tables)


def accuracies(index: NDArray[np.bool_], step: NDArray[np.bool_]) -> Accuracies:
    """With the prefix accuracy that follows. index, step: [instance, turn]."""
    return Accuracies(index, np.logical_and.accumulate(index, axis=1), step)


def horizon(prefix: NDArray[np.float64], level: float) -> int:
    """The last turn, from 1, whose prefix accuracy is at least `level`; 0 when none is. prefix: [turn], falling."""
    return int(np.sum(prefix >= level))


def ideal_horizon(step: float, level: float) -> int | None:
    """ceil(ln s / ln p) for a constant step accuracy p, as the paper idealises it; None without end (p = 1).

    That is the first turn whose prefix accuracy p^t is at most s; the last one with at least s is one less, but where
    p^t meets s exactly.
    """
    if step >= 1:
        return None
    return math.ceil(math.log(level) / math.log(step)) if step > 0 else 0


def slope(rates: Sequence[float], right: NDArray[np.float64]) -> float:
    """Least-squares slope of accuracy in the error rate. right: [rate]."""
    centred = np.array(rates, np.float64) - np.mean(rates)
    return float(centred @ right / (centred @ centred))


def _domain(context: ProbeContext, scratch: bool) -> TurnDomain:
    values = {**honest(context.settings.self_conditioning.domain), "scratch": scratch}
    domain = context.resolve(values, "probe.self_conditioning.domain")
    assert isinstance(domain, TurnDomain)  # `checks.check` has refused the others
    return domain


def _free_running(
    context: ProbeContext, domains: dict[str, TurnDomain], settings: SelfConditioningSettings
) -> dict[tuple[str, str], Accuracies]:
    """(mode, condition) -> accuracies; every turn of all modes, conditions and instances is one call of the pool."""
    runs = {
        (mode, condition): [
            _Run(domain, instance, condition, [], [], [], [])
            for instance in domain.instances(settings.turns, "eval", settings.instances, context.seed)
        ]
        for mode, domain in domains.items()
        for condition in (OWN, WINDOW, CLEANED)
    }
    flat = [run for part in runs.values() for run in part]
    for turn in range(settings.turns):
        texts = _generate(context, [_problem(run, turn, settings.window) for run in flat])
        for run, text in zip(flat, texts, strict=True):
            _take(run, turn, text)
    return {
        key: accuracies(np.array([run.index for run in part], np.bool_), np.array([run.step for run in part], np.bool_))
        for key, part in runs.items()
        if part
    } | {key: accuracies(*np.zeros((2, 0, settings.turns), np.bool_)) for key, part in runs.items() if not part}


def _problem(run: _Run, turn: int, window: int) -> Problem:
    return run.domain.turn(run.instance, turn, run.answered, window if run.condition == WINDOW else None)


def _take(run: _Run, turn: int, text: str) -> None:
    """Score a turn's answer and put it into the context, corrected where the condition says so."""
    before = run.shown[-1] if run.shown else run.domain.truth(run.instance, -1)
    stated, truth = run.domain.parse(text), run.domain.truth(run.instance, turn)
    run.index.append(stated == truth)
    run.step.append(stated is not None and stated == run.domain.after(run.instance, turn, before))
    if run.condition == CLEANED and stated != truth:
        text, stated = run.domain.write(run.instance, turn, before, truth), truth
    run.answered.append(text)
    run.shown.append(before if stated is None else stated)


def _injected(
    context: ProbeContext, domains: dict[str, TurnDomain], settings: SelfConditioningSettings
) -> dict[str, NDArray[np.float64]]:
    """mode -> step accuracy at the fixed turn, [instance, rate], after histories with wrong answers at each rate."""
    asked, expected = [], []
    for domain in domains.values():
        for instance in domain.instances(settings.injected_turn, "eval", settings.instances, context.seed):
            for rate in settings.rates:
                answered, shown = _history(domain, instance, settings.injected_turn - 1, rate, context.seed)
                asked.append(domain.turn(instance, settings.injected_turn - 1, answered))
                expected.append(domain.after(instance, settings.injected_turn - 1, shown))
    texts = _generate(context, asked)
    parse = next(iter(domains.values())).parse  # the modes state their answers alike
    right = np.array([parse(text) == value for text, value in zip(texts, expected, strict=True)], np.float64)
    parts = right.reshape(len(domains), -1, len(settings.rates))
    return dict(zip(domains, parts, strict=True))


def _history(domain: TurnDomain, instance: Any, turns: int, rate: float, seed: int) -> tuple[list[str], int]:
    """The texts of so many turns, each wrong with probability `rate`, and the last value that they state.

    Whether a turn is wrong is decided by one number of its own: the mistakes of a lower rate are among those of a
    higher one, and are the same for every policy.
    """
    draws = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *instance.id.encode()]))).random(turns)
    answered, shown = [], domain.truth(instance, -1)
    for turn in range(turns):
        stated = domain.wrong(instance, turn, seed) if draws[turn] < rate else domain.truth(instance, turn)
        answered.append(domain.write(instance, turn, shown, stated))
        shown = stated
    return answered, shown


def _generate(context: ProbeContext, problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return []
    sampling = replace(context.sampling(context.rollout.top_p, STREAM), samples=1)
    return [group.completions[0].text for group in context.pool.generate(context.policy, problems, sampling)]


def _metrics(
    mode: str, measured: dict[str, Accuracies], injected: NDArray[np.float64], settings: SelfConditioningSettings
) -> dict[str, float | None]:
    own = measured[OWN]
    step = {condition: float(each.step[:, -1].mean()) for condition, each in measured.items()}
    return {
        f"self_conditioning/{mode}/index_accuracy": float(own.index[:, -1].mean()),
        f"self_conditioning/{mode}/prefix_accuracy": float(own.prefix[:, -1].mean()),
        f"self_conditioning/{mode}/step_accuracy": step[OWN],
        f"self_conditioning/{mode}/horizon": float(horizon(own.prefix.mean(axis=0), settings.level)),
        f"self_conditioning/{mode}/slope": slope(settings.rates, injected.mean(axis=0)) if len(injected) else None,
        f"self_conditioning/{mode}/window_gain": step[WINDOW] - step[OWN],
        f"self_conditioning/{mode}/cleaned_gain": step[CLEANED] - step[OWN],
    }


def _turn_rows(mode: str, condition: str, measured: Accuracies) -> list[dict[str, Any]]:
    return [
        {
            "mode": mode,
            "history": condition,
            "turn": turn + 1,
            "instances": len(measured.index),
            "index_accuracy": float(measured.index[:, turn].mean()),
            "prefix_accuracy": float(measured.prefix[:, turn].mean()),
            "step_accuracy": float(measured.step[:, turn].mean()),
        }
        for turn in range(measured.index.shape[1])
    ]


def _horizon_row(
    mode: str,
    condition: str,
    measured: Accuracies,
    settings: SelfConditioningSettings,
    generator: np.random.Generator,
) -> dict[str, Any]:
    count = len(measured.prefix)
    drawn = [
        horizon(measured.prefix[generator.integers(0, count, count)].mean(axis=0), settings.level)
        for _ in range(settings.bootstrap)
    ]
    low, high = percentile_interval(drawn)
    reached = horizon(measured.prefix.mean(axis=0), settings.level)
    return {
        "mode": mode,
        "history": condition,
        "level": settings.level,
        "horizon": reached,
        "low": low,
        "high": high,
        "censored": reached == settings.turns,  # it may go on beyond the last turn that was asked
        "ideal": ideal_horizon(float(measured.step.mean()), settings.level),
    }


def _injection_rows(
    mode: str, right: NDArray[np.float64], settings: SelfConditioningSettings, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """A row for each error rate; the slope and its interval over instances stand in all of them."""
    count = len(right)
    if not count:
        return []
    drawn = [
        slope(settings.rates, right[generator.integers(0, count, count)].mean(axis=0))
        for _ in range(settings.bootstrap)
    ]
    low, high = percentile_interval(drawn)
    return [
        {
            "mode": mode,
            "turn": settings.injected_turn,
            "error_rate": rate,
            "instances": count,
            "step_accuracy": float(right[:, column].mean()),
            "slope": slope(settings.rates, right.mean(axis=0)),
            "slope_low": low,
            "slope_high": high,
        }
        for column, rate in enumerate(settings.rates)
    ]
