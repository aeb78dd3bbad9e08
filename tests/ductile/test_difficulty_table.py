"""The table of difficulty estimates: ids, phases, its metrics by hand, and snapshots that go on exactly."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.config import DifficultySettings
from ductile.difficulty.service import DifficultyTable
from ductile.metrics import check_declared

IDS = [f"p{i}" for i in range(6)]


def table(ids: list[str] = IDS, **settings: object) -> DifficultyTable:
    made = DifficultyTable(DifficultySettings(**{"discount": 0.5, "drift": 0.0, **settings}))  # type: ignore[arg-type]
    made.start_phase(ids)
    return made


def test_brier_compares_the_estimate_before_the_step_with_what_was_seen() -> None:
    made = table()
    seen = made.observe({"p0": (3, 4), "p1": (0, 4)}, step=0)  # prior mean 0.5 against 0.75 and 0
    assert seen["difficulty/brier"] == pytest.approx((0.25**2 + 0.5**2) / 2)
    again = made.observe({"p0": (4, 4)}, step=1)  # Beta(4, 2) against 1
    assert again["difficulty/brier"] == pytest.approx((1 - 4 / 6) ** 2)


def test_metrics_describe_the_pool_after_the_step() -> None:
    made = table(["a", "b", "c", "d"], band=(0.4, 0.6))
    made.observe({"a": (4, 4)}, step=0)  # Beta(5, 1)
    seen = made.observe({"b": (0, 4)}, step=2)  # Beta(1, 5)
    assert seen["difficulty/estimate_mean"] == pytest.approx((5 / 6 + 1 / 6 + 0.5 + 0.5) / 4)
    sharp, prior = (5 / 36 / 7) ** 0.5, (0.25 / 3) ** 0.5
    assert seen["difficulty/uncertainty_mean"] == pytest.approx((2 * sharp + 2 * prior) / 4)
    assert seen["difficulty/age_mean"] == pytest.approx((2 + 0 + 2 + 2) / 4)
    assert seen["difficulty/age_max"] == 2
    assert seen["difficulty/in_band_share"] == 0.5
    assert seen["difficulty/visited_share"] == 0.5
    check_declared(seen)


@pytest.mark.parametrize("selection", ["uniform", "band"])
def test_selection_among_some_is_selection_from_a_table_of_those(selection: str) -> None:
    made, some = table(selection=selection), table(["p1", "p2", "p5"], selection=selection)
    outcomes = {"p1": (4, 4), "p2": (2, 4), "p5": (0, 4)}
    for each in (made, some):
        each.observe(outcomes, step=0)
    assert [made.select(2, s, 7, among=["p5", "p2", "p1"]) for s in range(1, 9)] == [
        some.select(2, s, 7) for s in range(1, 9)
    ]
    assert [made.select(4, s, 7, among=IDS) for s in range(1, 9)] == [made.select(4, s, 7) for s in range(1, 9)]


def test_outcomes_go_to_their_own_problem_whatever_the_order() -> None:
    outcomes = {"p4": (4, 4), "p1": (0, 4), "p3": (2, 4)}
    forward, backward = table(), table()
    forward.observe(outcomes, step=0)
    backward.observe(dict(reversed(outcomes.items())), step=0)
    assert forward.snapshot() == backward.snapshot()
    evidence = forward.snapshot()["estimates"]["evidence"]
    assert evidence == [[0, 0], [0, 4], [0, 0], [2, 2], [4, 0], [0, 0]]


def test_problem_that_could_not_be_judged_counts_as_not_visited() -> None:
    made = table()
    seen = made.observe({"p0": (0, 0)}, step=0)
    assert "difficulty/brier" not in seen
    assert seen["difficulty/visited_share"] == 0
    assert seen["difficulty/estimate_mean"] == 0.5


def test_unknown_problem_is_named() -> None:
    with pytest.raises(KeyError, match="elsewhere"):
        table().observe({"elsewhere": (1, 2)}, step=0)


def test_estimates_and_ages_go_on_over_phases() -> None:
    made = table(["a", "b"])
    made.observe({"a": (3, 4)}, step=0)
    made.observe({"b": (3, 4)}, step=1)
    made.start_phase(["c", "a"])  # the clock is at 2
    seen = made.observe({"c": (2, 4)}, step=1)  # at 3: a was last seen at 0
    assert seen["difficulty/age_max"] == 3
    assert seen["difficulty/estimate_mean"] == pytest.approx((4 / 6 + 0.5) / 2)
    assert seen["difficulty/visited_share"] == 1
    assert set(made.select(2, step=2, seed=0)) == {"a", "c"}


def test_selection_has_no_repeats_while_the_pool_has_enough() -> None:
    made = table()
    for step in range(20):
        chosen = made.select(4, step, seed=0)
        assert len(set(chosen)) == 4 and set(chosen) <= set(IDS)


def test_small_pool_is_asked_evenly() -> None:
    counts = Counter(table(["a", "b", "c"]).select(8, step=0, seed=0))
    assert sorted(counts.values()) == [2, 3, 3]


def test_ids_given_twice_are_one_problem() -> None:
    assert sorted(table(["a", "b", "a"]).select(2, step=0, seed=0)) == ["a", "b"]


def test_pool_without_problems_says_so() -> None:
    with pytest.raises(ValueError, match="the pool is empty"):
        table([]).select(1, step=0, seed=0)


def test_selection_depends_on_the_arguments_and_changes_nothing() -> None:
    made = table()
    before = made.snapshot()
    draws = [tuple(made.select(3, step, seed)) for step in range(4) for seed in range(4)]
    assert draws == [tuple(made.select(3, step, seed)) for step in range(4) for seed in range(4)]
    assert len(set(draws)) > 4  # 120 ordered draws are possible
    assert made.snapshot() == before


steps = st.lists(st.dictionaries(st.sampled_from(IDS), st.tuples(st.integers(0, 4), st.just(4))), max_size=5)


@given(steps, steps, st.sampled_from(["uniform", "band"]), st.floats(0, 0.5))
def test_restored_table_goes_on_exactly(
    before: list[dict[str, tuple[int, int]]], after: list[dict[str, tuple[int, int]]], rule: str, drift: float
) -> None:
    made = table(selection=rule, drift=drift, discount=0.7)
    for step, outcomes in enumerate(before):
        made.observe(outcomes, step)
    copy = DifficultyTable(DifficultySettings(selection=rule, drift=drift, discount=0.7))
    copy.restore(json.loads(json.dumps(made.snapshot())))
    for step, outcomes in enumerate(after, start=len(before)):
        assert copy.select(3, step, seed=1) == made.select(3, step, seed=1)
        assert copy.observe(outcomes, step) == made.observe(outcomes, step)
    for each in (made, copy):
        each.start_phase(["new", "p0"])
    assert copy.snapshot() == made.snapshot()


def test_snapshot_of_another_estimator_is_refused() -> None:
    made = table()
    with pytest.raises(ValueError, match=r"'counts'.*difficulty\.estimator is 'beta'"):
        made.restore({**made.snapshot(), "estimator": "counts"})


def test_each_estimate_says_how_certain_and_how_old_it_is() -> None:
    made = table(["a", "b"], prior=(1.0, 1.0), drift=0.0)
    made.observe({"a": (3, 4)}, 0)
    made.observe({}, 1)
    a, b = made.estimates()
    # Beta(1 + 3, 1 + 1): mean 4/6, variance 4 * 2 / (6^2 * 7)
    assert (a["id"], a["age"], a["visits"]) == ("a", 2, 1)
    assert a["mean"] == pytest.approx(4 / 6) and a["uncertainty"] == pytest.approx((8 / 252) ** 0.5)
    assert (b["id"], b["age"], b["visits"], b["mean"]) == ("b", 2, 0, 0.5)
