"""Plasticity by hand: area under the curve, ratios to the fresh base and their intervals, and what the arms say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ductile.config import BranchSettings, ProbeSettings
from ductile.metrics import check_declared
from ductile.probes import ProbeResult
from ductile.probes.branch import (
    BranchProbe,
    area_under,
    arm_metrics,
    bootstrap_interval,
    half_silent_rate,
    plasticity,
    steps_to_threshold,
    verdict,
)
from tests.ductile.probes.fakes import FakePool, context

SETTINGS = ProbeSettings(branch=BranchSettings({"name": "b"}))


def result(
    rates: Sequence[Sequence[float | None]], steps: Sequence[int] = (0, 10), silent: float | None = 0.25
) -> dict[str, Any]:
    """rates: [eval][problem]."""
    cost = {"seconds": 2.0, "generated_tokens": 30, "trained_tokens": 7}
    return {"steps": list(steps), "passed": [list(each) for each in rates], "silent_share": silent, **cost}


def flat(*rates: float) -> dict[str, Any]:
    """Of ten problems that are solved alike."""
    return result([[rate] * 10 for rate in rates], steps=[10 * i for i in range(len(rates))])


def test_area_under_the_curve_by_hand() -> None:
    # trapezoids over steps of 2 and 8: 2 * 0.3 + 8 * 0.6 = 5.4 over a budget of 10
    assert area_under(np.array([0.2, 0.4, 0.8]), np.array([0.0, 2.0, 10.0])) == pytest.approx(0.54)


def test_metrics_of_an_arm_by_hand() -> None:
    now = [result([[0, 0, 0, 1], [0, 1, 0, 1]]), result([[0, 0, 1, 0], [1, 1, 1, 1]], silent=0.75)]
    base = [result([[0, 0, 1, 1], [1, 1, 1, 1]]), result([[0, 0, 0, 0], [1, 1, 1, 1]])]
    found = arm_metrics(now, base, 0.5, seed=0)
    interval = found.pop("auc_ratio_low"), found.pop("auc_ratio_high")
    # now: 0.25 -> 0.75, AUC 0.5, gain 0.25; base: 0.25 -> 1, AUC 0.625, gain 0.375; 0.5 is reached half-way
    assert found == pytest.approx(
        {
            "auc": 0.5,
            "start": 0.25,
            "end": 0.75,
            "gain_auc": 0.25,
            "steps_to_threshold": 5.0,
            "auc_ratio": 0.8,
            "gain_ratio": 2 / 3,
            "end_difference": -0.25,
            "silent_share": 0.5,
        }
    )
    assert interval[0] < 0.8 < interval[1]


def test_problem_that_could_not_be_judged_is_in_no_rate_of_that_evaluation() -> None:
    now = [result([[1, None, 0, None], [1, 1, None, 0]])]
    found = arm_metrics(now, now, 0.5, seed=0)
    assert (found["start"], found["end"]) == (0.5, pytest.approx(2 / 3))


def test_ratio_over_next_to_nothing_is_left_out_with_its_interval() -> None:
    low, gains_nothing, worse = flat(0.01, 0.02), flat(0.4, 0.42), flat(0.4, 0.1)
    assert {"auc_ratio", "auc_ratio_low", "gain_ratio"}.isdisjoint(arm_metrics([flat(0.1, 0.3)], [low], 0.5, 0))
    for base in (gains_nothing, worse):  # below zero the sign of a ratio would mean nothing
        found = arm_metrics([flat(0.1, 0.3)], [base], 0.5, 0)
        assert "auc_ratio" in found and "gain_ratio" not in found


def test_arm_without_groups_has_no_silent_share() -> None:
    assert "silent_share" not in arm_metrics([result([[1], [1]], silent=None)], [flat(1, 1)], 0.5, 0)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([0.6, 0.1], 0.0), ([0.0, 0.2, 0.6], 17.5), ([0.0, 0.5, 0.2], 10.0), ([0.0, 0.4, 0.49], None)],
)
def test_steps_to_the_threshold_by_hand(rates: list[float], expected: float | None) -> None:
    found = steps_to_threshold(np.array(rates), np.array([0.0, 10.0, 20.0][: len(rates)]), 0.5)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_interval_is_that_of_a_bootstrap_written_out() -> None:
    """The same percentiles by scipy, problem by problem: with every judgement known, AUCs are means over problems."""
    from scipy.stats import bootstrap

    rng = np.random.default_rng(3)
    now, base = rng.random((1, 4, 40)) < 0.3, rng.random((1, 4, 40)) < 0.5
    steps = np.array([0.0, 5.0, 10.0, 20.0])
    found = bootstrap_interval(now.astype(float), base.astype(float), steps, seed=1)
    weights = np.array([2.5, 5.0, 7.5, 5.0]) / 20  # of the trapezoid rule
    areas = [np.einsum("e,ep->p", weights, each[0].astype(float)) for each in (now, base)]
    expected = bootstrap(
        areas,
        lambda a, b, axis=-1: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found == bootstrap_interval(now.astype(float), base.astype(float), steps, seed=1)


def test_interval_covers_what_differs_between_repetitions() -> None:
    """Every problem alike, so that only the repetitions can be drawn: 0.2 and 0.6 against 0.4 give 0.5, 1 or 1.5."""
    now, base = (np.array([flat(r, r)["passed"] for r in rates]) for rates in ((0.2, 0.6), (0.4, 0.4)))
    assert bootstrap_interval(now, base, np.array([0.0, 1.0]), seed=0) == pytest.approx((0.5, 1.5))


def test_policy_is_paired_with_the_base_so_that_what_both_share_is_no_noise() -> None:
    passed = (np.random.default_rng(0).random((2, 3, 20)) < 0.4).astype(float)
    assert bootstrap_interval(passed, passed, np.array([0.0, 1.0, 2.0]), seed=0) == (1.0, 1.0)
    assert bootstrap_interval(0.5 * passed, passed, np.array([0.0, 1.0, 2.0]), seed=0) == pytest.approx((0.5, 0.5))


def test_interval_without_a_base_in_some_resample_is_none() -> None:
    base = np.zeros((1, 2, 30))
    base[0, :, 0] = 1
    assert bootstrap_interval(base, base, np.array([0.0, 1.0]), seed=0) == (None, None)


@pytest.mark.parametrize(("group_size", "rate"), [(4, 0.159), (8, 0.083), (16, 0.042), (64, 0.011)])
def test_rate_at_which_half_the_groups_are_silent(group_size: int, rate: float) -> None:
    assert half_silent_rate(group_size) == pytest.approx(rate, abs=5e-4)
    assert (1 - half_silent_rate(group_size)) ** group_size == pytest.approx(0.5)


HEALTHY = {"auc_ratio": 0.93, "auc_ratio_low": 0.91, "auc_ratio_high": 0.95}
WIDE = {"auc_ratio": 0.8, "auc_ratio_low": 0.5, "auc_ratio_high": 1.1}
UNCLEAR = {"auc_ratio": 0.88, "auc_ratio_low": 0.8, "auc_ratio_high": 0.95}
BELOW = {"auc_ratio": 0.6, "auc_ratio_low": 0.5, "auc_ratio_high": 0.7}
UNKNOWN: dict[str, float] = {}


@pytest.mark.parametrize(
    ("rl_at_zero", "rl", "sft", "expected"),
    [
        (False, HEALTHY, HEALTHY, "learns"),
        (False, WIDE, HEALTHY, "learns"),
        (False, HEALTHY, UNCLEAR, "learns"),
        (False, HEALTHY, UNKNOWN, "learns"),
        (True, BELOW, HEALTHY, "exploration failure"),
        (True, UNKNOWN, WIDE, "exploration failure"),
        (True, HEALTHY, HEALTHY, "exploration failure"),
        (False, BELOW, BELOW, "plasticity lost"),
        (True, UNKNOWN, BELOW, "plasticity lost"),
        (False, BELOW, HEALTHY, "undecided"),  # slower by RL, yet above zero
        (False, BELOW, UNCLEAR, "undecided"),
        (True, BELOW, UNCLEAR, "undecided"),
        (True, UNKNOWN, UNKNOWN, "undecided"),
        (False, HEALTHY, BELOW, "undecided"),
        (False, UNKNOWN, HEALTHY, "undecided"),
        (False, {"auc_ratio": 0.5}, {"auc_ratio": 0.5}, "undecided"),  # no interval, so no loss that is sure
    ],
)
def test_verdict(rl_at_zero: bool, rl: dict[str, float], sft: dict[str, float], expected: str) -> None:
    assert verdict(rl_at_zero, rl, sft) == expected


def arms(rl: dict[str, Any], sft: dict[str, Any]) -> dict[str, Any]:
    base = {"rl_reset": flat(0.3, 0.5), "sft_reset": flat(0.3, 0.7)}
    return {arm: {"now": [now], "base": [base[arm]]} for arm, now in (("rl_reset", rl), ("sft_reset", sft))}


def test_rl_below_the_silent_law_with_healthy_supervision_is_an_exploration_failure() -> None:
    found = plasticity(arms(flat(0.0, 0.08), flat(0.3, 0.7)), threshold=0.5, group_size=8, seed=0)
    assert found.metrics["plasticity/exploration_failure"] == 1.0
    [row] = found.tables["plasticity_verdict"]
    assert row["verdict"] == "exploration failure" and row["rl_peak"] == 0.08
    check_declared(found.metrics)


def test_one_evaluation_above_the_silent_law_is_no_failure_to_explore() -> None:
    found = plasticity(arms(flat(0.0, 0.09), flat(0.3, 0.7)), threshold=0.5, group_size=8, seed=0)
    assert found.metrics["plasticity/exploration_failure"] == 0.0
    assert found.tables["plasticity_verdict"][0]["verdict"] == "undecided"


def test_one_mode_alone_has_no_verdict() -> None:
    alone = {"rl_reset": arms(flat(0.1, 0.3), flat(0.1, 0.3))["rl_reset"]}
    found = plasticity(alone, threshold=0.5, group_size=8, seed=0)
    assert "plasticity/exploration_failure" not in found.metrics and "plasticity_verdict" not in found.tables
    assert found.tables["branch"] == [
        {"arm": "rl_reset", "seed": 0, "step": 0, "pass_rate": pytest.approx(0.1)},
        {"arm": "rl_reset", "seed": 0, "step": 10, "pass_rate": pytest.approx(0.3)},
    ]


def test_branches_that_go_on_beside_the_run_measure_nothing_yet() -> None:
    pool = FakePool(lambda problem, sample: "1 steps")
    assert BranchProbe().measure(context(pool, SETTINGS, run_branch=lambda: None)) == ProbeResult()


def test_no_domain_is_no_branch() -> None:
    pool = FakePool(lambda problem, sample: "1 steps")
    assert BranchProbe().measure(context(pool, ProbeSettings())) == ProbeResult()


def test_branch_inside_a_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="phase boundaries only"):
        BranchProbe().measure(context(FakePool(lambda problem, sample: "1 steps"), SETTINGS))


def test_cost_is_that_of_the_policys_own_branches_each_once() -> None:
    shared = result([[1], [1]])
    arms = {
        "rl_reset": {"now": [shared], "base": [result([[1], [1]])]},
        "rl_carried": {"now": [shared], "base": [shared]},
    }
    once = plasticity(arms, 0.5, 8, 0).metrics
    arms["rl_carried"]["now"] = [result([[1], [1]])]
    twice = plasticity(arms, 0.5, 8, 0).metrics
    names = ("seconds", "generated_tokens", "trained_tokens")
    assert [once[f"cost/branch/{name}"] for name in names] == [2.0, 30.0, 7.0]
    assert [twice[f"cost/branch/{name}"] for name in names] == [4.0, 60.0, 14.0]
