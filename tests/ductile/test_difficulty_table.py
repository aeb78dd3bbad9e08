"""The table of difficulty estimates: ids, phases, its metrics by hand, and snapshots that go on exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ductile.config import DifficultySettings
from ductile.difficulty.service import DifficultyTable, Gathered, Outcomes
from ductile.metrics import check_declared

IDS = [f"p{i}" for i in range(6)]


def table(ids: list[str] = IDS, **settings: object) -> DifficultyTable:
    made = DifficultyTable(DifficultySettings(**{"discount": 0.5, "drift": 0.0, **settings}))  # type: ignore[arg-type]
    made.start_phase(ids)
    return made


def frozen_bytes(made: DifficultyTable) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything that a table holds, so that two can be compared to the last bit."""
    return {key: (str(array.dtype), array.shape, array.tobytes()) for key, array in made.snapshot().items()}


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
def test_selection_without_some_is_selection_from_a_table_of_the_others(selection: str) -> None:
    made, some = table(selection=selection), table(["p1", "p2", "p5"], selection=selection)
    outcomes = {"p1": (4, 4), "p2": (2, 4), "p5": (0, 4)}
    for each in (made, some):
        each.observe(outcomes, step=0)
    assert [made.select(2, s, 7, without=["p4", "p0", "p3", "p0"]) for s in range(1, 9)] == [
        some.select(2, s, 7) for s in range(1, 9)
    ]
    assert [made.select(4, s, 7, without=[]) for s in range(1, 9)] == [made.select(4, s, 7) for s in range(1, 9)]


def test_ids_that_are_known_and_not_of_the_pool_bar_nothing() -> None:
    made = table(["a", "b"])
    made.start_phase(["c", "d"], watched=["e"])
    assert made.select(3, 0, 7, without=["a", "e"]) == made.select(3, 0, 7)
    assert sorted(made.select(2, 0, 7, without=["d"])) == ["c", "c"]
    with pytest.raises(ValueError, match="the pool is empty"):
        made.select(1, 0, 7, without=["c", "d"])


@pytest.mark.parametrize("selection", ["uniform", "band"])
def test_of_a_pool_larger_than_considered_a_new_part_at_each_step(selection: str) -> None:
    ids = [f"p{i}" for i in range(200)]
    made = table(ids, selection=selection, considered=10)
    barred = set(ids[::2])
    drawn = [made.select(5, step, 0, without=barred) for step in range(60)]
    assert all(len(set(each)) == 5 and not barred & set(each) for each in drawn)
    asked = Counter(id for each in drawn for id in each)
    assert len(asked) > 85  # 300 draws of 100 problems leave out 100 e^-3 = 5 of them
    assert max(asked.values()) < 12  # each is drawn 3 times on average
    assert len({made.select(20, step, 0)[0] for step in range(9)}) > 3  # more than considered is asked for
    assert [row["id"] for row in made.estimates()] == sorted((row["id"] for row in made.estimates()), key=ids.index)
    assert len(made.estimates()) == 10


def test_watched_problems_are_estimated_and_never_selected() -> None:
    made = DifficultyTable(DifficultySettings(discount=0.5, drift=0.0, shadows=("mean", "last")))
    made.start_phase(["a", "b"], watched=["w", "b"])
    made.observe({"w": (3, 4)}, 0)
    made.observe({"w": (0, 4)}, 1)
    assert sorted(made.select(2, 2, 0)) == ["a", "b"]
    told = made.predict(["w", "a"], 3)
    assert list(told) == ["beta", "mean", "last"]
    # beta: 0.5 * (3, 1) + (0, 4) on (1, 1) is Beta(2.5, 5.5); mean: Beta(4, 6)
    means = [told[name].mean.tolist() for name in told]
    assert means == [pytest.approx([2.5 / 8, 0.5]), pytest.approx([0.4, 0.5]), [0.0, 0.5]]
    assert told["beta"].age.tolist() == [2, 3]
    assert [row["id"] for row in made.estimates()] == ["a", "b"]


