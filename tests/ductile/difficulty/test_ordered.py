"""Static orders: through the pool once before anything repeats, and to its other end by the end of the phase."""

from __future__ import annotations

import numpy as np
import pytest

from ductile.config import DifficultySettings
from ductile.difficulty.base import Selector
from ductile.difficulty.ordered import falling, rising
from tests.ductile.difficulty.made import ordered, rng, seen

STATIC = [0.7, 0.1, 0.9, 0.3, 0.0, 0.5]  # from the easiest: 4, 1, 3, 5, 0, 2
RISING = [4, 1, 3, 5, 0, 2]


def phase(selector: Selector, static: list[float], steps: int, count: int) -> list[list[int]]:
    """The rows that each of a phase's steps asks."""
    selector.grow(len(static))
    asked = []
    for step in range(steps):
        chosen = selector.select(ordered(static, step / steps), count, rng(step)).tolist()
        selector.observe(seen(dict.fromkeys(chosen, (1, 4))))
        asked.append(chosen)
    return asked


def test_order_is_gone_through_without_repeats_and_then_anew() -> None:
    assert phase(rising(DifficultySettings()), STATIC, 5, 2) == [[4, 1], [3, 5], [0, 2], [4, 1], [3, 5]]
    assert phase(falling(DifficultySettings()), STATIC, 3, 2) == [[2, 0], [5, 3], [1, 4]]


def test_step_that_spans_two_passes_takes_the_end_of_one_and_the_start_of_the_next() -> None:
    assert phase(rising(DifficultySettings()), STATIC, 3, 4) == [[4, 1, 3, 5], [0, 2, 4, 1], [3, 5, 0, 2]]


@pytest.mark.parametrize(("steps", "count"), [(4, 3), (7, 5), (3, 1), (10, 9)])
def test_phase_too_short_for_the_pool_spans_it_evenly(steps: int, count: int) -> None:
    static = [i / 100 for i in range(100)]
    for step, asked in enumerate(phase(rising(DifficultySettings()), static, steps, count)):
        begin = int(np.ceil(100 * step / steps))
        assert asked == list(range(begin, begin + count))


def test_every_phase_whose_asks_are_as_many_as_the_pool_asks_each_once_in_order() -> None:
    for steps, count in ((3, 7), (7, 3), (21, 1)):  # shares such as 1/3 and 1/7 are no binary fractions
        static = [i / 21 for i in range(21)]
        asked = phase(rising(DifficultySettings()), static, steps, count)
        assert [row for step in asked for row in step] == list(range(21))


def test_problem_that_was_asked_out_of_order_does_not_repeat_before_those_passed_over() -> None:
    selector = rising(DifficultySettings())
    selector.grow(4)
    selector.observe(seen({3: (1, 4)}))  # one visit is behind the two of half a phase: the middle is begun at
    assert selector.select(ordered([0.1, 0.2, 0.3, 0.4], progress=0.5), 4, rng()).tolist() == [2, 0, 1, 3]


def test_problems_of_unknown_difficulty_come_last_in_either_order() -> None:
    static = [np.nan, 0.4, np.nan, 0.2]
    last = set()
    for seed in range(20):
        for rule, known in ((rising, [3, 1]), (falling, [1, 3])):
            selector = rule(DifficultySettings())
            selector.grow(4)
            chosen = selector.select(ordered(static), 4, rng(seed)).tolist()
            assert chosen[:2] == known
            last.add(tuple(chosen[2:]))
    assert last == {(0, 2), (2, 0)}


def test_equally_hard_problems_come_in_random_order_before_any_repeats() -> None:
    drawn = {tuple(row for step in phase(rising(DifficultySettings()), [0.5] * 4, 2, 2) for row in step)}
    selector, firsts = rising(DifficultySettings()), set()
    selector.grow(4)
    for seed in range(30):
        firsts.add(int(selector.select(ordered([0.5] * 4), 1, rng(seed))[0]))
    assert firsts == {0, 1, 2, 3} and all(len(set(each)) == 4 for each in drawn)


def test_visits_of_an_earlier_phase_do_not_count() -> None:
    selector = rising(DifficultySettings())
    phase(selector, STATIC, 1, 4)
    selector.start_phase()
    assert selector.select(ordered(STATIC), 6, rng()).tolist() == RISING


def test_counts_do_not_run_over() -> None:
    selector = rising(DifficultySettings())
    selector.grow(2)
    selector.restore({"visits": np.array([32767, 3], np.int16)})
    selector.observe(seen({0: (1, 4), 1: (1, 4)}))
    assert selector.snapshot()["visits"].tolist() == [32767, 4]
