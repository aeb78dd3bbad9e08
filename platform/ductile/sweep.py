"""A search over difficulty thresholds, without what carries it out: its points, and what a trial is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite
from typing import Any

from ductile.config import RunSettings, SweepSettings
from ductile.probes import expand
from ductile.schedule import boundary_probes

DIGITS = 3
"""Decimals of a threshold: what a table shows is what the trial ran with."""


@dataclass(frozen=True)
class Thresholds:
    """A point of the search. low, high: the band in pass rate.  steps: of each searched phase; None: the plan's."""

    low: float
    high: float
    group_size: int
    estimator: str
    steps: int | None


def thresholds_at(sweep: SweepSettings, drawn: Mapping[str, Any], settings: RunSettings) -> Thresholds:
    """The point at the coordinates `drawn`: low, share, and the choices that there are.

    share in [0, 1] says where the high end lies between the lowest one that leaves the band `sweep.width` wide and the
    highest one, so that every coordinate has one fixed range and no band is ever crossed. Given low, a uniform share
    makes the high end uniform; over the plane of low and high, points are then denser where the room is narrower.
    """
    low = float(drawn["low"])
    lowest = max(sweep.high[0], low + sweep.width)
    high = lowest + float(drawn["share"]) * (sweep.high[1] - lowest)
    return Thresholds(
        low=round(low, DIGITS),
        high=round(high, DIGITS),
        group_size=drawn.get("group_size", settings.rollout.group_size),
        estimator=drawn.get("estimator", settings.difficulty.estimator),
        steps=drawn.get("steps"),
    )


def choices(sweep: SweepSettings) -> dict[str, tuple[Any, ...]]:
    """The coordinates that are choices, by name."""
    named = {"group_size": sweep.group_sizes, "estimator": sweep.estimators, "steps": sweep.steps}
    return {name: values for name, values in named.items() if values}


def corners(sweep: SweepSettings, settings: RunSettings) -> Iterator[Thresholds]:
    """Every combination of choices, with the narrowest band at the highest low end."""
    named = choices(sweep)
    for values in product(*named.values()):
        drawn = {"low": sweep.low[1], "share": 0.0, **dict(zip(named, values, strict=True))}
        yield thresholds_at(sweep, drawn, settings)


def with_thresholds(settings: RunSettings, at: Thresholds, phases: Sequence[str]) -> RunSettings:
    """The settings of a trial's run. phases: those that take `at.steps`; none named: all."""
    plan = settings.phase
    if at.steps is not None:
        searched = phases or tuple(plan)
        plan = {name: replace(phase, steps=at.steps) if name in searched else phase for name, phase in plan.items()}
    return replace(
        settings,
        phase=plan,
        rollout=replace(settings.rollout, group_size=at.group_size),
        difficulty=replace(settings.difficulty, band=(at.low, at.high), estimator=at.estimator),
    )


def total_steps(settings: RunSettings) -> int:
    """RL steps of the whole plan."""
    return sum(phase.steps for phase in settings.phase.values())


def measured_objectives(settings: RunSettings) -> dict[str, str]:
    """The objectives that a run's last boundary measures: name -> metric."""
    probes, found = boundary_probes(settings, len(settings.phase)), {}
    if "retention" in probes:
        if settings.probe.prior:
            found["retention"] = "retention/prior"
        if settings.phase:
            found["new_skill"] = "retention/new"
    if "branch" in probes and settings.probe.branch.domain:
        found["plasticity"] = f"plasticity/{branch_arm(settings)}/auc_ratio"
    return found


def branch_arm(settings: RunSettings) -> str:
    """The arm that stands for plasticity: by RL with a fresh optimizer, where the branch has it."""
    branch = settings.probe.branch
    arms = [f"{mode}_{optimizer}" for mode in branch.modes for optimizer in branch.optimizers]
    return "rl_reset" if "rl_reset" in arms else arms[0]


def searched_objectives(sweep: SweepSettings, settings: RunSettings) -> dict[str, str]:
    """What the search maximises: name -> metric; `pareto`: everything that is measured."""
    found = measured_objectives(settings)
    return found if sweep.objective == "pareto" else {n: m for n, m in found.items() if n == sweep.objective}


def measured_inside(settings: RunSettings) -> bool:
    """Whether retention is measured inside phases."""
    return "retention" in expand(settings.probe.inside) and bool(settings.probe.every or settings.probe.log_spaced)


def values_of(metrics: Mapping[str, float], objectives: Mapping[str, str]) -> dict[str, float]:
    """The objectives that these metrics hold and that are finite: name -> value."""
    found = {name: metrics.get(metric) for name, metric in objectives.items()}
    return {name: float(value) for name, value in found.items() if value is not None and isfinite(value)}


def mean_values(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each objective that all seeds have. values: one mapping a seed."""
    names = [name for name in values[0] if all(name in each for each in values)] if values else []
    return {name: sum(each[name] for each in values) / len(values) for name in names}
