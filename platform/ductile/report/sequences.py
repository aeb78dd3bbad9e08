"""Tables of what sequences of phases did: the phases kept, forward transfer, and KL at matched reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ductile.report.text import NOTHING, TextTable, interval


def sequences(summary: Mapping[str, Any]) -> TextTable:
    """Plans of two phases or more: each run's own measures of its phases, with mean forward transfer beside."""
    cells = {(cell["plan"], cell["variant"]): cell["measures"] for cell in summary["cells"]}
    rows = []
    for row in summary["transfer"]:
        if row["phase"] is None:
            m = cells[row["plan"], row["variant"]]
            rows.append(
                (
                    row["plan"],
                    row["variant"],
                    interval(m["average"]),
                    interval(m["learning"]),
                    interval(m["backward_transfer"]),
                    interval(m["forgetting_phases"], 1, 100),
                    bracketed(row),
                )
            )
    return TextTable(
        "Sequences of phases",
        (
            "Plan",
            "Variant",
            "Average\npass rate",
            "Learning\npass rate",
            "Backward\ntransfer",
            "Forgetting\npoints",
            "Forward\ntransfer",
        ),
        tuple(rows),
        "The plan's own phases. Average: after the last one; learning: each right after itself; backward transfer: "
        "from there to the end; forgetting: from the best since. Forward transfer: mean over the phases after the "
        "first of (AUC - AUC of the phase learned first) / (1 - the latter), with a 95% bootstrap interval over seeds."
        + _missing(summary),
    )


def phase_transfer(summary: Mapping[str, Any]) -> TextTable:
    """Forward transfer of each phase that has a reference."""
    rows = tuple(
        (row["plan"], row["variant"], row["phase"], bracketed(row), str(row["n"]), row["source"], *row["reference"][:1])
        for row in summary["transfer"]
        if row["phase"] is not None and row["n"]
    )
    return TextTable(
        "Forward transfer",
        ("Plan", "Variant", "Phase", "Forward\ntransfer", "Runs", "Measured by", "Learned first\nin plan"),
        rows,
        "95% bootstrap interval over seeds, too narrow for three of them. Measured by: the evaluations inside both "
        "phases or, where one has fewer than three, the rollouts that they were trained on.",
        labels=3,
    )


def matched_kl(summary: Mapping[str, Any]) -> TextTable:
    """KL to the base where the runs reach the pass rate that all variants reach."""
    rows = tuple(
        (
            row["plan"],
            row["variant"],
            row["phase"],
            f"{row['start']:.2f} → {row['target']:.2f}",
            interval(row["reverse"], 3),
            interval(row["forward"], 3),
            str(row["reverse"]["n"]),
            str(row["points"]),
        )
        for row in summary["matched_kl"]
    )
    return TextTable(
        "KL at matched reward",
        (
            "Plan",
            "Variant",
            "Phase",
            "Pass rate\nstart → target",
            "KL reverse\nnats/token",
            "KL forward\nnats/token",
            "Runs",
            "Points",
        ),
        rows,
        "KL to the base on the plan's prompts, where a run first reaches the largest pass rate that the mean of every "
        "variant reached in the phase; linear between points, the phase's measurements. Runs: those that reach it.",
        labels=3,
    )


def bracketed(row: Mapping[str, Any]) -> str:
    """`0.12 [0.05, 0.20]`: a mean and its bootstrap interval."""
    if row["mean"] is None:
        return NOTHING
    bounds = row["bootstrap"]
    numbers = [f"{x + 0.0:.2f}" for x in (row["mean"], *((bounds["low"], bounds["high"]) if bounds else ()))]
    mean, *rest = ["0.00" if number == "-0.00" else number for number in numbers]
    return f"{mean} [{', '.join(rest)}]" if rest else mean


def _missing(summary: Mapping[str, Any]) -> str:
    """Which plans of one phase would give the references that there are not."""
    phases = {
        (row["phase"], f"{row['domain']}, level {' '.join(map(str, row['levels']))}, {row['steps']} steps")
        for row in summary["transfer"]
        if row["phase"] is not None and not row["reference"]
    }
    wanted = "; ".join(f"{phase} ({asked})" for phase, asked in sorted(phases))
    return f" A plan of this phase alone would give it where it is left out: {wanted}." if wanted else ""
