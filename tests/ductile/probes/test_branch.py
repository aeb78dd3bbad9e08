"""Plasticity by hand: area under the curve, ratios to the fresh base, and what the branch evaluates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ductile.config import BranchSettings, ProbeSettings
from ductile.metrics import check_declared
from ductile.ports import PolicyRef
from ductile.probes import ProbeResult
from ductile.probes.branch import BranchProbe, curve_metrics, ratios
from ductile.problem import Problem
from tests.ductile.probes.fakes import BASE, POLICY, FakePool, context

SETTINGS = ProbeSettings(branch=BranchSettings({"name": "b", "lenient": True}, levels=(2, 5), problems=5), samples=2)


def half(problem: Problem, sample: int) -> str:
    return "1 steps" if sample == 0 else "0 steps"


def branch(
    steps: list[int], policies: list[PolicyRef]
) -> Callable[[Callable[[PolicyRef, int], float]], dict[str, Any]]:
    def run(evaluate: Callable[[PolicyRef, int], float]) -> dict[str, Any]:
        rates = [evaluate(policy, step) for policy, step in zip(policies, steps, strict=True)]
        return {"steps": steps, "pass_rates": rates, "silent_share": 0.25}

    return run


def test_area_under_the_curve_by_hand() -> None:
    # trapezoids over steps of 2 and 8: 2 * 0.3 + 8 * 0.6 = 5.4 over a budget of 10
    metrics = curve_metrics([0, 2, 10], [0.2, 0.4, 0.8])
    assert metrics == pytest.approx(
        {
            "plasticity/branch_auc": 0.54,
            "plasticity/branch_start": 0.2,
            "plasticity/branch_end": 0.8,
            "plasticity/branch_gain_auc": 0.34,
        }
    )


def test_ratios_to_the_fresh_base_by_hand() -> None:
    now = curve_metrics([0, 10], [0.1, 0.3])  # AUC 0.2, gain 0.1
    fresh = curve_metrics([0, 10], [0.1, 0.7])  # AUC 0.4, gain 0.3
    assert ratios(now, fresh) == pytest.approx(
        {"plasticity/branch_auc_ratio": 0.5, "plasticity/branch_gain_ratio": 1 / 3}
    )


def test_ratio_over_next_to_nothing_is_left_out() -> None:
    now = curve_metrics([0, 10], [0.1, 0.3])
    flat = curve_metrics([0, 10], [0.4, 0.42])  # gain 0.01
    worse = curve_metrics([0, 10], [0.4, 0.1])  # gain below zero: the sign of a ratio would mean nothing
    assert set(ratios(now, flat)) == set(ratios(now, worse)) == {"plasticity/branch_auc_ratio"}
    assert ratios(now, {}) == {}


def test_fresh_base_is_compared_with_itself() -> None:
    given = context(FakePool(half), SETTINGS, run_branch=branch([0, 3], [POLICY, POLICY]))
    metrics = BranchProbe().measure(given).metrics
    assert metrics["plasticity/branch_auc_ratio"] == 1.0
    assert metrics["plasticity/branch_silent_share"] == 0.25
    assert "plasticity/branch_gain_ratio" not in metrics  # half right before and after
    check_declared(metrics)


def test_later_boundary_is_compared_with_the_first() -> None:
    fresh = ProbeResult(curve_metrics([0, 3], [1.0, 1.0]))
    other = ProbeResult(curve_metrics([0, 3], [0.1, 0.1]))
    given = context(FakePool(half), SETTINGS, history=[fresh, other], run_branch=branch([0, 3], [POLICY, POLICY]))
    assert BranchProbe().measure(given).metrics["plasticity/branch_auc_ratio"] == 0.5


def test_every_evaluation_asks_the_same_honest_problems_of_the_policy_of_the_moment() -> None:
    pool = FakePool(half)
    later = replace(BASE, weights="later", version=9)
    result = BranchProbe().measure(context(pool, SETTINGS, run_branch=branch([0, 3], [POLICY, later])))
    (first, ids, sampling), (second, again, same) = pool.generated
    assert (first, second) == (POLICY, later)
    assert ids == again == ["b/2/0", "b/2/1", "b/2/2", "b/5/0", "b/5/1"]
    assert sampling == same
    assert result.tables["branch"] == [{"step": 0, "pass_rate": 0.5}, {"step": 3, "pass_rate": 0.5}]


def test_completions_that_could_not_be_judged_are_in_no_rate() -> None:
    pool = FakePool(lambda problem, sample: "1 steps" if sample == 0 else "? other")
    given = context(pool, SETTINGS, run_branch=branch([0, 3], [POLICY, POLICY]))
    assert BranchProbe().measure(given).metrics["plasticity/branch_end"] == 1.0


def test_nothing_judged_is_an_error_that_names_the_step() -> None:
    given = context(FakePool(lambda problem, sample: "? other"), SETTINGS, run_branch=branch([0], [POLICY]))
    with pytest.raises(RuntimeError, match="branch probe, step 0: none of the completions could be judged"):
        BranchProbe().measure(given)


def test_no_domain_is_no_branch() -> None:
    assert BranchProbe().measure(context(FakePool(half), ProbeSettings())) == ProbeResult()


def test_branch_inside_a_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="phase boundaries only"):
        BranchProbe().measure(context(FakePool(half), SETTINGS))
