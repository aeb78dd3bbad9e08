"""How well the estimates of difficulty track the live policy, from the runs' audits: numbers over seeds, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import inf, isfinite
from statistics import median
from typing import Any

from ductile.audit import Entry, PhaseDrift, Row, entries, phase_drifts
from ductile.report.records import RunRecord, of_cell
from ductile.report.statistics import over_seeds
from ductile.report.text import NOTHING, TextTable, interval, short

WHEN = ("before", "at", "after", "end")
"""The audits around the beginning of a phase, see `audit.Entry`."""
RESULTS = ("brier", "ece", "ece_noise", "spearman", "coverage", "width", "bias", "age")
SEEN = ("entered", "left", "noise_entered", "noise_left")
TRAFFIC = (*SEEN, *(f"neighbour_{name}" for name in SEEN), "net", "noise_net", "rose_in", "rose_out")
SPENT = ("pilot", "refill", "reestimation", "reference", "offline")
"""Completions of the budget that went elsewhere than straight into training, `<name>_completions`."""
HEADS = {
    "completions": "Completions\nin all",
    "learned_completions": "of them\nlearned",
    "pilot_completions": "of them\npilots",
    "refill_completions": "of them\nrefill",
    "reestimation_completions": "of them\nre-estimation",
    "reference_completions": "of them\nreference",
    "offline_completions": "of them\nbefore the run",
}


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
        _spent_table(summary),
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
                    selects = any(_first_estimator(row, problems) == estimator for row in audits.values())
                    asked = {
                        "problems": problems,
                        "estimator": estimator,
                        "selects": selects,
                        "when": when,
                        "step": step,
                    }
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
            "half_life": _half_lives(drifts),
            "longest": max(d.steps[-1] - d.steps[0] for d in drifts.values()),
            "skill": over_seeds(_skills(drifts)),
            "in_band_start": over_seeds({seed: d.shares[0][1] for seed, d in drifts.items()}),
            "in_band_end": over_seeds({seed: d.shares[-1][1] for seed, d in drifts.items() if len(d.shares) > 1}),
            **_traffic(drifts),
        }
        for phase, drifts in sorted(found.items())
    ]


def _half_lives(drifts: Mapping[int, PhaseDrift]) -> dict[str, Any]:
    """The median over the runs that tell, in which one that is longer than its phase counts as infinite.

    A mean over the runs that have one would leave out the longest.
    """
    found = {seed: drift.half_life for seed, drift in drifts.items()}
    values = {seed: each.steps for seed, each in found.items() if each.steps is not None}
    longer = sum(each.censored for each in found.values())
    ranked = [*values.values(), *([inf] * longer)]
    middle = median(ranked) if ranked else inf
    return {
        "median": middle if isfinite(middle) else None,
        "values": {str(seed): steps for seed, steps in values.items()},
        "longer": longer,
        "no_spread": len(found) - len(ranked),
    }


def _skills(drifts: Mapping[int, PhaseDrift]) -> dict[int, float]:
    """Of a frozen estimate at the phase's longest distance between two audits, where that can be told."""
    curves = {seed: (dict(d.half_life.curve), d.steps[-1] - d.steps[0]) for seed, d in drifts.items()}
    return {seed: curve[longest] for seed, (curve, longest) in curves.items() if longest and longest in curve}


def _traffic(drifts: Mapping[int, PhaseDrift]) -> dict[str, Any]:
    seen = {seed: each for seed, drift in drifts.items() if (each := drift.traffic()) is not None}
    return {name: over_seeds({seed: each[name] for seed, each in seen.items()}) for name in TRAFFIC}


def _first_estimator(row: Row, problems: str) -> str | None:
    return next(iter((row[problems] or {"estimators": {}})["estimators"]), None)


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
                    *(row["plan"], row["variant"], row["estimator"] + "*" * row["selects"], when),
                    *(interval(m["brier"], 3), interval(m["ece"]), _mean(m["ece_noise"], 2)),
                    *(interval(m["spearman"]), interval(m["coverage"]), _mean(m["bias"], 2)),
                )
            )
    return TextTable(
        title,
        (
            *("Plan", "Variant", "Estimator", "Audit"),
            *("Brier", "ECE", "ECE\nif right", "Spearman", "Coverage\nof 0.90", "Bias"),
        ),
        tuple(rows),
        "Estimates against fresh completions that no estimator saw: in the last audit before a switch, the first of "
        "the new phase before any step, and the one after it. Before is of the old phase's problems, at and after are "
        "of the new one's. Brier: squared error to the true pass rate, the audit's noise taken out. ECE if right: what "
        "it would be on average, were the estimates with their uncertainty right. Coverage: of the belief's central "
        "90% interval. *: the estimator that selection reads. A plan of one phase: its first audit and its last.",
        labels=4,
    )


