"""Pass rates per skill and level, the retention matrix and forgetting, all by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ductile.config import PhaseSettings, ProbeSettings, SkillSettings
from ductile.metrics import check_declared
from ductile.probes import ProbeResult
from ductile.probes.retention import (
    RetentionProbe,
    binomial_standard_error,
    forgetting,
    forgetting_from_best,
    prior_curves,
    retention_matrix,
    sequence_metrics,
)
from ductile.problem import Problem
from tests.ductile.probes.fakes import FakePool, context

SETTINGS = ProbeSettings(
    prior={"sums": SkillSettings({"name": "s"}, (2, 3)), "words": SkillSettings({"name": "w"}, (1,))}, problems=4
)


def measure(
    rights: dict[str, int], history: list[ProbeResult] | None = None, unjudged: tuple[str, ...] = ()
) -> ProbeResult:
    """The result when the first `rights[domain/level]` of the four problems of each cell are right."""

    def answers(problem: Problem, sample: int) -> str:
        if problem.id in unjudged:
            return "? other"
        cell, number = problem.id.rsplit("/", 1)
        return "1 steps" if int(number) < rights[cell] else "0 steps"

    phases = {"hard": PhaseSettings({"name": "h"}, (9,))}
    return RetentionProbe().measure(context(FakePool(answers), SETTINGS, phases, history or ()))


FIRST = {"s/2": 4, "s/3": 2, "w/1": 3, "h/9": 0}
SECOND = {"s/2": 1, "s/3": 3, "w/1": 3, "h/9": 1}
THIRD = {"s/2": 2, "s/3": 0, "w/1": 3, "h/9": 2}


def test_pass_rates_by_hand() -> None:
    result = measure(FIRST)
    assert result.metrics == {
        "retention/sums/L2": 1.0,
        "retention/sums/L3": 0.5,
        "retention/words/L1": 0.75,
        "retention_new/hard/L9": 0.0,
        "retention/prior": 0.75,
        "retention/new": 0.0,
        "retention/unjudged_share": 0.0,
    }
    check_declared(result.metrics)


def test_completions_that_could_not_be_judged_are_in_no_rate() -> None:
    result = measure(FIRST, unjudged=("s/3/2", "s/3/3", "w/1/0", "w/1/1", "w/1/2", "w/1/3"))
    assert result.metrics["retention/sums/L3"] == 1.0
    assert "retention/words/L1" not in result.metrics
    assert result.metrics["retention/prior"] == 1.0
    assert result.metrics["retention/unjudged_share"] == 6 / 16
    row = next(row for row in result.tables["retention"] if row["skill"] == "words")
    assert (row["judged"], row["unjudged"], row["pass_rate"], row["standard_error"]) == (0, 4, None, None)


def test_matrix_and_forgetting_over_three_boundaries_by_hand() -> None:
    history = [measure(FIRST)]
    history.append(measure(SECOND, history))
    last = measure(THIRD, history)
    rates = {
        (row["boundary"], row["skill"], row["level"]): row["pass_rate"]
        for row in retention_matrix([*history, last])
        if row["kind"] == "prior"
    }
    assert [rates[i, "sums", 2] for i in range(3)] == [1.0, 0.25, 0.5]
    assert [rates[i, "sums", 3] for i in range(3)] == [0.5, 0.75, 0.0]
    # lost since boundary 0: 0.5, 0.5 and 0; since the best earlier one: 0.5, 0.75 and 0
    assert last.metrics["retention/forgetting"] == pytest.approx(1 / 3)
    assert last.metrics["retention/forgetting_from_best"] == pytest.approx(1.25 / 3)
    # at boundary 1: 0.75, -0.25 and 0
    assert history[1].metrics["retention/forgetting"] == pytest.approx(0.5 / 3)
    check_declared(last.metrics)


def test_first_boundary_has_nothing_to_forget() -> None:
    assert "retention/forgetting" not in measure(FIRST).metrics


def test_skill_missing_at_one_boundary_is_in_no_forgetting() -> None:
    history = [measure(FIRST, unjudged=("s/2/0", "s/2/1", "s/2/2", "s/2/3"))]
    last = measure(THIRD, history)
    assert set(prior_curves([*history, last])) == {("sums", 3), ("words", 1)}
    assert last.metrics["retention/forgetting"] == pytest.approx((0.5 + 0) / 2)


def test_history_read_back_from_json_gives_the_same() -> None:
    first = measure(FIRST)
    kept = json.loads(json.dumps({"metrics": first.metrics, "tables": first.tables}))
    again = ProbeResult(kept["metrics"], kept["tables"])
    assert measure(SECOND, [again]).metrics == measure(SECOND, [first]).metrics


def test_gain_is_negative_forgetting() -> None:
    assert forgetting([0.2, 0.9, 0.6]) == pytest.approx(-0.4)
    assert forgetting_from_best([0.2, 0.9, 0.6]) == pytest.approx(0.3)
    assert forgetting_from_best([0.2, 0.6]) == pytest.approx(-0.4)


def test_standard_error_of_a_rate() -> None:
    assert binomial_standard_error(0.5, 100) == pytest.approx(0.05)
    assert binomial_standard_error(1.0, 10) == 0.0


# R after no phase, after the first, second and third; a column for each phase
SEQUENCE = np.array(
    [
        [0.1, 0.2, 0.0],
        [0.9, 0.3, 0.0],
        [0.5, 0.8, 0.1],
        [0.6, 0.4, 0.7],
    ]
)


def test_average_performance_and_backward_transfer_of_gem_by_hand() -> None:
    metrics = sequence_metrics(SEQUENCE)
    assert metrics["retention/average"] == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert metrics["retention/learning"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert metrics["retention/newest"] == pytest.approx(0.7)
    assert metrics["retention/backward_transfer"] == pytest.approx(((0.6 - 0.9) + (0.4 - 0.8)) / 2)


def test_forgetting_of_the_phases_is_from_the_best_since_each() -> None:
    recovered = SEQUENCE.copy()
    recovered[2, 0] = 0.95  # better after the second phase than right after its own
    assert sequence_metrics(SEQUENCE)["retention/forgetting_phases"] == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)
    assert sequence_metrics(recovered)["retention/forgetting_phases"] == pytest.approx((0.35 + 0.4) / 2)


def test_only_the_phases_that_are_over_count() -> None:
    after_two = sequence_metrics(SEQUENCE[:3])
    assert after_two["retention/average"] == pytest.approx((0.5 + 0.8) / 2)
    assert after_two["retention/backward_transfer"] == pytest.approx(0.5 - 0.9)
    after_one = sequence_metrics(SEQUENCE[:2])
    assert (after_one["retention/average"], after_one["retention/backward_transfer"]) == (0.9, None)
    assert sequence_metrics(SEQUENCE[:1]) == {}


def test_boundary_that_did_not_measure_retention_leaves_out_what_needs_it() -> None:
    gap = SEQUENCE.copy()
    gap[2] = np.nan
    metrics = sequence_metrics(gap)
    assert metrics["retention/average"] == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert metrics["retention/backward_transfer"] is None
    assert metrics["retention/learning"] is None


def test_phase_is_the_mean_of_its_levels_at_the_boundaries_of_the_run() -> None:
    history = [measure(FIRST)]
    result = measure(SECOND, history)
    assert result.metrics["retention/average"] == result.metrics["retention/learning"] == 0.25
    assert "retention/backward_transfer" not in result.metrics
    check_declared(result.metrics)
