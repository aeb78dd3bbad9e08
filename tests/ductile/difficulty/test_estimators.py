"""What every estimator that lives on outcomes alone promises, and the numbers of the simple ones by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.config import DifficultySettings
from ductile.difficulty import ESTIMATORS
from ductile.difficulty.base import Arrays, Estimator, Visits

NAMES = ["beta", "frozen", "last", "mean", "kalman"]
ROWS = 5
ALL = np.arange(ROWS)

counts = st.integers(1, 16).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
step_outcomes = st.dictionaries(st.integers(0, ROWS - 1), counts, max_size=ROWS)
steps = st.lists(st.tuples(st.integers(0, 40), step_outcomes), max_size=5)
"""Steps since the step before, and row -> (successes, completions)."""

Steps = list[tuple[int, dict[int, tuple[int, int]]]]


def make(name: str, **settings: object) -> Estimator:
    made = ESTIMATORS[name](DifficultySettings(**settings))  # type: ignore[arg-type]
    made.grow(ROWS, 0)
    return made


def visits(outcomes: dict[int, tuple[int, int]]) -> Visits:
    wins, judged = np.array(list(outcomes.values()), np.float64).reshape(-1, 2).T
    return Visits(np.array(list(outcomes), np.int64), wins.copy(), judged.copy())


def run(made: Estimator, steps: Steps, now: int = 0) -> int:
    for later, outcomes in steps:
        now += later
        made.observe(visits(outcomes), now)
    return now


def told(made: Estimator, step: int, rows: np.ndarray = ALL) -> list[list[float]]:
    estimates = made.predict(rows, step)
    return [estimates.mean.tolist(), estimates.uncertainty.tolist(), estimates.age.tolist()]


def bytes_of(snapshot: Arrays) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {key: (str(array.dtype), array.shape, array.tobytes()) for key, array in snapshot.items()}


@pytest.mark.parametrize("name", NAMES)
@given(steps, st.integers(0, 5000))
def test_belief_is_one_that_a_rate_can_have(name: str, steps: Steps, later: int) -> None:
    made = make(name)
    estimates = made.predict(ALL, run(made, steps) + later)
    assert ((estimates.mean >= 0) & (estimates.mean <= 1)).all()
    assert (estimates.uncertainty >= 0).all()
    assert (estimates.uncertainty <= np.sqrt(estimates.mean * (1 - estimates.mean)) + 1e-12).all()
    assert (estimates.mean.dtype, estimates.uncertainty.dtype, estimates.age.dtype) == (float, float, np.int64)


@pytest.mark.parametrize("name", NAMES)
@given(steps, st.integers(0, 9))
def test_rows_are_never_mixed_up(name: str, steps: Steps, later: int) -> None:
    together = make(name)
    now = run(together, steps) + later
    for row in range(ROWS):
        alone = make(name)
        run(alone, [(after, {r: o for r, o in outcomes.items() if r == row}) for after, outcomes in steps])
        assert told(alone, now, ALL[[row]]) == told(together, now, ALL[[row]])


@pytest.mark.parametrize("name", NAMES)
@given(steps, st.data())
def test_order_within_a_step_does_not_matter(name: str, steps: Steps, data: st.DataObject) -> None:
    made, other = make(name), make(name)
    run(made, steps)
    run(other, [(later, dict(data.draw(st.permutations(list(outcomes.items()))))) for later, outcomes in steps])
    assert bytes_of(made.snapshot()) == bytes_of(other.snapshot())


@pytest.mark.parametrize("name", NAMES)
@given(steps, steps, step_outcomes)
def test_restored_estimator_goes_on_exactly(
    name: str, before: Steps, after: Steps, base: dict[int, tuple[int, int]]
) -> None:
    made, copy = make(name), make(name)
    run(copy, [(3, {0: (1, 2), 4: (2, 2)})])  # what it held before is gone
    made.measure_first(visits(base), 0)
    now = run(made, before)
    kept = made.snapshot()
    copy.restore(kept)
    for each in (made, copy):
        each.grow(2, now)
        run(each, after, now)
    assert bytes_of(made.snapshot()) == bytes_of(copy.snapshot())
    rows = np.arange(ROWS + 2)
    assert told(made, now + 900, rows) == told(copy, now + 900, rows)
    again = make(name)
    again.restore(kept)  # as it was, whatever the others did since
    again.grow(2, now)
    run(again, after, now)
    assert bytes_of(again.snapshot()) == bytes_of(made.snapshot())


@pytest.mark.parametrize("name", NAMES)
@given(steps, st.integers(0, 50))
def test_looking_changes_nothing(name: str, steps: Steps, later: int) -> None:
    made = make(name)
    now = run(made, steps)
    before = bytes_of(made.snapshot())
    made.predict(ALL[::2], now + later)
    assert bytes_of(made.snapshot()) == before


@pytest.mark.parametrize("name", NAMES)
@given(steps)
def test_age_is_that_of_the_last_visit_or_of_entering(name: str, steps: Steps) -> None:
    made, seen, now = make(name), [0] * ROWS, 0
    for later, outcomes in steps:
        now += later
        for row in outcomes:
            seen[row] = now
    run(made, steps)
    made.grow(1, now)
    assert made.predict(np.arange(ROWS + 1), now + 7).age.tolist() == [now + 7 - each for each in [*seen, now]]


@pytest.mark.parametrize("name", NAMES)
def test_successes_never_lower_the_estimate_and_failures_never_raise_it(name: str) -> None:
    made = make(name, drift=0.0)
    made.observe(visits({0: (8, 8), 1: (0, 8), 2: (4, 8)}), 1)
    up, down, middle, prior = made.predict(ALL[:4], 1).mean
    assert down < prior < up
    assert down < middle < up


@pytest.mark.parametrize("name", ["beta", "frozen", "last", "mean"])
def test_before_any_visit_it_is_the_beta_prior(name: str) -> None:
    belief = make(name, prior=(1.0, 3.0)).predict(ALL, 5)
    assert belief.mean.tolist() == [0.25] * ROWS
    assert belief.uncertainty == pytest.approx(np.full(ROWS, (0.25 * 0.75 / 5) ** 0.5))  # sqrt(p (1 - p) / (a + b + 1))


@pytest.mark.parametrize("name", ["beta", "last", "mean", "kalman"])
def test_what_the_base_did_says_nothing_of_the_policy_of_the_moment(name: str) -> None:
    made = make(name)
    before = bytes_of(made.snapshot())
    made.measure_first(visits({0: (3, 4)}), 0)
    assert bytes_of(made.snapshot()) == before


def test_frozen_keeps_the_first_visit() -> None:
    made = make("frozen")
    run(made, [(2, {0: (3, 4)}), (1, {0: (0, 8), 1: (0, 2)}), (5, {1: (8, 8)})])
    belief = made.predict(ALL, 1000)
    assert belief.mean[:3] == pytest.approx([4 / 6, 1 / 4, 1 / 2])  # Beta(4, 2), Beta(1, 3), Beta(1, 1)
    assert belief.uncertainty[:3] == pytest.approx(np.sqrt([4 * 2 / 36 / 7, 1 * 3 / 16 / 5, 1 / 12]))
    assert belief.age[:3].tolist() == [997, 992, 1000]


def test_frozen_takes_the_bases_outcome_before_any_visits() -> None:
    made = make("frozen")
    made.measure_first(visits({0: (0, 8), 1: (2, 2)}), 0)
    made.measure_first(visits({1: (0, 2)}), 0)  # measured already
    run(made, [(1, {0: (8, 8), 2: (1, 2)})])
    made.measure_first(visits({2: (0, 2)}), 1)
    assert made.predict(ALL, 1).mean[:3] == pytest.approx([1 / 10, 3 / 4, 2 / 4])


@given(steps, steps)
def test_frozen_never_changes_once_measured(before: Steps, after: Steps) -> None:
    made = make("frozen")
    now = run(made, before)
    seen = sorted({row for _, outcomes in before for row in outcomes})
    first = told(made, now, ALL[seen])[:2]
    now = run(made, after, now)
    assert told(made, now + 300, ALL[seen])[:2] == first


def test_last_is_the_last_group_alone() -> None:
    made = make("last")
    run(made, [(1, {0: (8, 8), 1: (1, 4), 2: (4, 4), 3: (1, 1)}), (1, {0: (2, 8), 2: (0, 4)})])
    belief = made.predict(ALL[:4], 9)
    assert belief.mean.tolist() == [0.25, 0.25, 0, 1]
    assert belief.uncertainty == pytest.approx(np.sqrt([0.25 * 0.75 / 8, 0.25 * 0.75 / 4, 0, 0]))


@given(steps, st.integers(0, 99))
def test_mean_pools_all_visits_whatever_their_age(steps: Steps, later: int) -> None:
    made = make("mean", prior=(2.0, 1.0), discount=0.1, drift=0.9)  # of these it reads the prior alone
    now = run(made, steps)
    for row in range(ROWS):
        seen = [outcomes[row] for _, outcomes in steps if row in outcomes]
        a, b = 2 + sum(s for s, _ in seen), 1 + sum(n - s for s, n in seen)
        belief = made.predict(ALL[[row]], now + later)
        assert belief.mean[0] == pytest.approx(a / (a + b))
        assert belief.uncertainty[0] == pytest.approx((a * b / (a + b) ** 2 / (a + b + 1)) ** 0.5)
