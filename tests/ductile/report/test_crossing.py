"""Where keeping hard overtakes keeping easy: interpolation, ends, and the interval over seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ductile.report.crossing import against_random, crossing, crossing_size, summary
from ductile.report.pruning import draw_pruning

SIZES = [100, 200, 400, 800]


@pytest.mark.parametrize(
    ("differences", "size"),
    [
        ([-1.0, -1.0, 1.0, 1.0], 200 * math.sqrt(2)),  # halfway in log2
        ([-0.3, -0.1, 0.3, 0.2], 200 * 2**0.25),
        ([-0.1, 0.0, 0.1, 0.0], 200.0),  # a size at which nothing differs says nothing
        ([-0.3, -0.2, -0.1, 0.0], math.inf),  # both at the ceiling is no crossing
        ([0.1, 0.2, 0.3, 0.4], 0.0),
        ([0.1, -0.1, 0.1, 0.1], 200 * math.sqrt(2)),  # the first way up
        ([0.1, 0.1, -0.1, -0.1], 0.0),  # from hard to easy is no crossing of this kind
        ([0.0, 0.0, 0.0, 0.0], math.nan),
    ],
)
def test_crossing_is_the_first_change_from_easy_to_hard(differences: list[float], size: float) -> None:
    assert crossing_size(SIZES, np.array(differences)) == pytest.approx(size, nan_ok=True)


def test_interval_is_that_of_the_resampled_seeds() -> None:
    """Two seeds that cross at 200 and at 400: resamples are one of them, the other, or both."""
    differences = np.array([[-1.0, -1e-9, 1.0, 1.0], [-1.0, -1.0, -1e-9, 1.0]])
    found = crossing(SIZES, differences)
    assert found["low"] == pytest.approx(200, rel=1e-3) and found["high"] == pytest.approx(400, rel=1e-3)
    assert found["size"] == pytest.approx(200 * math.sqrt(2), rel=1e-3)
    assert found["crossed"] == 1.0


def test_end_of_the_interval_that_is_beyond_the_sizes_is_told() -> None:
    below = crossing(SIZES, np.array([[0.1, 0.2, 0.3, 0.4]] * 3))
    assert (below["size"], below["low"], below["high"], below["crossed"]) == (0.0, 0.0, 0.0, 0.0)
    never = crossing(SIZES, np.array([[-0.1, -0.2, -0.3, -0.4]] * 3))
    assert (never["size"], never["low"], never["high"], never["crossed"]) == (None, None, None, 0.0)
    sometimes = crossing(SIZES, np.array([[-1.0, -1.0, -1.0, 0.1], [-1.0, -1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, 0.1]]))
    assert sometimes["high"] is None and 0 < sometimes["crossed"] < 1


def test_one_seed_has_no_interval() -> None:
    found = crossing(SIZES, np.array([[-1.0, -1.0, 1.0, 1.0]]))
    assert found["size"] == pytest.approx(282.8, abs=0.1) and found["low"] is None and found["high"] is None


def rows() -> list[dict[str, Any]]:
    """Easy is 0.5 everywhere; hard 0.1 below it at 100 and above at 200 and 400, and seeds differ by a hundredth."""
    found = []
    for seed in range(3):
        for size, passed in ((100, 0.4), (200, 0.6), (400, 0.6)):
            noise = 0.01 * seed
            common = {"size": size, "seed": seed, "loss": 1.0}
            found += [
                {**common, "fraction": 0.5, "rule": "easy", "passed": 0.5},
                {**common, "fraction": 0.5, "rule": "hard", "passed": passed + noise, "loss": 2.0},
                {**common, "fraction": 1.0, "rule": "all", "passed": 0.7},
            ]
    return found


def test_summary_pairs_seeds_and_turns_the_loss_round() -> None:
    passed, loss = summary(rows())
    assert (passed["fraction"], passed["metric"], passed["seeds"]) == (0.5, "passed", [0, 1, 2])
    first = passed["hard_minus_easy"][0]
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert first["mean"] == pytest.approx(-0.09) and first["high"] - first["mean"] == pytest.approx(half)
    assert passed["size"] == pytest.approx(100 * 2 ** (0.09 / 0.2))
    assert passed["by_seed"] == pytest.approx(
        [100 * 2 ** (d / (d + up)) for d, up in ((0.1, 0.1), (0.09, 0.11), (0.08, 0.12))]
    )
    assert [each["mean"] for each in loss["hard_minus_easy"]] == [-1.0] * 3  # a larger loss is worse
    assert loss["size"] is None and loss["crossed"] == 0.0


def test_seed_that_lacks_a_training_is_left_out() -> None:
    passed, _ = summary([*rows()[:-3], {**rows()[-3], "rule": "random"}])
    assert passed["seeds"] == [0, 1]


def test_rules_are_held_against_random_of_the_same_seeds() -> None:
    more = [
        {"size": 100, "seed": seed, "fraction": 0.5, "rule": "random", "passed": 0.3 + 0.1 * seed, "loss": 0.5}
        for seed in (0, 1)
    ]
    found = {(each["rule"], each["metric"]): each for each in against_random([*rows(), *more])}
    assert len(found) == 4 and {each["size"] for each in found.values()} == {100}
    easy = found["easy", "passed"]  # 0.2 and 0.1 above
    assert easy["mean"] == pytest.approx(0.15) and easy["seeds"] == 2
    assert easy["high"] - easy["mean"] == pytest.approx(stats.t.ppf(0.975, 1) * 0.05)
    assert found["hard", "loss"]["mean"] == -1.5


def test_figure_is_drawn(tmp_path: Path) -> None:
    path = draw_pruning({"rows": rows(), "crossings": summary(rows())}, tmp_path / "pruning.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
