"""The parts together: a step has its problems, none twice; what is no part of the phase teaches it nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ductile.config import DataSettings, DifficultySettings, RolloutSettings, RunSettings
from ductile.course import Course, without_remedies
from ductile.difficulty.service import DifficultyTable
from ductile.domains import make_domain
from ductile.metrics import check_declared
from ductile.plan import Phase
from ductile.problem import JudgedGroup, Problem
from tests.ductile.course.asking import SUMS, judged, numbered, phase

ALL: dict[str, Any] = {
    "replay": 0.25, "review": 0.25, "review_every": 2, "mastered": 0.75, "hint": 0.5, "ladder": (2, 3),
    "ladder_rate": 0.6, "defer_after": 1, "defer_steps": 3,
}  # fmt: skip
SELECTION = DifficultySettings(selection="band")


def sums(level: int, count: int) -> dict[str, Problem]:
    return {problem.id: problem for problem in SUMS.problems(level, "train", count, 0)}


EARLIER = phase(numbered("old", 30))
PHASE = Phase("p", SUMS, (6,), 10, sums(6, 12), (sums(2, 12), sums(3, 12)))


class CourseAndTable(Course):
    """A course whose phases begin in its table too, as the run's loop has it."""

    def __init__(self, settings: RunSettings, table: DifficultyTable) -> None:
        super().__init__(settings, table, make_domain)
        self.table = table

    def start_phase(self, phase: Phase, earlier: Sequence[Phase]) -> None:
        self.table.start_phase([id for pool in (phase.pool, *phase.rungs) for id in pool])
        super().start_phase(phase, earlier)


def course(groups: int = 8, **data: Any) -> tuple[Course, DifficultyTable]:
    settings = RunSettings(data=DataSettings(**data), rollout=RolloutSettings(groups=groups))
    table = DifficultyTable(SELECTION)
    return CourseAndTable(settings, table), table


def answered(problem: Problem, step: int) -> JudgedGroup:
    """Right more often at lower levels and later steps; fixed by the arguments."""
    rights = hash_free(problem.id, step) % 5 + (2 if problem.level < 6 else 0)
    return judged(problem, [float(sample < rights) for sample in range(4)])


def hash_free(id: str, step: int) -> int:
    return sum(map(ord, id)) + step


def steps(made: Course, first: int, last: int, of: Phase = PHASE) -> list[tuple[list[Problem], dict[str, float]]]:
    seen = []
    for step in range(first, last):
        asked = made.ask(of, step, 3)
        metrics = made.observe([answered(problem, step) for problem in asked], step)
        check_declared(metrics)
        seen.append((asked, metrics))
    return seen


def test_without_remedies_it_asks_what_the_difficulty_service_selects() -> None:
    made, _ = course()
    table = DifficultyTable(SELECTION)
    own = phase(sums(6, 12))
    made.start_phase(own, [EARLIER])
    table.start_phase(list(own.pool))
    for step in range(8):
        expected = [own.pool[id] for id in table.select(8, step, 3)]
        groups = [answered(problem, step) for problem in expected]
        assert made.ask(own, step, 3) == expected and made.own(groups) == groups
        outcomes = {g.group.problem.id: (int(g.rewards.sum()), 4) for g in groups}
        assert made.observe(groups, step) == table.observe(outcomes, step)


def test_every_step_asks_as_many_different_problems_with_all_remedies() -> None:
    made, _ = course(**ALL)
    made.start_phase(PHASE, [EARLIER])
    seen = steps(made, 0, 30)
    assert all(len({problem.id for problem in asked}) == 8 for asked, _ in seen)
    assert max(metrics["data/rung"] for _, metrics in seen) == 2
    assert any(metrics["data/review_share"] for _, metrics in seen)
    assert any(metrics["data/deferred_share"] for _, metrics in seen)


@pytest.mark.parametrize("at", [1, 4, 9, 17])
def test_restored_course_goes_on_exactly(at: int) -> None:
    made, table = course(**ALL)
    made.start_phase(PHASE, [EARLIER])
    steps(made, 0, at)
    kept = json.loads(json.dumps(made.snapshot()))
    estimates = {name: array.copy() for name, array in table.snapshot().items()}
    expected = steps(made, at, 30)
    again, its_table = course(**ALL)
    again.restore(kept)
    its_table.restore(estimates)
    again.resume_phase(PHASE, [EARLIER])
    assert steps(again, at, 30) == expected


def test_replayed_problems_are_asked_bare_and_teach_the_phase_nothing() -> None:
    made, table = course(replay=0.25, hint=0.5, ladder=(2, 3), ladder_rate=0.5, review=0.1, mastered=0.5)
    made.start_phase(PHASE, [EARLIER])
    asked = made.ask(PHASE, 0, 3)
    replayed = [problem for problem in asked if problem.id in EARLIER.pool]
    assert len(replayed) == 2 and all(problem.hint == "" for problem in replayed)
    groups = [judged(problem, [float(problem in replayed)] * 4) for problem in asked]
    assert made.own(groups) == [group for group in groups if group.group.problem not in replayed]
    metrics = made.observe(groups, 0)
    assert metrics["data/replay_share"] == 0.25 and metrics["data/replay_pass_rate"] == 1.0
    assert {row["visits"] for row in table.estimates() if row["id"] in {p.id for p in asked}} == {1}
    assert not {row["id"] for row in table.estimates()} & set(EARLIER.pool)
    assert made.snapshot() == {"review": [], "rung": 0, "failed": {}, "until": {}}  # all failures are the phase's own


