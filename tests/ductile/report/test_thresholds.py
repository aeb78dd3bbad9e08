"""The report of a search from plain rows: ranks, the front by enumeration, what noise allows to say, and the map."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.report.thresholds import (
    dominates,
    failure_table,
    pareto_front,
    summarise_sweep,
    sweep_table,
    threshold_map,
    write_sweep,
)


def row(trial: int, *values: dict[str, float], status: str = "finished", steps: int = 20, **at: Any) -> dict[str, Any]:
    thresholds = {"low": 0.2, "high": 0.8, "group_size": 8, "estimator": "beta", "steps": None, **at}
    seeds = [{"seed": seed, "values": each, "errors": {"retention": 0.03}} for seed, each in enumerate(values)]
    made = {"trial": trial, "status": status, "reason": "", "thresholds": thresholds, "steps": steps, "of": 20}
    return {**made, "seeds": seeds}


def summary(rows: list[dict[str, Any]], *searched: str) -> dict[str, Any]:
    return summarise_sweep(rows, searched or ("retention",), 0.1, {"title": "t"})


def order(found: dict[str, Any]) -> list[int]:
    return [trial["trial"] for trial in found["trials"]]


def test_finished_trials_come_first_and_stopped_ones_by_how_far_they_came() -> None:
    rows = [
        row(0, {"retention": 0.9}, status="stopped", steps=5),
        row(1, {"retention": 0.4}),
        row(2, status="failed", steps=0),
        row(3, {"retention": 0.6}),
        row(4, {"retention": 0.5}, status="stopped", steps=10),
        row(5, {"new_skill": 0.5}),  # finished without what was searched
    ]
    found = summary(rows)
    assert order(found) == [3, 1, 5, 4, 0, 2]
    assert found["front"] == [3]  # a stopped trial is on no front, however good it was then
    assert found["counts"] == {"finished": 3, "stopped": 2, "failed": 1}


def test_front_of_two_objectives_comes_first_and_is_marked() -> None:
    rows = [
        row(0, {"retention": 0.9, "new_skill": 0.1}),
        row(1, {"retention": 0.5, "new_skill": 0.5}),
        row(2, {"retention": 0.5, "new_skill": 0.4}),
        row(3, {"retention": 0.1, "new_skill": 0.9}),
    ]
    found = summary(rows, "retention", "new_skill")
    assert found["front"] == [0, 1, 3] and order(found) == [0, 1, 3, 2]
    assert [line[0] for line in sweep_table(found).rows] == ["0 *", "1 *", "3 *", "2"]
    assert all(trial["apart"] is None for trial in found["trials"])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_front_is_what_no_point_dominates(points: list[tuple[int, int]]) -> None:
    expected = set(range(len(points)))
    for (i, one), (j, other) in product(enumerate(points), repeat=2):
        if i != j and one[0] >= other[0] and one[1] >= other[1] and one != other:
            expected.discard(j)
    assert pareto_front(dict(enumerate(points))) == expected


def test_equal_points_do_not_dominate_each_other() -> None:
    assert not dominates((1, 2), (1, 2)) and dominates((1, 3), (1, 2)) and not dominates((2, 1), (1, 2))


def test_seeds_are_averaged_with_their_t_interval() -> None:
    found = summary([row(0, {"retention": 0.4}, {"retention": 0.6}, {"retention": 0.8})])
    value = found["trials"][0]["objectives"]["retention"]
    assert value["mean"] == pytest.approx(0.6)
    assert value["high"] - value["mean"] == pytest.approx(4.302653 * 0.2 / 3**0.5, rel=1e-5)  # t(0.975, 2), by table
    assert sweep_table(found).rows[0][5] == "0.60 ±0.50"


def test_objective_that_one_seed_lacks_has_no_mean() -> None:
    found = summary([row(0, {"retention": 0.4, "plasticity": 1.0}, {"retention": 0.6})])
    assert list(found["trials"][0]["objectives"]) == ["retention"] and found["measured"] == ["retention"]


def test_trial_is_apart_from_the_best_only_beyond_the_noise() -> None:
    one_seed = summary([row(0, {"retention": 0.7}), row(1, {"retention": 0.62}), row(2, {"retention": 0.6})])
    assert [t["apart"] for t in one_seed["trials"]] == [None, False, True]  # 2 sqrt(0.03^2 + 0.03^2) = 0.085
    paired = [
        row(0, *({"retention": v} for v in (0.5, 0.7, 0.9))),
        row(1, *({"retention": v} for v in (0.4, 0.59, 0.81))),  # always about 0.1 less
        row(2, *({"retention": v} for v in (0.8, 0.3, 0.7))),
    ]
    assert [(t["trial"], t["apart"]) for t in summary(paired)["trials"]] == [(0, None), (1, True), (2, False)]


def test_note_says_what_one_seed_cannot() -> None:
    assert "One seed a trial: no interval" in sweep_table(summary([row(0, {"retention": 0.7})])).note
    assert "over 2 seeds" in sweep_table(summary([row(0, {"retention": 0.7}, {"retention": 0.6})])).note
    assert "Stopped trials" not in sweep_table(summary([row(0, {"retention": 0.7})])).note


def test_estimators_have_a_column_where_there_are_several() -> None:
    rows = [row(0, {"retention": 0.7}), row(1, {"retention": 0.6}, estimator="kalman")]
    assert (
        "Estimator" in sweep_table(summary(rows)).columns and "Estimator" not in sweep_table(summary(rows[:1])).columns
    )


def test_failed_trials_are_told_with_their_reason() -> None:
    failed = {**row(0, status="failed", steps=0), "reason": "Diverged: update 3"}
    assert failure_table(summary([failed])).rows == (("0", "Diverged: update 3"),)
    assert failure_table(summary([row(0, {"retention": 0.7})])).rows == ()


def points(figure: Any, panel: int) -> list[Any]:
    return [c for c in figure.axes[panel].collections if len(c.get_offsets()) == 1 and c.get_zorder() == 3]


def test_map_has_a_point_where_each_trial_is_and_stopped_ones_are_hollow() -> None:
    rows = [
        row(0, {"retention": 0.9}, low=0.1, high=0.7),
        row(1, {"retention": 0.4}, low=0.3, high=0.9, group_size=4, status="stopped", steps=5),
        row(2, status="failed", steps=0, low=0.2, high=0.6),
    ]
    figure = threshold_map(summary(rows))
    assert figure is not None
    drawn = {tuple(map(float, c.get_offsets()[0])): len(c.get_facecolors()) for c in points(figure, 0)}
    assert drawn == {(0.1, 0.7): 1, (0.3, 0.9): 0}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["G = 4", "G = 8", "stopped early: value then", "failed", "best"]
    xlim, ylim = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert xlim[0] < 0.1 and xlim[1] > 0.3 and ylim[0] < 0.6 and ylim[1] > 0.9


def test_pareto_search_has_a_map_for_each_objective_and_one_against_the_other() -> None:
    rows = [
        row(i, {"retention": i / 4, "new_skill": 1 - i / 4}, estimator="ab"[i % 2], group_size=4 + i) for i in range(4)
    ]
    figure = threshold_map(summary(rows, "retention", "new_skill"))
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["Prior skills", "New skills", "One against the other"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a", "b", "G = 4", "G = 5", "G = 6", "G = 7", "Pareto front"]


def test_files_are_written_and_nothing_is_drawn_where_nothing_was_measured(tmp_path: Path) -> None:
    files = write_sweep(summary([row(0, {"retention": 0.5})]), tmp_path / "report")
    assert [file.name for file in files] == ["summary.json", "thresholds.png", "thresholds.svg"]
    assert json.loads(files[0].read_text())["schema"] == "ductile.sweep/1"
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert [f.name for f in write_sweep(summary([row(0, status="failed")]), tmp_path / "none")] == ["summary.json"]
    assert sweep_table(summary([])).rows == ()