def test_outcomes_go_to_their_own_problem_whatever_the_order() -> None:
    outcomes = {"p4": (4, 4), "p1": (0, 4), "p3": (2, 4)}
    forward, backward = table(), table()
    forward.observe(outcomes, step=0)
    backward.observe(dict(reversed(outcomes.items())), step=0)
    assert frozen_bytes(forward) == frozen_bytes(backward)
    snapshot = forward.snapshot()
    assert snapshot["estimator/beta/successes"].tolist() == [0, 0, 0, 2, 4, 0]
    assert snapshot["estimator/beta/failures"].tolist() == [0, 4, 0, 2, 0, 0]
    assert snapshot["visits"].tolist() == [0, 1, 0, 1, 1, 0]


def test_problem_that_could_not_be_judged_counts_as_not_visited() -> None:
    made = table()
    seen = made.observe({"p0": (0, 0)}, step=0)
    assert "difficulty/brier" not in seen
    assert seen["difficulty/visited_share"] == 0
    assert seen["difficulty/estimate_mean"] == 0.5


def test_unjudged_problem_among_others_leaves_no_trace() -> None:
    with_it, without_it = table(), table()
    assert with_it.observe({"p1": (1, 4), "p0": (0, 0), "p2": (2, 2)}, 0) == without_it.observe(
        {"p1": (1, 4), "p2": (2, 2)}, 0
    )
    assert frozen_bytes(with_it) == frozen_bytes(without_it)