def test_replay_in_a_phase_with_nothing_before_it_is_none() -> None:
    made, _ = course(replay=0.25)
    made.start_phase(PHASE, [])
    metrics = made.observe([answered(problem, 0) for problem in made.ask(PHASE, 0, 3)], 0)
    assert metrics["data/replay_share"] == 0.0 and "data/replay_pass_rate" not in metrics


def right(problem: Problem) -> JudgedGroup:
    return judged(problem, [1.0] * 4)


def wrong(problem: Problem) -> JudgedGroup:
    return judged(problem, [0.0] * 4)


def observed(made: Course, of: Phase, step: int, verdict: Callable[[Problem], JudgedGroup]) -> tuple[set[str], Any]:
    asked = made.ask(of, step, 3)
    return {problem.id for problem in asked}, made.observe([verdict(problem) for problem in asked], step)


def test_ladder_asks_one_rung_after_another() -> None:
    made, _ = course(ladder=(2, 3))
    made.start_phase(PHASE, [])
    levels = []
    for step, verdict in enumerate([wrong, right, wrong, right, wrong]):
        asked = made.ask(PHASE, step, 3)
        metrics = made.observe([verdict(problem) for problem in asked], step)
        [level] = {problem.level for problem in asked}
        levels.append((level, metrics["data/rung"]))
    assert levels == [(2, 0), (2, 0), (3, 1), (3, 1), (6, 2)]  # the rung that the step was asked on


def test_reviewed_problems_are_the_longest_unseen_and_do_not_move_the_ladder() -> None:
    own = phase(sums(6, 16), sums(2, 16))
    made, _ = course(groups=4, review=0.5, review_every=2, ladder=(2,))
    made.start_phase(own, [])
    first, _ = observed(made, own, 0, right)
    asked = made.ask(own, 1, 3)
    reviewed = [problem for problem in asked if problem.id in first]
    assert len(reviewed) == 2 and {p.level for p in reviewed} == {2}  # of the rung before
    # right on the reviewed ones alone: half of all, but none of the rung's
    metrics = made.observe([(right if problem in reviewed else wrong)(problem) for problem in asked], 1)
    assert metrics["data/review_share"] == 0.5 and metrics["data/review_regressed"] == 0.0


def test_deferred_problems_are_left_out_and_come_back_before_a_step_fails() -> None:
    own = phase(sums(6, 10))
    made, _ = course(groups=4, defer_after=1, defer_steps=50)
    made.start_phase(own, [])
    first, metrics = observed(made, own, 0, wrong)
    assert metrics["data/deferred_share"] == 0.0
    second, metrics = observed(made, own, 1, wrong)
    assert not first & second and metrics["data/deferred_share"] == 0.4
    third, metrics = observed(made, own, 2, wrong)
    assert len(third) == 4 and set(own.pool) - first - second < third and len(third & first) == 2
    assert metrics["data/deferred_share"] == 0.8


def test_more_problems_of_a_step_are_others_that_may_be_asked() -> None:
    made, _ = course(groups=4, defer_after=1, defer_steps=50, ladder=(2, 3), hint=0.5)
    made.start_phase(PHASE, [])
    deferred, _ = observed(made, PHASE, 0, wrong)
    asked = {problem.id for problem in made.ask(PHASE, 1, 3)}
    more = made.more(PHASE, 1, 3, asked, 3)
    assert len(more) == 3 and not {problem.id for problem in more} & (asked | deferred)
    assert {problem.level for problem in more} == {2} and made.more(PHASE, 1, 3, asked, 3) == more
    assert len(made.more(PHASE, 1, 3, asked, 99)) == 12 - 4 - 4


def test_rule_is_told_how_much_of_the_phase_is_over() -> None:
    settings = RunSettings(difficulty=DifficultySettings(selection="variance"), rollout=RolloutSettings(groups=4))
    own, table = phase(sums(6, 12), steps=8), DifficultyTable(settings.difficulty)
    made = CourseAndTable(settings, table)
    made.start_phase(own, [])
    kappas = [metrics["difficulty/variance/kappa"] for _, metrics in steps(made, 0, 8, own)]
    assert kappas == pytest.approx([0.3 + 0.5 * step / 8 for step in range(8)])


def test_step_that_is_all_review_selects_nothing() -> None:
    own = phase(sums(6, 4))
    made, _ = course(groups=4, review=1.0, review_every=2, mastered=0.75)
    made.start_phase(own, [])
    first, _ = observed(made, own, 0, right)
    second, metrics = observed(made, own, 1, right)
    assert second == first and metrics["data/review_share"] == 1.0
    made.ask(own, 3, 3)
    assert made.more(own, 3, 3, first, 2) == []


def test_problems_of_the_rungs_above_and_below_are_not_selected() -> None:
    made, _table = course(groups=4, ladder=(2, 3), defer_after=1, defer_steps=50)
    made.start_phase(PHASE, [])
    for step, verdict in enumerate([wrong, right, right, wrong, wrong]):
        level = {0: 2, 1: 2, 2: 3}.get(step, 6)
        asked = made.ask(PHASE, step, 3)
        assert {problem.level for problem in asked} == {level}
        made.observe([verdict(problem) for problem in asked], step)


def test_each_phase_begins_without_the_marks_of_the_one_before() -> None:
    made, _ = course(**ALL)
    made.start_phase(PHASE, [])
    steps(made, 0, 12)
    assert made.snapshot()["rung"]
    made.start_phase(PHASE, [EARLIER])
    assert made.snapshot() == {"review": [], "rung": 0, "failed": {}, "until": {}}


def test_without_remedies_leaves_everything_else() -> None:
    settings = RunSettings(data=DataSettings(**ALL), seed=5)
    assert without_remedies(settings) == RunSettings(seed=5)
