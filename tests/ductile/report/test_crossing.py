"""Where keeping hard overtakes keeping easy: its kind, interpolation, and the interval over seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ductile.report.crossing import against_random, crossing, least_contradicted, summary
from ductile.report.pruning import draw_pruning

SIZES = [100, 200, 400, 800]


@pytest.mark.parametrize(
    ("differences", "kind", "size"),
    [
        ([-1.0, -1.0, 1.0, 1.0], "crosses", 200 * math.sqrt(2)),  # halfway in log2
        ([-0.3, -0.1, 0.3, 0.2], "crosses", 200 * 2**0.25),
        ([-0.1, 0.0, 0.1, 0.0], "crosses", 200.0),  # a size at which nothing differs says nothing
        ([-0.3, -0.2, -0.1, 0.0], "easy", None),  # both at the ceiling is no crossing
        ([0.1, 0.2, 0.3, 0.4], "hard", None),
        ([-0.01, 0.01, -0.3, 0.3], "crosses", 400 * math.sqrt(2)),  # the way up at the floor is noise
        ([-0.3, 0.3, -0.01, 0.01], "crosses", 100 * math.sqrt(2)),  # and so is that at the ceiling
        ([0.0, 0.0, 0.0, 0.0], "nothing", None),
    ],
)
def test_split_of_one_curve_is_where_least_contradicts(differences: list[float], kind: str, size: float | None) -> None:
    found = least_contradicted(SIZES, np.array(differences))
    assert found == (kind, None if size is None else pytest.approx(size))


@pytest.mark.parametrize(
    ("differences", "kind"),
    [
        ([0.1, -0.1, -0.2], "mixed"),
        ([0.0, -0.1, -0.2], "easy"),
        ([0.0, 0.1, 0.2], "hard"),
        ([0.1, 0.2, 0.3], "hard"),
        ([-0.1, 0.0, 0.2], "crosses"),
        ([-0.1, 0.1, -0.2], "mixed"),
        ([0.0, 0.0, 0.0], "nothing"),
    ],
)
def test_kind_of_one_seed(differences: list[float], kind: str) -> None:
    found = crossing(SIZES[:3], np.array([differences]), [7])
    assert found["kind"] == kind and (found["size"] is not None) == (kind == "crosses")
    assert found["low"] is None and found["high"] is None
    assert found["by_seed"][0]["seed"] == 7


def test_sizes_that_differ_by_noise_alone_do_not_tell() -> None:
    noise = np.array([0.02, -0.03, 0.01])
    curves = np.stack([0.01 - noise, -0.3 + noise, 0.3 - noise, 0.005 + noise], axis=1)
    found = crossing(SIZES, curves, [0, 1, 2])
    assert found["kind"] == "crosses" and 200 < found["size"] < 400  # not mixed, for all that hard is ahead at 100
    assert crossing(SIZES[:2], curves[:, :2], [0, 1, 2])["kind"] == "easy"
    assert crossing(SIZES[:1], curves[:, :1], [0, 1, 2])["kind"] == "nothing"


def test_interval_is_the_t_interval_of_the_seeds_own_log_sizes() -> None:
    curves = np.array([[-1.0, -1.0, up, 1.0] for up in (3.0, 1.0, 1 / 3)])  # 200 times 2 to the 1/4, 1/2 and 3/4
    found = crossing(SIZES, curves, [0, 1, 2])
    half = stats.t.ppf(0.975, 2) * 0.25 / math.sqrt(3)
    assert found["low"] == pytest.approx(200 * 2 ** (0.5 - half))
    assert found["high"] == pytest.approx(200 * 2 ** (0.5 + half))


def test_there_is_no_interval_where_a_seed_does_not_cross() -> None:
    curves = np.array([[-1.0, -1.1, 1.0, 1.0], [-1.1, -1.0, 1.0, 1.0], [-0.9, -1.0, 1.1, 1.0], [0.01, 0.01, 1, 1.1]])
    found = crossing(SIZES, curves, [0, 1, 2, 3])
    assert [each["kind"] for each in found["by_seed"]] == ["crosses"] * 3 + ["hard"]
    assert found["low"] is None


def test_interval_covers_the_true_crossing_as_often_as_it_says() -> None:
    """Five seeds of a curve that crosses at 200 sqrt 2, floor and ceiling by noise alone."""
    rng = np.random.default_rng(0)
    true = np.array([0.0, -0.3, 0.3, 0.0])
    found = [crossing(SIZES, true + rng.normal(0, 0.06, (5, 4)), range(5)) for _ in range(400)]
    covered = [each["low"] <= 200 * math.sqrt(2) <= each["high"] for each in found if each["low"] is not None]
    assert len(covered) > 350 and 0.92 < np.mean(covered) < 0.98
    assert np.mean([each["kind"] == "crosses" for each in found]) > 0.9  # two sizes tell falsely once in forty


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
    assert passed["kind"] == "crosses"
    assert [each["size"] for each in passed["by_seed"]] == pytest.approx(
        [100 * 2 ** (d / (d + up)) for d, up in ((0.1, 0.1), (0.09, 0.11), (0.08, 0.12))]
    )
    assert [each["mean"] for each in loss["hard_minus_easy"]] == [-1.0] * 3  # a larger loss is worse
    assert loss["size"] is None and loss["kind"] == "easy"


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