WRONG: list[tuple[Outcomes, type[Exception], str]] = [
    ({"elsewhere": (1, 2)}, KeyError, "elsewhere"),
    ({"p1": (3, 2)}, ValueError, "p1: 3 successes of 2 judged completions"),
    ({"p1": (-1, 2)}, ValueError, "p1: -1 successes"),
    ({"p1": (0, -2)}, ValueError, "p1: 0 successes of -2"),
    ({"p1": (1, 0)}, ValueError, "p1: 1 successes of 0"),
    ({"p1": (float("nan"), 2)}, ValueError, "p1: nan successes"),  # type: ignore[dict-item]
    ({"p1": (1, float("nan"))}, ValueError, "p1: 1 successes of nan"),  # type: ignore[dict-item]
    ({"p1": (1, float("inf"))}, ValueError, "p1: 1 successes of inf"),  # type: ignore[dict-item]
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
@pytest.mark.parametrize("method", ["observe", "learn"])
def test_outcome_that_cannot_be_is_refused_and_changes_nothing_at_all(
    wrong: Outcomes, error: type[Exception], message: str, method: str
) -> None:
    made = DifficultyTable(DifficultySettings(shadows=("all",)))
    made.start_phase(IDS)
    made.observe({"p0": (1, 2)}, 0)
    before = frozen_bytes(made)
    with pytest.raises(error, match=message):
        getattr(made, method)({"p0": (1, 2), **wrong, "p5": (2, 2)}, 3)
    assert frozen_bytes(made) == before


@pytest.mark.parametrize(
    ("ids", "static", "message"),
    [
        (["a", "new"], [0.5], "1 static scores for 2 problems"),
        (["a", "new"], [0.5, 1.5], "new: static score 1.5"),
        (["new", "a"], [-0.1, 1.0], "new: static score -0.1"),
    ],
)
def test_static_scores_that_cannot_be_are_refused_and_no_phase_begins(
    ids: list[str], static: list[float], message: str
) -> None:
    made = table()
    before = frozen_bytes(made)
    with pytest.raises(ValueError, match=message):
        made.start_phase(ids, static)
    assert frozen_bytes(made) == before


def test_static_scores_are_kept_by_problem() -> None:
    made = DifficultyTable(DifficultySettings())
    made.start_phase(["a", "b", "c"], [0.25, float("nan"), 1.0])
    made.start_phase(["d", "c"])
    assert made.snapshot()["static"] == pytest.approx(np.array([0.25, np.nan, 1.0, np.nan]), nan_ok=True)
    made.start_phase(["d", "b", "d"], [0.5, 0.75, 0.5])
    assert made.snapshot()["static"] == pytest.approx(np.array([0.25, 0.75, 1.0, 0.5]))


@pytest.mark.parametrize(
    "gathered",
    [
        Gathered(feature_ids=["p0", "p1"], features=np.zeros((1, 3), np.float32)),
        Gathered(ratio_ids=["p0"], log_ratios=[0.1, 0.2], rewards=[1.0]),
        Gathered(ratio_ids=["p0"], log_ratios=[0.1], rewards=[]),
        Gathered(reference={"p0": (3, 2)}),
    ],
)
def test_gathered_parts_that_do_not_fit_are_refused(gathered: Gathered) -> None:
    made = table()
    before = frozen_bytes(made)
    with pytest.raises(ValueError, match="of"):
        made.refresh(gathered, 0)
    assert frozen_bytes(made) == before


def test_what_the_base_did_can_be_told_before_any_phase() -> None:
    made = DifficultyTable(DifficultySettings(estimator="frozen", shadows=("beta",)))
    made.measure_first({"late": (0, 8), "early": (7, 8), "unjudged": (0, 0)})
    made.start_phase(["early", "new"])
    made.observe({"early": (0, 8), "new": (2, 8)}, 0)
    made.start_phase(["late", "early", "new"])
    told = made.predict(["late", "early", "new"], 0)
    assert told["frozen"].mean == pytest.approx([1 / 10, 8 / 10, 3 / 10])
    assert told["beta"].mean[0] == 0.5
    with pytest.raises(KeyError, match="unjudged"):
        made.predict(["unjudged"], 0)
    before = frozen_bytes(made)
    with pytest.raises(ValueError, match="other: 3 successes of 2"):
        made.measure_first({"more": (1, 2), "other": (3, 2)})
    assert frozen_bytes(made) == before


def test_re_estimation_is_learnt_from_and_is_no_step() -> None:
    made = table()
    made.observe({"p1": (0, 4)}, 0)
    made.learn({"p0": (3, 4), "p2": (0, 0)}, 0)
    rows = {row["id"]: row for row in made.estimates()}
    assert rows["p0"]["mean"] == pytest.approx(4 / 6)
    assert [rows[id]["visits"] for id in ("p0", "p1", "p2")] == [1, 1, 0]
    assert made.snapshot()["clock"].tolist() == [0, 1]


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
    before = frozen_bytes(made)
    draws = [tuple(made.select(3, step, seed)) for step in range(4) for seed in range(4)]
    assert draws == [tuple(made.select(3, step, seed)) for step in range(4) for seed in range(4)]
    assert len(set(draws)) > 4  # 120 ordered draws are possible
    assert frozen_bytes(made) == before


steps = st.lists(st.dictionaries(st.sampled_from(IDS), st.tuples(st.integers(0, 4), st.just(4))), max_size=5)


@given(steps, steps, st.sampled_from(["uniform", "band"]), st.floats(0, 0.5))
def test_restored_table_goes_on_exactly(before: list[Outcomes], after: list[Outcomes], rule: str, drift: float) -> None:
    settings = DifficultySettings(selection=rule, drift=drift, discount=0.7, shadows=("all",))
    made, copy = DifficultyTable(settings), DifficultyTable(settings)
    made.start_phase(IDS, [0.1, 0.2, 0.3, float("nan"), 0.5, 0.6])
    for step, outcomes in enumerate(before):
        made.observe(outcomes, step)
    copy.start_phase(["p3", "something else"])
    copy.observe({"p3": (2, 2)}, 7)
    kept = made.snapshot()
    copy.restore(kept)
    for step, outcomes in enumerate(after, start=len(before)):
        assert copy.select(3, step, seed=1, without=["p0", "p5"]) == made.select(3, step, seed=1, without=["p0", "p5"])
        assert copy.observe(outcomes, step) == made.observe(outcomes, step)
    for each in (made, copy):
        each.start_phase(["new", "p0"])
    assert frozen_bytes(copy) == frozen_bytes(made)
    again = DifficultyTable(settings)
    again.restore(kept)  # is as it was, whatever the tables did since
    for step, outcomes in enumerate(after, start=len(before)):
        again.observe(outcomes, step)
    again.start_phase(["new", "p0"])
    assert frozen_bytes(again) == frozen_bytes(made)


ids_of_any_kind = st.lists(st.text(st.characters(exclude_categories=()), max_size=6), min_size=1, max_size=8)


@given(ids_of_any_kind, ids_of_any_kind, st.data())
def test_rows_are_never_mixed_up_whatever_the_ids(first: list[str], second: list[str], data: st.DataObject) -> None:
    made, seen = DifficultyTable(DifficultySettings(estimator="mean")), dict[str, list[int]]()
    for pool in (first, second):
        made.start_phase(pool)
        for step in range(2):
            for id in set(data.draw(st.lists(st.sampled_from(pool)))):
                wins = data.draw(st.integers(0, 4))
                made.learn({id: (wins, 4)}, step)
                seen.setdefault(id, []).append(wins)
    for id in {*first, *second}:
        wins, times = sum(seen.get(id, [])), len(seen.get(id, []))
        assert made.predict([id], 9)["mean"].mean[0] == pytest.approx((1 + wins) / (2 + 4 * times))
    assert [row["id"] for row in made.estimates()] == list(dict.fromkeys(second))
    assert [row["visits"] for row in made.estimates()] == [len(seen.get(id, [])) for id in dict.fromkeys(second)]


def test_snapshot_survives_its_file(tmp_path: Path) -> None:
    made = table(["a\n", "é", "\ud800", ""], shadows=("all",))
    made.observe({"é": (1, 3), "": (2, 2)}, 0)
    save_file(dict(made.snapshot()), tmp_path / "difficulty.safetensors")
    copy = DifficultyTable(DifficultySettings(discount=0.5, drift=0.0, shadows=("all",)))
    copy.restore(load_file(tmp_path / "difficulty.safetensors"))
    assert frozen_bytes(copy) == frozen_bytes(made)
    assert copy.select(4, 1, 0) == made.select(4, 1, 0)


def test_table_that_has_seen_nothing_survives_its_file(tmp_path: Path) -> None:
    made = DifficultyTable(DifficultySettings(shadows=("all",)))
    save_file(dict(made.snapshot()), tmp_path / "difficulty.safetensors")
    made.restore(load_file(tmp_path / "difficulty.safetensors"))
    made.start_phase(["a"])
    assert made.select(1, 0, 0) == ["a"]


def test_snapshot_of_other_estimators_is_refused() -> None:
    made, other = table(), table(estimator="mean")
    before = frozen_bytes(other)
    with pytest.raises(
        ValueError, match=r"by \['beta'\], difficulty\.estimator and difficulty\.shadows are \['mean'\]"
    ):
        other.restore(made.snapshot())
    assert frozen_bytes(other) == before


def test_each_estimate_says_how_certain_and_how_old_it_is() -> None:
    made = table(["a", "b"], prior=(1.0, 1.0), drift=0.0)
    made.observe({"a": (3, 4)}, 0)
    made.observe({}, 1)
    a, b = made.estimates()
    # Beta(1 + 3, 1 + 1): mean 4/6, variance 4 * 2 / (6^2 * 7)
    assert (a["id"], a["age"], a["visits"]) == ("a", 2, 1)
    assert a["mean"] == pytest.approx(4 / 6) and a["uncertainty"] == pytest.approx((8 / 252) ** 0.5)
    assert (b["id"], b["age"], b["visits"], b["mean"]) == ("b", 2, 0, 0.5)
