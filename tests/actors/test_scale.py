"""The benchmark of the controller, tiny: it runs, and what it reports is what was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.growth import fitted
from benchmarks.scale import Numbered, measure


def test_controller_runs_with_simulated_actors_and_a_lazy_pool(tmp_path: Path) -> None:
    measured = measure(problems=500, steps=12, actors=6, folder=tmp_path)
    assert (measured["problems"], measured["steps"], measured["actors"]) == (500, 12, 6)
    assert 0 < measured["median_ms"] <= measured["p99_ms"]
    assert 0 < measured["memory_built_mb"] <= measured["memory_end_mb"] + 50


def test_lazy_pool_is_a_mapping_of_its_problems() -> None:
    pool = Numbered(7, [1, 2, 3])
    assert [pool[id].id for id in pool] == list(pool) and len(list(pool)) == 7
    assert "stub/train/000000007" not in pool and {pool[id].level for id in pool} == {1, 2, 3}


def test_exponent_is_that_of_a_power_law_and_superlinear_only_beyond_its_interval() -> None:
    values = np.array([10.0, 100.0, 1000.0])
    square = fitted(values, np.stack([3 * values**2, 5 * values**2], axis=1))
    assert square.value == pytest.approx(2) and square.last == pytest.approx(2) and square.superlinear
    noisy = fitted(values, np.stack([values * [1, 2, 1], values * [9, 1, 30]], axis=1))
    assert noisy.value > 1.1 > noisy.value - noisy.half and not noisy.superlinear
