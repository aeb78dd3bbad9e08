"""The course: which problems a step asks, and what is learned of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ductile.config import RunSettings
from ductile.plan import Phase, ResolveDomain
from ductile.ports import DifficultyService
from ductile.problem import SUCCESS, JudgedGroup, Problem, by_problem, pooled_rewards


class Course:
    """Asks what the difficulty service selects. Every rank has its own; they stay alike."""

    def __init__(self, settings: RunSettings, difficulty: DifficultyService, resolve: ResolveDomain) -> None:
        self._settings, self._difficulty, self._resolve = settings, difficulty, resolve

    def start_phase(self, phase: Phase, earlier: Sequence[Phase]) -> None:
        """The phase that begins, and those of the plan that are over."""
        self._difficulty.start_phase(list(phase.pool))

    def ask(self, phase: Phase, step: int, seed: int) -> list[Problem]:
        """`rollout.groups` different problems for a step of the phase."""
        ids = self._difficulty.select(self._settings.rollout.groups, step, seed)
        return [phase.pool[id] for id in ids]

    def more(self, phase: Phase, step: int, seed: int, asked: Collection[str], count: int) -> list[Problem]:
        """Up to `count` problems for the same step that are not among the ids `asked`; fewer when the pool has no more.

        They follow those that `ask` gave: the difficulty service's rule goes on down its list.
        """
        wanted = min(len(asked) + count, len(phase.pool))
        others = [id for id in self._difficulty.select(wanted, step, seed) if id not in asked]
        return [phase.pool[id] for id in others[:count]]

    def observe(self, judged: Sequence[JudgedGroup], step: int) -> dict[str, float]:
        """What came of the step's problems; returns metrics."""
        return self._difficulty.observe(successes(judged), step)

    def snapshot(self) -> Mapping[str, Any]:
        """Everything but the difficulty service's table, as plain values that `restore` takes."""
        return {}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what `snapshot` returned."""


def successes(judged: Sequence[JudgedGroup]) -> dict[str, tuple[int, int]]:
    """Problem id -> (successes, judged completions); a reward above one half is a success."""
    counts = {}
    for groups in by_problem(judged):
        rewards = pooled_rewards(groups)
        known = rewards[~np.isnan(rewards)]
        counts[groups[0].group.problem.id] = (int((known > SUCCESS).sum()), len(known))
    return counts