def _drift_table(summary: Mapping[str, Any]) -> TextTable:
    rows = tuple(
        (
            row["plan"],
            row["variant"],
            row["phase"],
            _half_life_text(row),
            _seen_text(row, ""),
            _seen_text(row, "neighbour_"),
            interval(row["net"], 1),
            f"{_mean(row['rose_in'], 1)} / {_mean(row['rose_out'], 1)}",
            f"{_mean(row['in_band_start'], 2)} → {_mean(row['in_band_end'], 2)}",
        )
        for row in summary["difficulty"]["drift"]
        if row["entered"]["mean"] is not None
    )
    return TextTable(
        "How fast difficulty moves",
        (
            *("Plan", "Variant", "Phase"),
            *("Half-life\nsteps", "Crossed,\nwhole", "Crossed,\nto next"),
            *("Into band\na step, net", "Rose a step\nlow / high", "In band\nstart → end"),
        ),
        rows,
        "Half-life: steps until the squared error of a frozen estimate is half of the variance between problems, "
        "where a common shift of all is error too; median over runs, of which one that is longer than the phase counts "
        "as infinite; no spread: runs whose problems differ too little to tell. Crossed: problems of the whole pool "
        "seen to enter or leave the band, from the phase's first audit to its last, and from one audit to the next; "
        "in brackets what two audits of a pool that stands still show. The difference does not count what truly "
        "crossed. Net and rose, problems a step from first to last audit: what enters the band minus what leaves it, "
        "and what rises over each edge minus what falls. Back and forth cancel there; of rates that stand still all "
        "three are 0 on average.",
        labels=3,
    )


def _waste_table(summary: Mapping[str, Any]) -> TextTable:
    differences = {
        (row["plan"], row["variant"]): row for row in summary["differences"] if row["measure"] == "new_after"
    }
    rows = []
    for cell in _spending_cells(summary):
        m, difference = cell["measures"], differences.get((cell["plan"], cell["variant"]))
        rows.append(
            (
                cell["plan"],
                cell["variant"],
                *(interval(m[name]) for name in ("silent_share", "refill_factor", "wasted_share", "wasted_budget")),
                interval(m["new_after"]),
                NOTHING if difference is None else interval(difference, 1, 100),
            )
        )
    reference = short(summary["variants"][0], 16) if summary["variants"] else ""
    return TextTable(
        "What selection wasted, and what it came to",
        (
            *("Plan", "Variant", "Silent groups\nshare", "Sampled groups\na learned one"),
            *("Wasted\na step", "Wasted\nof all", "New skills\npass rate", f"minus {reference}\npoints"),
        ),
        tuple(rows),
        "Silent groups, whose rewards are all equal, give no gradient: mean over RL steps. Wasted a step: share of a "
        "step's completions without a gradient, those of silent groups, pilots of screening, and re-estimation, mean "
        "over RL steps. Wasted of all: the same of the whole budget, what was asked before the first step and for a "
        "reference included; it is the one to compare. New skills: on the plan's phases, after the last one; the "
        "difference is paired by seed.",
    )


def _spent_table(summary: Mapping[str, Any]) -> TextTable:
    cells = _spending_cells(summary)
    spent = [name for name in SPENT if any(cell["measures"][f"{name}_completions"]["mean"] for cell in cells)]
    columns = ["completions", *(["learned_completions"] if _any(cells, "learned_completions") else [])]
    columns += [f"{name}_completions" for name in spent]
    return TextTable(
        "Where completions went",
        ("Plan", "Variant", *(HEADS[name] for name in columns)),
        tuple(
            (cell["plan"], cell["variant"], *(interval(cell["measures"][name], 0) for name in columns))
            for cell in cells
            if spent
        ),
        "Sampled over the whole run, audits and probes not counted. Learned: in groups with a gradient. Pilots: "
        "screening's, which choose problems and are not learned from. Refill: to fill up for silent groups.",
    )


def _spending_cells(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that were audited; and all, where any spent completions beside training or variants can be compared."""
    audited = {(row["plan"], row["variant"]) for row in summary["difficulty"]["calibration"]}
    cells = [cell for cell in summary["cells"] if _any([cell], "silent_share", "wasted_share", "wasted_budget")]
    spent = any(cell["measures"][f"{name}_completions"]["mean"] for cell in cells for name in SPENT)
    if spent or len({cell["variant"] for cell in cells}) > 1:
        return cells
    return [cell for cell in cells if (cell["plan"], cell["variant"]) in audited]


def _any(cells: Sequence[Mapping[str, Any]], *names: str) -> bool:
    return any(cell["measures"][name]["mean"] is not None for cell in cells for name in names)


def _half_life_text(row: Mapping[str, Any]) -> str:
    """`12.3 (3), no spread 1`, or `> 20 (2)`: the median, of how many runs, and how many do not tell."""
    found = row["half_life"]
    runs = len(found["values"]) + found["longer"]
    middle = f"> {row['longest']}" if found["median"] is None else f"{found['median']:.1f}"
    parts = [f"{middle} ({runs})"] if runs else []
    parts += [f"no spread {found['no_spread']}"] if found["no_spread"] else []
    return ", ".join(parts)


def _seen_text(row: Mapping[str, Any], prefix: str) -> str:
    """`104 (38)`: entered and left together, as seen and by noise alone."""
    seen, noise = (sum(row[f"{prefix}{kind}{name}"]["mean"] for name in ("entered", "left")) for kind in ("", "noise_"))
    return f"{seen:.0f} ({noise:.0f})"


def _mean(measure: Mapping[str, Any], digits: int) -> str:
    return interval({**measure, "high": None}, digits)
