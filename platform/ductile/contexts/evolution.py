"""One light round of evolution through `gepa.optimize` (GEPA, arXiv 2507.19457; interleaved as in arXiv 2605.12484).

    score the seed and the population on the round's problems -> mutate parents of the front while the budget lasts
    -> keep the front

Old scores are of an older policy, so nothing is carried over but the contexts. gepa keeps nothing on disk: without a
`run_dir` it pickles nothing, and the population is in the run's own checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gepa.api import optimize
from gepa.core.result import GEPAResult
from gepa.core.state import GEPAState, ValsetEvaluation

from ductile.contexts.adapter import RolloutAdapter
from ductile.contexts.candidate import candidate_of, context_of
from ductile.contexts.context import SEED, Context
from ductile.contexts.population import Member, Population
from ductile.contexts.reflectors import PROMPT, ChatModel
from ductile.problem import Problem

MOST_PROBLEMS = 16
"""Problems that a round scores contexts on, where the budget allows."""

LEAST_PROBLEMS = 4
"""Fewer make no front."""


@dataclass(frozen=True)
class Round:
    """The problems of a round: contexts are scored on `scored`, and parents are mutated after `mutated`.

    minibatch: problems of `mutated` that a parent and its child are compared on.
    """

    scored: list[Problem]
    mutated: list[Problem]
    calls: int

    @property
    def minibatch(self) -> int:
        """Half as many as are scored, so that a rejected child costs no more than a full score."""
        return min(len(self.mutated), max(2, len(self.scored) // 2))


def least_calls(contexts: int) -> int:
    """The smallest budget of a round with a population of this size."""
    return 3 * LEAST_PROBLEMS * (contexts + 1)


def draw_round(pool: Sequence[Problem], calls: int, contexts: int, rng: np.random.Generator) -> Round:
    """Problems of a round of so many calls: a third of them scores the seed and the population.

    The two sets do not overlap where the pool has enough.
    """
    count = min(MOST_PROBLEMS, calls // (3 * (contexts + 1)), len(pool))
    order = [pool[place] for place in rng.permutation(len(pool)).tolist()]
    return Round(order[:count], order[count : 3 * count] or order[:count], calls)


def evolve(
    population: Population,
    problems: Round,
    adapter: RolloutAdapter,
    reflector: ChatModel | None,
    most: int,
    seed: int,
) -> tuple[Population, dict[str, float]]:
    """The population after a round, with the scores that made its front, and what the round did.

    The adapter's own `propose_new_texts` proposes, or the reflector where there is one. most: contexts kept beside the
    seed.
    """
    waiting = [member.context for member in population.members[1:]]
    warm_start: Any = _WarmStart(waiting, adapter, problems.scored)  # gepa asks for the methods that there are
    result: GEPAResult[Any, int] = optimize(
        seed_candidate=candidate_of(SEED),
        trainset=problems.mutated,
        valset=problems.scored,
        adapter=adapter,
        reflection_lm=reflector,
        reflection_prompt_template=PROMPT if reflector else None,
        reflection_minibatch_size=problems.minibatch,
        stop_callbacks=_Budget(problems, len(waiting)),
        callbacks=[warm_start],
        logger=_Silent(),
        track_best_outputs=False,
        seed=seed,
    )
    members: dict[str, Member] = {}
    for candidate, scores in zip(result.candidates, result.val_subscores, strict=True):
        if (context := _readable(candidate)) is not None:
            by_id = {problems.scored[number].id: score for number, score in scores.items()}
            members.setdefault(context.name, Member(context, by_id))
    scored = Population(list(members.values()))
    kept = _kept(scored, most)
    return kept, {
        "fast/candidates": float(len(members)),
        "fast/accepted": float(len(result.candidates) - 1 - len(waiting)),
        "fast/population": float(len(kept.members)),
        "fast/front": float(len(kept.front())),
        "fast/seed_score": scored.members[0].mean,
        "fast/best_score": scored.best().mean,
    }


def _kept(scored: Population, most: int) -> Population:
    """The seed, and the members on the front: those on most problems, then those of highest mean."""
    front = scored.front()
    others = [number for number in front if number]
    others.sort(key=lambda number: (-front[number], -scored.members[number].mean, number))
    return Population([scored.members[0], *(scored.members[number] for number in others[:most])])


def _readable(candidate: dict[str, str]) -> Context | None:
    try:
        return context_of(candidate)
    except ValueError:  # accepted by no one: it scores 0, but gepa may keep it where its parent did too
        return None


@dataclass(frozen=True)
class _Budget:
    """Stops before an iteration that could judge more completions than are left (a gepa `StopperProtocol`)."""

    problems: Round
    waiting: int

    def __call__(self, gepa_state: GEPAState[Any, Any]) -> bool:
        scored = len(self.problems.scored)
        first = self.waiting * scored if gepa_state.i < 0 else 0
        return gepa_state.total_num_evals + first + 2 * self.problems.minibatch + scored > self.problems.calls


@dataclass(frozen=True)
class _WarmStart:
    """Scores the present population and adds it to gepa's state as its first iteration starts (a gepa callback)."""

    contexts: Sequence[Context]
    adapter: RolloutAdapter
    scored: list[Problem]

    def on_iteration_start(self, event: Any) -> None:
        """See `gepa.core.callbacks.GEPACallback`."""
        state: GEPAState[Any, int] = event["state"]
        if event["iteration"] > 1:
            return
        for context in self.contexts:
            scores = self.adapter.evaluate(self.scored, candidate_of(context)).scores
            evaluation: ValsetEvaluation[Any, int] = ValsetEvaluation({}, dict(enumerate(scores)))
            state.update_state_with_new_program([0], candidate_of(context), evaluation, None, state.total_num_evals)
            state.increment_evals(len(self.scored))


class _Silent:
    """A gepa logger; what a round did is in the run's metrics."""

    def log(self, message: str) -> None:
        """Nothing is written."""
