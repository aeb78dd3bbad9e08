"""The comparison in numbers: what `summary.json` holds (docs/summary.md) and what tables and page are printed from.

Only finished runs are averaged. The others are listed with their status, in their cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ductile.problem import SHORTCUTS
from ductile.report.continual import matched_kls, sequence_transfer, transfers
from ductile.report.difficulty import difficulty
from ductile.report.gap import gap_closed
from ductile.report.onset import LENGTH_FACTOR, ORDERS, PRIOR_FALL, SHORTCUT_RISE, Onset, onset
from ductile.report.records import ReportContext, RunRecord, of_cell, ordered
from ductile.report.statistics import bootstrap_interval, estimate, over_seeds, paired_difference, plain

SCHEMA = "ductile.summary/4"


@dataclass(frozen=True)
class Measure:
    """One number of a run. `of` reads it, or returns None where the run does not have it."""

    name: str
    metric: str
    unit: str
    when: str
    of: Callable[[RunRecord], float | None]


def _before(name: str, metric: str, unit: str) -> Measure:
    return Measure(name, metric, unit, "boundary 0", lambda record: record.before(metric))


def _after(name: str, metric: str, unit: str) -> Measure:
    return Measure(name, metric, unit, "last boundary", lambda record: record.after(metric))


def _last(name: str, metric: str, unit: str) -> Measure:
    return Measure(name, metric, unit, "last boundary, boundary 0 included", lambda record: record.last(metric))


def _spent(name: str, metric: str, unit: str) -> Measure:
    return Measure(name, metric, unit, "last RL step", lambda record: _latest(record, metric))


def _mean_over_steps(name: str, metric: str, unit: str) -> Measure:
    return Measure(name, metric, unit, "mean over RL steps", lambda record: _mean(record, metric))


MEASURES: tuple[Measure, ...] = (
    _before("prior_before", "retention/prior", "rate"),
    _after("prior_after", "retention/prior", "rate"),
    _after("forgetting", "retention/forgetting", "rate"),
    _after("forgetting_from_best", "retention/forgetting_from_best", "rate"),
    _after("average", "retention/average", "rate"),
    _after("learning", "retention/learning", "rate"),
    _after("backward_transfer", "retention/backward_transfer", "rate"),
    _after("forgetting_phases", "retention/forgetting_phases", "rate"),
    _after("newest_after", "retention/newest", "rate"),
    _before("new_before", "retention/new", "rate"),
    _after("new_after", "retention/new", "rate"),
    _before("length_prior_before", "format/length_prior", "tokens"),
    _after("length_prior_after", "format/length_prior", "tokens"),
    _before("shortcut_prior_before", "shortcut/prior", "share"),
    _after("shortcut_prior_after", "shortcut/prior", "share"),
    _before("formats_prior_before", "format/effective_prior", "formats"),
    _after("formats_prior_after", "format/effective_prior", "formats"),
    _before("entropy_prior_before", "format/entropy_prior", "nats"),
    _after("entropy_prior_after", "format/entropy_prior", "nats"),
    _after("kl_forward_prior", "drift/kl_forward_base/prior", "nats/token"),
    _after("kl_reverse_prior", "drift/kl_reverse_base/prior", "nats/token"),
    _after("kl_forward_new", "drift/kl_forward_base/new", "nats/token"),
    _after("kl_reverse_new", "drift/kl_reverse_base/new", "nats/token"),
    _last("branch_auc", "plasticity/rl_reset/auc", "rate"),
    _last("branch_end", "plasticity/rl_reset/end", "rate"),
    _last("branch_auc_ratio", "plasticity/rl_reset/auc_ratio", "ratio"),
    _last("branch_gain_ratio", "plasticity/rl_reset/gain_ratio", "ratio"),
    _last("branch_silent_share", "plasticity/rl_reset/silent_share", "share"),
    _last("branch_sft_auc_ratio", "plasticity/sft_reset/auc_ratio", "ratio"),
    _mean_over_steps("silent_share", "rollout/silent_share", "share"),
    _mean_over_steps("wasted_share", "rollout/wasted_share", "share"),
    Measure("wasted_budget", "budget/learned_completions", "share", "last RL step", lambda record: _wasted(record)),
    _mean_over_steps("refill_factor", "rollout/refill_factor", "ratio"),
    Measure("training_s", "time/step_s", "s", "sum over RL steps", lambda record: _sum(record, "time/step_s")),
    _spent("completions", "budget/completions", "count"),
    _spent("pilot_completions", "budget/pilot_completions", "count"),
    _spent("refill_completions", "budget/refill_completions", "count"),
    _spent("reestimation_completions", "budget/reestimation_completions", "count"),
    _spent("reference_completions", "budget/reference_completions", "count"),
    _spent("offline_completions", "budget/offline_completions", "count"),
    _spent("learned_completions", "budget/learned_completions", "count"),
    _spent("sampled_tokens", "budget/sampled_tokens", "tokens"),
    _spent("forward_tokens", "budget/forward_tokens", "tokens"),
    _spent("learner_forward_tokens", "budget/learner_forward_tokens", "tokens"),
    _spent("forward_per_token", "budget/forward_per_token", "ratio"),
)

COMPARED = ("prior_after", "forgetting", "new_after", "branch_end", "branch_auc_ratio", "kl_forward_prior")
"""Measures whose paired difference to the reference variant is in the summary."""


def summarise(records: Sequence[RunRecord], context: ReportContext) -> dict[str, Any]:
    """The whole summary as plain values (JSON without NaN); docs/summary.md names every field.

    Two finished runs of the same plan, variant and seed raise `ValueError`: which one counts is not for us to choose.
    """
    plans = ordered(context.plans, (record.plan for record in records))
    variants = ordered(context.variants, (record.variant for record in records))
    cells = [
        _cell(plan, variant, runs)
        for plan in plans
        for variant in variants
        if (runs := of_cell(records, plan, variant))
    ]
    finished = [record for record in records if record.finished]
    return {
        "schema": SCHEMA,
        "title": context.title,
        "created": context.created,
        "source": context.source,
        "plans": plans,
        "variants": variants,
        "runs": {"finished": len(finished), "not_finished": len(records) - len(finished)},
        "cells": cells,
        "differences": _differences(cells, variants),
        "transfer": [row for plan in plans for variant in variants for row in _transfer(finished, plan, variant)],
        "matched_kl": [row for plan in plans for row in _matched_kl(finished, plan, variants)],
        "gap_closed": [row for plan in plans for row in gap_closed(finished, plan, variants)],
        "difficulty": difficulty(finished, plans, variants),
        "thresholds": {"length_factor": LENGTH_FACTOR, "shortcut_rise": SHORTCUT_RISE, "prior_fall": PRIOR_FALL},
        "settings": dict(context.settings),
        "versions": dict(context.versions),
    }


def find_cell(summary: Mapping[str, Any], plan: str, variant: str) -> Mapping[str, Any] | None:
    """The summary's cell of a plan and a variant, or None."""
    return next((c for c in summary["cells"] if c["plan"] == plan and c["variant"] == variant), None)


