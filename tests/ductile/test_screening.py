"""Screening: who is kept, when it ends, and that what is trained on is a fair sample where pooling would not be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import pytest

from ductile.problem import JudgedGroup, Problem
from ductile.screening import Screened, mixed, screen
from tests.ductile.course.asking import judged, numbered

Rewards = Sequence[float | None]
MIXED, NONE, ALL = (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)


@dataclass
class Asked:
    """Answers as they are written down, from a pool in its order; it remembers what it was asked for."""

    rewards: Mapping[str, Rewards]
    pool: Mapping[str, Problem] = field(default_factory=lambda: numbered("p", 8))
    rounds: list[tuple[list[str], str]] = field(default_factory=list)
    wanted: list[tuple[set[str], int]] = field(default_factory=list)

    def more(self, asked: Collection[str], count: int) -> list[Problem]:
        self.wanted.append((set(asked), count))
        return [problem for id, problem in self.pool.items() if id not in asked][:count]

    def pilot(self, problems: Sequence[Problem], suffix: str) -> list[JudgedGroup]:
        self.rounds.append(([problem.id for problem in problems], suffix))
        return [judged(problem, self.rewards.get(problem.id, NONE)) for problem in problems]

    def screen(self, groups: int, rounds: int) -> Screened:
        return screen(list(self.pool.values())[:groups], self.more, self.pilot, groups, rounds)


def ids(problems: Sequence[Problem]) -> list[str]:
    return [problem.id for problem in problems]


def test_mixed_problems_are_kept_and_as_many_others_are_asked_as_are_missing() -> None:
    asked = Asked({"p0": MIXED, "p1": ALL, "p3": MIXED, "p4": MIXED, "p5": MIXED})
    screened = asked.screen(groups=4, rounds=5)
    assert ids(screened.problems) == ["p0", "p3", "p4", "p5"]
    assert asked.rounds == [(["p0", "p1", "p2", "p3"], "pilot-0"), (["p4", "p5"], "pilot-1")]
    assert asked.wanted == [({"p0", "p1", "p2", "p3"}, 2)]


def test_all_pilots_are_evidence_kept_or_not() -> None:
    screened = Asked({"p0": MIXED, "p4": MIXED}).screen(groups=2, rounds=3)
    assert [group.group.problem.id for group in screened.pilots] == ["p0", "p1", "p2", "p3"]
    assert [group.rewards.tolist() for group in screened.pilots] == [[1, 0], [0, 0], [0, 0], [0, 0]]


def test_rounds_end_it_with_fewer() -> None:
    asked = Asked({"p0": MIXED, "p6": MIXED})
    assert ids(asked.screen(groups=3, rounds=2).problems) == ["p0"]
    assert len(asked.rounds) == 2 and len(asked.wanted) == 1


def test_pool_that_is_through_ends_it() -> None:
    asked = Asked({"p7": MIXED})
    assert ids(asked.screen(groups=3, rounds=99).problems) == ["p7"] and len(asked.rounds) == 3  # 3 + 3 + 2


def test_none_kept_trains_on_the_first_that_were_asked() -> None:
    screened = Asked({}).screen(groups=3, rounds=2)
    assert ids(screened.problems) == ["p0", "p1", "p2"]
    assert len(screened.pilots) == 6


def test_completions_without_a_verdict_decide_nothing() -> None:
    asked = Asked({"p0": (1.0, None, None), "p1": (None, None), "p2": (1.0, None, 0.0)})
    assert ids(asked.screen(groups=3, rounds=1).problems) == ["p2"]


def test_pilots_in_several_contexts_are_one_problems() -> None:
    [problem] = numbered("p", 1).values()
    screened = screen(
        [problem], lambda asked, count: [], lambda problems, suffix: [judged(problem, ALL), judged(problem, NONE)], 1, 1
    )
    assert ids(screened.problems) == ["p0"]


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_kept_pilots_are_biased_and_new_completions_are_not(p: float) -> None:
    """Every outcome of 4 pilots and 3 new completions, each with its probability, by the rule that keeps a problem."""
    pilots, new, kept, pilot_rate, pooled_rate, new_rate = 4, 3, 0.0, 0.0, 0.0, 0.0
    for outcome in product((0.0, 1.0), repeat=pilots + new):
        weight = p ** sum(outcome) * (1 - p) ** (len(outcome) - sum(outcome))
        if mixed(int(sum(outcome[:pilots])), pilots):
            kept += weight
            pilot_rate += weight * sum(outcome[:pilots]) / pilots
            pooled_rate += weight * sum(outcome) / len(outcome)
            new_rate += weight * sum(outcome[pilots:]) / new
    assert kept == pytest.approx(1 - p**pilots - (1 - p) ** pilots)
    assert new_rate / kept == pytest.approx(p)
    assert pilot_rate / kept == pytest.approx((p - p**pilots) / kept)
    assert abs(pooled_rate / kept - p) > 0.02 and (pooled_rate / kept - p) * (0.5 - p) > 0  # towards one half
