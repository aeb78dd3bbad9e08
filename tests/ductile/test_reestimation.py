"""Re-estimation: its budget, what it learns and tells, the offline measurement, audits that teach nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ductile.checkpoint import FolderStore
from ductile.config import RunSettings
from ductile.contexts import NoContexts
from ductile.course import Course
from ductile.course.outcomes import successes
from ductile.difficulty.service import DifficultyTable
from ductile.domains import make_domain
from ductile.metrics import check_declared
from ductile.plan import Phase, make_phase
from ductile.ports import PolicyRef, Sampling
from ductile.problem import Group, JudgedGroup, Problem
from ductile.reestimation import Reestimation
from ductile.rollouts import Rollouts
from ductile.settings import build
from tests.ductile.probes.fakes import COMPOSITION, POLICY, FakeJudge, FakePool

BASE = PolicyRef(COMPOSITION, None, 0)
GROUP = 4


@dataclass
class BesidePool(FakePool):
    """Does what is begun when it is collected."""

    begun: list[tuple[PolicyRef, Sequence[Problem], Sampling]] = field(default_factory=list)

    def begin(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> int:
        self.begun.append((policy, problems, sampling))
        return len(self.begun) - 1

    def collect(self, begun: int) -> list[Group]:
        return self.generate(*self.begun[begun])


class NoPrefixes:
    """A learner, as far as asking needs one."""

    def prefixes(self) -> dict[str, tuple[int, ...]]:
        return {}


@dataclass
class Bench:
    settings: RunSettings
    pool: BesidePool
    table: DifficultyTable
    reestimation: Reestimation
    phase: Phase
    course: Course

    def rolled(self, ids: Sequence[str], text: str = "1 steps") -> list[JudgedGroup]:
        pool = FakePool(lambda problem, sample: text)
        problems = [self.phase.pool[id] for id in ids]
        return FakeJudge().judge(pool.generate(POLICY, problems, Sampling(0, "x", GROUP, 5)))


def half(problem: Problem, sample: int) -> str:
    return f"{sample % 2} steps"


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    def make(answers: Callable[[Problem, int], str] = half, **difficulty: Any) -> Bench:
        values = {
            "phase": {"hard": {"domain": {"name": "chain_sum"}, "levels": [4, 6], "steps": 9, "pool": 12}},
            "rollout": {"groups": 3, "group_size": GROUP, "max_tokens": 5},
            "difficulty": difficulty,
            "seed": 6,
        }
        settings = build(RunSettings, values)
        pool, learner, judge = BesidePool(answers), NoPrefixes(), FakeJudge()
        table = DifficultyTable(settings.difficulty)
        rollouts = Rollouts(settings, pool, judge, NoContexts(), learner)  # type: ignore[arg-type]
        store = FolderStore(tmp_path / "run", tmp_path / "memory")
        made = Reestimation(settings, table, rollouts, pool, store)  # type: ignore[arg-type]
        phase = make_phase("hard", settings.phase["hard"], 6, make_domain, "phase.hard")
        return Bench(settings, pool, table, made, phase, Course(settings, table, make_domain))

    return make


def test_budget_is_a_share_of_what_training_rolled_out_and_waits_until_it_buys_a_group(
    bench: Callable[..., Bench],
) -> None:
    made = bench(reestimate=0.2)
    made.reestimation.start_phase(made.phase, BASE, "start")
    spent = []
    for step in range(10):  # 12 completions a step; a fifth of them is 2.4, and a group costs 4
        judged = made.rolled(list(made.phase.pool)[:3])
        made.reestimation.begin(POLICY, made.phase, step, f"train/0/{step}", judged, made.course)
        made.table.observe(successes(judged), step)
        metrics, cost = made.reestimation.finish(step)
        check_declared(metrics)
        spent.append(cost.get("completions", 0))
        if cost:
            assert cost["sampled_tokens"] == 3 * cost["completions"]
            assert cost["forward_tokens"] == cost["sampled_tokens"]
            assert cost["reestimation_completions"] == cost["completions"]
    assert sum(spent) == 24 and set(spent) == {0, 4}
    assert spent[:3] == [0, 4, 0]


def test_problems_that_the_step_asked_are_not_asked_again_and_the_estimates_move(bench: Callable[..., Bench]) -> None:
    made = bench(lambda problem, sample: "1 steps", reestimate=1.0, drift=0.0)
    made.reestimation.start_phase(made.phase, BASE, "start")
    asked = list(made.phase.pool)[:9]
    judged = made.rolled(asked)
    made.reestimation.begin(POLICY, made.phase, 0, "train/0/0", judged, made.course)
    made.table.observe(successes(judged), 0)
    metrics, _ = made.reestimation.finish(0)
    [(policy, problems, sampling)] = made.pool.begun
    assert policy == POLICY and sampling.samples == GROUP and sampling.stream == "train/0/0/reestimate"
    assert {problem.id for problem in problems} == set(made.phase.pool) - set(asked)
    # Beta(1, 1) before; Beta(5, 1) after four of four
    assert metrics["reestimate/uncertainty_before"] == pytest.approx((1 / 12) ** 0.5)
    assert metrics["reestimate/uncertainty_after"] == pytest.approx((5 / (36 * 7)) ** 0.5)
    assert metrics["reestimate/moved"] == pytest.approx(5 / 6 - 1 / 2)
    np.testing.assert_allclose([row["mean"] for row in made.table.estimates()], 5 / 6)


def test_what_the_pool_has_no_problems_for_is_not_spent_later(bench: Callable[..., Bench]) -> None:
    made = bench(reestimate=0.5)
    made.reestimation.start_phase(made.phase, BASE, "start")
    made.reestimation.begin(POLICY, made.phase, 0, "train/0/0", made.rolled(list(made.phase.pool)), made.course)
    assert made.reestimation.finish(0) == ({}, {})
    assert made.reestimation.snapshot()["owed"].tolist() == [0.0]


def test_problems_that_the_step_may_not_ask_are_left_alone(bench: Callable[..., Bench]) -> None:
    made = bench(reestimate=1.0)
    made.reestimation.start_phase(made.phase, BASE, "start")
    ids = list(made.phase.pool)
    allowed = Barred(frozenset(ids[:9]), made.phase)
    made.reestimation.begin(POLICY, made.phase, 0, "train/0/0", made.rolled(ids[9:10]), allowed)  # type: ignore[arg-type]
    [(_, problems, _)] = made.pool.begun
    assert {problem.id for problem in problems} <= set(ids[10:])


@dataclass
class Barred:
    """A course, as far as re-estimation needs one."""

    left_out: frozenset[str]
    phase: Phase

    def posed(self, phase: Phase, ids: Sequence[str]) -> list[Problem]:
        return [phase.pool[id] for id in ids]


def test_same_pool_in_two_phases_is_measured_and_paid_for_once(bench: Callable[..., Bench]) -> None:
    made = bench(offline=2, estimator="frozen")
    first = made.reestimation.start_phase(made.phase, BASE, "start")
    again = made.reestimation.start_phase(made.phase, BASE, "start")
    assert first["offline_completions"] == 24 and again == {}
    resumed = bench(offline=2, estimator="frozen")
    resumed.reestimation.restore(made.reestimation.snapshot())
    assert resumed.reestimation.start_phase(resumed.phase, BASE, "start") == {}


def test_snapshot_goes_on_with_what_is_owed(bench: Callable[..., Bench]) -> None:
    first, second = bench(reestimate=0.2), bench(reestimate=0.2)
    for made in (first, second):
        made.reestimation.start_phase(made.phase, BASE, "start")
    judged = first.rolled(list(first.phase.pool)[:3])
    first.reestimation.begin(POLICY, first.phase, 0, "train/0/0", judged, first.course)
    second.reestimation.restore(first.reestimation.snapshot())
    for made in (first, second):
        made.reestimation.begin(POLICY, made.phase, 1, "train/0/1", judged, made.course)
    assert len(first.pool.begun) == len(second.pool.begun) == 1
    assert first.pool.begun[0][1] == second.pool.begun[0][1]


def test_offline_measurement_asks_the_base_once_and_costs_the_same_in_every_run(bench: Callable[..., Bench]) -> None:
    costs, asked = [], []
    for _ in range(2):
        made = bench(offline=2, estimator="frozen")
        costs.append(made.reestimation.start_phase(made.phase, BASE, "start"))
        asked.append(len(made.pool.generated))
        policies = {policy for policy, _, _ in made.pool.generated}
        assert policies <= {BASE}
        estimates = made.table.predict(list(made.phase.pool), 0)["frozen"]
        np.testing.assert_allclose(estimates.mean, 0.5)
        assert (estimates.uncertainty < (1 / 12) ** 0.5).all()  # narrower than knowing nothing
    assert asked == [1, 0]
    assert (
        costs[0]
        == costs[1]
        == {
            "completions": 24,
            "offline_completions": 24,
            "sampled_tokens": 72,
            "forward_tokens": 72,
        }
    )


def test_static_difficulty_is_the_bases_failure_rate_or_else_the_level(bench: Callable[..., Bench]) -> None:
    by_level = bench(selection="rising")
    by_level.reestimation.start_phase(by_level.phase, BASE, "start")
    assert {by_level.phase.pool[id].level for id in by_level.table.select(6, 0, 1)} == {4}
    hard = set(list(by_level.phase.pool)[:6:2])
    measured = bench(lambda problem, sample: f"{int(problem.id not in hard)} steps", selection="falling", offline=2)
    measured.reestimation.start_phase(measured.phase, BASE, "start")
    assert set(measured.table.select(3, 0, 1)) == hard


def test_audit_asks_the_same_problems_and_teaches_nobody(bench: Callable[..., Bench]) -> None:
    made = bench(audit={"every": 2, "problems": 5, "unseen": 3, "samples": 8}, shadows=("all",))
    made.reestimation.start_phase(made.phase, BASE, "start")
    before = made.table.snapshot()
    (first, _), (second, unseen) = (made.reestimation.audit(POLICY, made.phase, step) for step in (0, 2))
    assert unseen is not None
    assert first.ids == second.ids and len(set(first.ids)) == 5 and set(first.ids) <= set(made.phase.pool)
    assert len(unseen.ids) == 3 and not set(unseen.ids) & set(made.phase.pool)
    assert first.successes == (4,) * 5 and first.counts == (8,) * 5
    assert (first.size, unseen.size) == (12, 3) and {"beta", "frozen", "importance"} <= first.predicted.keys()
    assert made.table.select(12, 0, 1) and not set(made.table.select(12, 0, 1)) & set(unseen.ids)
    after = made.table.snapshot()
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])
    streams = [sampling.stream for _, _, sampling in made.pool.generated]
    assert streams == ["audit/hard/0", "audit/hard/0", "audit/hard/2", "audit/hard/2"]


def test_unjudged_completions_are_no_evidence(bench: Callable[..., Bench]) -> None:
    made = bench(lambda problem, sample: "? other", reestimate=1.0, drift=0.0)
    made.reestimation.start_phase(made.phase, BASE, "start")
    made.reestimation.begin(POLICY, made.phase, 0, "train/0/0", made.rolled(list(made.phase.pool)[:3]), made.course)
    metrics, cost = made.reestimation.finish(0)
    assert cost["completions"] == 12 and metrics["reestimate/moved"] == 0
    assert {row["mean"] for row in made.table.estimates()} == {0.5}