def _cell(plan: str, variant: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    finished = [record for record in runs if record.finished]
    twice = [seed for seed, count in Counter(record.seed for record in finished).items() if count > 1]
    if twice:
        raise ValueError(
            f"report: {plan}, {variant} has more than one finished run of seed {', '.join(map(str, twice))}"
        )
    return {
        "plan": plan,
        "variant": variant,
        "seeds": [record.seed for record in finished],
        "runs": [{"seed": record.seed, "status": record.status, "run_id": record.run_id} for record in runs],
        "not_finished": len(runs) - len(finished),
        "measures": {measure.name: _measure(measure, finished) for measure in MEASURES},
        "onset": _onsets(finished),
        "verdicts": dict(Counter(verdict for record in finished if (verdict := _verdict(record)))),
    }


def _verdict(record: RunRecord) -> str | None:
    """What the branches of the last boundary said, or None when they did not run."""
    rows = record.boundaries[-1]["tables"].get("plasticity_verdict", []) if record.boundaries else []
    return rows[0]["verdict"] if rows else None


def _measure(measure: Measure, finished: Sequence[RunRecord]) -> dict[str, Any]:
    values = {
        record.seed: value for record in finished if (value := measure.of(record)) is not None and np.isfinite(value)
    }
    return {"metric": measure.metric, "unit": measure.unit, "when": measure.when, **over_seeds(values)}


def _transfer(finished: Sequence[RunRecord], plan: str, variant: str) -> list[dict[str, Any]]:
    """A row for each phase after the first, and one for their mean."""
    found = transfers(finished, plan, variant)
    rows = [
        {
            "plan": plan,
            "variant": variant,
            "phase": row.phase.name,
            "domain": row.phase.domain,
            "levels": list(row.phase.levels),
            "steps": row.phase.end - row.phase.start,
            "reference": list(row.reference),
            "source": row.source,
            **_bootstrapped(row.values),
        }
        for row in found
    ]
    mean = {"plan": plan, "variant": variant, "phase": None, **_bootstrapped(sequence_transfer(found))}
    return [*rows, mean] if rows else []


def _matched_kl(finished: Sequence[RunRecord], plan: str, variants: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "plan": plan,
            "phase": row.phase,
            "variant": row.variant,
            "start": row.start,
            "target": row.target,
            "points": row.points,
            "reverse": over_seeds(row.reverse),
            "forward": over_seeds(row.forward),
        }
        for row in matched_kls(finished, plan, variants)
    ]


