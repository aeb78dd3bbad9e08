"""AdaRFT's target by hand, and problems that rest while it does."""

from __future__ import annotations

from math import tanh
from typing import Any

import numpy as np
import pytest

from ductile.config import DifficultySettings, MovingTargetSettings
from ductile.difficulty.moving_target import MovingTarget
from tests.ductile.difficulty.made import ordered, rng, seen


def moving(rows: int = 6, **values: Any) -> MovingTarget:
    selector = MovingTarget(DifficultySettings(moving_target=MovingTargetSettings(**values)))
    selector.grow(rows)
    return selector


def told(selector: MovingTarget, *rates: float) -> float:
    return selector.observe(seen({i: (8 * rate, 8) for i, rate in enumerate(rates)}))["difficulty/moving_target/target"]


def told_of(selector: MovingTarget, rows: list[int]) -> float:
    """Half of each row's completions are right: the target rests."""
    return selector.observe(seen(dict.fromkeys(rows, (4, 8))))["difficulty/moving_target/target"]


def test_target_moves_with_the_reward() -> None:
    selector = moving(start=20.0)
    first = told(selector, 0.75, 0.625)  # mean 0.6875: 20 + 50 tanh(2 * 0.1875)
    assert first == pytest.approx(20 + 50 * tanh(0.375))
    assert told(selector, 0.25) == pytest.approx(first + 50 * tanh(-0.5))


def test_target_rests_at_the_aim_and_at_the_ends_of_the_scale() -> None:
    selector = moving(start=40.0, aim=0.25)
    assert told(selector, 0.5, 0.0) == 40.0
    assert [told(selector, 1.0) for _ in range(3)][-1] == 100.0
    assert [told(selector, 0.0) for _ in range(9)][-1] == 0.0


def test_every_problem_counts_as_much_as_another_whatever_its_completions() -> None:
    selector = moving(start=50.0)
    selector.observe(seen({0: (32, 32), 1: (0, 2)}))
    assert selector.snapshot()["target"].tolist() == [50.0]


def test_closest_to_the_target_are_asked() -> None:
    static = [0.9, 0.5, 0.38, 0.1, 0.45, np.nan]
    selector = moving(start=40.0)
    assert selector.select(ordered(static), 6, rng()).tolist() == [2, 4, 1, 3, 0, 5]  # 2, 5, 10, 30, 50 away
    assert moving().select(ordered(static), 2, rng()).tolist() == [3, 2]


def test_equals_are_asked_in_turn_while_the_target_rests() -> None:
    static, selector, asked = [i / 100 for i in range(40)], moving(40), []
    for step in range(8):
        asked.append(selector.select(ordered(static), 3, rng(step)).tolist())
        assert told_of(selector, asked[-1]) == 0.0
    assert asked[:4] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]  # the nearest 4 x 3, the closest first
    assert asked[4:] == asked[:4]


def test_level_of_equally_hard_problems_is_gone_through_before_any_repeats() -> None:
    static, selector, asked = [0.0] * 30 + [1.0] * 30, moving(60), list[int]()
    for step in range(10):
        chosen = selector.select(ordered(static), 3, rng(step)).tolist()
        told_of(selector, chosen)
        asked += chosen
    assert sorted(asked) == list(range(30))


def test_phase_begins_with_no_problem_visited_and_at_the_start() -> None:
    selector = moving(start=10.0)
    told(selector, 1.0, 1.0)
    selector.start_phase()
    assert {name: array.tolist() for name, array in selector.snapshot().items()} == {
        "target": [10.0], "visits": [0] * 6,
    }  # fmt: skip


def test_equals_are_taken_at_random() -> None:
    first = {int(moving().select(ordered([0.3] * 5), 1, rng(seed))[0]) for seed in range(60)}
    assert first == {0, 1, 2, 3, 4}
