"""GRESO: skipping by runs of silent visits, and the controller that keeps the silent share."""

from __future__ import annotations

import numpy as np
import pytest

from ductile.config import DifficultySettings, GresoSettings
from ductile.difficulty.greso import Greso
from tests.ductile.difficulty.made import candidates, fits, rng, seen


def greso(rows: int, **values: float) -> Greso:
    selector = Greso(DifficultySettings(greso=GresoSettings(**values)))
    selector.grow(rows)
    selector.start_phase()
    return selector


def test_runs_count_silent_visits_of_one_kind() -> None:
    selector = greso(3)
    for outcomes in [{0: (4, 4), 1: (0, 4)}, {0: (4, 4), 1: (0, 3), 2: (2, 4)}, {1: (4, 4)}, {0: (1, 4)}]:
        selector.observe(seen(outcomes))
    assert selector.snapshot()["runs"].tolist() == [0, 1, 0]
    selector.observe(seen({0: (0, 4), 1: (8, 8), 2: (0, 1)}))
    assert selector.snapshot()["runs"].tolist() == [-1, 2, -1]
    selector.observe(seen({0: (0, 4), 1: (0, 4), 2: (1, 1)}))
    assert selector.snapshot()["runs"].tolist() == [-2, -1, 1]


def test_skip_probability_is_one_minus_the_base_to_the_power_of_the_run() -> None:
    selector = greso(5)
    selector.restore({"runs": np.array([0, 1, 3, -2, -9], np.int16), "base": np.array([0.5, 0.4])})
    # 1 - .5, 1 - .5^3, 1 - .4^2; .4^9 = .00026 is below the floor of .01
    assert selector.skip_probability(np.arange(5)) == pytest.approx([0, 0.5, 0.875, 0.84, 0.99])


def test_problem_is_skipped_with_its_probability() -> None:
    selector = greso(2)
    selector.restore({"runs": np.array([2, 0], np.int16), "base": np.array([0.7, 0.5])})
    # it is first when it is not skipped (.49) and comes first in the random order (half of the time)
    assert fits(lambda r: int(selector.select(candidates([0.5] * 2), 1, r)[0]), [0.245, 0.755])


def test_skipped_problems_fill_up_the_least_likely_to_be_skipped_first() -> None:
    selector = greso(5)
    selector.restore({"runs": np.array([-30, 0, 20, 0, 9], np.int16), "base": np.array([0.5, 0.95])})
    skip = selector.skip_probability(np.arange(5))  # .785, 0, .99, 0, .99
    assert skip[0] == pytest.approx(1 - 0.95**30)
    orders = {tuple(selector.select(candidates([0.5] * 5), 5, rng(seed)).tolist()) for seed in range(200)}
    all_skipped = {order for order in orders if set(order[:2]) == {1, 3}}
    assert len(all_skipped) > 1 and all(order[2] == 0 for order in all_skipped)
    assert {order[3:] for order in all_skipped} == {(2, 4), (4, 2)}


def test_controller_moves_by_its_step_towards_each_target() -> None:
    selector = greso(12)  # targets: 1/12 all right, 2/12 without success
    moved = selector.observe(seen({**dict.fromkeys(range(2), (4, 4)), **dict.fromkeys(range(2, 12), (1, 4))}))
    assert moved["difficulty/greso/p_easy"] == pytest.approx(0.49)  # 2/12 are too many
    assert moved["difficulty/greso/p_hard"] == pytest.approx(0.51)  # none is too few
    moved = selector.observe(seen({**dict.fromkeys(range(3), (0, 4)), **dict.fromkeys(range(3, 12), (1, 4))}))
    assert moved["difficulty/greso/p_easy"] == pytest.approx(0.50)
    assert moved["difficulty/greso/p_hard"] == pytest.approx(0.50)


def test_base_probabilities_stay_within_their_bounds() -> None:
    selector = greso(4, step=0.3)
    for _ in range(5):
        moved = selector.observe(seen(dict.fromkeys(range(4), (4, 4))))
    assert moved == {"difficulty/greso/p_easy": pytest.approx(0.05), "difficulty/greso/p_hard": pytest.approx(0.95)}


def test_share_that_was_skipped_is_told_once() -> None:
    selector = greso(4)
    selector.restore({"runs": np.array([99, 99, 0, 0], np.int16), "base": np.array([0.05, 0.5])})
    generator = rng(3)
    selector.select(candidates([0.5] * 4), 2, generator)  # skipped with .99 each
    assert selector.observe(seen({2: (1, 4)}))["difficulty/greso/skipped_share"] == 0.5
    assert "difficulty/greso/skipped_share" not in selector.observe(seen({2: (1, 4)}))


def simulated(silent: float, steps: int = 500) -> tuple[float, float, float, float]:
    """Shares of all-right and of fruitless groups over the last half, and without skipping, of fixed pass rates."""
    generator, pool, size, groups = rng(7), 2000, 4, 128
    rates = generator.beta(0.5, 0.5, pool)
    selector = greso(pool, silent=silent, easy_share=0.5)
    shares = []
    for _ in range(steps):
        chosen = selector.select(candidates([0.5] * pool), groups, generator)
        wins = generator.binomial(size, rates[chosen])
        selector.observe(seen({int(row): (float(k), size) for row, k in zip(chosen, wins, strict=True)}))
        shares.append([(wins == size).mean(), (wins == 0).mean()])
    settled = np.mean(shares[steps // 2 :], axis=0)
    return float(settled[0]), float(settled[1]), float((rates**size).mean()), float(((1 - rates) ** size).mean())


def test_controller_settles_at_its_target_on_a_pool_that_is_silent_more_often() -> None:
    easy, hard, easy_before, hard_before = simulated(silent=0.36)
    assert min(easy_before, hard_before) > 0.25
    assert (easy, hard) == pytest.approx((0.18, 0.18), abs=0.02)


def test_controller_cannot_make_a_pool_more_silent_than_it_is() -> None:
    easy, hard, easy_before, hard_before = simulated(silent=1.0, steps=200)
    assert easy < 0.5 and hard < 0.5
    assert easy <= easy_before + 0.02 and hard <= hard_before + 0.02
