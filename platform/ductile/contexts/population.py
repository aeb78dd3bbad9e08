"""A domain's population of contexts, kept as a Pareto front over problems in gepa's own state (GEPA, arXiv 2507.19457).

A context is on the front where no other one solves a problem better. Contexts that another one matches wherever they
are on it are dominated, as in GEPA's algorithm 2. The first member is always the seed context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gepa.core.state import GEPAState, ValsetEvaluation
from gepa.gepa_utils import remove_dominated_programs

from ductile.contexts.candidate import candidate_of, context_of
from ductile.contexts.context import SEED, Context


@dataclass
class Member:
    """A context and what the policy reached in it since the last round.

    scores: problem id -> reward in that round, by which the front is made
    asked, passed: completions judged in it at RL steps since then, and the sum of their rewards
    """

    context: Context
    scores: Mapping[str, float] = field(default_factory=dict)
    asked: int = 0
    passed: float = 0.0

    @property
    def mean(self) -> float:
        """Mean reward over the round and the steps after it, each completion counted once; 0 before any."""
        count = len(self.scores) + self.asked
        return (sum(self.scores.values()) + self.passed) / count if count else 0.0


@dataclass
class Population:
    """The members; the seed context first. Only `front` and `best` read more than one of them."""

    members: list[Member] = field(default_factory=lambda: [Member(SEED)])

    def front(self) -> dict[int, int]:
        """Member number -> on how many problems it is on the front, dominated members left out; rising numbers.

        Before any round it is the seed context alone.
        """
        if not self.members[0].scores:
            return {0: 1}
        state = gepa_state(self.members)
        kept = remove_dominated_programs(state.get_pareto_front_mapping(), scores=state.program_full_scores_val_set)
        on = [number for numbers in kept.values() for number in numbers]
        return {number: on.count(number) for number in sorted(set(on))}

    def draw(self, count: int, rng: np.random.Generator) -> list[Context]:
        """`count` contexts of the front, without repeats while there are others, each as likely as its problems.

        A context that is drawn again has another name, so that its completions are others.
        """
        front = self.front()
        numbers, weights = list(front), np.array(list(front.values()), np.float64)
        first = rng.choice(len(numbers), size=min(count, len(numbers)), replace=False, p=weights / weights.sum())
        drawn = [self.members[numbers[place]].context for place in first.tolist()]
        return [_copy(drawn[place % len(drawn)], place // len(drawn)) for place in range(count)]

    def best(self) -> Member:
        """The member of highest mean reward; of equals the first."""
        return max(self.members, key=lambda member: member.mean)

    def observe(self, name: str, rewards: Sequence[float]) -> None:
        """Rewards of completions in the context of this name (or of a copy of it)."""
        for member in self.members:
            if member.context.name == name.partition("/")[0]:
                member.asked, member.passed = member.asked + len(rewards), member.passed + sum(rewards)

    def snapshot(self) -> list[dict[str, Any]]:
        """Plain values that `restored` takes."""
        return [
            {
                "context": candidate_of(member.context)["context"],
                "scores": dict(member.scores),
                "asked": member.asked,
                "passed": member.passed,
            }
            for member in self.members
        ]


def restored(snapshot: Sequence[Mapping[str, Any]]) -> Population:
    """What `Population.snapshot` returned, a population again."""
    return Population([Member(context_of(m), dict(m["scores"]), m["asked"], m["passed"]) for m in snapshot])


def gepa_state(members: Sequence[Member]) -> GEPAState[Any, str]:
    """gepa's state with the members as its programs, in order; every member has the scores of the same problems."""
    candidates = [candidate_of(member.context) for member in members]
    evaluations: list[ValsetEvaluation[Any, str]] = [ValsetEvaluation({}, dict(member.scores)) for member in members]
    state: GEPAState[Any, str] = GEPAState(candidates[0], evaluations[0])
    for candidate, evaluation in zip(candidates[1:], evaluations[1:], strict=True):
        state.update_state_with_new_program([0], candidate, evaluation, None, 0)
    return state


def _copy(context: Context, number: int) -> Context:
    return context if number == 0 else Context(f"{context.name}/{number}", context.instruction, context.examples)
