"""How well the estimates of difficulty track the live policy, from the runs' audits: numbers over seeds, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from ductile.audit import Entry, PhaseDrift, Row, entries, phase_drifts
from ductile.report.records import RunRecord, of_cell
from ductile.report.statistics import over_seeds
from ductile.report.text import TextTable, interval, short

WHEN = ("before", "at", "after", "end")
"""The audits around the beginning of a phase, see `audit.Entry`."""
RESULTS = ("brier", "ece", "ece_noise", "spearman", "coverage", "width", "bias", "age")
FLOWS = ("entered", "left", "noise_entered", "noise_left", "excess", "rose_in", "rose_out")


def difficulty(
    finished: Sequence[RunRecord], plans: Sequence[str], variants: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Rows `calibration` and `drift`, both empty without audits; docs/summary.md names their fields."""
    cells = [(plan, variant, of_cell(finished, plan, variant)) for plan in plans for variant in variants]
    audited = [(plan, variant, [run for run in runs if run.audits]) for plan, variant, runs in cells]
    return {
        "calibration": [row for plan, variant, runs in audited for row in _calibration(plan, variant, runs)],
        "drift": [row for plan, variant, runs in audited for row in _drift(plan, variant, runs)],
    }


def difficulty_tables(summary: Mapping[str, Any]) -> tuple[TextTable, ...]:
    """Calibration around the switches, on the pool and beside it; what was wasted; how fast difficulty moves."""
    return (
        _calibration_table(summary, "pool", "Calibration of the difficulty estimates"),
        _calibration_table(summary, "unseen", "Calibration on problems that were never asked"),
        _drift_table(summary),
        _waste_table(summary),
    )


def shown(entry_index: int, phases: int) -> Mapping[str, str]:
    """Which of a phase's audits are shown, and as what: those around each switch, or both ends of an only phase."""
    if phases == 1:
        return {"at": "start", "end": "end"}
    return {} if entry_index == 0 else {"before": "before", "at": "at", "after": "after"}


