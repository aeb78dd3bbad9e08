"""Each version of sparsity against its formula by hand, and what all of them must agree on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import entropy

from ductile.probes.sparsity_measures import MEASURES

H = np.array([[3.0, -4.0] + [0.0] * 18, [1.0] * 20, [-10.0] + [1.0] * 19])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("energy_top5_squared", [16 / 25, 1 / 20, 100 / 119]),  # one of twenty entries
        ("energy_top10_squared", [1, 2 / 20, 101 / 119]),  # two
        ("energy_top10_absolute", [1, 2 / 20, 11 / 29]),
        ("l0_above_1sd", [2 / 20, 0, 1 / 20]),  # mean .35, deviation 1.06: both pass; equal ones never do
        ("l1", [7, 20, 29]),
        (
            "hoyer",
            [(math.sqrt(20) - norm) / (math.sqrt(20) - 1) for norm in (7 / 5, 20 / math.sqrt(20), 29 / math.sqrt(119))],
        ),
        ("effective_rank_squared", [math.exp(entropy([9, 16])) / 20, 1, math.exp(entropy([100] + [1] * 19)) / 20]),
        ("effective_rank_absolute", [math.exp(entropy([3, 4])) / 20, 1, math.exp(entropy([10] + [1] * 19)) / 20]),
    ],
)
def test_measure_by_hand(name: str, values: list[float]) -> None:
    assert MEASURES[name](H) == pytest.approx(values)


def test_gini_is_half_the_mean_relative_difference() -> None:
    size = np.abs(H)
    expected = [np.abs(row[:, None] - row[None]).mean() / (2 * row.mean()) for row in size]
    assert MEASURES["gini"](H) == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "l1"])
def test_all_but_l1_ignore_scale_sign_and_order(name: str) -> None:
    h = np.random.default_rng(0).normal(size=(4, 30))
    assert MEASURES[name](-7 * h[:, ::-1]) == pytest.approx(MEASURES[name](h))


@pytest.mark.parametrize(("width", "count"), [(20, 1), (40, 2), (39, 1), (5, 1), (100, 5)])
def test_top_share_is_rounded_down_but_holds_one(width: int, count: int) -> None:
    assert MEASURES["energy_top5_squared"](np.ones(width)) == pytest.approx(count / width)


@pytest.mark.parametrize("name", [name for name in MEASURES if name not in ("l1", "l0_above_1sd")])
def test_nothing_at_all_has_no_sparsity(name: str) -> None:
    assert np.isnan(MEASURES[name](np.zeros(20)))
