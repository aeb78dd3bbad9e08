"""CDAS: difficulty and competence by hand, and both sides of the competence."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest

from ductile.config import DifficultySettings
from ductile.difficulty.cdas import Cdas
from tests.ductile.difficulty.made import candidates, rng, seen


def cdas(rows: int, difficulty: list[float] | None = None) -> Cdas:
    selector = Cdas(DifficultySettings())
    selector.grow(rows)
    selector.start_phase()
    if difficulty:
        selector.restore({"difficulty": np.array(difficulty, np.float32), "visits": np.ones(rows, np.int16)})
    return selector


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_difficulty_is_the_mean_of_expected_minus_actual() -> None:
    selector, pool = cdas(2), candidates([0.5] * 2)
    selector.select(pool, 1, rng())  # competence 0, expected 0.5
    selector.observe(seen({0: (0, 4), 1: (1, 4)}))
    assert selector.snapshot()["difficulty"].tolist() == pytest.approx([0.5, 0.25])
    selector.select(pool, 1, rng())
    told = selector.observe(seen({0: (4, 4)}))
    assert told["difficulty/cdas/competence"] == pytest.approx(-0.375)
    surprise = sigmoid(-0.375 - 0.5) - 1
    assert selector.snapshot()["difficulty"].tolist() == pytest.approx([(0.5 + surprise) / 2, 0.25])


def test_half_are_harder_than_the_competence_and_half_are_not_each_the_nearest() -> None:
    selector = cdas(6, [0.9, 0.3, -0.2, -0.6, 0.1, -0.5])  # mean 0: competence 0
    for seed in range(10):
        assert set(selector.select(candidates([0.5] * 6), 4, rng(seed)).tolist()) == {4, 1, 2, 5}
        three = set(selector.select(candidates([0.5] * 6), 3, rng(seed)).tolist())
        assert three in ({4, 1, 2}, {4, 2, 5})


def test_side_that_has_too_few_is_made_up_for_by_the_other() -> None:
    selector = cdas(4, [0.4, 0.3, 0.2, -0.9])  # competence 0
    assert selector.select(candidates([0.5] * 4), 4, rng()).tolist() == [2, 1, 3, 0]


def test_competence_and_difficulty_settle_together_in_the_order_of_the_pass_rates() -> None:
    generator, rates = rng(2), np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    selector, pool = cdas(5), candidates([0.5] * 5)
    for _ in range(400):
        selector.select(pool, 4, generator)
        selector.observe(seen({i: (float(generator.binomial(8, rate)), 8) for i, rate in enumerate(rates)}))
    difficulty = selector.snapshot()["difficulty"]
    assert (np.diff(difficulty) < 0).all()
    competence = -difficulty.mean()
    # the fixed point: D = sigmoid(C - D) - rate for each, C = -mean D; history fades as 1/visits
    assert difficulty == pytest.approx(
        [sigmoid(competence - d) - p for d, p in zip(difficulty, rates, strict=True)], abs=0.02
    )
