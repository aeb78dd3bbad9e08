"""Bounded staleness: which policy samples what and when, what is kept of it, and that a cut run ends as a whole one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ductile.ahead import make_ahead
from ductile.checks import check
from ductile.config import RunSettings
from ductile.contexts import NoContexts
from ductile.course import Course
from ductile.course.course import Asked
from ductile.difficulty.service import DifficultyTable
from ductile.domains import make_domain
from ductile.group_arrays import arrays_groups, group_arrays
from ductile.plan import Phase, make_plan
from ductile.ports import PolicyRef, Sampling
from ductile.problem import Completion, Group, JudgedGroup, Problem, Verdict
from ductile.rollouts import Rollouts
from tests.ductile.probes.fakes import COMPOSITION, FakeJudge, FakePool
from tests.ductile.test_resume import (
    REMEDIES,
    TWO_PHASES,
    Interrupted,
    MemoryTracker,
    drawn_verdicts,
    model,
    settings,
    start,
    without_times,
)

__all__ = ["drawn_verdicts", "model"]  # fixtures


class BeginningPool(FakePool):
    """Says when it was asked to begin and to collect."""

    def begin(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> int:
        self.said = [*getattr(self, "said", []), f"begin {sampling.stream} v{policy.version}"]
        self.begun = [*getattr(self, "begun", []), self.generate(policy, problems, sampling)]
        return len(self.begun) - 1

    def collect(self, begun: int) -> list[Group]:
        self.said = [*self.said, f"collect {begun}"]
        return self.begun[begun]


class OneProblem:
    """A course that asks one problem a step, named by it."""

    asked = Asked()

    def ask(self, phase: Phase, step: int, seed: int) -> list[Problem]:
        self.asked = Asked(eligible=step)
        return [Problem(f"p{step}", "d", 1, "?", "!")]

    def allocate(self, problems: Sequence[Problem], step: int) -> list[int]:
        return [2]

    def recall(self, asked: Asked) -> None:
        self.asked = asked


def rolled_out(staleness: int, steps: int) -> tuple[list[str], list[list[int]], list[dict[str, float]]]:
    """What the pool was told, and for each step the versions that it learns from and its metrics."""
    pool, course = BeginningPool(lambda problem, sample: "1 steps"), OneProblem()
    ahead = make_ahead(pool, staleness)  # type: ignore[arg-type]
    wanted: Any = settings(rollout={"groups": 1, "group_size": 2, "max_tokens": 3, "staleness": staleness})
    learner: Any = type("Prefixless", (), {"prefixes": lambda self: {}})()
    rollouts = Rollouts(wanted, pool, FakeJudge(), NoContexts(), learner)
    phase: Any = type("Steps", (), {"steps": steps})()
    versions, metrics = [], []
    assert ahead
    for step in range(steps):
        policy = PolicyRef(COMPOSITION, None, 10 + step)  # ten updates were made before the phase
        judged, measured = ahead.roll_out(rollouts, course, policy, phase, "train/1", step, 0)  # type: ignore[arg-type]
        assert [group.group.problem.id for group in judged] == [f"p{step}"]
        assert course.asked.eligible == step  # the course speaks of the step again
        versions.append([each.policy_version for group in judged for each in group.group.completions])
        metrics.append(measured)
    return pool.said, versions, metrics


def test_policy_that_samples_is_k_updates_older_but_at_the_start_of_a_phase() -> None:
    _, versions, metrics = rolled_out(staleness=2, steps=6)
    assert versions == [[10, 10], [10, 10], [10, 10], [11, 11], [12, 12], [13, 13]]
    assert [each["rollout/staleness"] for each in metrics] == [0, 1, 2, 2, 2, 2]


def test_next_steps_are_begun_before_a_step_is_waited_for_and_none_beyond_the_phase() -> None:
    said, _, _ = rolled_out(staleness=1, steps=3)
    assert said == [
        "begin train/1/0 v10", "begin train/1/1 v10", "collect 0",
        "begin train/1/2 v11", "collect 1",
        "collect 2",
    ]  # fmt: skip


def test_phase_shorter_than_the_staleness_is_sampled_by_its_first_policy() -> None:
    said, versions, _ = rolled_out(staleness=5, steps=2)
    assert versions == [[10, 10], [10, 10]] and len(said) == 4


def some_groups() -> list[Group]:
    random = np.random.default_rng(3)

    def completion(id: str, sample: int, length: int) -> Completion:
        tokens, logps = random.integers(0, 9, length), random.normal(size=length)
        return Completion(id, sample, tokens.astype(np.int32), logps.astype(np.float32), "é\ud800?", length > 1, 4)

    posed = Problem(
        "a",
        "d",
        2,
        "1+1",
        "2",
        {"list": [1, 2.5, None], "map": {"k": "v"}},
        (("q", "w"), ("e", "r")),
        "c",
        "i",
        "h",
        (7, 8),
    )
    return [
        Group(posed, np.array([1, 2, 3], np.int32), (completion("a", 0, 3), completion("a", 1, 0))),
        Group(Problem("b", "d", 1, "?", "!"), np.array([4], np.int32), (completion("b", 0, 1),)),
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_groups_come_back_from_a_file_equal_in_every_bit(count: int, tmp_path: Path) -> None:
    groups = some_groups()[:count]
    save_file(group_arrays(groups), tmp_path / "groups.safetensors")
    back = arrays_groups(load_file(tmp_path / "groups.safetensors"))
    assert [group.problem for group in back] == [group.problem for group in groups]
    for group, expected in zip(back, groups, strict=True):
        assert np.array_equal(group.prompt_tokens, expected.prompt_tokens) and group.prompt_tokens.dtype == np.int32
        for one, other in zip(group.completions, expected.completions, strict=True):
            assert one.tokens.tobytes() == other.tokens.tobytes() and one.tokens.dtype == np.int32
            assert one.logps.tobytes() == other.logps.tobytes() and one.logps.dtype == np.float32
            plain: Any = {"tokens": None, "logps": None}
            assert replace(one, **plain) == replace(other, **plain)


def stale(staleness: int, **changed: Any) -> RunSettings:
    given = {key: value for key, value in changed.items() if key != "rollout"}
    rollout = {**TWO_PHASES["rollout"], **changed.get("rollout", {}), "staleness": staleness}
    return settings(rollout=rollout, **given)


FEW_PROBES = {"probes": [], "prior": {}}
LONGER = {name: {**phase, "steps": 4} for name, phase in TWO_PHASES["phase"].items()}
RUNS: dict[str, tuple[int, Mapping[str, Any]]] = {
    "one behind": (1, {}),
    "two behind, two epochs": (2, {"learner": {"engine": "torch", "lr": 1e-2, "epochs": 2}}),
    "every remedy, re-estimation": (2, {**REMEDIES, "difficulty": {"reestimate": 0.5}}),
    "knapsack, greso": (
        2,
        {
            "rollout": {"group_size": 3},
            "difficulty": {"allocation": "knapsack", "knapsack": {"low": 2, "high": 5}, "selection": "greso"},
        },
    ),
    "imitation": (1, {"variant": {"name": "expert_iteration"}, "objective": {"advantage": "psr"}}),
    "prefix": (1, {"variant": {"name": "fast_prefix", "prefix_tokens": 2, "fast_lr": 1e-2}}),
}


@pytest.mark.usefixtures("drawn_verdicts")
@pytest.mark.parametrize("name", RUNS)
def test_interrupted_anywhere_and_resumed_is_the_uninterrupted_run(name: str, model: Path, tmp_path: Path) -> None:
    staleness, changed = RUNS[name]
    wanted = stale(staleness, **{"phase": LONGER, "probe": FEW_PROBES, **changed})
    whole = MemoryTracker()
    expected, straight = start(wanted, model, tmp_path / "whole", whole)
    behind = [value for (_, name), value in whole.logged.items() if name == "rollout/staleness"]
    assert min(behind) == 0 and max(behind) == staleness
    calls = len({step for step, _ in whole.logged})
    for stop_at in range(2, calls, 3):  # in the first phase, before or after its boundary, in the second
        first, second, folder = MemoryTracker(stop_at), MemoryTracker(), tmp_path / str(stop_at)
        with pytest.raises(Interrupted):
            start(wanted, model, folder, first)
        boundaries, ports = start(wanted, model, folder, second)
        assert without_times(boundaries) == without_times(expected)
        assert first.logged | second.logged == whole.logged
        for weight, tensor in straight.learner.weights().items():
            assert torch.equal(ports.learner.weights()[weight], tensor), weight


@pytest.mark.usefixtures("drawn_verdicts")
def test_learning_from_older_rollouts_weights_them_and_without_staleness_nothing_is_weighted(
    model: Path, tmp_path: Path
) -> None:
    fast = {"engine": "torch", "lr": 3e-2}
    tracker, synchronous = MemoryTracker(), MemoryTracker()
    start(stale(2, phase=LONGER, probe=FEW_PROBES, learner=fast), model, tmp_path / "stale", tracker)
    start(stale(0, phase=LONGER, probe=FEW_PROBES, learner=fast), model, tmp_path / "fresh", synchronous)
    behind = {step: value for (step, name), value in tracker.logged.items() if name == "rollout/staleness"}
    effective = {step: value for (step, name), value in tracker.logged.items() if name == "learner/importance_ess"}
    assert all(0 < value < 1 - 1e-6 for step, value in effective.items() if behind[step])
    assert all(value > 1 - 1e-6 for step, value in effective.items() if not behind[step])  # the sampler's rounding
    ratios = [value for (_, name), value in tracker.logged.items() if name == "learner/ratio_max"]
    assert ratios == [1.0] * len(ratios)  # one pass: the ratio is to the policy that the update began with
    assert not {name for _, name in synchronous.logged if "importance" in name or "staleness" in name}
    gone = {name for _, name in synchronous.logged} - {name for _, name in tracker.logged}
    assert not gone - {name for name in gone if name.startswith(("rollout/format", "rollout/successes", "rollout/adv"))}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rollout": {"staleness": 1}, "difficulty": {"screen": {"pilots": 2}}}, "difficulty.screen.pilots (2)"),
        ({"rollout": {"staleness": 1}, "objective": {"dynamic_sampling": "refill"}}, "dynamic_sampling=refill"),
        (
            {
                "rollout": {"staleness": 1, "group_size": 4},
                "variant": {
                    "name": "fast_slow", "contexts": 2, "evolve_every": 1, "evolve_calls": 36, "reflector": "vocabulary"
                },
                "model": {"instructed": 0.5},
            },
            "fast_slow evolves the contexts",
        ),
        ({"objective": {"importance_cap": 3.0}}, "objective.importance_cap: 3.0 is never read"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_ahead_is_refused_before_any_work(changed: Mapping[str, Any], told: str) -> None:
    mistakes = [line for line in check(settings(**changed)) if "stale" in line]
    assert len(mistakes) == 1 and told in mistakes[0] and ("allowed:" in mistakes[0] or "unset" in mistakes[0])


def test_ladder_is_not_climbed_on_a_rung_that_was_climbed_since(model: Path) -> None:
    data = {"ladder": [2, 3], "ladder_rate": 0.5}
    wanted = stale(
        2, phase={"easy": {"domain": {"name": "chain_sum"}, "levels": [4], "steps": 5, "pool": 12}}, data=data
    )
    [phase] = make_plan(wanted, make_domain).phases
    table = DifficultyTable(wanted.difficulty)
    table.start_phase([id for pool in (phase.pool, *phase.rungs) for id in pool])
    course = Course(wanted, table, make_domain)
    course.start_phase(phase, ())
    asked = [(course.ask(phase, step, 0), course.asked) for step in range(2)]  # both of the lowest rung
    rungs = []
    for step, (problems, of_step) in enumerate(asked):
        course.recall(of_step)
        right = [
            JudgedGroup(
                Group(problem, np.zeros(1, np.int32), (some_groups()[1].completions[0],)), (Verdict(1.0, "steps"),)
            )
            for problem in problems
        ]
        course.observe(right, step)
        rungs.append(course.snapshot()["rung"])
    assert rungs == [1, 1]
