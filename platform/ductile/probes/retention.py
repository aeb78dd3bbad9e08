"""Pass rate of each prior skill and of what the plan teaches, and the retention matrix over boundaries.

R[i, j] is the pass rate of skill and level j at boundary i; boundary 0 lies before the first phase. Forgetting of j
is R[0, j] - R[last, j]; forgetting from the best is max over earlier i of R[i, j] - R[last, j] (Chaudhry et al. 2018,
arXiv 1801.10112, eq. 3). Both are negative when a skill improved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import Cell, Outcomes, evaluate, macro_mean, present


class RetentionProbe:
    """`retention/*`."""

    name = "retention"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        measured = evaluate(context)
        rows = [_row(cell, outcome) for cell, outcome in measured]
        metrics: dict[str, float | None] = {
            f"{'retention' if row['kind'] == 'prior' else 'retention_new'}/{row['skill']}/L{row['level']}": row[
                "pass_rate"
            ]
            for row in rows
        }
        for kind in ("prior", "new"):
            metrics[f"retention/{kind}"] = macro_mean([row["pass_rate"] for row in rows if row["kind"] == kind])
        completions = sum(row["judged"] + row["unjudged"] for row in rows)
        if completions:
            metrics["retention/unjudged_share"] = sum(row["unjudged"] for row in rows) / completions
        result = ProbeResult(present(metrics), {"retention": rows})
        return ProbeResult({**result.metrics, **_forgetting([*context.history, result])}, result.tables)


def binomial_standard_error(rate: float, count: int) -> float:
    """sqrt(p (1 - p) / n). With several completions a problem it is too small: they are not independent."""
    return float(np.sqrt(rate * (1 - rate) / count))


def retention_matrix(results: Sequence[ProbeResult]) -> list[dict[str, Any]]:
    """R as rows: boundary, kind, skill, level, pass_rate, standard_error; one for each boundary and cell."""
    columns = ("kind", "skill", "level", "pass_rate", "standard_error")
    return [
        {"boundary": boundary, **{name: row[name] for name in columns}}
        for boundary, result in enumerate(results)
        for row in result.tables.get("retention", [])
    ]


def prior_curves(results: Sequence[ProbeResult]) -> dict[tuple[str, int], list[float]]:
    """(skill, level) -> pass rate at each boundary, of the prior skills that were measured at every one."""
    curves: dict[tuple[str, int], list[float]] = {}
    for row in retention_matrix(results):
        if row["kind"] == "prior" and row["pass_rate"] is not None:
            curves.setdefault((row["skill"], row["level"]), []).append(row["pass_rate"])
    return {cell: curve for cell, curve in curves.items() if len(curve) == len(results)}


def forgetting(curve: Sequence[float]) -> float:
    """What was lost since boundary 0. curve: pass rate at each boundary."""
    return curve[0] - curve[-1]


def forgetting_from_best(curve: Sequence[float]) -> float:
    """What was lost since the best earlier boundary. curve: pass rate at each of two or more boundaries."""
    return max(curve[:-1]) - curve[-1]


def _forgetting(results: Sequence[ProbeResult]) -> dict[str, float]:
    """Over the boundaries that measured retention; without boundary 0 there is no forgetting since it."""
    measured = [result for result in results if "retention" in result.tables]
    curves = list(prior_curves(measured).values())
    if len(measured) < 2 or not curves:
        return {}
    metrics = {"retention/forgetting_from_best": float(np.mean([forgetting_from_best(curve) for curve in curves]))}
    if measured[0] is results[0]:
        metrics["retention/forgetting"] = float(np.mean([forgetting(curve) for curve in curves]))
    return metrics


def _row(cell: Cell, outcome: Outcomes) -> dict[str, Any]:
    judged = len(outcome.passed)
    rate = float(outcome.passed.mean()) if judged else None
    return {
        "kind": cell.kind,
        "skill": cell.skill,
        "level": cell.level,
        "domain": cell.domain.key,
        "problems": len(cell.problems),
        "judged": judged,
        "unjudged": outcome.unjudged,
        "pass_rate": rate,
        "standard_error": None if rate is None else binomial_standard_error(rate, judged),
    }
