"""The share of the gap to direct tuning that a variant closes, for each phase's skill.

    share = (variant - base) / (direct - base)        (proxy-tuning, arXiv 2401.08565, section 3)

Pass rates of the phase's own problems at the last boundary, of the base at boundary 0; direct is `parameter_only` of
the same plan and seed. The paper averages such shares over tasks; we keep each phase alone, paired by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from ductile.metrics import segment
from ductile.report.records import RunRecord, of_cell
from ductile.report.sequences import bracketed
from ductile.report.statistics import bootstrap_interval, estimate
from ductile.report.text import TextTable

DIRECT = "parameter_only"
NOISE = 2.0
"""Standard errors that direct tuning must have moved the pass rate by, for a share of it to mean anything."""


@dataclass(frozen=True)
class Rate:
    """A pass rate and its standard error."""

    rate: float
    error: float


def gap_closed(finished: Sequence[RunRecord], plan: str, variants: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each variant but the direct one and each phase that both measured; docs/summary.md names its fields."""
    direct = {record.seed: record for record in of_cell(finished, plan, DIRECT)}
    rows = []
    for variant in variants:
        runs = [record for record in of_cell(finished, plan, variant) if record.seed in direct]
        if variant == DIRECT or not runs:
            continue
        for phase in runs[0].phases:
            pairs = {run.seed: _rates(run, direct[run.seed], phase.name) for run in runs}
            known = {seed: rates for seed, rates in pairs.items() if rates is not None}
            if known:
                rows.append({"plan": plan, "variant": variant, "phase": phase.name, **_shares(known)})
    return rows


def closed_share(base: Rate, tuned: float, direct: Rate) -> float | None:
    """None where direct tuning moved the pass rate by less than its noise."""
    gap = direct.rate - base.rate
    noise = NOISE * sqrt(base.error**2 + direct.error**2)
    return None if abs(gap) <= noise else (tuned - base.rate) / gap


def gap_table(summary: Mapping[str, Any]) -> TextTable:
    """A row for each variant and phase where some seed has a gap to close."""
    rows = tuple(
        (row["plan"], row["variant"], row["phase"], bracketed(row), str(row["n"]), str(row["no_gap"]))
        for row in summary["gap_closed"]
    )
    return TextTable(
        "Gap to direct tuning that is closed",
        ("Plan", "Variant", "Phase", "Share\nclosed", "Runs", "Without\na gap"),
        rows,
        f"(variant - base) / ({DIRECT} - base) in pass rate on the phase's problems after the last phase, by seed, "
        f"with a 95% bootstrap interval. Runs in which {DIRECT} moved it by at most {NOISE:g} standard errors have no gap "
        f"to close, and are left out.",
        labels=3,
    )


def _shares(rates: Mapping[int, tuple[Rate, Rate, Rate]]) -> dict[str, Any]:
    shares = {seed: closed_share(base, tuned.rate, direct) for seed, (base, tuned, direct) in rates.items()}
    values = {seed: share for seed, share in shares.items() if share is not None}
    found, bounds = estimate(list(values.values())), bootstrap_interval(list(values.values()))
    return {
        "mean": found.mean if found else None,
        "bootstrap": {"low": bounds[0], "high": bounds[1]} if bounds else None,
        "n": len(values),
        "no_gap": len(shares) - len(values),
        "values": {str(seed): value for seed, value in values.items()},
    }


def _rates(run: RunRecord, direct: RunRecord, phase: str) -> tuple[Rate, Rate, Rate] | None:
    """Of the base, the variant and direct tuning; None where one was not measured."""
    if len(run.boundaries) < 2 or len(direct.boundaries) < 2:
        return None
    # Direct tuning begins as the base; a variant's own boundary 0 is the same policy.
    found = [_rate(row, phase) for row in (direct.boundaries[0], run.boundaries[-1], direct.boundaries[-1])]
    base, tuned, tuned_directly = found
    if base is None or tuned is None or tuned_directly is None:
        return None
    return base, tuned, tuned_directly


def _rate(boundary: Mapping[str, Any], phase: str) -> Rate | None:
    """Mean over the phase's levels, from the boundary's table `retention`."""
    rows = [
        row
        for row in boundary["tables"].get("retention", [])
        if row["kind"] == "new" and row["skill"] == segment(phase) and row["pass_rate"] is not None
    ]
    if not rows:
        return None
    rate = sum(row["pass_rate"] for row in rows) / len(rows)
    return Rate(rate, sqrt(sum(row["standard_error"] ** 2 for row in rows)) / len(rows))
