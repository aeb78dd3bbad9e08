"""Mastered problems queue up; the longest unseen come back, and who is not mastered any more leaves the queue."""

from __future__ import annotations

from ductile.config import DataSettings
from ductile.course.review import Review

SETTINGS = DataSettings(review=0.5, review_every=3, mastered=0.75)


def test_problem_at_the_threshold_is_mastered_and_one_below_is_not() -> None:
    review = Review(SETTINGS)
    review.observe({"a": (3, 4), "b": (2, 4), "c": (4, 4), "d": (0, 0)})
    assert review.queue == ["a", "c"]


def test_longest_unseen_come_first_and_every_third_step_alone_reviews() -> None:
    review = Review(SETTINGS, ["a", "b", "c", "d"])
    review.observe({"a": (4, 4), "x": (1, 4)})  # met again, still mastered: to the end
    assert review.queue == ["b", "c", "d", "a"]
    assert [review.ask(4, step) for step in range(6)] == [[], [], ["b", "c"], [], [], ["b", "c"]]


def test_failed_problem_leaves_the_queue_and_an_unjudged_one_stays() -> None:
    review = Review(SETTINGS, ["a", "b"])
    review.observe({"a": (2, 4), "b": (0, 0)})
    assert review.queue == ["b"]


def test_regressed_share_counts_the_judged_alone() -> None:
    review = Review(SETTINGS)
    outcomes = {"a": (2, 4), "b": (4, 4), "c": (0, 0), "other": (0, 4)}
    assert review.regressed(["a", "b", "c"], outcomes) == 0.5
    assert review.regressed(["c"], outcomes) is None
    assert review.regressed([], outcomes) is None


def test_without_a_share_nothing_is_kept() -> None:
    review = Review(DataSettings())
    review.observe({"a": (4, 4)})
    assert review.queue == [] and review.ask(16, 4) == []
