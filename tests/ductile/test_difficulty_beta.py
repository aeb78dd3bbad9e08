"""The discounted Beta estimate: MoPPS's numbers by hand, and fading with age. What it shares is in `difficulty/`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.config import DifficultySettings
from ductile.difficulty.base import Visits
from ductile.difficulty.beta import BetaEstimator

ROW = np.array([0])


def estimator(discount: float = 0.5, drift: float = 0.0, prior: tuple[float, float] = (1.0, 1.0)) -> BetaEstimator:
    made = BetaEstimator(prior, discount, drift)
    made.grow(1, step=0)
    return made


def visit(made: BetaEstimator, successes: float, count: float, step: int) -> None:
    made.observe(Visits(ROW, np.array([successes], np.float64), np.array([count], np.float64)), step)


def test_unvisited_problem_has_the_prior() -> None:
    belief = estimator(prior=(1.0, 3.0)).predict(ROW, 0)
    assert belief.mean[0] == 0.25
    assert belief.uncertainty[0] == pytest.approx((0.25 * 0.75 / 5) ** 0.5)  # sqrt(p (1 - p) / (a + b + 1))


def test_two_visits_give_the_numbers_of_mopps() -> None:
    made = estimator()
    visit(made, 3, 4, step=0)  # alpha = 0.5 * 1 + 0.5 * 1 + 3 = 4, beta = 0.5 * 1 + 0.5 * 1 + 1 = 2
    assert made.predict(ROW, 0).mean[0] == pytest.approx(4 / 6)
    visit(made, 0, 4, step=1)  # alpha = 0.5 * 4 + 0.5 = 2.5, beta = 0.5 * 2 + 0.5 + 4 = 5.5
    belief = made.predict(ROW, 1)
    assert belief.mean[0] == pytest.approx(0.3125)
    assert belief.uncertainty[0] == pytest.approx((0.3125 * 0.6875 / 9) ** 0.5)


@given(
    st.lists(st.integers(0, 8).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), max_size=6),
    st.floats(0.05, 1),
    st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
)
def test_without_drift_it_is_mopps(visits: list[tuple[int, int]], discount: float, prior: tuple[float, float]) -> None:
    made = estimator(discount, 0.0, prior)
    alpha, beta = prior
    for step, (successes, count) in enumerate(visits):
        visit(made, successes, count, step)
        alpha = discount * alpha + (1 - discount) * prior[0] + successes
        beta = discount * beta + (1 - discount) * prior[1] + count - successes
    belief = made.predict(ROW, len(visits) + 7)
    assert belief.mean[0] == pytest.approx(alpha / (alpha + beta))
    assert belief.uncertainty[0] == pytest.approx((alpha * beta / (alpha + beta) ** 2 / (alpha + beta + 1)) ** 0.5)


def test_unvisited_evidence_fades_by_its_age() -> None:
    made = estimator(drift=0.5)
    visit(made, 3, 4, step=10)
    belief = made.predict(ROW, 12)  # evidence (3, 1) / 4 on the prior (1, 1): Beta(1.75, 1.25)
    assert belief.mean[0] == pytest.approx(7 / 12)
    assert belief.uncertainty[0] == pytest.approx((7 / 12 * 5 / 12 / 4) ** 0.5)
    assert belief.age[0] == 2


def test_visit_adds_to_what_has_faded_until_then() -> None:
    made = estimator(discount=0.8, drift=0.5)
    visit(made, 3, 4, step=0)
    visit(made, 1, 4, step=2)  # 0.8 * (0.75, 0.25) + (1, 3) = (1.6, 3.2): Beta(2.6, 4.2)
    assert made.predict(ROW, 2).mean[0] == pytest.approx(2.6 / 6.8)


@pytest.mark.parametrize(("age", "mean"), [(0, 4 / 6), (1, 0.5), (1000, 0.5)])
def test_drift_of_one_forgets_all_after_a_step(age: int, mean: float) -> None:
    made = estimator(drift=1.0)
    visit(made, 3, 4, step=0)
    assert made.predict(ROW, age).mean[0] == pytest.approx(mean)


@given(st.integers(0, 8), st.floats(0, 1), st.integers(0, 30), st.integers(0, 30))
def test_belief_only_comes_closer_to_the_prior_with_age(successes: int, drift: float, age: int, more: int) -> None:
    made = estimator(drift=drift)
    visit(made, successes, 8, step=0)
    near, far = (made.predict(ROW, step).mean[0] for step in (age + more, age))
    assert abs(near - 0.5) <= abs(far - 0.5) + 1e-12
    assert 0 < near < 1


def test_new_rows_leave_the_old_ones_alone() -> None:
    made = estimator()
    visit(made, 3, 4, step=0)
    made.grow(2, step=5)
    belief = made.predict(np.array([0, 1, 2]), 6)
    assert belief.mean == pytest.approx([4 / 6, 0.5, 0.5])
    assert belief.age.tolist() == [6, 1, 1]


def test_settings_reach_the_estimator() -> None:
    settings = DifficultySettings(prior=(2.0, 2.0), discount=0.25, drift=0.5)
    made = BetaEstimator.make(settings)
    made.grow(1, step=0)
    visit(made, 4, 4, step=0)
    visit(made, 0, 4, step=1)  # 0.25 * 0.5 * (4, 0) + (0, 4) = (0.5, 4): Beta(2.5, 6)
    assert made.predict(ROW, 1).mean[0] == pytest.approx(2.5 / 8.5)


def test_snapshot_of_an_empty_table_restores() -> None:
    made = BetaEstimator((1.0, 1.0), 0.5, 0.0)
    made.restore(made.snapshot())
    made.grow(2, step=3)
    assert made.predict(np.array([0, 1]), 3).mean.tolist() == [0.5, 0.5]