def _onsets(finished: Sequence[RunRecord]) -> dict[str, Any]:
    found = {record.seed: onset(record) for record in finished}
    steps = {
        name: [getattr(o, name) for o in found.values() if getattr(o, name) is not None]
        for name in ("length", "shortcut", "fall")
    }
    return {
        **{f"{name}_step_median": float(median(values)) if values else None for name, values in steps.items()},
        "length_order": _orders([o.length_order for o in found.values()]),
        "shortcut_order": _orders([o.shortcut_order for o in found.values()]),
        "kinds": {kind: _kind(kind, list(found.values())) for kind in SHORTCUTS},
        "runs": [_onset_row(seed, o) for seed, o in found.items()],
    }


def _kind(kind: str, found: Sequence[Onset]) -> dict[str, Any]:
    """Where one kind of shortcut set in."""
    steps = [step for o in found if (step := o.kinds[kind]) is not None]
    return {
        "step_median": float(median(steps)) if steps else None,
        "runs": len(steps),
        "order": _orders([o.kind_order(kind) for o in found]),
    }


def _onset_row(seed: int, found: Onset) -> dict[str, Any]:
    return {
        "seed": seed,
        "length_step": found.length,
        "shortcut_step": found.shortcut,
        "kind_steps": dict(found.kinds),
        "fall_step": found.fall,
        "fall_after_step": found.fall_after,
        "length_order": found.length_order,
        "shortcut_order": found.shortcut_order,
    }


def _orders(orders: Sequence[str]) -> dict[str, int]:
    return {name: orders.count(name) for name in ORDERS}


def _differences(cells: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Each variant against the first one, by plan, paired over seeds."""
    rows = []
    by_name = {(cell["plan"], cell["variant"]): cell["measures"] for cell in cells}
    for (plan, variant), measures in by_name.items():
        reference = by_name.get((plan, variants[0]))
        if variant == variants[0] or reference is None:
            continue
        for name in COMPARED:
            difference = paired_difference(_by_seed(measures[name]), _by_seed(reference[name]))
            if difference is not None:
                rows.append(
                    {"plan": plan, "variant": variant, "reference": variants[0], "measure": name, **plain(difference)}
                )
    return rows


def _by_seed(measure: Mapping[str, Any]) -> dict[int, float]:
    return {int(seed): value for seed, value in measure["values"].items()}


def _bootstrapped(values: Mapping[int, float]) -> dict[str, Any]:
    """The mean with its bootstrap interval, and what it is the mean of."""
    found = estimate(list(values.values()))
    bounds = bootstrap_interval(list(values.values()))
    return {
        "mean": found.mean if found else None,
        "bootstrap": {"low": bounds[0], "high": bounds[1]} if bounds else None,
        "n": len(values),
        "values": {str(seed): value for seed, value in values.items()},
    }


def _sum(record: RunRecord, name: str) -> float | None:
    values = [value for _, value in record.series(name)]
    return float(np.sum(values)) if values else None


def _latest(record: RunRecord, name: str) -> float | None:
    series = record.series(name)
    return series[-1][1] if series else None


def _wasted(record: RunRecord) -> float | None:
    """Share of all completions of the budget that no gradient came from: 1 - learned / all."""
    learned, completions = (_latest(record, f"budget/{name}completions") for name in ("learned_", ""))
    return 1 - learned / completions if learned is not None and completions else None


def _mean(record: RunRecord, name: str) -> float | None:
    values = [value for _, value in record.series(name)]
    return float(np.mean(values)) if values else None