def _calibration(plan: str, variant: str, runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    found = {run.seed: entries(run.audits) for run in runs}
    rows = []
    for position in range(max((len(each) for each in found.values()), default=0)):
        here = {seed: each[position] for seed, each in found.items() if len(each) > position}
        first = next(iter(here))
        about = {
            "plan": plan,
            "variant": variant,
            "index": position,
            "phase": here[first].name,
            "from": found[first][position - 1].name if position else None,
        }
        for problems in ("pool", "unseen"):
            for estimator, when in product(_estimators(here, problems), WHEN):
                audits = {seed: row for seed, entry in here.items() if (row := getattr(entry, when)) is not None}
                results = {seed: _results(row, problems, estimator) for seed, row in audits.items()}
                if any(results.values()):
                    step = next(iter(audits.values()))["total_step"]
                    measures = {name: over_seeds(_known(results, name)) for name in RESULTS}
                    asked = {"problems": problems, "estimator": estimator, "when": when, "step": step}
                    rows.append({**about, **asked, "measures": measures})
    return rows


def _drift(plan: str, variant: str, runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    found: dict[int, dict[int, PhaseDrift]] = {}
    for run in runs:
        for drift in phase_drifts(run.audits, *run.audits[0]["band"]):
            found.setdefault(drift.phase, {})[run.seed] = drift
    return [
        {
            "plan": plan,
            "variant": variant,
            "index": phase,
            "phase": next(iter(drifts.values())).name,
            "band": list(next(run for run in runs if run.seed in drifts).audits[0]["band"]),
            "half_life": over_seeds(
                {seed: d.half_life.steps for seed, d in drifts.items() if d.half_life.steps is not None}
            ),
            "longer": sum(d.half_life.why == "longer than the phase" for d in drifts.values()),
            "no_spread": sum(d.half_life.why == "no spread" for d in drifts.values()),
            "longest": max(d.half_life.curve[-1][0] for d in drifts.values()),
            "skill": over_seeds(_skills(drifts)),
            "in_band_start": over_seeds({seed: d.shares[0][1] for seed, d in drifts.items()}),
            "in_band_end": over_seeds({seed: d.shares[-1][1] for seed, d in drifts.items() if len(d.shares) > 1}),
            **_flows(drifts),
        }
        for phase, drifts in sorted(found.items())
    ]


def _skills(drifts: Mapping[int, PhaseDrift]) -> dict[int, float]:
    """Of a frozen estimate at the phase's longest distance between two audits."""
    return {seed: d.half_life.curve[-1][1] for seed, d in drifts.items() if len(d.half_life.curve) > 1}


def _flows(drifts: Mapping[int, PhaseDrift]) -> dict[str, Any]:
    flows = {seed: flow for seed, drift in drifts.items() if (flow := drift.per_step()) is not None}
    return {name: over_seeds({seed: flow[name] for seed, flow in flows.items()}) for name in FLOWS}


def _estimators(found: Mapping[int, Entry], problems: str) -> list[str]:
    parts = [entry.at[problems] for entry in found.values()]
    return list(dict.fromkeys(name for part in parts if part for name in part["estimators"]))


def _results(row: Row, problems: str, estimator: str) -> Mapping[str, Any]:
    part = row[problems] or {"estimators": {}}
    said = part["estimators"].get(estimator)
    return said["results"] if said else {}


def _known(results: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    return {seed: found[name] for seed, found in results.items() if found.get(name) is not None}


def _calibration_table(summary: Mapping[str, Any], problems: str, title: str) -> TextTable:
    found = [row for row in summary["difficulty"]["calibration"] if row["problems"] == problems]
    phases = {
        (plan, variant): 1 + max(r["index"] for r in found if (r["plan"], r["variant"]) == (plan, variant))
        for plan, variant in {(row["plan"], row["variant"]) for row in found}
    }
    rows = []
    for row in found:
        count = phases[row["plan"], row["variant"]]
        names = shown(row["index"], count)
        if row["when"] in names:
            m = row["measures"]
            when = names[row["when"]] if count < 3 else f"{names[row['when']]} {short(row['phase'], 14)}"
            rows.append(
                (
                    *(row["plan"], row["variant"], row["estimator"], when),
                    *(interval(m["brier"], 3), interval(m["ece"]), _mean(m["ece_noise"], 2)),
                    *(interval(m["spearman"]), interval(m["coverage"]), _mean(m["bias"], 2)),
                )
            )
    return TextTable(
        title,
        (
            *("Plan", "Variant", "Estimator", "Audit"),
            *("Brier", "ECE", "of it\nnoise", "Spearman", "Coverage\nof 0.90", "Bias"),
        ),
        tuple(rows),
        "Estimates against fresh completions that no estimator saw: in the last audit before a switch, the first of "
        "the new phase before any step, and the one after it. Before is of the old phase's problems, at and after are "
        "of the new one's. Brier: squared error to the true pass rate, the audit's noise taken out. Noise: the ECE of "
        "an estimate that is right. Coverage: of the belief's central 90% interval. The first estimator is the one "
        "that selection reads. A plan of one phase: its first audit and its last.",
        labels=4,
    )


def _drift_table(summary: Mapping[str, Any]) -> TextTable:
    rows = tuple(
        (
            row["plan"],
            row["variant"],
            row["phase"],
            _half_life_text(row),
            _pair(row, "entered", "left"),
            f"{row['noise_entered']['mean'] + row['noise_left']['mean']:.1f}",
            interval(row["excess"], 1),
            _pair(row, "rose_in", "rose_out"),
            f"{_mean(row['in_band_start'], 2)} → {_mean(row['in_band_end'], 2)}",
        )
        for row in summary["difficulty"]["drift"]
        if row["entered"]["mean"] is not None
    )
    return TextTable(
        "How fast difficulty moves",
        (
            *("Plan", "Variant", "Phase"),
            *("Half-life\nsteps", "Entered / left\na step", "of it\nnoise", "Beyond\nnoise"),
            *("Rose over edge\nlow / high", "In band\nstart → end"),
        ),
        rows,
        "Half-life: steps until an estimate that is frozen explains half of the differences between problems; in "
        "brackets how many runs have one, > those where it is longer than the phase. Entered, left: problems of the "
        "whole pool that enter or leave the band, from the audited ones; noise: both together where no rate moves. "
        "Beyond noise is a lower bound. Rose: net flow a step over each edge of the band, upwards, free of noise.",
        labels=3,
    )


def _waste_table(summary: Mapping[str, Any]) -> TextTable:
    audited = {(row["plan"], row["variant"]) for row in summary["difficulty"]["calibration"]}
    rows = []
    for cell in summary["cells"]:
        if (cell["plan"], cell["variant"]) in audited:
            m = cell["measures"]
            spent = ("completions", "pilot_completions", "refill_completions", "reestimation_completions")
            rows.append(
                (
                    cell["plan"],
                    cell["variant"],
                    interval(m["silent_share"]),
                    interval(m["refill_factor"]),
                    *(interval(m[name], 0) for name in spent),
                )
            )
    return TextTable(
        "What selection wasted",
        (
            *("Plan", "Variant", "Silent groups\nshare", "Sampled groups\na learned one"),
            *("Completions\nin all", "of them\npilots", "of them\nrefill", "of them\nre-estimation"),
        ),
        tuple(rows),
        "Silent groups, whose rewards are all equal, give no gradient: mean over RL steps. Pilots: screening's, of "
        "problems that were then not trained on.",
    )


def _half_life_text(row: Mapping[str, Any]) -> str:
    """`12.3 ±2.1 (2), > 1`: of two runs, and one that has none within the phase."""
    runs = row["half_life"]["n"]
    parts = [f"{interval(row['half_life'], 1)} ({runs})"] if runs else []
    parts += [f"> {row['longer']}"] if row["longer"] else []
    parts += [f"no spread {row['no_spread']}"] if row["no_spread"] else []
    return ", ".join(parts)


def _pair(row: Mapping[str, Any], first: str, second: str) -> str:
    """`34.1 / 52.8`."""
    return f"{_mean(row[first], 1)} / {_mean(row[second], 1)}"


def _mean(measure: Mapping[str, Any], digits: int) -> str:
    return interval({**measure, "high": None}, digits)
