"""Sequences of phases across runs: forward transfer, the continual curve and KL at matched reward.

Forward transfer is Continual World's (Wolczyk et al. 2021, arXiv 2105.10919): how much faster a phase is learned after
the phases before it than as a first phase. The continual curve and KL at matched reward are those of Fast-Slow Training
(arXiv 2605.12484), which compares methods at the reward that all of them reach: one that learns less also drifts less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from statistics import fmean

from ductile.metrics import segment
from ductile.report.records import PhaseBand, RunRecord, Series, of_cell

LEAST_GAIN = 0.02
"""A task whose best is less than this above its start has no continual curve: it would be noise in per cent."""
FEWEST_POINTS = 3
"""Evaluations inside a phase, both its boundaries included, below which its rollouts tell more of the way."""
REVERSE, FORWARD = "drift/kl_reverse_base/new", "drift/kl_forward_base/new"

Measured = Mapping[int, Sequence[tuple[int, float, float, float]]]
"""Seed -> (step, pass rate, reverse KL, forward KL) where all of them were measured."""


@dataclass(frozen=True)
class Transfer:
    """Forward transfer to one phase. reference: the plans that begin with it. values: seed -> FT, of `source`."""

    phase: PhaseBand
    reference: tuple[str, ...]
    source: str
    values: Mapping[int, float]


@dataclass(frozen=True)
class MatchedKL:
    """KL to the base of one variant in one phase, where its runs reach `target`. reverse, forward: seed -> nats/token.

    start: mean pass rate at the phase's beginning. points: measurements of the phase, of the run with the fewest.
    """

    phase: str
    variant: str
    start: float
    target: float
    points: int
    reverse: Mapping[int, float]
    forward: Mapping[int, float]


def mean_success(curve: Series) -> float:
    """Area under the curve over its length, by trapezoids. curve: two points or more."""
    area = sum((later - step) * (value + after) / 2 for (step, value), (later, after) in pairwise(curve))
    return area / (curve[-1][0] - curve[0][0])


def forward_transfer(auc: float, reference: float) -> float | None:
    """FT = (AUC - AUC_b) / (1 - AUC_b); 1 at best, negative where it is learned worse; None where AUC_b is 1."""
    return (auc - reference) / (1 - reference) if reference < 1 else None


def continual_curve(curve: Series, start: float, best: float) -> Series | None:
    """100 (m - start) / (best - start) at each step; None where that is less than `LEAST_GAIN`."""
    if best - start < LEAST_GAIN:
        return None
    return [(step, 100 * (value - start) / (best - start)) for step, value in curve]


def kl_at_reward(rewards: Sequence[float], kls: Sequence[float], target: float) -> float | None:
    """KL where the reward first crosses the target, linear between measurements; None where it never does.

    rewards, kls: [measurement]. A target that is reached at the start has the KL of the start.
    """
    if rewards and rewards[0] >= target:
        return kls[0]
    for i, (before, after) in enumerate(pairwise(rewards)):
        if after >= target:
            return kls[i] + (kls[i + 1] - kls[i]) * (target - before) / (after - before)
    return None


def task_curve(record: RunRecord, phase: PhaseBand) -> Series:
    """Pass rate on a phase's own cells over the whole run: mean over its levels, where all of them were measured."""
    prefix = f"retention_new/{segment(phase.name)}/L"
    return mean_curve([series for name, series in record.metrics.items() if name.startswith(prefix)])


def mean_curve(curves: Sequence[Series]) -> Series:
    """The mean at each step that all of them have."""
    by_step = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*(set(values) for values in by_step))) if by_step else []
    return [(step, fmean(values[step] for values in by_step)) for step in common]


def transfers(records: Sequence[RunRecord], plan: str, variant: str) -> list[Transfer]:
    """Forward transfer to each phase after the first. records: finished runs, the references among them.

    The reference is the run of the same variant and seed whose first phase is alike. Without any, the row is empty.
    """
    runs = of_cell(records, plan, variant)
    rows = []
    for position in range(1, min((len(run.phases) for run in runs), default=0)):
        pairs = [
            (run, reference)
            for run in runs
            if (reference := _reference(records, run, run.phases[position])) is not None
        ]
        source, values = "evaluation", _transfer(pairs, position, _evaluated)
        if len(values) < len(pairs):
            source, values = "rollouts", _transfer(pairs, position, _rolled_out)
        plans = dict.fromkeys(reference.plan for _, reference in pairs)
        known = {seed: value for seed, value in values.items() if value is not None}
        rows.append(Transfer(runs[0].phases[position], tuple(plans), source, known))
    return rows


def sequence_transfer(rows: Sequence[Transfer]) -> dict[int, float]:
    """Seed -> mean FT over the phases, of the seeds that have all of them."""
    seeds = set.intersection(*(set(row.values) for row in rows)) if rows else set()
    return {seed: fmean(row.values[seed] for row in rows) for seed in sorted(seeds)}


