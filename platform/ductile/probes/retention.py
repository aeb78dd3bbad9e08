"""Pass rate of each prior skill and of what the plan teaches, and the retention matrix over boundaries.

R[i, j] is the pass rate of skill and level j at boundary i; boundary 0 lies before the first phase. Forgetting of j
is R[0, j] - R[last, j]; forgetting from the best is max over earlier i of R[i, j] - R[last, j] (Chaudhry et al. 2018,
arXiv 1801.10112, eq. 3). Both are negative when a skill improved.

The plan's own phases are tasks of a sequence. With R[i, j] the pass rate of phase j after phase i, mean over its
levels, and T phases over, GEM (Lopez-Paz and Ranzato 2017, arXiv 1706.08840) has

    average performance  ACC = mean over j <= T of R[T, j]
    backward transfer    BWT = mean over j < T of R[T, j] - R[j, j].

Learning accuracy is the mean of R[j, j]; forgetting of the phases is the mean over j < T of
max over j <= i < T of R[i, j] - R[T, j].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.metrics import segment
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import Cell, Outcomes, evaluate, macro_mean, present


class RetentionProbe:
    """`retention/*`."""

    name = "retention"
    version = 2

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
        results = [*context.history, result]
        tasks = sequence_metrics(task_matrix(results, [segment(name) for name, _ in context.phases]))
        return ProbeResult({**result.metrics, **_forgetting(results), **present(tasks)}, result.tables)


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


def task_matrix(results: Sequence[ProbeResult], phases: Sequence[str]) -> NDArray[np.float64]:
    """R: [boundary, phase] mean pass rate over the phase's levels, NaN where it was not measured."""
    matrix = np.full((len(results), len(phases)), np.nan)
    for boundary, result in enumerate(results):
        rows = [row for row in result.tables.get("retention", []) if row["kind"] == "new"]
        for phase, name in enumerate(phases):
            rate = macro_mean([row["pass_rate"] for row in rows if row["skill"] == name])
            matrix[boundary, phase] = np.nan if rate is None else rate
    return matrix


def sequence_metrics(matrix: NDArray[np.float64]) -> dict[str, float | None]:
    """Of the phases that are over at the last boundary; None where a boundary that it needs lacks them.

    matrix: [boundary, phase], boundary 0 before the first phase, so that phase j ends at boundary j + 1.
    """
    over = min(len(matrix) - 1, matrix.shape[1])
    if over < 1:
        return {}
    last, own = matrix[-1, :over], np.array([matrix[j + 1, j] for j in range(over)])
    earlier = range(over - 1)
    best = [np.max(matrix[j + 1 : len(matrix) - 1, j]) for j in earlier]
    return {
        "retention/average": _known(last),
        "retention/learning": _known(own),
        "retention/newest": _known(own[-1:]),
        "retention/backward_transfer": _known(last[: over - 1] - own[: over - 1]),
        "retention/forgetting_phases": _known(np.array(best) - last[: over - 1]),
    }


def _known(values: NDArray[np.float64]) -> float | None:
    """The mean, None when there is nothing or something is missing."""
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None


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
