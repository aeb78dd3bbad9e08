"""Self-normalised importance sampling: by hand, and against the expectation summed over every outcome."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.config import DifficultySettings, ImportanceSettings
from ductile.difficulty.base import Evidence, Visits
from ductile.difficulty.importance import ImportanceEstimator

NEXT_TO_NOTHING = (1e-12, 1e-12)


def estimator(rows: int = 1, prior: tuple[float, float] = NEXT_TO_NOTHING, **settings: float) -> ImportanceEstimator:
    made = ImportanceEstimator(prior, ImportanceSettings(**settings))  # type: ignore[arg-type]
    made.grow(rows, 0)
    return made


def ratios(rows: list[int], log_ratios: list[float], rewards: list[float]) -> Evidence:
    none, states = np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    return Evidence(none, states, np.zeros(0, bool), np.array(rows), np.array(log_ratios), np.array(rewards), None)


def visit(made: ImportanceEstimator, row: int, successes: float, count: float, step: int) -> None:
    made.observe(Visits(np.array([row]), np.array([successes]), np.array([count])), step)


def test_rate_is_weighted_by_the_ratios_and_ess_is_the_effective_number() -> None:
    made = estimator(prior=(1.0, 2.0))
    made.refresh(ratios([0, 0, 0], np.log([3.0, 2.0, 1.0]).tolist(), [1, 0, 1]), 0)
    rate, ess = 4 / 6, 36 / 14  # weights 3, 2, 1
    belief = made.predict(np.array([0]), 0)
    alpha, beta = 1 + ess * rate, 2 + ess * (1 - rate)
    assert belief.mean[0] == pytest.approx(alpha / (alpha + beta), rel=1e-12)
    variance = alpha * beta / (alpha + beta) ** 2 / (alpha + beta + 1)
    assert belief.uncertainty[0] == pytest.approx(variance**0.5, rel=1e-12)
    assert made.diagnostics()["ess_mean"] == pytest.approx(ess)
    assert made.diagnostics()["ess_share_mean"] == pytest.approx(ess / 3)


def test_expectation_under_the_new_policy_comes_back_from_samples_of_the_old() -> None:
    """Completions of two tokens from categorical policies; each completion as often as the old policy makes it."""
    old, new = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.3, 0.6])
    after_old, after_new = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]), np.array([[0.9, 0.1], [0.2, 0.8]] * 2)
    succeeds = {(0, 1), (1, 0), (2, 1)}
    logs, rewards, expected = [], [], 0.0
    for first, second in product(range(3), range(2)):
        mu, pi = old[first] * after_old[first, second], new[first] * after_new[first, second]
        copies = round(mu * 16)
        assert copies == pytest.approx(mu * 16)
        logs += [float(np.log(pi / mu))] * copies
        rewards += [float((first, second) in succeeds)] * copies
        expected += pi * ((first, second) in succeeds)
    made = estimator()
    made.refresh(ratios([0] * 16, logs, rewards), 0)
    assert made.predict(np.array([0]), 0).mean[0] == pytest.approx(expected, rel=1e-9)
    assert abs(np.mean(rewards) - expected) > 0.05  # so that the plain mean would not pass


def test_log_ratios_are_cut_at_both_ends() -> None:
    made = estimator(clip=1.0, min_ess=0.0)
    made.refresh(ratios([0, 0, 0], [5.0, -7.0, 0.0], [1, 0, 0]), 0)
    e = np.e
    assert made.predict(np.array([0]), 0).mean[0] == pytest.approx(e / (e + 1 / e + 1), rel=1e-9)
    seen = made.diagnostics()
    assert seen["clipped_high_share"] == seen["clipped_low_share"] == pytest.approx(1 / 3)
    assert seen["log_ratio_mean"] == pytest.approx(-2 / 3)
    assert seen["log_ratio_abs_mean"] == pytest.approx(4)
    assert seen["log_ratio_sd"] == pytest.approx(np.std([5, -7, 0]))


def test_plain_mean_stands_in_below_the_least_ess_and_counts_as_the_ess() -> None:
    logs, rewards = [4.0, 0.0, 0.0, 0.0], [0, 1, 1, 1]
    weights = np.exp(logs)
    ess = weights.sum() ** 2 / (weights**2).sum()
    assert ess < 2
    for least, rate in ((2.0, 0.75), (0.0, 3 / weights.sum())):
        made = estimator(2, prior=(1.0, 1.0), min_ess=least)
        made.refresh(ratios([0, 1, 1, 1, 1], [0.0, *logs], [1, *rewards]), 0)
        assert made.predict(np.array([1]), 0).mean[0] == pytest.approx((1 + ess * rate) / (2 + ess))
        assert made.diagnostics()["fallback_share"] == (1.0 if least else 0.0)  # row 0 has a single completion


def test_ratios_all_clipped_at_one_end_look_like_none_but_are_told() -> None:
    made = estimator()
    made.refresh(ratios([0] * 4, [-50.0, -60.0, -9.0, -8.0], [1, 0, 0, 0]), 0)
    assert made.predict(np.array([0]), 0).mean[0] == pytest.approx(0.25)
    assert made.diagnostics()["ess_mean"] == pytest.approx(4)
    assert made.diagnostics()["clipped_low_share"] == 1.0


def test_visit_after_a_refresh_counts_with_ratio_one() -> None:
    made = estimator(buffer=100)
    made.refresh(ratios([0, 0], np.log([2.0, 0.5]).tolist(), [1, 0]), 0)
    visit(made, 0, 1, 4, step=3)
    assert made.predict(np.array([0]), 3).mean[0] == pytest.approx((2 + 1) / (2.5 + 4))
    assert made.predict(np.array([0]), 5).age[0] == 2


def test_of_the_older_completions_as_many_stay_as_the_buffer_has_room_for() -> None:
    made = estimator(buffer=8)
    made.refresh(ratios([0] * 8, [np.log(2.0)] * 8, [1] * 8), 0)
    visit(made, 0, 0, 6, step=1)  # 2 of 8 stay: weight 4 of successes beside 6 failures
    assert made.predict(np.array([0]), 1).mean[0] == pytest.approx(4 / 10)
    visit(made, 0, 8, 16, step=2)  # more than it holds: half of 8
    belief = made.predict(np.array([0]), 2)
    assert belief.mean[0] == pytest.approx(0.5)
    assert belief.uncertainty[0] == pytest.approx((0.25 / 9) ** 0.5)


def test_refresh_is_about_the_rows_that_it_names() -> None:
    made = estimator(3, prior=(1.0, 1.0))
    for row in (0, 1):
        visit(made, row, 4, 4, step=0)
    made.refresh(ratios([1, 1], [0.0, 0.0], [0, 0]), 1)
    assert made.predict(np.arange(3), 1).mean == pytest.approx([5 / 6, 1 / 4, 1 / 2])
    made.refresh(ratios([], [], []), 2)
    assert made.predict(np.arange(3), 1).mean == pytest.approx([5 / 6, 1 / 4, 1 / 2])
    assert made.diagnostics() == {"completions": 0.0}


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=20), st.floats(0, 5))
def test_belief_stays_a_belief(completions: list[tuple[float, bool]], least: float) -> None:
    made = estimator(prior=(1.0, 1.0), min_ess=least)
    made.refresh(ratios([0] * len(completions), [c[0] for c in completions], [float(c[1]) for c in completions]), 0)
    belief = made.predict(np.array([0]), 0)
    assert 0 < belief.mean[0] < 1
    assert 0 < belief.uncertainty[0] <= np.sqrt(belief.mean[0] * (1 - belief.mean[0]))
    assert 1 - 1e-9 <= made.diagnostics()["ess_mean"] <= len(completions) + 1e-9


def test_settings_reach_the_estimator() -> None:
    settings = DifficultySettings(prior=(3.0, 1.0), importance=ImportanceSettings(buffer=4, clip=0.5, min_ess=0.0))
    made = ImportanceEstimator.make(settings)
    made.grow(1, 0)
    made.refresh(ratios([0, 0], [9.0, 0.5], [1, 0]), 0)
    assert made.predict(np.array([0]), 0).mean[0] == pytest.approx((3 + 1) / (4 + 2))
    visit(made, 0, 0, 4, step=0)
    assert made.predict(np.array([0]), 0).mean[0] == pytest.approx(3 / 8)