def continual_curves(
    records: Sequence[RunRecord], plan: str, variants: Sequence[str]
) -> dict[str, list[tuple[int, Series]]]:
    """Variant -> (phase's position, continual curve) of the mean over seeds. records: finished runs."""
    cells = {variant: runs for variant in variants if (runs := of_cell(records, plan, variant))}
    found: dict[str, list[tuple[int, Series]]] = {variant: [] for variant in cells}
    for position in range(min((len(run.phases) for runs in cells.values() for run in runs), default=0)):
        curves = {}
        for variant, runs in cells.items():
            of_runs = [curve for run in runs if (curve := task_curve(run, run.phases[position]))]
            curve = mean_curve(of_runs)
            if curve and curve[0][0] == 0:
                curves[variant] = curve
        phase = next(iter(cells.values()))[0].phases[position]
        best = max((v for c in curves.values() for step, v in c if phase.start < step <= phase.end), default=0.0)
        for variant, curve in curves.items():
            normalised = continual_curve(curve, curve[0][1], best)
            if normalised is not None:
                found[variant].append((position, normalised))
    return found


def matched_kls(records: Sequence[RunRecord], plan: str, variants: Sequence[str]) -> list[MatchedKL]:
    """KL at the largest pass rate that every variant's mean curve reached, by phase. records: finished runs."""
    cells = {variant: runs for variant in variants if (runs := of_cell(records, plan, variant))}
    rows = []
    for position in range(min((len(run.phases) for runs in cells.values() for run in runs), default=0)):
        measured = {variant: _measured(runs, position) for variant, runs in cells.items()}
        means = {
            variant: mean_curve([[(step, reward) for step, reward, *_ in run] for run in found.values()])
            for variant, found in measured.items()
            if found
        }
        if len(means) < 2:
            continue
        target = min(max(value for _, value in curve) for curve in means.values())
        for variant, curve in means.items():
            found = measured[variant]
            rows.append(
                MatchedKL(
                    phase=cells[variant][0].phases[position].name,
                    variant=variant,
                    start=curve[0][1],
                    target=target,
                    points=min(len(run) for run in found.values()),
                    reverse=_matched(found, 2, target),
                    forward=_matched(found, 3, target),
                )
            )
    return rows


def _measured(runs: Sequence[RunRecord], position: int) -> Measured:
    """Of the runs that measured a phase from its start on and once more."""
    found = {}
    for run in runs:
        phase = run.phases[position]
        reverse, forward = ({step: kl for step, kl in run.series(name) if isfinite(kl)} for name in (REVERSE, FORWARD))
        rows = [
            (step, rate, reverse[step], forward[step])
            for step, rate in task_curve(run, phase)
            if phase.start <= step <= phase.end and step in reverse and step in forward
        ]
        if len(rows) > 1 and rows[0][0] == phase.start:
            found[run.seed] = rows
    return found


def _matched(runs: Measured, column: int, target: float) -> dict[int, float]:
    values = {
        seed: kl_at_reward([row[1] for row in rows], [row[column] for row in rows], target)
        for seed, rows in runs.items()
    }
    return {seed: value for seed, value in values.items() if value is not None}


def _reference(records: Sequence[RunRecord], run: RunRecord, phase: PhaseBand) -> RunRecord | None:
    """The run that was trained on the phase first; of several, the one with the fewest phases."""
    alike = [
        record
        for record in records
        if record.variant == run.variant and record.seed == run.seed and record.phases and record.phases[0].alike(phase)
    ]
    return min(alike, key=lambda record: len(record.phases), default=None)


def _transfer(
    pairs: Sequence[tuple[RunRecord, RunRecord]],
    position: int,
    success: Callable[[RunRecord, PhaseBand], float | None],
) -> dict[int, float | None]:
    """Seed -> FT, of the pairs whose success is known on both sides."""
    found = {}
    for run, reference in pairs:
        own, fresh = success(run, run.phases[position]), success(reference, reference.phases[0])
        if own is not None and fresh is not None:
            found[run.seed] = forward_transfer(own, fresh)
    return found


def _evaluated(record: RunRecord, phase: PhaseBand) -> float | None:
    """Mean success of the evaluations of a phase; None where they are few or do not span it."""
    curve = [(step, value) for step, value in task_curve(record, phase) if phase.start <= step <= phase.end]
    spans = len(curve) >= FEWEST_POINTS and curve[0][0] == phase.start and curve[-1][0] == phase.end
    return mean_success(curve) if spans else None


def _rolled_out(record: RunRecord, phase: PhaseBand) -> float | None:
    """Mean pass rate of a phase's rollouts."""
    rates = [value for step, value in record.series("rollout/pass_rate") if phase.start < step <= phase.end]
    return fmean(rates) if rates else None
