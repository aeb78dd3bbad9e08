"""The ladder goes up when the rung's step was solved often enough, and never down."""

from __future__ import annotations

from ductile.course.ladder import Ladder
from tests.ductile.course.asking import phase, problems


def test_rung_moves_up_at_the_rate_over_all_completions_of_the_step() -> None:
    ladder = Ladder(rate=0.5)
    ladder.observe({"a": (4, 4), "b": (0, 6)}, last=2)  # 4 of 10, though the mean of the two rates is a half
    assert ladder.rung == 0
    ladder.observe({"a": (4, 4), "b": (1, 6)}, last=2)
    assert ladder.rung == 1
    ladder.observe({"a": (0, 4)}, last=2)
    assert ladder.rung == 1


def test_last_rung_stays_and_nothing_judged_moves_nothing() -> None:
    ladder = Ladder(rate=0.5, rung=1)
    ladder.observe({"a": (0, 0)}, last=2)
    ladder.observe({}, last=2)
    assert ladder.rung == 1
    for _ in range(3):
        ladder.observe({"a": (4, 4)}, last=2)
    assert ladder.rung == 2


def test_rungs_are_the_easier_pools_and_then_the_phases_own() -> None:
    climbed = phase(problems("own"), problems("easy"), problems("harder"))
    assert [list(Ladder(0.5, rung).pool(climbed)) for rung in range(3)] == [["easy"], ["harder"], ["own"]]
    assert list(Ladder(0.5).pool(phase(problems("own")))) == ["own"]
