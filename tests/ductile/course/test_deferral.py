"""A problem that keeps failing is left alone for a while, comes back, and is never lost."""

from __future__ import annotations

from ductile.config import DataSettings
from ductile.course.deferral import Deferral

SETTINGS = DataSettings(defer_after=2, defer_steps=3)
IDS = {"a": 1, "b": 2, "c": 3, "d": 4}  # a pool: what an id stands for does not matter here


def failed_twice(id: str, steps: tuple[int, int] = (0, 1)) -> Deferral:
    deferral = Deferral(SETTINGS)
    for step in steps:
        deferral.observe({id: (0, 4)}, step)
    return deferral


def test_two_visits_without_success_defer_for_three_steps() -> None:
    deferral = failed_twice("b")
    assert [deferral.left_out(IDS, [], step, 1) for step in range(2, 6)] == [["b"]] * 3 + [[]]


def test_one_more_failure_defers_again_and_one_success_clears() -> None:
    deferral = failed_twice("b")
    deferral.observe({"b": (0, 4)}, step=5)
    assert [deferral.deferred(IDS, step) for step in (6, 8, 9)] == [["b"], ["b"], []]
    deferral.observe({"b": (1, 4)}, step=9)
    deferral.observe({"b": (0, 4)}, step=10)
    assert deferral.deferred(IDS, 11) == []


def test_success_between_failures_and_an_unjudged_visit_do_not_count() -> None:
    deferral = Deferral(SETTINGS)
    for step, outcome in enumerate([(0, 4), (1, 4), (0, 4), (0, 0)]):
        deferral.observe({"b": outcome}, step)
    assert deferral.deferred(IDS, 4) == []


def test_earliest_deferred_come_back_where_too_few_are_left() -> None:
    deferral = Deferral(SETTINGS, until={"c": 9, "a": 8, "d": 10})
    assert deferral.deferred(IDS, 5) == ["a", "c", "d"]
    assert [deferral.left_out(IDS, [], 5, count) for count in (1, 2, 3, 4, 9)] == [
        ["a", "c", "d"],
        ["c", "d"],
        ["d"],
        [],
        [],
    ]


def test_reviewed_problems_are_left_out_whatever_is_missing() -> None:
    deferral = Deferral(SETTINGS, until={"c": 9, "a": 8})
    assert deferral.left_out(IDS, ["b"], 5, 1) == ["b", "a", "c"]
    assert deferral.left_out(IDS, ["b"], 5, 2) == ["b", "c"]
    assert deferral.left_out(IDS, ["b", "c"], 5, 2) == ["b", "c"]  # c is asked as reviewed, deferred or not


def test_other_pools_problems_are_no_part_of_what_is_left_out() -> None:
    deferral = Deferral(SETTINGS, until={"elsewhere": 9, "a": 9})
    assert deferral.deferred(IDS, 5) == ["a"]
    assert deferral.left_out(IDS, ["elsewhere", "b"], 5, 2) == ["b", "a"]


def test_off_by_default() -> None:
    deferral = Deferral(DataSettings())
    for step in range(20):
        deferral.observe({"b": (0, 4)}, step)
    assert deferral.failed == {} and deferral.left_out(IDS, [], 20, 1) == []
