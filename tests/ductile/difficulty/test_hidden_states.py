"""What the three estimators on hidden states share: they learn what the states tell, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ductile.config import DifficultySettings
from ductile.difficulty import ESTIMATORS
from ductile.difficulty.base import Estimator
from ductile.difficulty.hidden import HiddenStateTable, Scale
from ductile.difficulty.newest import NewestVisits, last_of_each_row
from tests.ductile.difficulty.worlds import World

NAMES = ["attention", "value", "features"]


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest) -> Callable[[], Estimator]:
    return lambda: ESTIMATORS[request.param](DifficultySettings())


def test_x(make) -> None:
    for telling in (True, False):
        for seed in range(4):
            world = World.make(telling, seed=seed)
            made = make()
            world.live(made, 60)
            rows = world.unvisited
            b = made.predict(rows, 60)
            t = world.rates[rows]
            print(
                type(made).__name__,
                telling,
                "corr",
                round(np.corrcoef(b.mean, t)[0, 1], 3),
                "mse",
                round(((b.mean - t) ** 2).mean(), 4),
                "var",
                round(t.var(), 4),
                "mean",
                round(b.mean.mean(), 3),
                round(t.mean(), 3),
                "sd of est",
                round(b.mean.std(), 3),
                "unc",
                round(b.uncertainty.mean(), 3),
                dict(made.diagnostics()),
            )
